"""What optimizers report: scores with intervals, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import numpy as np
import pydantic
from numpy.typing import NDArray

from moa_dspy.evaluation.statistics import resampled_means
from moa_dspy.trace import Trace

__all__ = ["Cost", "Score", "bootstrap_interval"]

_RESAMPLES: Final = 2000


class _Value(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Cost(_Value):
    """What was spent.

    Attributes:
        calls: LM calls, those answered by the response cache left out.
        tokens: prompt plus completion tokens paid for.
        usd: dollars paid; None where the price of a call is not known.
        seconds: wall time.
    """

    calls: int = 0
    tokens: int = 0
    usd: float | None = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        known = self.usd is not None and other.usd is not None
        return Cost(
            calls=self.calls + other.calls,
            tokens=self.tokens + other.tokens,
            usd=(self.usd or 0.0) + (other.usd or 0.0) if known else None,
            seconds=self.seconds + other.seconds,
        )

    def __sub__(self, other: Cost) -> Cost:
        known = self.usd is not None and other.usd is not None
        return Cost(
            calls=self.calls - other.calls,
            tokens=self.tokens - other.tokens,
            usd=(self.usd or 0.0) - (other.usd or 0.0) if known else None,
            seconds=self.seconds - other.seconds,
        )

    @classmethod
    def of_trace(cls, trace: Trace) -> Self:
        """Return what one run has cost."""
        return cls(
            calls=trace.calls - trace.cached_calls,
            tokens=trace.tokens.total,
            usd=trace.cost_usd,
            seconds=trace.seconds,
        )


class Score(_Value):
    """A mean over examples, with a bootstrap interval.

    Attributes:
        value: the mean.
        low: lower end of the interval.
        high: upper end.
        examples: how many there were.
        level: coverage of the interval.
    """

    value: float
    low: float
    high: float
    examples: int
    level: float = 0.95

    @classmethod
    def of(cls, values: Sequence[float], *, seed: int = 0, level: float = 0.95) -> Self:
        """Return the mean of ``values`` with its percentile bootstrap interval.

        Args:
            values: one score for each example; at least one.
            seed: of the resampling.
            level: coverage, between 0 and 1.

        Raises:
            ValueError: there are no values.
        """
        if not len(values):
            raise ValueError("a score needs at least one example")
        given = np.asarray(values, dtype=float)
        low, high = bootstrap_interval(given, np.random.default_rng(seed), level)
        return cls(value=float(given.mean()), low=low, high=high, examples=len(given), level=level)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_interval(values: NDArray[np.float64], random: np.random.Generator, level: float) -> tuple[float, float]:
    """Return the ends of the percentile bootstrap interval of the mean.

    Args:
        values: at least one.
        random: what draws.
        level: coverage, between 0 and 1.
    """
    means = resampled_means(values, random, _RESAMPLES)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
