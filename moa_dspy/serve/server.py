"""The process of the server: uvicorn on one address."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import uvicorn

from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.program import AttentionMoA
from moa_dspy.serve.app import ServeOptions, create_app
from moa_dspy.serve.guard import is_loopback

__all__ = ["check_address", "serve"]

_SECONDS_TO_END = 5


def check_address(host: str, options: ServeOptions) -> None:
    """Check that others than this machine need a key.

    Raises:
        ConfigurationError: if they need none.
    """
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
    """Serve programs until the process is interrupted.

    Args:
        programs: by name.
        host: address to listen at.
        port: number of the port; 0 takes a free one.
        options: settings.
        ready: called with the server's address when it answers.

    Raises:
        ConfigurationError: if the host needs a key.
        RunError: if the address cannot be used.
    """
    options = options or ServeOptions()
    check_address(host, options)
    config = uvicorn.Config(
        create_app(programs, options),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
        h11_max_incomplete_event_size=64_000,
    )
    server = _Server(config, ready)
    try:
        server.run()
    except SystemExit:
        raise RunError(f"cannot listen at {host}:{port}; is another server there? Choose another --port") from None


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[str], None] | None) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started and self._ready is not None:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
