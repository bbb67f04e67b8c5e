"""How many calls may be under way at once: for each model, and for the whole process.

Limits hold across programs, threads and event loops, since that is what a provider or a machine feels.

::

    limit_concurrency(64)                       # for the whole process
    limit_concurrency(4, model="local")         # for one model
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import math
import os
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass

from moa_dspy.errors import ConfigurationError

__all__ = ["admitted", "current_slot", "limit_concurrency"]


def limit_concurrency(calls: int | None, model: str | None = None) -> None:
    """Allow at most ``calls`` LM calls at once; a new limit counts the calls that are under way under the old one.

    Where calls have to wait for a model, those that share the prompt's beginning with the call that has just ended go
    first. A server that keeps prompts (llama.cpp, vLLM) then reads a critic's own answer once instead of once for
    every peer. That costs no time where the limit is the number of requests that the server works on at once.

    Args:
        calls: at least 1; None lifts the limit.
        model: the model string; None means the whole process.

    Raises:
        ConfigurationError: ``calls`` is no such number.
    """
    if calls is not None and (isinstance(calls, bool) or not isinstance(calls, int) or calls < 1):
        raise ConfigurationError(f"a concurrency limit is a whole number from 1, not {calls!r}")
    with _lock:
        gate = limiters.setdefault(model, _Limiter())
    gate.resize(math.inf if calls is None else calls)


@contextlib.asynccontextmanager
async def admitted(model: str, group: Hashable) -> AsyncIterator[None]:
    """Wait until a call of ``model`` may start, and hold its place until the block ends.

    Args:
        model: the model string.
        group: equal for calls whose prompts begin alike, so different for different runs.
    """
    gates = [gate for key in (model, None) if (gate := limiters.get(key)) is not None]
    place = _Slot()
    try:
        for gate in gates:
            await gate.enter(group)
            place.leaving.append(functools.partial(gate.leave, group))
        token = _current.set(place)
        try:
            yield
        finally:
            _current.reset(token)
    finally:
        place.release()


def current_slot() -> _Slot:
    """Return the place of the call that is under way here; one that nobody waits for where there is none."""
    return _current.get() or _Slot()


class _Slot:
    """A call's place at every gate; left when the last who holds it lets go, in any thread."""

    def __init__(self) -> None:
        self.leaving: list[Callable[[], None]] = []
        self._holders = 1
        self._lock = threading.Lock()

    def hold(self) -> None:
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            left = not self._holders
        if left:
            for leave in reversed(self.leaving):
                leave()


_current: contextvars.ContextVar[_Slot | None] = contextvars.ContextVar("moa_dspy_current_slot", default=None)


@dataclass(eq=False)
class _Waiter:
    group: Hashable
    loop: asyncio.AbstractEventLoop
    admitted: asyncio.Future[None]


class _Limiter:
    """A counting semaphore that works across event loops and lets the same group go on.

    A place that a call leaves goes to its own group, else to one that has no call under way: two calls of a group at
    once would each have the server read what they share.
    """

    def __init__(self, places: float = math.inf) -> None:
        self.places = places
        self._busy = 0
        self._waiting: deque[_Waiter] = deque()
        self._under_way: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def resize(self, places: float) -> None:
        """Let so many calls be under way from now on; those that are too many end in their own time."""
        with self._lock:
            self.places = places
            self._let_in(None)

    async def enter(self, group: Hashable) -> None:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(group, loop, loop.create_future())
        with self._lock:
            if self._busy < self.places:
                self._busy += 1
                self._under_way[group] += 1
                return
            self._waiting.append(waiter)
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            with self._lock:
                still_waiting = waiter in self._waiting
                if still_waiting:
                    self._waiting.remove(waiter)
            if not still_waiting:
                self.leave(group)  # it had been let in already: pass the place on
            raise

    def leave(self, group: Hashable) -> None:
        with self._lock:
            self._under_way[group] -= 1
            if not self._under_way[group]:
                del self._under_way[group]
            self._busy -= 1
            self._let_in(group)

    def _let_in(self, group: Hashable) -> None:
        """Give the free places to those who wait, to calls of ``group`` before others."""
        while self._waiting and self._busy < self.places:
            following = self._following(group)
            self._waiting.remove(following)
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits there any more
                following.loop.call_soon_threadsafe(_admit, following.admitted)
                self._under_way[following.group] += 1
                self._busy += 1

    def _following(self, group: Hashable) -> _Waiter:
        same = (waiter for waiter in self._waiting if waiter.group == group)
        fresh = (waiter for waiter in self._waiting if waiter.group not in self._under_way)
        return next(same, None) or next(fresh, None) or self._waiting[0]


def _admit(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_lock = threading.Lock()
limiters: dict[str | None, _Limiter] = {}


def _renew() -> None:
    """In a forked child no call of the parent ends, and a lock may be held by a thread that is not there."""
    global _lock
    _lock = threading.Lock()
    for model, gate in list(limiters.items()):
        limiters[model] = _Limiter(gate.places)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_renew)
