"""One long-lived event loop in a thread of its own, for blocking calls.

DSPy's optimizers and ``dspy.Evaluate`` call programs from many threads and block. Every such call runs as a task on
this loop, in the caller's context (so ``dspy.context``, callbacks, usage tracking and the DSPy trace work as usual),
and connections are reused from call to call. It may be called from inside a running loop, as in Jupyter.

A call made from within a call (a model or a callback that asks another program) blocks the loop it came from. So it
runs on a second loop, a call within that one on a third, and none ever waits for itself.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import dspy

__all__ = ["in_thread", "run"]

P = ParamSpec("P")
T = TypeVar("T")

_UNWIND_SECONDS = 5.0


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
                continue  # a task raised it: asyncio throws it at the loop as well as at whoever waits for the task

    def submit(self, work: Callable[[], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
        context = contextvars.copy_context()
        context.run(_depth.set, _depth.get() + 1)
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def start() -> None:
            if future.cancelled():
                return
            task = self.loop.create_task(work(), context=context)
            future.add_done_callback(lambda done: done.cancelled() and self.loop.call_soon_threadsafe(task.cancel))
            task.add_done_callback(lambda done: _hand_over(done, future))

        self.loop.call_soon_threadsafe(start)
        return future


_lock = threading.Lock()
_loops: list[_Loop] = []
_depth: contextvars.ContextVar[int] = contextvars.ContextVar("moa_dspy_call_depth", default=0)


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``work()`` to its end on the background loop and return its result.

    An interrupt (Ctrl-C) while waiting cancels the work and waits until it has ended, so that nothing goes on behind
    the caller's back.
    """
    began, ended = threading.Event(), threading.Event()

    async def watched() -> T:
        began.set()
        try:
            return await work()
        finally:
            ended.set()

    # A stream that dspy.streamify has opened belongs to the caller's loop; whoever sends to it from another one waits
    # for ever.
    with dspy.context(send_stream=None):
        future = _loop(_depth.get()).submit(watched)
    try:
        return future.result()
    except BaseException:
        if not future.done():
            future.cancel()
            if began.is_set():
                ended.wait(_UNWIND_SECONDS)
        raise


def _loop(depth: int) -> _Loop:
    with _lock:
        while len(_loops) <= depth:
            _loops.append(_Loop())
        return _loops[depth]


def _forget() -> None:
    """In a forked child the parent's threads do not run, and the lock may be held by a thread that is not there."""
    global _lock
    _loops.clear()
    _lock = threading.Lock()
    _depth.set(0)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget)


def _hand_over(task: asyncio.Task[T], future: concurrent.futures.Future[T]) -> None:
    """Give the waiting thread what came out of ``task``, unless it has stopped waiting."""
    if task.cancelled():
        future.cancel()
        future.set_running_or_notify_cancel()
        return
    error = task.exception()
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


async def in_thread(function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Return what ``function`` returns in a thread of its own, which nobody waits for where this is cancelled."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def work() -> None:
        settle: Callable[[Any], None] = done.set_result
        try:
            outcome: Any = context.run(function, *args, **options)
        except BaseException as error:  # noqa: BLE001 (it is raised where it is waited for)
            settle, outcome = done.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_unless_done, done, settle, outcome)

    threading.Thread(target=work, name=f"moa-dspy {getattr(function, '__name__', 'call')}", daemon=True).start()
    return await done


def _unless_done(done: asyncio.Future[Any], settle: Callable[[Any], None], outcome: Any) -> None:
    if not done.done():
        settle(outcome)
