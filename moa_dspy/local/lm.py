"""Local models as ordinary `dspy.LM`s.

`dspy.LM` sends each request to its engine. `LocalEngine` (for threads) and `AsyncLocalEngine` (for event loops) hold
only the model's name. The first request starts the server; all LMs of this process with the same GGUF file share it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import dspy
from dspy.lm15 import (
    AccessPolicy,
    AsyncLMRouter,
    ContextLengthError,
    EndpointSupport,
    InvalidRequestError,
    LMRouter,
    OpenAIChatCompat,
    ProviderDefinition,
    Request,
    Response,
    RouterConfig,
    Timeouts,
)
from dspy.utils.exceptions import LMError

from moa_dspy.errors import LocalModelError, MoAError
from moa_dspy.local.files import EMBEDDED, check_local, model_path
from moa_dspy.local.server import LocalServer, LocalSettings

__all__ = ["AsyncLocalEngine", "LocalEngine", "LocalStartError", "connections", "local_lm", "local_server"]

DEFAULT_TEMPERATURE: Final = 0.7
DEFAULT_MAX_TOKENS: Final = 256

_PROVIDER: Final = "moa-local"


class LocalStartError(LMError, LocalModelError):
    """The local model could not be started. DSPy passes an `LMError` on as it is and wraps other errors."""

    def __init__(self, message: str, *, model: str) -> None:
        LMError.__init__(self, message, model=model)


class Connection:
    """A running server and its HTTP clients: one for all threads, one for each event loop."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.router = LMRouter(_router_config(server))
        self._lock = threading.Lock()
        self._async_routers: dict[asyncio.AbstractEventLoop, AsyncLMRouter] = {}

    def async_router(self) -> AsyncLMRouter:
        """Return the client of the running event loop. Clients of closed loops are dropped."""
        loop = asyncio.get_running_loop()
        with self._lock:
            for closed in [other for other in self._async_routers if other.is_closed()]:
                del self._async_routers[closed]
            if loop not in self._async_routers:
                self._async_routers[loop] = AsyncLMRouter(_router_config(self.server))
            return self._async_routers[loop]

    def close(self) -> None:
        """Close the clients and stop the server. The client of a running event loop is closed by that loop, soon."""
        with self._lock:
            routers, self._async_routers = self._async_routers, {}
        self.router.close()
        for loop, router in routers.items():
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(router.aclose(), loop)
        self.server.close()


class Connections:
    """The connections of this process, one for each GGUF file. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A connection is found by the file's path, and by each name that a caller used for the file.
        self._by_name: dict[str | Path, Connection] = {}
        # Kept alive: to close the socket of an event loop in a fork would remove it from the parent's loop as well.
        self._inherited: list[Connection] = []

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(dict.fromkeys(self._by_name.values())))

    def running(self, name: str | Path) -> Connection | None:
        """Return the connection of a model if its server runs, without waiting."""
        connection = self._by_name.get(name)
        return connection if connection is not None and connection.server.alive else None

    def connect(self, model: str) -> Connection:
        """Return the connection of `model`. Start its server if none runs.

        Raises:
            ConfigurationError: as `model_path`.
            LocalModelError: as `model_path`, or if llama.cpp cannot load the file.
        """
        if connection := self.running(model):
            return connection
        with self._lock:
            path = model_path(model)
            connection = self.running(path)
            if connection is None:
                if dead := self._by_name.pop(path, None):
                    dead.close()
                connection = Connection(LocalServer(path, name=model).start())
            self._by_name[model] = self._by_name[path] = connection
            return connection

    def close(self) -> None:
        """Stop every server, even if stopping one of them is interrupted."""
        with self._lock:
            connections = list(self)
            self._by_name.clear()
        with contextlib.ExitStack() as stack:
            for connection in connections:
                stack.callback(connection.close)

    def forget(self) -> None:
        """Drop all connections in a forked child, because the servers belong to the parent."""
        for connection in self:
            connection.server.disown()
            self._inherited.append(connection)
        self._lock = threading.Lock()  # a thread that does not exist in the child may hold the old one
        self._by_name = {}


connections: Final = Connections()


@atexit.register
def _close_at_exit() -> None:
    with contextlib.suppress(KeyboardInterrupt):  # the process ends anyway
        connections.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=connections.forget)


def local_server(model: str = EMBEDDED) -> LocalServer:
    """Return the running server of a local model. Start it if necessary. It is shared and ends with the process.

    Raises:
        ConfigurationError: as `model_path`.
        LocalModelError: as `model_path`, or if llama.cpp cannot load the file.
    """
    return connections.connect(model).server


def _router_config(server: LocalServer) -> RouterConfig:
    access = AccessPolicy(
        provider=_PROVIDER,
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
        api_keys={_PROVIDER: server.key},
        providers=(ProviderDefinition.chat(access, compat=compat),),
        # A request may wait for many others, because the server works on few at once.
        timeouts=Timeouts(read=3600.0, pool=3600.0),
        max_connections=server.settings.http_threads // 4,
    )


@dataclass(frozen=True)
class _Engine:
    """The part that both engines share. Equal engines share one server.

    Attributes:
        model: name of the local model.
        free: calls cost nothing; read by the price table.
        slots: number of requests that the server handles at once; read as the default limit of concurrent calls.
        window: tokens of prompt and answer together.
    """

    model: str = EMBEDDED

    free: ClassVar[bool] = True
    slots: ClassVar[int] = LocalSettings.slots
    window: ClassVar[int] = LocalSettings.window
    supports_response_schema: ClassVar[bool] = True
    supports_function_calling: ClassVar[bool] = False
    supports_reasoning: ClassVar[bool] = False
    supported_params: ClassVar[frozenset[str]] = frozenset(
        {
            *("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty"),
            *("max_tokens", "stop", "response_format", "logprobs", "top_logprobs", "stream"),
        }
    )

    def dump_state(self) -> dict[str, Any]:
        """Return the state that DSPy saves with a program."""
        return {"model": self.model}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Self:
        """Return the engine that `dump_state` described."""
        return cls(state["model"])

    @contextlib.contextmanager
    def _routed(self, request: Request) -> Iterator[Request]:
        """Give the request for the server. Raise errors inside as the types that DSPy passes on or translates."""
        try:
            yield replace(request, model=f"{_PROVIDER}:{self.model}")
        except MoAError as error:
            raise LocalStartError(str(error), model=self.model) from error
        except InvalidRequestError as error:
            if "context size" not in error.message:
                raise
            raise ContextLengthError(error.message, provider=_PROVIDER, status=error.status) from error


class LocalEngine(_Engine):
    """DSPy's engine protocol for threads."""

    def complete(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            LocalStartError: if the server cannot be started.
            dspy.lm15.LM15Error: if the request fails, for example because the prompt exceeds the context.
        """
        with self._routed(request) as routed:
            return connections.connect(self.model).router.complete(routed)

    def stream(self, request: Request) -> Iterator[Any]:
        """Answer one request as a stream of events; errors as `complete`."""
        with self._routed(request) as routed:
            yield from connections.connect(self.model).router.stream(routed)

    def close(self) -> None:
        """Do nothing: the server is shared and ends with the process."""


class AsyncLocalEngine(_Engine):
    """DSPy's engine protocol for event loops."""

    async def complete(self, request: Request) -> Response:
        """Answer one request; errors as `LocalEngine.complete`."""
        with self._routed(request) as routed:
            return await (await self._router()).complete(routed)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """Answer one request as a stream of events; errors as `LocalEngine.complete`."""
        with self._routed(request) as routed:
            stream: Any = (await self._router()).stream(routed)
            async with contextlib.aclosing(stream) as events:
                async for event in events:
                    yield event

    async def aclose(self) -> None:
        """Do nothing: the server is shared and ends with the process."""

    async def _router(self) -> AsyncLMRouter:
        connection = connections.running(self.model)
        if connection is None:
            connection = await asyncio.to_thread(connections.connect, self.model)
        return connection.async_router()


def local_lm(
    model: str = EMBEDDED,
    *,
    temperature: float | None = None,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    cache: bool = True,
    **kwargs: Any,
) -> dspy.LM:
    """Return an LM that runs on this machine. Its first call starts the server.

    Args:
        model: `local`, `local/<path>` or `local/<org>/<name>[:<file.gguf>]`.
        temperature: sampling temperature; None means 0.7.
        max_tokens: maximum number of tokens of one answer.
        cache: whether DSPy caches the answers.
        **kwargs: further arguments of `dspy.LM`, except those of a connection.

    Raises:
        ConfigurationError: as `check_local`.
    """
    check_local(model)
    return dspy.LM(
        model,
        temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
        max_tokens=max_tokens,
        cache=cache,
        engine=LocalEngine(model),
        async_engine=AsyncLocalEngine(model),
        **kwargs,
    )
