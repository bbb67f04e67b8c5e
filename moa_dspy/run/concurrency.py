"""Limits on concurrent calls, for each model and for the whole process.

Limits hold across programs, threads and event loops, because they protect one provider or one machine.

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
    """Allow at most ``calls`` concurrent LM calls. Running calls count towards a new limit.

    When calls wait for a model, those that share the beginning of their prompt with the call that just ended start
    first. A server that caches prompts (llama.cpp, vLLM) then reads a critic's own answer once, not once for every
    peer. This costs no time if the limit equals the number of requests that the server handles at once.

    Args:
        calls: at least 1; None removes the limit.
        model: the model string; None means the whole process.

    Raises:
        ConfigurationError: if ``calls`` is not such a number.
    """
    if calls is not None and (isinstance(calls, bool) or not isinstance(calls, int) or calls < 1):
        raise ConfigurationError(f"a concurrency limit is a whole number from 1, not {calls!r}")
    with _lock:
        gate = limiters.setdefault(model, _Limiter())
    gate.resize(math.inf if calls is None else calls)


@contextlib.asynccontextmanager
async def admitted(model: str, group: Hashable) -> AsyncIterator[None]:
    """Wait until a call of ``model`` may start, and hold its slot until the block ends.

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
    """Return the current call's slot, or an empty slot outside a call."""
    return _current.get() or _Slot()


class _Slot:
    """A call's place in every limiter. It is free once every holder has released it, from any thread."""

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
    """A counting semaphore that works across event loops and prefers calls of the same group.

    A released place goes to the same group, else to a group without a running call. Two concurrent calls of a group
    would make the server read their common prompt twice.
    """

    def __init__(self, places: float = math.inf) -> None:
        self.places = places
        self._busy = 0
        self._waiting: deque[_Waiter] = deque()
        self._under_way: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def resize(self, places: float) -> None:
        """Set the number of places. Running calls above it may finish."""
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
                self.leave(group)  # it was already admitted: pass the place on
            raise

    def leave(self, group: Hashable) -> None:
        with self._lock:
            self._under_way[group] -= 1
            if not self._under_way[group]:
                del self._under_way[group]
            self._busy -= 1
            self._let_in(group)

    def _let_in(self, group: Hashable) -> None:
        """Give free places to waiting calls, first to calls of ``group``."""
        while self._waiting and self._busy < self.places:
            following = self._following(group)
            self._waiting.remove(following)
            with contextlib.suppress(RuntimeError):  # its loop is closed, so it no longer waits
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
    """Reset the limiters in a forked child, where the parent's calls never end and its threads may hold the lock."""
    global _lock
    _lock = threading.Lock()
    for model, gate in list(limiters.items()):
        limiters[model] = _Limiter(gate.places)


if hasattr(os, "register_at_fork"):  # not available on Windows
    os.register_at_fork(after_in_child=_renew)
