"""A thread for each thing that may take long, or hang, so that nothing else has to wait for it.

The event loop's own pool has few threads, which DSPy needs for every call, and a process waits for them when it exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ["in_thread"]

P = ParamSpec("P")
T = TypeVar("T")


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
