"""One long-lived event loop in a background thread, for blocking calls.

DSPy's optimizers and ``dspy.Evaluate`` call programs from many threads and block. Every such call runs as a task on
this loop, in the caller's context, so ``dspy.context``, callbacks, usage tracking and the DSPy trace work as usual.
Calls share connections. A call can be made inside a running loop, as in Jupyter.

A nested call (a model or a callback that calls another program) blocks its own loop. So each nesting level runs on a
loop of its own, and no loop waits for itself.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import dspy

from moa_dspy.runtime.caller_stream import from_this_thread
from moa_dspy.runtime.concurrency import blocking_run

__all__ = ["in_thread", "let_callers_go_on", "run"]

P = ParamSpec("P")
T = TypeVar("T")

_UNWIND_SECONDS = 5.0
_TURN_SECONDS = 1.0


class _Loop:
    """An event loop that runs in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="moa-dspy", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while True:
            try:
                self.loop.run_forever()
            except (KeyboardInterrupt, SystemExit):
                continue  # asyncio raises a task's interrupt in the loop, too, not only in the waiting thread

    def submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
        """Start work on the loop, in a copy of this context that is one call deeper."""
        context = contextvars.copy_context()
        context.run(_depth.set, _depth.get() + 1)
        return context.run(asyncio.run_coroutine_threadsafe, work(), self.loop)


@dataclass(frozen=True)
class _Raised:
    error: Exception


_lock = threading.Lock()
_loops: list[_Loop] = []
_depth: contextvars.ContextVar[int] = contextvars.ContextVar("moa_dspy_call_depth", default=0)


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``work()`` on the background loop and return its result.

    An interrupt (Ctrl-C) cancels the work and waits until it has ended, so that nothing continues in the background.
    """
    began, ended = threading.Event(), threading.Event()

    async def watched() -> T | _Raised:
        await asyncio.sleep(0)  # work that is cancelled before it begins ends here
        began.set()
        try:
            return await work()
        except Exception as error:  # noqa: BLE001 (asyncio would pass on a copy of a TimeoutError, without its cause)
            return _Raised(error)
        finally:
            ended.set()

    with blocking_run():
        # A stream of dspy.streamify belongs to the caller's loop. To use it from another one would block forever.
        with dspy.context(send_stream=from_this_thread(dspy.settings.send_stream)):
            future = _loop(_depth.get()).submit(watched)
        try:
            outcome = future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                if began.is_set():
                    ended.wait(_UNWIND_SECONDS)
            raise
        if isinstance(outcome, _Raised):
            raise outcome.error
        return outcome


def let_callers_go_on() -> None:
    """Wait until tasks on these loops that wait for a call that has ended have gone on, at most a second for a loop."""
    for one in _loops[:]:
        if one.thread is not threading.current_thread():
            with contextlib.suppress(concurrent.futures.TimeoutError):
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), one.loop).result(_TURN_SECONDS)


def _loop(depth: int) -> _Loop:
    with _lock:
        while len(_loops) <= depth:
            _loops.append(_Loop())
        return _loops[depth]


def _forget() -> None:
    """Reset the loops in a forked child, where the parent's threads do not run but may hold the lock."""
    global _lock
    _loops.clear()
    _lock = threading.Lock()
    _depth.set(0)


if hasattr(os, "register_at_fork"):  # not available on Windows
    os.register_at_fork(after_in_child=_forget)


async def in_thread(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Return the result of ``function``, run in its own thread. Cancellation does not wait for that thread."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        settle: Callable[[Any], None] = done.set_result
        try:
            outcome: Any = context.run(function, *args, **options)
        except BaseException as error:  # noqa: BLE001 (it is raised in the waiting task)
            settle, outcome = done.set_exception, _awaitable(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing waits for the result
            loop.call_soon_threadsafe(_unless_done, done, settle, outcome)

    threading.Thread(target=work, name=f"moa-dspy {getattr(function, '__name__', 'call')}", daemon=True).start()
    return await done


def _awaitable(error: BaseException) -> BaseException:
    """Return an exception that a future can hold. It cannot hold a StopIteration."""
    if not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"StopIteration was raised: {error}")
    wrapped.__cause__ = error
    return wrapped


def _unless_done(done: asyncio.Future[Any], settle: Callable[[Any], None], outcome: Any) -> None:
    if not done.done():
        settle(outcome)
