"""The servers of this process, one per GGUF file, and DSPy's own clients for them."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from moa_dspy.local.files import EMBEDDED, model_path
from moa_dspy.local.server import LocalServer

if TYPE_CHECKING:
    from dspy.clients.engines.lm15_engine import AsyncLM15Engine, LM15Engine
    from dspy.lm15 import RouterConfig

__all__ = ["PROVIDER", "Connection", "connections", "local_server"]

PROVIDER = "moa-local"

_PATIENCE_SECONDS = 3600.0


class Connection:
    """A running server with DSPy's own engines for it: one for threads, one for each event loop."""

    def __init__(self, server: LocalServer) -> None:
        from dspy.clients.engines.lm15_engine import LM15Engine

        self.server = server
        self.engine: LM15Engine = LM15Engine(_router_config(server))
        self._lock = threading.Lock()
        self._async_engines: dict[asyncio.AbstractEventLoop, AsyncLM15Engine] = {}

    def async_engine(self) -> AsyncLM15Engine:
        """The engine of the running event loop; those of closed loops are dropped."""
        from dspy.clients.engines.lm15_engine import AsyncLM15Engine

        loop = asyncio.get_running_loop()
        with self._lock:
            for other in [known for known in self._async_engines if known.is_closed()]:
                del self._async_engines[other]
            engine = self._async_engines.get(loop)
            if engine is None:
                engine = self._async_engines[loop] = AsyncLM15Engine(_router_config(self.server))
            return engine

    def close(self) -> None:
        """Stop the server and close its clients; that of a running event loop is closed there, soon."""
        with self._lock:
            engines, self._async_engines = self._async_engines, {}
        self.engine.close()
        for loop, engine in engines.items():
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(engine.aclose(), loop)
        self.server.close()


class Registry:
    """The servers of this process, one per GGUF file; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_model: dict[str, Connection] = {}
        self._by_path: dict[Path, Connection] = {}
        # Kept, not dropped: closing an event loop's socket in a fork would take it out of the parent's loop as well.
        self._inherited: list[Connection] = []

    def running(self, model: str) -> Connection | None:
        """The connection for ``model`` if its server runs; never waits."""
        known = self._by_model.get(model)
        return known if known is not None and known.server.alive else None

    def connect(self, model: str) -> Connection:
        """The connection for ``model``; starts its server if none runs, or if it died.

        Raises:
            ConfigurationError: as ``model_path``.
            LocalModelError: as ``model_path``; or llama.cpp could not load the file.
        """
        running = self.running(model)
        if running is not None:
            return running
        with self._lock:
            path = model_path(model)
            connection = self._by_path.get(path)
            if connection is not None and not connection.server.alive:
                connection.close()
                connection = None
            if connection is None:
                connection = Connection(LocalServer(path, name=model).start())
            self._by_model[model] = self._by_path[path] = connection
            return connection

    def close(self) -> None:
        """Stop every server, also where stopping one of them is interrupted."""
        with self._lock:
            connections = list(self._by_path.values())
            self._by_model.clear()
            self._by_path.clear()
        with contextlib.ExitStack() as stack:
            for connection in connections:
                stack.callback(connection.close)

    def forget(self) -> None:
        """In a forked child: the servers are the parent's, and the lock may be held by a thread that is not here."""
        for connection in self._by_path.values():
            connection.server.disown()
            self._inherited.append(connection)
        self._lock = threading.Lock()
        self._by_model = {}
        self._by_path = {}


connections = Registry()


@atexit.register
def _close_at_exit() -> None:
    with contextlib.suppress(KeyboardInterrupt):  # whoever presses Ctrl-C now wants what happens anyway, and sooner
        connections.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=connections.forget)


def local_server(model: str = EMBEDDED) -> LocalServer:
    """The running server of a local model, started if need be; it is shared and ends with the process.

    Raises:
        ConfigurationError: as ``model_path``.
        LocalModelError: as ``model_path``; or llama.cpp could not load the file.
    """
    return connections.connect(model).server


def _router_config(server: LocalServer) -> RouterConfig:
    from dspy._vendor.lm15.features import AccessPolicy
    from dspy.lm15 import EndpointSupport, OpenAIChatCompat, ProviderDefinition, RouterConfig, Timeouts

    access = AccessPolicy(
        provider=PROVIDER,
        supports=EndpointSupport(complete=True, stream=True),
        auth_modes=("bearer",),
        base_url=f"{server.url}/v1",
    )
    compat = OpenAIChatCompat(
        instruction_role="system",
        max_tokens_field="max_tokens",
        stream_usage="include",
        thinking_format="none",
        tool_result_name="omit",
        strict_tools="omit",
        cache_control="none",
        json_schema="send",
        tool_result_media="reject",
    )
    return RouterConfig(
        env={},
        api_keys={PROVIDER: server.key},
        providers=(ProviderDefinition.chat(access, compat=compat),),
        # A request may wait for many others: the slots are few.
        timeouts=Timeouts(read=_PATIENCE_SECONDS, pool=_PATIENCE_SECONDS),
        max_connections=server.settings.http_threads // 4,
    )
