"""Intervals and paired tests, with generators of their own: equal seeds give equal figures.

``moa_dspy.optimizers`` takes its intervals and p-values from here too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEVEL",
    "Estimate",
    "estimate",
    "flipped_p_value",
    "paired_interval",
    "paired_p_value",
    "resampled_means",
]

LEVEL: Final = 0.95
"""Coverage of all intervals."""

_REPLICATES: Final = 10_000
_CHUNK: Final = 2_000_000
_ENUMERATED: Final = 14
_ROUNDING: Final = 1e-9

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean score with its interval.

    Attributes:
        value: the mean, None without any score.
        low: lower end of the 95 % interval.
        high: upper end.
        items: how many scores it is the mean of.
    """

    value: float | None
    low: float | None
    high: float | None
    items: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"value": self.value, "low": self.low, "high": self.high, "items": self.items}


def estimate(scores: Sequence[float], seed: int = 0) -> Estimate:
    """Return the mean of scores from 0 to 1 with its bootstrap interval.

    Items are drawn with replacement; the spread is widened by sqrt(n / (n - 1)), the bootstrap's known shortfall in
    small samples. Where all scores are equal no resample could differ: the interval is then wide enough for the lowest
    and the highest scores that items which happened not to be drawn may have; if all are 0, or all are 1, that is the
    exact one of Clopper and Pearson. A single score between 0 and 1 has none.

    Args:
        scores: one for each item.
        seed: of the resampling.
    """
    if not len(scores):
        return Estimate(None, None, None, 0)
    values = np.asarray(scores, dtype=float)
    mean = float(values.mean())
    low, high = _ends(values, mean, seed)
    return Estimate(mean, low, high, len(values))


def _ends(values: Array, mean: float, seed: int) -> tuple[float | None, float | None]:
    least, most = float(values.min()), float(values.max())
    inside = least >= 0.0 and most <= 1.0
    if len(values) == 1 and mean not in (0.0, 1.0):
        return None, None
    if least == most and inside:
        return _ends_without_spread(mean, 0.0, len(values), LEVEL)
    low, high = _bootstrap(values, mean, seed, LEVEL)
    return (max(low, 0.0), min(high, 1.0)) if inside else (low, high)


def _ends_without_spread(value: float, lowest: float, count: int, level: float) -> tuple[float, float]:
    """Return the ends where ``count`` items all have one value, and others may have any from ``lowest`` to 1.

    The share of those others is as large as it can be without being improbable to have been missed ``count`` times.
    """
    unseen = 1 - ((1 - level) / 2) ** (1 / count)
    return value - unseen * (value - lowest), value + unseen * (1 - value)


def _bootstrap(values: Array, mean: float, seed: int, level: float) -> tuple[float, float]:
    count = len(values)
    means = resampled_means(values, np.random.default_rng(seed))
    spread = math.sqrt(count / (count - 1))
    beyond = (1 - level) / 2
    low, high = np.quantile(mean + (means - mean) * spread, [beyond, 1 - beyond])
    return float(low), float(high)


def resampled_means(values: Array, random: np.random.Generator, replicates: int = _REPLICATES) -> Array:
    """Return the means of bootstrap samples: as many values as there are, drawn with replacement.

    Args:
        values: at least one.
        random: what draws.
        replicates: how many samples.
    """
    sizes = _chunks(replicates, len(values))
    draws = (values[random.integers(0, len(values), size=size)] for size in sizes)
    return np.concatenate([drawn.mean(axis=1) for drawn in draws])


def paired_interval(
    differences: Sequence[float], seed: int = 0, level: float = LEVEL
) -> tuple[float | None, float | None]:
    """Return the bootstrap interval of the mean difference; items are drawn with both their scores.

    Where all differences are equal no resample could differ: the interval then leaves room for the most and for the
    least that items which happened not to be drawn may show, as that of Clopper and Pearson does. A single difference
    has none.

    Args:
        differences: one for each item, from -1 to 1.
        seed: of the resampling.
        level: coverage.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return None, None
    mean = float(values.mean())
    if float(values.min()) == float(values.max()):
        return _ends_without_spread(mean, -1.0, len(values), level)
    low, high = _bootstrap(values, mean, seed, level)
    return max(low, -1.0), min(high, 1.0)


def paired_p_value(differences: Sequence[float], seed: int = 0) -> float:
    """Return the two-sided p-value of the sign-flip permutation test on the mean difference.

    Under the null hypothesis each item's difference could as well have the other sign. Exact where all differences
    that are not zero have one size (right or wrong: McNemar's exact test) and for few of them; else 10,000 draws.

    Args:
        differences: one for each item.
        seed: of the draws.
    """
    values = np.asarray([value for value in differences if value != 0], dtype=float)
    count = len(values)
    if count == 0:
        return 1.0
    sizes = np.abs(values)
    if float(sizes.max() - sizes.min()) < 1e-12:
        return _binomial(int((values > 0).sum()), count)
    if count <= _ENUMERATED:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return float(np.mean(_reaching(signs, values)))
    return flipped_p_value(values, np.random.default_rng(seed))


def flipped_p_value(differences: Array, random: np.random.Generator) -> float:
    """Return the two-sided p-value of the sign-flip permutation test by 10,000 draws; 1 without any difference.

    Args:
        differences: those that are not zero.
        random: what draws.
    """
    if not len(differences):
        return 1.0
    beyond = 0
    for size in _chunks(_REPLICATES, len(differences)):
        flips = random.integers(0, 2, size=size) * 2 - 1
        beyond += int(_reaching(flips, differences).sum())
    return (beyond + 1) / (_REPLICATES + 1)


def _reaching(signs: NDArray[np.int64], differences: Array) -> NDArray[np.bool_]:
    """Return which rows of signs give a sum as far from 0 as the true one."""
    return np.abs(signs @ differences) >= abs(float(differences.sum())) - _ROUNDING


def _chunks(replicates: int, count: int) -> list[tuple[int, int]]:
    """Return the sizes of draws that together are ``replicates`` rows of ``count``, none of them large."""
    rows = max(1, _CHUNK // count)
    return [(min(rows, replicates - start), count) for start in range(0, replicates, rows)]


def _binomial(wins: int, count: int) -> float:
    fewer = min(wins, count - wins)
    tail = sum(math.comb(count, k) for k in range(fewer + 1)) / 2**count
    return min(1.0, 2 * tail)
