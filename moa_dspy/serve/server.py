"""The process of the server: uvicorn on one address."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette

from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.program import AttentionMoA, Prediction
from moa_dspy.serve.app import ServeOptions, create_app
from moa_dspy.serve.connection import ClientConnection
from moa_dspy.serve.guard import is_loopback

__all__ = ["LiveRun", "check_address", "config_of", "serve"]

_SECONDS_TO_END: Final = 5
_LIVE: Final = "program"


def check_address(host: str, options: ServeOptions) -> None:
    """Raise ConfigurationError if other machines can reach the host and there is no key."""
    if options.key is None and not is_loopback(host):
        raise ConfigurationError(
            f"host={host} can be reached from other machines, so clients need a key; put one into an environment "
            "variable and name it with --key-env NAME"
        )


def serve(
    programs: Mapping[str, AttentionMoA],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    options: ServeOptions | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve programs, by name, until the process is interrupted. Port 0 takes a free one.

    ``ready`` is called with the address of the server when it answers.

    Raises:
        ConfigurationError: if the host needs a key.
        RunError: if the address cannot be used.
    """
    options = options or ServeOptions()
    check_address(host, options)
    server = _Server(config_of(create_app(programs, options), host, port), ready)
    try:
        server.run()
    except SystemExit:
        raise RunError(
            f"cannot listen at {host}:{port}; is another server running there? Choose another --port"
        ) from None


class LiveRun:
    """A run whose page is served on a free port of loopback, in a thread of its own.

    ``ready`` is called with the address of the page.
    """

    def __init__(self, program: AttentionMoA, inputs: Mapping[str, Any], ready: Callable[[str], None]) -> None:
        self._program, self._inputs, self._page_is_ready = program, inputs, ready
        self._app, self._address = create_app({_LIVE: program}), Future[tuple[str, asyncio.AbstractEventLoop]]()
        self._server = _Server(config_of(self._app, "127.0.0.1", 0), self._note_address)
        self._thread = threading.Thread(target=self._server.run, name="moa-dspy-page", daemon=True)

    def result(self) -> Prediction:
        """Run the program, and return its prediction. The page is served until ``close``.

        Raises:
            Exception: what the program raised. An interrupt stops the run.
        """
        self._thread.start()
        address, loop = self._address.result()
        started = Future[str]()

        async def work() -> Prediction:
            run = self._app.state.runs.start(_LIVE, self._program, self._inputs, self._program.budget)
            started.set_result(run.id)
            try:
                return await run.result()
            finally:
                run.stop()
                await asyncio.wait({run.task})

        answer = asyncio.run_coroutine_threadsafe(work(), loop)
        try:
            either: list[Future[Any]] = [answer, started]
            wait(either, return_when=FIRST_COMPLETED)
            if started.done():  # not in the loop of the server, since a browser may take its time
                self._page_is_ready(f"{address}/runs/{started.result()}/page")
            return answer.result()
        except KeyboardInterrupt:
            answer.cancel()
            wait([answer])
            raise

    def close(self) -> None:
        """End the server."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()

    def _note_address(self, address: str) -> None:
        self._address.set_result((address, asyncio.get_running_loop()))


def config_of(app: Starlette, host: str, port: int) -> uvicorn.Config:
    """Return the settings of uvicorn."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=ClientConnection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
        h11_max_incomplete_event_size=64_000,
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[str], None] | None) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started and self._ready is not None:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
