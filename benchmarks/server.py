"""A provider on loopback for measurements: OpenAI's chat format, given latencies, as little CPU as possible.

Run as a process of its own, so that its work is not counted as the client's. It prints its port and serves until its
standard input is closed. Latency and reply depend on the request alone: whoever asks the same gets the same.

    python server.py --median 0.2 --sigma 0.6 --words 40
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import sys
from dataclasses import dataclass
from statistics import NormalDist

_FILLER = "a capital is where the government of a country sits and most often the largest town"


@dataclass(frozen=True)
class Behaviour:
    """Latencies are log-normal with this median (seconds) and sigma; fixed where sigma is 0."""

    median: float
    sigma: float
    words: int

    def latency(self, digest: bytes) -> float:
        if not self.sigma:
            return self.median
        share = (int.from_bytes(digest[:6], "big") + 0.5) / 2**48
        return self.median * math.exp(self.sigma * NormalDist().inv_cdf(share))

    def reply(self, body: bytes, digest: bytes) -> str:
        """A text of its own for every request, in the format that was asked for; every decision is yes."""
        words = _FILLER.split()
        text = " ".join([digest.hex(), *(words[i % len(words)] for i in range(self.words - 1))])
        if b"[[ ##" not in body:
            return text
        decision = "[[ ## improved ## ]]\ntrue\n\n" if b"`improved`" in body else ""
        return f"{decision}[[ ## answer ## ]]\n{text}\n\n[[ ## completed ## ]]"


class Connection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (body := self._next_body()) is not None:
            digest = hashlib.blake2b(body, digest_size=8).digest()
            answer = _response(self._behaviour.reply(body, digest), len(body) // 4)
            asyncio.get_running_loop().call_later(self._behaviour.latency(digest), self._send, answer)

    def _next_body(self) -> bytes | None:
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            return None
        self._received = rest[length:]
        return rest[:length]

    def _send(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)


def _response(text: str, prompt_tokens: int) -> bytes:
    completion_tokens = len(text) // 4
    payload = json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": "model",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }
    ).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    return head.encode() + payload


async def _serve(behaviour: Behaviour) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(behaviour), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Serve until standard input is closed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--median", type=float, default=0.0)
    options.add_argument("--sigma", type=float, default=0.0)
    options.add_argument("--words", type=int, default=40)
    asyncio.run(_serve(Behaviour(**vars(options.parse_args()))))


if __name__ == "__main__":
    main()
