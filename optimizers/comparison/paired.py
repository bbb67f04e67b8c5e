"""Two measurements of the same examples, compared example by example."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import pydantic

from moa_dspy.evaluation.statistics import LEVEL, paired_interval, paired_p_value

__all__ = ["Gain"]


class Gain(pydantic.BaseModel):
    """A mean difference over examples, with a bootstrap interval and the p value of a paired test.

    The test decides. The interval says how large the difference may be; where few examples differ it may leave out 0
    although the test shows nothing.

    Attributes:
        value: mean of after minus before.
        low: lower end of the interval.
        high: upper end.
        p: two-sided p value of the sign-flip permutation test; 1 where nothing differs.
        examples: how many pairs there were.
        level: coverage of the interval.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float
    p: float
    examples: int
    level: float = LEVEL

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float], *, seed: int = 0, level: float = LEVEL) -> Self:
        """Return how much ``after`` gains on ``before``; both hold one value for each example, in the same order.

        Raises:
            ValueError: there are no values, not as many on both sides, or one is not finite.
        """
        if not len(before) or len(before) != len(after):
            raise ValueError(f"a gain needs equally many values before and after, not {len(before)} and {len(after)}")
        if not all(map(math.isfinite, (*before, *after))):
            raise ValueError("a gain needs finite values; a metric returned infinity or no number")
        differences = [new - old for old, new in zip(before, after, strict=True)]
        low, high = paired_interval(differences, seed, level)
        return cls(
            value=math.fsum(differences) / len(differences),
            low=-1.0 if low is None else low,
            high=1.0 if high is None else high,
            p=paired_p_value(differences, seed),
            examples=len(differences),
            level=level,
        )

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"
