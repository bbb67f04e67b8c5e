"""Two measurements of the same examples, compared example by example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import pydantic

from moa_dspy.evaluation.statistics import flipped_p_value
from moa_dspy.optimizers.results import bootstrap_interval

__all__ = ["Gain"]


class Gain(pydantic.BaseModel):
    """A mean difference over examples, with a bootstrap interval and the p value of a paired test.

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
    level: float = 0.95

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float], *, seed: int = 0, level: float = 0.95) -> Self:
        """Return how much ``after`` gains on ``before``; both hold one value for each example, in the same order.

        Raises:
            ValueError: there are no values, or not as many on both sides.
        """
        if not len(before) or len(before) != len(after):
            raise ValueError(f"a gain needs equally many values before and after, not {len(before)} and {len(after)}")
        differences = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
        generator = np.random.default_rng(seed)
        low, high = bootstrap_interval(differences, generator, level)
        return cls(
            value=float(differences.mean()),
            low=low,
            high=high,
            p=flipped_p_value(differences[differences != 0], generator),
            examples=len(differences),
            level=level,
        )

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"
