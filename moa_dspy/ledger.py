"""What one run has spent, and whether another call, or another layer, may start."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from moa_dspy.limits import Budget
from moa_dspy.trace import Tokens

__all__ = ["Ledger"]

# How much more than the largest call so far the one may need that reads and unites all answers.
_LONGER: Final = 2.0


@dataclass(frozen=True)
class _Spent:
    """An amount by each measure that is known only after a call."""

    tokens: float = 0.0
    usd: float = 0.0
    seconds: float = 0.0


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
        self._held = 0  # calls kept back for the aggregate and the synthesis of the current layer
        self._calls = 0
        self._under_way = 0
        self._answered = 0
        self._spent = _Spent()
        self._largest = _Spent()
        self._layer_began = _Spent()

    def reserve(self, *, final: bool) -> bool:
        """Take one call from the budget, if there is one; ``book`` enters what became of it.

        Args:
            final: the call writes the layer's answer. Others leave what that may need: the calls that are held, and for
                each of them twice the tokens, dollars and seconds of the largest call so far.
        """
        if not self._has_room(final):
            self.refused = True
            return False
        self._calls += 1
        self._under_way += 1
        if final and self._held:
            self._held -= 1
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
        self._largest = _Spent(
            max(self._largest.tokens, tokens.total),
            max(self._largest.usd, usd),
            max(self._largest.seconds, seconds or 0.0),
        )

    @property
    def calls_left(self) -> float:
        """Return the calls left; infinite where they are not limited."""
        return math.inf if self.budget.calls is None else self.budget.calls - self._calls

    def seconds_left(self, *, final: bool) -> float:
        """Return the seconds left, less those that the layer's answer may need; infinite where there is no limit."""
        if self.budget.seconds is None:
            return math.inf
        kept = 0.0 if final else self._held * _LONGER * self._largest.seconds
        return self.budget.seconds - self._clock() - kept

    def first_layer(self, critics: Sequence[int], finals: int) -> tuple[int, int]:
        """Return how many proposals, and how many of their refinements, the first layer can afford.

        Args:
            critics: the number of critiques that each agent's answer gets.
            finals: calls that follow in the layer.
        """
        agents = len(critics)
        proposals = int(max(1, min(agents, self.calls_left - finals)))
        self._held = int(min(finals, self.calls_left - proposals))
        left, refined = self.calls_left - self._held - proposals, 0
        if proposals == agents:
            for count in critics:
                left -= count + bool(count)
                if left < 0:
                    break
                refined += 1
        if self._held < finals or proposals < agents or refined < agents:
            self.refused = True
        return proposals, refined

    def further_layer(self, calls: int, finals: int) -> bool:
        """Return whether there is room for another whole layer, and hold its last calls if so.

        Its calls are known; by the other measures it is taken to need what the layer before it took.

        Args:
            calls: the layer's calls.
            finals: how many of them write its answer.
        """
        now, began, budget = self._so_far(), self._layer_began, self.budget
        if not (
            self.calls_left >= calls
            and _has(budget.tokens, now.tokens, now.tokens - began.tokens)
            and _has(budget.usd, now.usd, now.usd - began.usd)
            and _has(budget.seconds, now.seconds, now.seconds - began.seconds)
        ):
            self.refused = True
            return False
        self._held, self._layer_began = finals, now
        return True

    def release(self) -> None:
        """Let any call have what is held: there is nothing yet from which an answer could be made."""
        self._held = 0

    def _has_room(self, final: bool) -> bool:
        budget, spent, largest = self.budget, self._spent, self._largest
        kept_calls = 0 if final else self._held
        kept = kept_calls * _LONGER
        # Of what calls have needed on average, calls under way may need more, since later roles read more.
        ahead = _LONGER * self._under_way / self._answered if self._answered else 0.0
        return (
            self.calls_left >= 1 + kept_calls
            and _has(budget.tokens, spent.tokens * (1 + ahead), kept * largest.tokens)
            and _has(budget.usd, spent.usd * (1 + ahead), kept * largest.usd)
            and self.seconds_left(final=final) > 0
        )

    def _so_far(self) -> _Spent:
        return replace(self._spent, seconds=self._clock())


def _has(limit: float | None, spent: float, needed: float) -> bool:
    """Whether something is left beside what is needed."""
    return limit is None or spent + needed < limit
