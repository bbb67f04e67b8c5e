"""What optimizers report: scores with intervals, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import pydantic

from moa_dspy.evaluation.statistics import LEVEL, estimate

__all__ = ["Cost", "Score"]


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


class Score(_Value):
    """A mean over examples, with the interval that ``moa_dspy.evaluation`` publishes for it.

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
    level: float = LEVEL

    @classmethod
    def of(cls, values: Sequence[float], *, seed: int = 0) -> Self:
        """Return the mean of ``values`` with its interval.

        Args:
            values: one score from 0 to 1 for each example; at least one.
            seed: of the resampling.

        Raises:
            ValueError: there are no values.
        """
        found = estimate(values, seed)
        if found.value is None:
            raise ValueError("a score needs at least one example")
        low, high = found.low, found.high  # a single score says nothing of the others
        return cls(
            value=found.value, low=0.0 if low is None else low, high=1.0 if high is None else high, examples=found.items
        )

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"
