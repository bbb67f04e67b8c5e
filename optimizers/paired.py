"""Two measurements of the same examples, compared example by example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import numpy as np
import pydantic

__all__ = ["Gain"]

_RESAMPLES: Final = 2000
_FLIPS: Final = 10_000


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
        draws = generator.integers(0, len(differences), size=(_RESAMPLES, len(differences)))
        low, high = np.quantile(differences[draws].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
        return cls(
            value=float(differences.mean()),
            low=float(low),
            high=float(high),
            p=_sign_flip(differences[differences != 0], generator),
            examples=len(differences),
            level=level,
        )

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def _sign_flip(differences: np.ndarray, generator: np.random.Generator) -> float:
    """How often a sum as far from 0 as this one comes about if the sign of each difference were a coin flip."""
    if not len(differences):
        return 1.0
    signs = generator.choice([-1.0, 1.0], size=(_FLIPS, len(differences)))
    as_far = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12
    return float((1 + as_far.sum()) / (1 + _FLIPS))
