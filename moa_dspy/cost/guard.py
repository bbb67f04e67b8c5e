"""What one run has spent, and whether another call, or another layer, may start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from moa_dspy.cost.budget import Budget
from moa_dspy.trace import Stage, Tokens

__all__ = ["Ledger", "Spending"]

# How much more than the largest call so far the one may need that reads and unites all answers.
_LONGER: Final = 2.0
# How much more than a call of the layer before a call of a further layer may need: its proposers read one answer more.
_GROWTH: Final = 1.25


@dataclass(frozen=True)
class Spending:
    """An amount by each measure that is known only after a call."""

    tokens: float = 0.0
    usd: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        return Spending(self.tokens + other.tokens, self.usd + other.usd, self.seconds + other.seconds)


class Ledger:
    """The books of one run, kept by the steps on the event loop that runs it.

    Args:
        budget: the run's limits.
        clock: seconds since the run began.

    Attributes:
        budget: the run's limits.
        refused: whether a call, or part of a layer, was left out for want of budget.
    """

    def __init__(self, budget: Budget, clock: Callable[[], float]) -> None:
        self.budget = budget
        self.refused = False
        self._clock = clock
        self._held: set[Stage] = set()  # those that write the current layer's answer, for each of which a call is kept
        self._calls = 0
        self._under_way = 0
        self._answered = 0
        self._spent = Spending()
        self._largest = Spending()
        self._layer_began = Spending()
        self._layer_calls = 0

    def reserve(self, stage: Stage) -> bool:
        """Take one call from the budget, if there is one; ``book`` enters what became of it.

        Args:
            stage: what the call is for. It leaves what the stages may need for which a call is held, its own apart: the
                call, and twice the tokens, dollars and seconds of the largest call so far.
        """
        if not self._has_room(stage):
            self.refused = True
            return False
        self._calls += 1
        self._under_way += 1
        self._held.discard(stage)
        return True

    def book(self, tokens: Tokens, usd: float, seconds: float | None, *, unpaid: bool) -> None:
        """Enter what became of a reserved call.

        Args:
            tokens: what it used.
            usd: what it cost, as far as known.
            seconds: how long the answer took; None where there was none.
            unpaid: the response cache answered, or it was never sent; it gives its place back.
        """
        self._under_way -= 1
        self._calls -= unpaid
        self._answered += seconds is not None
        spent = self._spent
        self._spent = replace(spent, tokens=spent.tokens + tokens.total, usd=spent.usd + usd)
        self._largest = Spending(
            max(self._largest.tokens, tokens.total),
            max(self._largest.usd, usd),
            max(self._largest.seconds, seconds or 0.0),
        )

    @property
    def calls_left(self) -> float:
        """Return the calls left; infinite where they are not limited."""
        return math.inf if self.budget.calls is None else self.budget.calls - self._calls

    def seconds_left(self, stage: Stage) -> float:
        """Return the seconds left, less those that other stages may need; infinite where there is no limit."""
        if self.budget.seconds is None:
            return math.inf
        return self.budget.seconds - self._clock() - self._kept_from(stage) * _LONGER * self._largest.seconds

    def first_layer(self, critics: Sequence[int], finals: Sequence[Stage]) -> tuple[int, int]:
        """Return how many proposals, and how many of their refinements, the first layer can afford.

        Args:
            critics: the number of critiques that each agent's answer gets.
            finals: the stages that write the layer's answer.
        """
        agents = len(critics)
        proposals = int(max(1, min(agents, self.calls_left - len(finals))))
        self._held = set(finals if self.calls_left - proposals >= len(finals) else ())
        left, refined = self.calls_left - len(self._held) - proposals, 0
        if proposals == agents:
            for count in critics:
                left -= count + bool(count)
                if left < 0:
                    break
                refined += 1
        if len(self._held) < len(finals) or proposals < agents or refined < agents:
            self.refused = True
        return proposals, refined

    def at_once(self, needs: Sequence[Spending]) -> int:
        """Return how many of the first proposals may start before it is known what one really uses; at least one.

        Args:
            needs: what each of them is expected to use.
        """
        fitting = sum(
            _has(self.budget.tokens, 0.0, total.tokens) and _has(self.budget.usd, 0.0, total.usd)
            for total in accumulate(needs)
        )
        return max(1, fitting)

    def further_layer(self, calls: int, finals: Sequence[Stage]) -> bool:
        """Return whether there is room for another whole layer, and hold its last calls if so.

        Its calls are known. It is taken to need a quarter more tokens and dollars for each of them than the layer
        before it, and as many seconds as that took.

        Args:
            calls: the layer's calls.
            finals: the stages that write its answer.
        """
        now, began, budget = self._so_far(), self._layer_began, self.budget
        larger = _GROWTH * calls / max(1, self._calls - self._layer_calls)
        if not (
            self.calls_left >= calls
            and _has(budget.tokens, now.tokens, larger * (now.tokens - began.tokens))
            and _has(budget.usd, now.usd, larger * (now.usd - began.usd))
            and _has(budget.seconds, now.seconds, now.seconds - began.seconds)
        ):
            self.refused = True
            return False
        self._held, self._layer_began, self._layer_calls = set(finals), now, self._calls
        return True

    def release(self) -> None:
        """Let any call have what is held: there is nothing yet from which an answer could be made."""
        self._held.clear()

    def _kept_from(self, stage: Stage) -> int:
        """How many calls are held for other stages than ``stage``."""
        return len(self._held - {stage})

    def _has_room(self, stage: Stage) -> bool:
        budget, spent, largest = self.budget, self._spent, self._largest
        kept_calls = self._kept_from(stage)
        kept = kept_calls * _LONGER
        # Of what calls have needed on average, calls under way may need more, since later roles read more.
        ahead = _LONGER * self._under_way / self._answered if self._answered else 0.0
        return (
            self.calls_left >= 1 + kept_calls
            and _has(budget.tokens, spent.tokens * (1 + ahead), kept * largest.tokens)
            and _has(budget.usd, spent.usd * (1 + ahead), kept * largest.usd)
            and self.seconds_left(stage) > 0
        )

    def _so_far(self) -> Spending:
        return replace(self._spent, seconds=self._clock())


def _has(limit: float | None, spent: float, needed: float) -> bool:
    """Whether something is left beside what is needed."""
    return limit is None or spent + needed < limit
