"""The stream of ``dspy.streamify``, used from another event loop than the caller's."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio.from_thread

__all__ = ["from_this_thread"]


class _OfCaller:
    """A stream of another event loop, which waits in the thread that called the program."""

    def __init__(self, stream: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._stream, self._loop = stream, loop

    async def send(self, item: Any) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._stream.send(item), self._loop))


def from_this_thread(stream: Any) -> Any:
    """Return a stream that can be used on another event loop while this thread waits; None if it cannot.

    It can if this is a worker thread of the stream's loop, as ``dspy.streamify`` starts one for a program.
    """
    if stream is None:
        return None
    try:
        return _OfCaller(stream, anyio.from_thread.run_sync(asyncio.get_running_loop))
    except RuntimeError:
        return None
