"""An event loop whose clock stands still while anything is computed and jumps over every wait.

What a schedule costs by itself is then an exact figure: latencies add up; neither the CPU nor its other users count.
"""

from __future__ import annotations

import asyncio
import hashlib
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import dspy
from dspy.lm15 import Message, Request, Response, Usage

from benchmarks.server import Behaviour
from moa_dspy.testing import prompt_of

__all__ = ["run", "virtual_lm"]

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` on a loop with a virtual clock, which ``asyncio.get_running_loop().time()`` reads."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(work)


def virtual_lm(model: str, behaviour: Behaviour) -> dspy.LM:
    """A model that behaves as the provider of ``benchmarks.server`` does, without a connection."""
    engine = _Engine(behaviour)
    return dspy.LM(model, engine=engine, async_engine=_AsyncEngine(engine), cache=False, temperature=1.0, num_retries=0)


class _Engine:
    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    def complete(self, request: Request) -> Response:
        body = prompt_of(request).encode()
        digest = self.digest(request)
        usage = Usage(input_tokens=len(body) // 4, output_tokens=self.behaviour.words)
        message = Message.assistant(self.behaviour.reply(body, digest))
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)

    def digest(self, request: Request) -> bytes:
        return hashlib.blake2b(f"{request.model}\n{prompt_of(request)}".encode(), digest_size=8).digest()


class _AsyncEngine:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine

    async def complete(self, request: Request) -> Response:
        await asyncio.sleep(self._engine.behaviour.latency(self._engine.digest(request)))
        return self._engine.complete(request)


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for nothing but tells how long it would have waited."""

    def __init__(self, waited: Callable[[float], None]) -> None:
        super().__init__()
        self._waited = waited

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self._waited(timeout)
        return super().select(None if timeout is None else 0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self._jump))
        self.set_default_executor(_Here())

    def time(self) -> float:
        return self._now

    def _jump(self, seconds: float) -> None:
        self._now += seconds


class _Here(ThreadPoolExecutor):
    """Does the work at once, on the thread that asks: the clock must not jump while another thread works."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 (handed over to whoever waits)
            future.set_exception(error)
        return future
