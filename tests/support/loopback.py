"""A provider on loopback that speaks the OpenAI chat format: real HTTP, scripted replies, every request on record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import dspy

Body = dict[str, Any]


@dataclass(frozen=True)
class Http:
    """Any HTTP response, in place of a completion: a JSON value, or bytes as they are."""

    status: int = 200
    body: object = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def payload(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Reset:
    """The connection is reset instead of a reply."""


@dataclass(frozen=True)
class Hang:
    """There is never a reply."""


@dataclass(frozen=True)
class Broken:
    """The connection is reset after half of the text, if the reply is streamed; else before it."""

    text: str


class Cut(str):
    """A text that ends at ``max_tokens``."""


Reply = str | Http | Reset | Hang | Broken


def refusal(status: int, message: str, code: str | None = None, **headers: str) -> Http:
    """An error in the words of the OpenAI API; ``retry_after`` becomes the header of that name."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Http(status, {"error": {"message": message, "type": "error", "code": code}}, named)


def context_too_long(message: str = "This model's maximum context length is 10 tokens.") -> Http:
    return refusal(400, message, "context_length_exceeded")


@dataclass
class Call:
    """One request as the server saw it; times in seconds of the monotonic clock.

    ``hung_up`` is when the client closed the connection after this request: where it gave up, since one that has read
    the reply keeps its connection until the end. ``usage`` is what the completion said, where one was written.
    ``connection`` numbers the connections.
    """

    body: Body
    arrived: float
    answered: float | None = None
    hung_up: float | None = None
    reply: Reply | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    connection: int = 0

    @property
    def prompt(self) -> str:
        return "\n\n".join(str(message["content"]) for message in self.body["messages"])


@dataclass
class Loopback:
    """Answers ``POST /v1/chat/completions`` with what ``reply`` makes of the request, after ``hold``.

    Args:
        reply: from the request's body to the text of the completion, or to how the provider fails.
        hold: awaited before each reply, for latencies and lock-step.
        pace: awaited before each piece of a streamed reply.
    """

    reply: Callable[[Body], Reply] = lambda body: "a reply"
    hold: Callable[[Call], Awaitable[None]] | None = None
    pace: Callable[[Call], Awaitable[None]] | None = None
    calls: list[Call] = field(default_factory=list)
    url: str = ""
    connections_made: int = 0

    def lm(self, model: str = "model", **options: Any) -> dspy.LM:
        """An ordinary ``dspy.LM`` that talks to this server."""
        settings = {"cache": False, "temperature": 1.0, "num_retries": 0, **options}
        return dspy.LM(f"openai/{model}", api_base=self.url, api_key="loopback", **settings)

    def __enter__(self) -> Self:
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen(started))
        self._loop.close()

    async def _listen(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=4096)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        started.set()
        async with server:
            await self._stop.wait()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.connections_made += 1
        number = self.connections_made
        call: Call | None = None
        try:
            while (body := await _read_request(reader)) is not None:
                call = Call(body, time.monotonic(), connection=number)
                await self._answer(call, reader, writer)
            if call is not None:
                call.hung_up = time.monotonic()
        except (ConnectionError, asyncio.IncompleteReadError):
            if call is not None and not isinstance(call.reply, Reset):
                call.hung_up = time.monotonic()
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()
            self._connections.discard(task)

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def drop_connections(self) -> None:
        """Close every connection, as a server does with idle ones."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in list(self._connections)])
        while self._connections:
            time.sleep(0.01)
        time.sleep(0.05)  # the client's side has heard of it

    async def _answer(self, call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls.append(call)
        reply = call.reply = self.reply(call.body)
        if self.hold is not None:
            await _unless_left(reader, self.hold(call))
        match reply:
            case str() | Broken() if call.body.get("stream"):
                await self._stream(call, reply, reader, writer)
            case str():
                content = completion(call.body, reply)
                call.usage = content["usage"]
                call.answered = time.monotonic()  # before a client can have read it
                writer.write(_response(content))
            case Http():
                call.answered = time.monotonic()
                writer.write(_bytes(reply.status, reply.payload, reply.headers))
            case Reset() | Broken():
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise ConnectionResetError
            case Hang():
                await _unless_left(reader, asyncio.Event().wait())
        await writer.drain()
        call.answered = call.answered or time.monotonic()

    async def _stream(
        self, call: Call, reply: str | Broken, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        text = reply if isinstance(reply, str) else reply.text
        whole = completion(call.body, text)
        words = re.findall(r"\s*\S+|\s+$", text)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        choices: list[list[Body]] = [[{"index": 0, "delta": {"role": "assistant", "content": ""}}]]
        choices += [[{"index": 0, "delta": {"content": word}}] for word in words]
        if isinstance(reply, Broken):
            choices = choices[: 1 + len(words) // 2]
        else:
            choices += [[{"index": 0, "delta": {}, "finish_reason": _finish_reason(text)}], []]
        for number, one in enumerate(choices):
            if self.pace is not None:
                await _unless_left(reader, self.pace(call))
            chunk = {**whole, "object": "chat.completion.chunk", "choices": one, "usage": None}
            if number == len(choices) - 1 and not isinstance(reply, Broken):
                chunk["usage"] = whole["usage"]
            writer.write(_chunked(f"data: {json.dumps(chunk)}\n\n".encode()))
            await writer.drain()
        if isinstance(reply, Broken):
            raise ConnectionResetError
        call.usage = whole["usage"]
        writer.write(_chunked(b"data: [DONE]\n\n") + _chunked(b""))


def _chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def _unless_left(reader: asyncio.StreamReader, work: Awaitable[object]) -> None:
    """Do ``work``, and stop where the client closes the connection (it never sends ahead)."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ConnectionAbortedError
    finally:
        working.cancel()
        leaving.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await leaving


def _finish_reason(text: str) -> str:
    return "length" if isinstance(text, Cut) else "stop"


def completion(body: Body, text: str) -> Body:
    """A chat completion in the OpenAI format; one token a word."""
    prompt = sum(len(str(message["content"]).split()) for message in body["messages"])
    written = len(text.split())
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {"index": 0, "finish_reason": _finish_reason(text), "message": {"role": "assistant", "content": text}}
        ],
        "usage": {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written},
    }


async def _read_request(reader: asyncio.StreamReader) -> Body | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    body: Body = json.loads(await reader.readexactly(length) or b"{}")  # a GET has no body
    return body


def _response(body: Body) -> bytes:
    return _bytes(200, json.dumps(body).encode(), {})


def _bytes(status: int, payload: bytes, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", "content-type: application/json", f"content-length: {len(payload)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + payload


class LockStep:
    """Holds every reply until no further request comes in, then lets all go at once.

    The number of rounds is then the number of calls that had to follow one another, whatever the machine's speed.
    """

    def __init__(self, idle: float = 0.15) -> None:
        self.rounds: list[int] = []
        self._idle = idle
        self._waiting: list[asyncio.Event] = []
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, call: Call) -> None:
        gate = asyncio.Event()
        self._waiting.append(gate)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle, self._release)
        await gate.wait()

    def _release(self) -> None:
        self.rounds.append(len(self._waiting))
        for gate in self._waiting:
            gate.set()
        self._waiting = []
