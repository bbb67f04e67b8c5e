"""Budgets: limits on spending, and the guard that starts work only if the budget covers it.

::

    moa = AttentionMoA(..., budget=Budget(calls=40, usd=0.05))
    moa(question="...", budget=Budget(seconds=20))        # for this call, within the program's own budget
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

from moa_dspy.cost.usage import Reading, Usage
from moa_dspy.errors import BudgetExhaustedError, ConfigurationError

__all__ = ["Amounts", "Budget", "BudgetGuard"]

_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True)
class Budget:
    """Limits on what a run, an evaluation or an optimization may spend. None means unlimited.

    No call starts that would exceed ``calls`` (retries count). ``tokens`` and ``usd`` are known only after a call, so
    only running calls can exceed them. At ``seconds`` running calls are cancelled. A run that reaches its budget still
    answers from what it has, and reports ``stopped_by="budget"``.

    Args:
        calls: paid LM calls, at least 1. Calls answered by the response cache count only while they run.
        tokens: prompt plus completion tokens, above 0.
        usd: dollars, above 0. A run is refused if the price of one of its models is unknown. Models on this machine
            cost nothing.
        seconds: wall time, above 0.

    Raises:
        ConfigurationError: if a limit is not a number, or does not cover one proposal.
    """

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            whole = field.name in ("calls", "tokens")
            valid = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and value > 0
            if value is not None and not valid:
                least = "at least 1" if whole else "above 0"
                raise ConfigurationError(
                    f"budget {field.name}={value!r} is too small for a single proposal; it must be {least}"
                )

    @classmethod
    def of(cls, value: Any) -> Self:
        """Return ``value`` if it is a budget, and an unlimited budget for None.

        Raises:
            ConfigurationError: if it has another type.
        """
        if value is None:
            return cls()
        if not isinstance(value, cls):
            raise ConfigurationError(f"budget={value!r} is no Budget; write Budget(...), from moa_dspy")
        return value

    def within(self, other: Budget | None) -> Self:
        """Return the budget with the lower of both limits for each measure.

        Raises:
            ConfigurationError: if ``other`` is not a budget.
        """
        if other is None:
            return self
        other = self.of(other)
        tighter = {}
        for field in dataclasses.fields(self):
            limits = [value for value in (getattr(self, field.name), getattr(other, field.name)) if value is not None]
            tighter[field.name] = min(limits, default=None)
        return type(self)(**tighter)


@dataclass(frozen=True)
class Amounts:
    """An amount of each measure of a budget; infinite if unlimited."""

    calls: float = 0.0
    tokens: float = 0.0
    usd: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, used: Usage) -> Self:
        """Return a usage as amounts; an unknown price counts as 0."""
        return cls(used.paid_calls, used.tokens.total, used.cost_usd or 0.0, used.seconds)

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd, self.seconds + other.seconds
        )

    def __sub__(self, other: Amounts) -> Amounts:
        return self + other * -1

    def __mul__(self, factor: float) -> Amounts:
        return Amounts(self.calls * factor, self.tokens * factor, self.usd * factor, self.seconds * factor)

    def largest(self, other: Amounts) -> Amounts:
        """Return the larger amount of each measure."""
        return Amounts(
            max(self.calls, other.calls),
            max(self.tokens, other.tokens),
            max(self.usd, other.usd),
            max(self.seconds, other.seconds),
        )


NOTHING: Final = Amounts()


class Meter(Protocol):
    """Counts usage as it happens, as ``cost.meter.UsageMeter`` does."""

    reading: Reading


class BudgetGuard:
    """Decide whether work may start, on any number of threads.

    Work reserves its calls before it starts and settles when it ends. Its usage is either passed to ``settle`` or
    counted by a meter as it happens.

    Args:
        budget: the limits; None for no limits.
        meter: counts the spending from now on. Without it, only usage passed to ``settle`` counts.
        clock: returns seconds; the budget's time starts now.
        parent: a guard that must also admit all work.

    Attributes:
        budget: the limits.
        largest: the highest usage of one piece of work, by measure.
        under_way: number of reservations not yet settled.
    """

    def __init__(
        self,
        budget: Budget | None = None,
        *,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.monotonic,
        parent: BudgetGuard | None = None,
    ) -> None:
        self.budget = Budget.of(budget)
        self.largest = NOTHING
        self.under_way = 0
        self._meter, self._clock, self._parent = meter, clock, parent
        self._began = clock()
        self._before = self._metered()
        self._reserved_calls = 0
        self._settled = NOTHING
        self._answered, self._answered_total = 0, NOTHING
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the guard itself, so that copies of a program share one budget."""
        return self

    @property
    def seconds(self) -> float:
        """Return the seconds since the guard was created."""
        return self._clock() - self._began

    @property
    def seconds_left(self) -> float:
        """Return the seconds left; infinite without a limit."""
        return math.inf if self.budget.seconds is None else self.budget.seconds - self.seconds

    @property
    def spent(self) -> Amounts:
        """Return the spending so far. Seconds are wall time."""
        with self._lock:
            spent = self._settled + self._metered() - self._before
        return dataclasses.replace(spent, seconds=self.seconds)

    @property
    def left(self) -> Amounts:
        """Return what remains, minus reserved calls. Measures without a limit are infinite."""
        budget, spent = self.budget, self.spent
        return Amounts(
            math.inf if budget.calls is None else budget.calls - spent.calls - self._reserved_calls,
            math.inf if budget.tokens is None else budget.tokens - spent.tokens,
            math.inf if budget.usd is None else budget.usd - spent.usd,
            self.seconds_left,
        )

    @property
    def mean(self) -> Amounts:
        """Return the mean usage of answered work, or zero before the first answer."""
        with self._lock:
            return self._answered_total * (1 / self._answered) if self._answered else NOTHING

    def has_room(self, calls: int = 1, *, own: Amounts = NOTHING, keep: Amounts = NOTHING) -> bool:
        """Return whether ``reserve`` with the same arguments would succeed."""
        budget, spent = self.budget, self.spent
        return (
            (budget.calls is None or spent.calls + self._reserved_calls + calls + keep.calls <= budget.calls)
            and _fits(budget.tokens, spent.tokens + keep.tokens, own.tokens)
            and _fits(budget.usd, spent.usd + keep.usd, own.usd)
            and self.seconds_left > keep.seconds
            and (self._parent is None or self._parent.has_room(calls, own=own, keep=keep))
        )

    def reserve(self, calls: int = 1, *, own: Amounts = NOTHING, keep: Amounts = NOTHING) -> bool:
        """Reserve calls for work that is about to start. ``settle`` ends the reservation.

        Args:
            calls: the maximum number of paid calls of the work.
            own: expected tokens and dollars of the work. They must fit.
            keep: amounts to leave for other work, besides the calls already reserved. More than this must remain.

        Returns:
            Whether the budget covers the work. If not, nothing is reserved.
        """
        with self._lock:
            if not self.has_room(calls, own=own, keep=keep):
                return False
            if self._parent is not None and not self._parent.reserve(calls, own=own, keep=keep):
                return False
            self._reserved_calls += calls
            self.under_way += 1
            return True

    def settle(self, used: Usage | Amounts | None = None, *, calls: int = 1) -> None:
        """End a reservation.

        Args:
            used: usage of the work. With a meter, it only updates the size of one piece of work.
            calls: the calls that were reserved.
        """
        with self._lock:
            self._reserved_calls -= calls
            self.under_way -= 1
            self.spend(used, pass_on=False)
            if self._parent is not None:
                self._parent.settle(used, calls=calls)

    def spend(self, used: Usage | Amounts | None, *, pass_on: bool = True) -> None:
        """Count usage without a reservation, such as items of an earlier, resumed run.

        Args:
            used: the usage.
            pass_on: whether the parent counts it, too.
        """
        if used is None:
            return
        amounts = used if isinstance(used, Amounts) else Amounts.of(used)
        with self._lock:
            self.largest = self.largest.largest(amounts)
            if amounts.seconds:  # only answered calls show the size of a call
                self._answered += 1
            self._answered_total += amounts
            if self._meter is None:
                self._settled += amounts
        if pass_on and self._parent is not None:
            self._parent.spend(used)

    @asynccontextmanager
    async def admit(self, calls: int) -> AsyncIterator[None]:
        """Wait until the budget covers a run of at most ``calls`` calls, and reserve them for the block.

        Raises:
            BudgetExhaustedError: if the budget does not cover them and no running work could release calls.
        """
        while not self.reserve(calls):
            if not self.is_busy:
                raise BudgetExhaustedError("the budget has no room for another run")
            await asyncio.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            self.settle(calls=calls)

    def share(self, part: float = 1.0) -> BudgetGuard:
        """Return a guard for a part of what is left. Its spending counts here, too.

        Args:
            part: share of what is left, above 0, at most 1.

        Raises:
            BudgetExhaustedError: if nothing is left.
        """
        left = self.left * part
        if min(int(left.calls) if left.calls < math.inf else 1, left.tokens, left.usd, left.seconds) <= 0:
            raise BudgetExhaustedError("nothing is left of the budget")
        budget = Budget(
            None if left.calls == math.inf else int(left.calls),
            None if left.tokens == math.inf else max(int(left.tokens), 1),
            None if left.usd == math.inf else left.usd,
            None if left.seconds == math.inf else left.seconds,
        )
        return BudgetGuard(budget, meter=self._meter, clock=self._clock, parent=self)

    @property
    def is_busy(self) -> bool:
        """Return whether running work could still release calls."""
        return self.under_way > 0 or (self._parent is not None and self._parent.is_busy)

    def _metered(self) -> Amounts:
        if self._meter is None:
            return NOTHING
        reading = self._meter.reading
        return Amounts(reading.paid_calls, reading.tokens, reading.known_usd)


def _fits(limit: float | None, spent: float, own: float) -> bool:
    """Return whether the limit is above ``spent`` and also covers ``own``."""
    return limit is None or (spent < limit and spent + own <= limit)
