"""Budgets: limits on spending, and the guard that starts work only if the budget covers it.

::

    moa = AttentionMoA(..., budget=Budget(calls=40, usd=0.05))
    moa(question="...", budget=Budget(seconds=20))        # for this call, within the program's own budget
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import operator
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
                    f"budget {field.name}={value!r:.40} is too small for a single proposal; it must be {least}"
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
            raise ConfigurationError(f"budget={value!r} is not a Budget; pass moa_dspy.Budget(...)")
        return value

    def within(self, other: Budget | None) -> Self:
        """Return the budget with the lower of both limits for each measure.

        Raises:
            ConfigurationError: if ``other`` is not a budget.
        """
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(self.of(other)), strict=True)
        return type(self)(*(min((limit for limit in pair if limit is not None), default=None) for pair in pairs))


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

    def __iter__(self) -> Iterator[float]:
        return iter((self.calls, self.tokens, self.usd, self.seconds))

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(*map(operator.add, self, other))

    def __sub__(self, other: Amounts) -> Amounts:
        return Amounts(*map(operator.sub, self, other))

    def __mul__(self, factor: float) -> Amounts:
        return Amounts(*(amount * factor for amount in self))

    def largest(self, other: Amounts) -> Amounts:
        """Return the larger amount of each measure."""
        return Amounts(*map(max, self, other))


NOTHING: Final = Amounts()


class Meter(Protocol):
    """Counts usage as it happens, as ``cost.meter.UsageMeter`` does."""

    reading: Reading


class BudgetGuard:
    """Decide whether work may start, on any number of threads.

    Work reserves its calls before it starts and settles when it ends. Its usage is either passed to ``settle`` or
    counted by a meter as it happens.

    Args:
        budget: the limits; default: the parent's, or none.
        meter: counts the spending from now on. Without it, only usage passed to ``settle`` counts.
        clock: returns seconds; the budget's time starts now.
        parent: a guard that must also admit all work, and that counts its usage, too.

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
        self.budget: Budget = Budget.of(parent.budget if budget is None and parent is not None else budget)
        self.largest = NOTHING
        self.under_way = 0
        limits = dataclasses.astuple(self.budget)
        self._limits = Amounts(*(math.inf if limit is None else min(limit, sys.float_info.max) for limit in limits))
        self._meter, self._clock, self._parent = meter, clock, parent
        self._began = clock()
        self._reserved_calls = 0
        self._settled = NOTHING - self._metered()
        self._answered, self._answered_total = 0, NOTHING
        self._is_known = False  # whether the usage of one piece of work is planned
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the guard itself, so that copies of a program share one budget."""
        return self

    @property
    def seconds_left(self) -> float:
        """Return the seconds left; infinite without a limit."""
        left = self._limits.seconds - (self._clock() - self._began)
        return left if self._parent is None else min(left, self._parent.seconds_left)

    @property
    def spent(self) -> Amounts:
        """Return the spending so far. Seconds are wall time."""
        with self._lock:
            spent = self._settled + self._metered()
        return dataclasses.replace(spent, seconds=self._clock() - self._began)

    @property
    def left(self) -> Amounts:
        """Return what remains, minus reserved calls. Measures without a limit are infinite."""
        left = self._limits - self.spent - Amounts(self._reserved_calls)
        return left if self._parent is None else Amounts(*map(min, left, self._parent.left))

    @property
    def mean(self) -> Amounts:
        """Return the mean usage of answered work, or zero before the first answer."""
        with self._lock:
            return self._answered_total * (1 / self._answered) if self._answered else NOTHING

    def has_room(self, calls: int = 1, *, own: Amounts = NOTHING, keep: Amounts = NOTHING) -> bool:
        """Return whether ``reserve`` with the same arguments would succeed."""
        limits, before = self._limits, self.spent + keep
        return (
            before.calls + self._reserved_calls + calls <= limits.calls
            and before.tokens < limits.tokens >= before.tokens + own.tokens
            and before.usd < limits.usd >= before.usd + own.usd
            and before.seconds < limits.seconds
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

    def extend(self, calls: int) -> bool:
        """Reserve more calls for work that is under way, if the budget has room. ``settle`` then takes all of them."""
        with self._lock:
            if not self.has_room(calls) or (self._parent is not None and not self._parent.extend(calls)):
                return False
            self._reserved_calls += calls
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

    def spend(self, used: Usage | Amounts | None, *, pass_on: bool = True, pieces: int = 1) -> None:
        """Count usage without a reservation, such as items of an earlier, resumed run.

        Args:
            used: the usage.
            pass_on: whether the parent counts it, too.
            pieces: number of pieces of work that used it.
        """
        if used is None or not pieces:
            return
        amounts = used if isinstance(used, Amounts) else Amounts.of(used)
        with self._lock:
            self.largest = self.largest.largest(amounts * (1 / pieces))
            if amounts.seconds:  # only answered calls show the size of a call
                self._answered += pieces
            self._answered_total += amounts
            if self._meter is None:
                self._settled += amounts
        if pass_on and self._parent is not None:
            self._parent.spend(used, pieces=pieces)

    def expect(self, amounts: Amounts) -> None:
        """Take a planned usage for the largest so far, so that no work has to end before other work starts."""
        with self._lock:
            self.largest = self.largest.largest(amounts)
            self._is_known = True

    async def admit(self, calls: int) -> bool:
        """Wait until the budget covers another piece of work, and reserve its calls. ``settle`` ends the reservation.

        This work and all running work are expected to use as much as the largest so far. If tokens or dollars are
        limited, no second work starts before the first has ended.

        Args:
            calls: the maximum number of paid calls of the work.

        Returns:
            Whether the calls are reserved. False if the budget does not cover them and no running work could release
            any.
        """
        unknown = min(self._limits.tokens, self._limits.usd) < math.inf and not self._is_known
        while (unknown and self.under_way and not self._answered) or not self.reserve(
            calls, own=self.largest * (self.under_way + 1)
        ):
            if not self.is_busy:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    def share(self, part: float = 1.0) -> BudgetGuard:
        """Return a guard for a part of what is left. Its spending counts here, too.

        Args:
            part: share of what is left, above 0, at most 1.

        Raises:
            BudgetExhaustedError: if nothing is left.
        """
        left = self.left * part
        if min(left) <= 0 or left.calls < 1:
            raise BudgetExhaustedError("nothing is left of the budget")
        calls, tokens, usd, seconds = (None if amount == math.inf else amount for amount in left)
        budget = Budget(
            None if calls is None else int(calls), None if tokens is None else max(int(tokens), 1), usd, seconds
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
