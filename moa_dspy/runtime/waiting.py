"""The calls that wait for places within limits, and which of them is next.

A release looks at the groups under way and at one line for each limit and event loop, however many calls wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final, TypeAlias, TypeVar

__all__ = ["CallClaim", "Limit", "Queue"]

T = TypeVar("T")

_NONE: Final = object()  # no group; a group may be None


@dataclass(eq=False)
class Limit:
    """A limit: its number of places, and how many are taken by calls of each event loop."""

    places: float = math.inf
    taken: Counter[asyncio.AbstractEventLoop | None] = field(default_factory=Counter)

    @property
    def is_set(self) -> bool:
        """Return whether the number of places is limited."""
        return self.places != math.inf

    def has_room(self, blocked: Collection[asyncio.AbstractEventLoop]) -> bool:
        """Return whether a place is free, or all are taken by calls of blocked loops."""
        taken = self.taken.total()
        return taken < self.places or (bool(blocked) and taken == sum(self.taken[loop] for loop in blocked))


@dataclass(frozen=True)
class CallClaim:
    """One place in each of several limits.

    Attributes:
        limits: the limits.
        group: equal for calls whose prompts begin alike.
        loop: the event loop of the call.
    """

    limits: tuple[Limit, ...] = ()
    group: Hashable = None
    loop: asyncio.AbstractEventLoop | None = None


@dataclass(eq=False)
class _Waiter:
    """A call that waits for places.

    Attributes:
        claim: the places.
        nested: whether another call, or a blocked loop, may be waiting for this one.
        loop: the event loop on which it waits; None if it blocks a thread.
        admit: called when it has its places; from any thread, and raises RuntimeError if the loop is closed.
        number: its place in the queue: of calls that may go alike, the smallest goes first.
    """

    claim: CallClaim
    nested: bool
    loop: asyncio.AbstractEventLoop | None
    admit: Callable[[], object]
    number: int = 0

    @property
    def line(self) -> _LineKey:
        """Return the key of the line in which it stands."""
        return self.claim.limits, self.nested, self.loop


# What decides whether there is room for a waiting call: its limits, whether it is nested, and its loop.
_LineKey: TypeAlias = "tuple[tuple[Limit, ...], bool, asyncio.AbstractEventLoop | None]"


class _Line:
    """Waiting calls that wait for the same: there is room for each of them, or for none. They stand in groups."""

    def __init__(self) -> None:
        self._groups: OrderedDict[Hashable, deque[_Waiter]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._groups)

    def add(self, waiter: _Waiter) -> None:
        group = self._groups.setdefault(waiter.claim.group, deque())
        if waiter.nested:
            group.appendleft(waiter)
            self._groups.move_to_end(waiter.claim.group, last=False)
        else:
            group.append(waiter)

    def remove(self, waiter: _Waiter) -> bool:
        """Remove a call. Return whether it was there."""
        group = self._groups.get(waiter.claim.group, deque())
        if waiter not in group:
            return False
        group.remove(waiter)
        if not group:
            del self._groups[waiter.claim.group]
        return True

    def following(self, group: Hashable, under_way: Collection[Hashable]) -> tuple[int, int, _Waiter]:
        """Return the next call, before it its number, and before that its rank.

        Ranks are 0 for a call of ``group``, 1 for a group that is not under way, 2 for another one.
        """
        if group in self._groups:
            rank = 0
        elif (fresh := next((one for one in self._groups if one not in under_way), _NONE)) is not _NONE:
            rank, group = 1, fresh
        else:  # as many groups as are under way, at most
            rank, group = 2, min(self._groups, key=lambda one: self._groups[one][0].number)
        waiter = self._groups[group][0]
        return rank, waiter.number, waiter


class Queue:
    """The calls that wait for places. A call takes all its places at once, so no call holds one while it waits.

    Nested calls go first, the newest before the others. Released places go to calls of the same group, else to those
    of a group without a running call. Two concurrent calls of a group would make the server read their common prompt
    twice.
    """

    def __init__(self) -> None:
        self._lines: dict[_LineKey, _Line] = {}  # without empty ones
        self._numbers = count(1)
        self._under_way: Counter[Hashable] = Counter()  # by group
        self._blocked: Counter[asyncio.AbstractEventLoop] = Counter()
        self._lock = threading.RLock()

    def resize(self, limit: Limit, places: float) -> None:
        """Set the number of places. Running calls above it may finish."""
        with self._lock:
            limit.places = places
            self._let_in()

    def block(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that a loop is blocked: its calls cannot end, and none of them can start."""
        with self._lock:
            self._blocked[loop] += 1
            self._let_in()

    def unblock(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that a loop is no longer blocked."""
        with self._lock:
            _subtract_one(self._blocked, loop)
            self._let_in()

    async def enter(self, claim: CallClaim, *, nested: bool) -> None:
        """Wait for the places."""
        loop = asyncio.get_running_loop()
        admitted: asyncio.Future[None] = loop.create_future()
        waiter = _Waiter(claim, nested, loop, lambda: loop.call_soon_threadsafe(_admit, admitted))
        if self._enters(waiter):
            return
        try:
            await admitted
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise

    def enter_in_thread(self, claim: CallClaim) -> None:
        """Wait for the places of a call after its nested program, and block the thread."""
        admitted = threading.Event()
        waiter = _Waiter(claim, True, None, admitted.set)
        if self._enters(waiter):
            return
        try:
            admitted.wait()
        except BaseException:
            self._withdraw(waiter)
            raise

    def enter_now(self, claim: CallClaim) -> None:
        """Take the places, even if none is free."""
        with self._lock:
            self._take(claim)

    def leave(self, claim: CallClaim) -> None:
        """Release the places."""
        with self._lock:
            for limit in claim.limits:
                _subtract_one(limit.taken, claim.loop)
            _subtract_one(self._under_way, claim.group)
            self._let_in(claim.group)

    def _enters(self, waiter: _Waiter) -> bool:
        """Take the places of ``waiter`` if they are free, or else put it in the queue."""
        with self._lock:
            is_free = self._have_room(waiter.claim.limits, nested=waiter.nested)
            if is_free:
                self._take(waiter.claim)
            else:
                waiter.number = -next(self._numbers) if waiter.nested else next(self._numbers)
                self._lines.setdefault(waiter.line, _Line()).add(waiter)
            return is_free

    def _withdraw(self, waiter: _Waiter) -> None:
        """Take a call that no longer waits out of the queue. If it was already admitted, pass its places on."""
        with self._lock:
            if not self._remove(waiter):
                self.leave(waiter.claim)

    def _remove(self, waiter: _Waiter) -> bool:
        """Take a call out of its line. Return whether it was there."""
        line = self._lines.get(waiter.line)
        if line is None or not line.remove(waiter):
            return False
        if not line:
            del self._lines[waiter.line]
        return True

    def _let_in(self, group: Hashable = None) -> None:
        """Give free places to waiting calls, first to calls of ``group``."""
        while (waiter := self._following(group)) is not None:
            self._remove(waiter)
            with contextlib.suppress(RuntimeError):  # its loop is closed, so it no longer waits
                waiter.admit()
                self._take(waiter.claim)

    def _following(self, group: Hashable) -> _Waiter | None:
        """Return the next waiting call for which there is room."""
        nested, others = list[_Line](), list[_Line]()
        for (limits, is_nested, loop), line in self._lines.items():
            if loop not in self._blocked and self._have_room(limits, nested=is_nested):
                (nested if is_nested else others).append(line)
        found = [line.following(group, self._under_way) for line in nested or others]
        return min(found)[2] if found else None

    def _have_room(self, limits: Sequence[Limit], *, nested: bool) -> bool:
        return all(limit.has_room(self._blocked if nested else ()) for limit in limits)

    def _take(self, claim: CallClaim) -> None:
        for limit in claim.limits:
            limit.taken[claim.loop] += 1
        self._under_way[claim.group] += 1


def _subtract_one(counter: Counter[T], key: T) -> None:
    """Count one less. A key without a count is removed. The operator of ``Counter`` looks at every key."""
    if counter[key] > 1:
        counter[key] -= 1
    else:
        counter.pop(key, None)


def _admit(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
