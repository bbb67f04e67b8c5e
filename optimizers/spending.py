"""What an optimization has paid for: calls of the program, and of the models that write prompts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator

import dspy

from moa_dspy.evaluation.spending import Meter, metered
from moa_dspy.optimizers.results import Cost

__all__ = ["Spending", "count_spending"]


class Spending:
    """What has been paid for since it was made, from any number of threads."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._began = time.perf_counter()

    @property
    def cost(self) -> Cost:
        """Return what has been spent so far."""
        spent = self._meter.spent
        return Cost(
            calls=spent.calls - spent.cached_calls,
            tokens=spent.tokens.total,
            usd=spent.cost_usd,
            seconds=time.perf_counter() - self._began,
        )

    @property
    def known_usd(self) -> float:
        """Return the dollars of those calls whose price is known."""
        return self._meter.known_usd


@contextlib.contextmanager
def count_spending(lms: Collection[dspy.BaseLM], progress: Callable[[Cost], None] | None = None) -> Iterator[Spending]:
    """Count what the block pays for; a usage tracker of the caller still hears of everything.

    Args:
        lms: the models that may be asked, for those among them that cost nothing.
        progress: told of the cost so far with every paid call, in the thread that makes it.
    """
    free = {lm.model for lm in lms if getattr(getattr(lm, "engine", None), "free", False)}

    def tell() -> None:
        if progress is not None:
            progress(spending.cost)

    with metered(free, tell) as meter:
        spending = Spending(meter)
        yield spending
