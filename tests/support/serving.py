"""A server of programs in this process, on a free port of loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from moa_dspy import AttentionMoA
from moa_dspy.serve.app import ServeOptions, create_app
from moa_dspy.serve.runs import Runs
from moa_dspy.serve.server import config_of

PATH = "/v1/chat/completions"


class Server:
    """The address of a server, its runs, and requests to it."""

    def __init__(self, url: str, runs: Runs) -> None:
        self.url, self.runs = url, runs
        self.http = httpx.Client(base_url=url, timeout=30)

    def ask(self, text: str = "What?", **body: Any) -> httpx.Response:
        return self.http.post(PATH, json=asked(text, **body))

    def stream(self, text: str = "What?", **body: Any) -> list[Any]:
        """The data of a streamed answer: chunks, and the word that ends it."""
        return data_of(self.ask(text, stream=True, **body).text)


def asked(text: str, **body: Any) -> dict[str, Any]:
    return {"model": "moa/p", "messages": [{"role": "user", "content": text}], **body}


def data_of(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def content_of(chunks: list[Any], name: str = "content") -> str:
    """The parts of a message in chunks, joined."""
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk != "[DONE]" and chunk.get("choices")]
    return "".join(delta.get(name) or "" for delta in deltas)


@contextmanager
def serving(programs: Mapping[str, AttentionMoA], options: ServeOptions | None = None) -> Iterator[Server]:
    app = create_app(programs, options)
    server = uvicorn.Server(config_of(app, "127.0.0.1", 0))
    started = threading.Event()
    startup = server.startup

    async def told(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = told  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    started.wait()
    client = Server(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", app.state.runs)
    try:
        yield client
    finally:
        client.http.close()
        server.should_exit = True
        thread.join()
