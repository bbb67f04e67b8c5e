"""The budget of an optimization: no run is started that it does not cover, and those under way may end."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Self

import dspy

from moa_dspy.cost.budget import Budget
from moa_dspy.errors import BudgetExhaustedError
from moa_dspy.optimizers.results import Cost
from moa_dspy.optimizers.spending import Spending
from moa_dspy.program import AttentionMoA

__all__ = ["Gate", "Purse", "SpentError"]

_PAUSE = 0.02


class SpentError(BaseException):
    """The same, for DSPy's optimizers: these take an ``Exception`` for a failed example, and would go on."""


class Purse:
    """What is left of a budget.

    Args:
        budget: calls (never exceeded, retries aside), dollars and tokens (exceeded by runs under way at most), seconds.
        spending: what has been paid so far.
        anew: whether what has been paid until now does not count.
    """

    def __init__(self, budget: Budget, spending: Spending, *, anew: bool = False) -> None:
        self._budget, self._spending = budget, spending
        self._since = spending.cost if anew else Cost()
        self._usd_before = spending.known_usd if anew else 0.0
        self._under_way: list[int] = []
        self._until = math.inf if budget.seconds is None else time.monotonic() + budget.seconds

    @property
    def _cost(self) -> Cost:
        now, since = self._spending.cost, self._since
        usd = self._spending.known_usd - self._usd_before
        return Cost(calls=now.calls - since.calls, tokens=now.tokens - since.tokens, usd=usd)

    @property
    def seconds_left(self) -> float:
        """Return the seconds left; infinite where they are not limited."""
        return self._until - time.monotonic()

    def covers(self, calls: int) -> bool:
        """Return whether a run of at most ``calls`` calls may start beside those under way."""
        cost, budget = self._cost, self._budget
        if budget.calls is not None and cost.calls + sum(self._under_way) + calls > budget.calls:
            return False
        if budget.tokens is not None and cost.tokens >= budget.tokens:
            return False
        if budget.usd is not None and (cost.usd or 0.0) >= budget.usd:
            return False
        return self.seconds_left > 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself: copies of a program spend from one purse."""
        return self

    def share(self, part: float) -> Budget:
        """Return a part of what is left, as a budget.

        Args:
            part: above 0, at most 1.

        Raises:
            BudgetExhaustedError: nothing is left.
        """
        cost, budget = self._cost, self._budget
        calls = None if budget.calls is None else int((budget.calls - cost.calls) * part)
        tokens = None if budget.tokens is None else int((budget.tokens - cost.tokens) * part)
        usd = None if budget.usd is None else (budget.usd - (cost.usd or 0.0)) * part
        seconds = None if math.isinf(self._until) else self.seconds_left * part
        if any(value is not None and value <= 0 for value in (calls, tokens, usd, seconds)):
            raise BudgetExhaustedError
        return Budget(calls, tokens, usd, seconds)

    async def enter(self, calls: int) -> None:
        """Wait for room, and take it.

        Raises:
            BudgetExhaustedError: there is none, and no run is under way whose end could make some.
        """
        while not self.covers(calls):
            if not self._under_way:
                raise BudgetExhaustedError
            await asyncio.sleep(_PAUSE)
        self._under_way.append(calls)

    def leave(self, calls: int) -> None:
        """Give the room back; what the run really took is in the spending."""
        self._under_way.remove(calls)


class Gate(dspy.Module):
    """A program whose runs start only where the budget covers them, and end with its time.

    A run that is cut off has its answered calls in DSPy's cache, so that another try does not pay for them again.
    """

    def __init__(self, program: AttentionMoA, purse: Purse) -> None:
        super().__init__()
        self.program, self._purse = program, purse

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the program.

        Raises:
            BudgetExhaustedError: the budget does not cover the run, or its time is over.
        """
        calls = self.program.architecture.max_calls
        await self._purse.enter(calls)
        left = self._purse.seconds_left
        try:
            async with asyncio.timeout(None if left == math.inf else max(left, 0.0)):
                return await self.program.acall(**inputs)
        except TimeoutError:
            raise BudgetExhaustedError from None
        finally:
            self._purse.leave(calls)
