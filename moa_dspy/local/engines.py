"""What DSPy sees of a local model: an ordinary LM with an engine of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from moa_dspy.errors import LocalModelError, MoAError
from moa_dspy.local.connections import PROVIDER, Connection, connections
from moa_dspy.local.files import EMBEDDED, check_local

if TYPE_CHECKING:
    from dspy.clients.lm import LM
    from dspy.lm15 import Request, Response

__all__ = ["AsyncLocalEngine", "LocalEngine", "local_lm"]

DEFAULT_TEMPERATURE = 0.7
DEFAULT_MAX_TOKENS = 256


_SAMPLING_PARAMETERS = frozenset({"temperature", "top_p", "seed", "presence_penalty", "frequency_penalty"})
_OUTPUT_PARAMETERS = frozenset({"max_tokens", "stop", "response_format", "logprobs", "top_logprobs", "stream"})


@dataclass(frozen=True)
class _Handle:
    """What both engines are: a model's name. Copies are equal and share one server.

    Attributes:
        model: the local model's name.
        free: calls cost nothing; read where dollars are added up.
    """

    model: str = EMBEDDED

    free: ClassVar[bool] = True
    supports_response_schema: ClassVar[bool] = True
    supports_function_calling: ClassVar[bool] = False
    supports_reasoning: ClassVar[bool] = False
    supported_params: ClassVar[frozenset[str]] = _SAMPLING_PARAMETERS | _OUTPUT_PARAMETERS

    def dump_state(self) -> dict[str, Any]:
        """What DSPy saves of a custom engine: the model's name."""
        return {"model": self.model}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Self:
        """The engine that ``dump_state`` described."""
        return cls(state["model"])

    def _routed(self, request: Request) -> Request:
        return replace(request, model=f"{PROVIDER}:{self.model}")


class LocalEngine(_Handle):
    """DSPy's engine contract for threads; the first call starts the server."""

    def complete(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            LocalModelError: the server could not be started; also a ``dspy.LMError``.
            dspy.lm15.LM15Error: the request failed, such as a prompt that exceeds the context.
        """
        with _typed_errors(self.model):
            return connections.connect(self.model).engine.complete(self._routed(request))

    def stream(self, request: Request) -> Iterator[Any]:
        """Answer one request piece by piece; errors as ``complete``."""
        with _typed_errors(self.model):
            yield from connections.connect(self.model).engine.stream(self._routed(request))

    def close(self) -> None:
        """Nothing to do: the server is shared and ends with the process."""


class AsyncLocalEngine(_Handle):
    """DSPy's engine contract for event loops; the first call starts the server."""

    async def complete(self, request: Request) -> Response:
        """Answer one request; errors as ``LocalEngine.complete``."""
        with _typed_errors(self.model):
            connection = await self._connect()
            return await connection.async_engine().complete(self._routed(request))

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        """Answer one request piece by piece; errors as ``LocalEngine.complete``."""
        from dspy.clients.engines.lifecycle import aclosing_stream

        with _typed_errors(self.model):
            connection = await self._connect()
            async with aclosing_stream(connection.async_engine().stream(self._routed(request))) as events:
                async for event in events:
                    yield event

    async def aclose(self) -> None:
        """Nothing to do: the server is shared and ends with the process."""

    async def _connect(self) -> Connection:
        running = connections.running(self.model)
        if running is not None:
            return running
        return await asyncio.to_thread(connections.connect, self.model)


@contextlib.contextmanager
def _typed_errors(model: str) -> Iterator[None]:
    """Give failures the types that DSPy and this package know."""
    from dspy.lm15 import ContextLengthError, InvalidRequestError

    try:
        yield
    except MoAError as error:
        _raise_start_error(error, model)
    except InvalidRequestError as error:
        if "context size" not in error.message:
            raise
        raise ContextLengthError(error.message, provider=PROVIDER, status=error.status) from error


def _raise_start_error(error: MoAError, model: str) -> NoReturn:
    raise _start_error_class()(str(error), model=model) from error


@cache
def _start_error_class() -> Any:
    """DSPy wraps what an engine raises unless it is an ``LMError``: this one is both. Made late, as it needs DSPy."""
    from dspy.utils.exceptions import LMError

    names = {"__module__": __name__, "__doc__": "The embedded model could not be started, as DSPy's callers see it."}
    return type("LocalStartError", (LocalModelError, LMError), names)


def local_lm(
    model: str = EMBEDDED,
    *,
    temperature: float | None = None,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    cache: bool = True,
    **kwargs: Any,
) -> LM:
    """An LM that runs on this machine; its first call starts the server.

    Args:
        model: ``local``, ``local/<path>`` or ``local/<org>/<name>[:<file.gguf>]``.
        temperature: sampling temperature; 0.7 where None.
        max_tokens: the most tokens of one answer.
        cache: whether DSPy remembers answers.
        **kwargs: anything else that ``dspy.LM`` takes, except what describes a connection.

    Returns:
        A plain ``dspy.LM``.

    Raises:
        ConfigurationError: as ``check_local``.
    """
    from dspy.clients.lm import LM

    check_local(model)
    return LM(
        model,
        temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
        max_tokens=max_tokens,
        cache=cache,
        engine=LocalEngine(model),
        async_engine=AsyncLocalEngine(model),
        **kwargs,
    )
