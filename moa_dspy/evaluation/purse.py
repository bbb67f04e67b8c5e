"""The budget of a whole evaluation."""

from __future__ import annotations

import time

import dspy

from moa_dspy.cost.budget import Budget
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.spending import Spending
from moa_dspy.program import AttentionMoA

__all__ = ["Purse"]


class Purse:
    """Decides whether another item may start.

    An item is taken to need as much as the largest one so far (calls: as many as the architecture takes and the
    program's own budget allows), and so are those under way. What items of earlier starts took counts; seconds are
    those of this start.

    Args:
        budget: for the whole evaluation.
        program: whose calls are known beforehand, if it is an ``AttentionMoA``.
        turns: how often an item asks the program.

    Raises:
        ConfigurationError: not even one item fits.
    """

    def __init__(self, budget: Budget, program: dspy.Module, turns: int) -> None:
        self._budget = budget
        self._began = time.monotonic()
        self._spent = Spending()
        self._calls = _calls_of_a_run(program) * turns if isinstance(program, AttentionMoA) else 1
        self._tokens = 0
        self._usd = 0.0
        self.learned = budget.tokens is None and budget.usd is None
        if budget.calls is not None and budget.calls < self._calls:
            raise ConfigurationError(
                f"a budget of {budget.calls} calls is too small for a single item, which takes {self._calls}"
            )

    def book(self, spent: Spending) -> None:
        """Enter what a finished item took."""
        self._spent += spent
        self._calls = max(self._calls, spent.calls - spent.cached_calls)
        self._tokens = max(self._tokens, spent.tokens.total)
        self._usd = max(self._usd, spent.cost_usd or 0.0)
        self.learned = True

    def admits(self, under_way: int) -> bool:
        """Return whether there is room for one more item beside those under way."""
        budget, spent, items = self._budget, self._spent, under_way + 1
        paid = spent.calls - spent.cached_calls
        if budget.calls is not None and paid + items * self._calls > budget.calls:
            return False
        if budget.tokens is not None and not _room(spent.tokens.total, items * self._tokens, budget.tokens):
            return False
        if budget.usd is not None and not _room(spent.cost_usd or 0.0, items * self._usd, budget.usd):
            return False
        return budget.seconds is None or time.monotonic() - self._began < budget.seconds


def _calls_of_a_run(program: AttentionMoA) -> int:
    most, allowed = program.architecture.max_calls, program.budget.calls
    return most if allowed is None else min(most, allowed)


def _room(spent: float, needed: float, limit: float) -> bool:
    return spent < limit and spent + needed <= limit
