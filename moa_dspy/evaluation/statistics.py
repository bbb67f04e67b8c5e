"""Mean scores with intervals, and paired tests. Equal seeds give equal figures.

Each figure uses its own generator, so that no global random state is read or changed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final, Self

import numpy as np
import pydantic
from numpy.typing import NDArray

from moa_dspy.errors import ConfigurationError

__all__ = [
    "LEVEL",
    "Gain",
    "Score",
    "bootstrap_interval",
    "check_alpha",
    "check_share",
    "examples_needed",
    "holm",
    "one_sided",
    "paired_interval",
    "sign_flip_p_value",
]

LEVEL: Final = 0.95
"""Default coverage of intervals."""

_RESAMPLES: Final = 10_000
_CELLS: Final = 2_000_000  # numbers drawn at once, to bound memory
_ENUMERATED: Final = 14  # up to this many differences, all sign flips are enumerated
_ROUNDING: Final = 1e-9

Array = NDArray[np.float64]


class Score(pydantic.BaseModel):
    """A mean score over examples with its bootstrap interval.

    Attributes:
        value: the mean.
        low: lower end of the interval.
        high: upper end.
        examples: number of examples.
        level: coverage of the interval.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float
    examples: int
    level: float = LEVEL

    @classmethod
    def of(cls, values: Sequence[float], *, seed: int = 0) -> Self:
        """Return the mean of ``values`` with its interval.

        If all scores are equal, all resamples are equal. The interval then allows for the lowest and the highest
        possible score of unseen examples. For all 0 or all 1 this is Clopper and Pearson's exact interval. A single
        score between 0 and 1 has the interval from 0 to 1.

        Args:
            values: one score from 0 to 1 per example.
            seed: seed of the resampling.

        Raises:
            ValueError: if there are no values.
        """
        if not len(values):
            raise ValueError("a score needs at least one example")
        scores = np.asarray(values, dtype=float)
        low, high = _score_interval(scores, seed)
        return cls(value=float(scores.mean()), low=low, high=high, examples=len(scores))

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Gain(pydantic.BaseModel):
    """A mean difference over paired examples, with a bootstrap interval and the p value of a paired test.

    The test decides. The interval shows how large the difference may be. If few examples differ, the interval may
    exclude 0 although the test is not significant.

    Attributes:
        value: mean of after minus before.
        low: lower end of the interval.
        high: upper end.
        p: two-sided p value of the sign-flip permutation test; 1 if nothing differs.
        examples: number of pairs.
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
        """Return the gain of ``after`` over ``before``.

        Args:
            before: one value per example.
            after: one value per example, in the same order.
            seed: seed of the resampling.
            level: coverage of the interval.

        Raises:
            ValueError: if there are no values, if the numbers of values differ, or if a value is not finite.
        """
        if not len(before) or len(before) != len(after):
            raise ValueError(f"a gain needs equally many values before and after, not {len(before)} and {len(after)}")
        if not all(map(math.isfinite, (*before, *after))):
            raise ValueError("a gain needs finite values; a metric returned infinity or no number")
        differences = [new - old for old, new in zip(before, after, strict=True)]
        low, high = paired_interval(differences, seed, level)
        return cls(
            value=math.fsum(differences) / len(differences),
            low=low,
            high=high,
            p=sign_flip_p_value(differences, seed),
            examples=len(differences),
            level=level,
        )

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def bootstrap_interval(values: Array, seed: int = 0, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean, widened by sqrt(n / (n - 1)).

    The bootstrap underestimates the spread of a mean of n values by that factor.

    Args:
        values: at least two values.
        seed: seed of the resampling.
        level: coverage.
    """
    from scipy.stats import bootstrap  # takes most of a second to import

    count, mean = len(values), float(values.mean())
    resampled = bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=max(1, _CELLS // count),
        method="percentile",
        rng=np.random.default_rng(seed),
        vectorized=True,
    ).bootstrap_distribution
    spread = math.sqrt(count / (count - 1))
    beyond = (1 - level) / 2
    low, high = np.quantile(mean + (resampled - mean) * spread, [beyond, 1 - beyond])
    return float(low), float(high)


def paired_interval(differences: Sequence[float], seed: int = 0, level: float = LEVEL) -> tuple[float, float]:
    """Return the bootstrap interval of the mean of paired differences.

    If all differences are equal, all resamples are equal. The interval then allows for differences from -1 to 1 of
    unseen examples. A single difference has the interval from -1 to 1.

    Args:
        differences: one per example, from -1 to 1.
        seed: seed of the resampling.
        level: coverage.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return -1.0, 1.0
    if float(values.min()) == float(values.max()):
        return _interval_of_equal(float(values.mean()), -1.0, len(values), level)
    low, high = bootstrap_interval(values, seed, level)
    return max(low, -1.0), min(high, 1.0)


def sign_flip_p_value(differences: Sequence[float], seed: int = 0) -> float:
    """Return the two-sided p value of the sign-flip permutation test on the mean difference.

    Under the null hypothesis each difference could have the other sign. The test is exact if all non-zero differences
    have the same size (right or wrong answers: McNemar's exact test), and for up to 14 of them. Otherwise 10,000 sign
    flips are drawn. ``scipy.stats.permutation_test`` gives the same values but takes ten times as long.

    Args:
        differences: one per example.
        seed: seed of the draws.
    """
    values = np.asarray([value for value in differences if value != 0], dtype=float)
    count = len(values)
    if count == 0:
        return 1.0
    sizes = np.abs(values)
    if float(sizes.max() - sizes.min()) < 1e-12:
        from scipy.stats import binomtest  # takes most of a second to import

        return float(binomtest(int((values > 0).sum()), count).pvalue)
    if count <= _ENUMERATED:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return float(np.mean(_as_extreme(signs, values)))
    random, rows = np.random.default_rng(seed), max(1, _CELLS // count)
    extreme = 0
    for start in range(0, _RESAMPLES, rows):
        flips = random.integers(0, 2, size=(min(rows, _RESAMPLES - start), count)) * 2 - 1
        extreme += int(_as_extreme(flips, values).sum())
    return (extreme + 1) / (_RESAMPLES + 1)


def one_sided(difference: float, p: float) -> float:
    """Return the one-sided p value of an improvement, given the two-sided p value.

    Sign flips reach a sum as often as its negative, so half of the two-sided p value lies on each side.

    Args:
        difference: mean or sum of the paired differences.
        p: their two-sided p value.
    """
    return p / 2 if difference > 0 else 1 - p / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's method, in the given order.

    Rejecting adjusted values of at most alpha keeps the probability of any false rejection at or below alpha.
    """
    values = np.asarray(p_values, dtype=float)
    order, adjusted = np.argsort(values, kind="stable"), np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return list(map(float, adjusted))


def examples_needed(differences: Sequence[float], alpha: float, power: float) -> int | None:
    """Return the number of examples for a one-sided paired test, if the true difference is the observed one.

    The normal approximation is used, with the minimum that the permutation test needs to reach ``alpha``.

    Args:
        differences: candidate minus baseline, one per example.
        alpha: level of the test.
        power: probability of finding the difference.

    Returns:
        The number; None if the mean difference is not positive.
    """
    mean = statistics.fmean(differences)
    if mean <= 0:
        return None
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    normal = statistics.NormalDist()
    reach = normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)
    return max(math.ceil((reach * spread / mean) ** 2), math.ceil(-math.log2(alpha)))


def check_share(name: str, value: float) -> None:
    """Check that a share lies between 0 and 1.

    Raises:
        ConfigurationError: if it is not strictly between 0 and 1.
    """
    if not 0 < value < 1:
        raise ConfigurationError(f"{name}={value!r} is out of range; it must be between 0 and 1")


def check_alpha(alpha: float) -> None:
    """Check the level of a test.

    Raises:
        ConfigurationError: if it is not above 0 and below 0.5.
    """
    if not 0 < alpha < 0.5:
        raise ConfigurationError(f"alpha={alpha!r} is out of range; it must be above 0 and below 0.5, such as 0.05")


def _score_interval(values: Array, seed: int) -> tuple[float, float]:
    least, most = float(values.min()), float(values.max())
    inside = least >= 0.0 and most <= 1.0
    if len(values) == 1 and least not in (0.0, 1.0):
        return 0.0, 1.0
    if least == most and inside:
        return _interval_of_equal(least, 0.0, len(values), LEVEL)
    low, high = bootstrap_interval(values, seed)
    return (max(low, 0.0), min(high, 1.0)) if inside else (low, high)


def _interval_of_equal(value: float, lowest: float, count: int, level: float) -> tuple[float, float]:
    """Return the interval for ``count`` equal values, if unseen values may lie anywhere from ``lowest`` to 1.

    ``unseen`` is the largest share of other values that ``count`` draws miss with a probability of (1 - level) / 2.
    """
    unseen = 1 - ((1 - level) / 2) ** (1 / count)
    return value - unseen * (value - lowest), value + unseen * (1 - value)


def _as_extreme(signs: NDArray[np.int64], differences: Array) -> NDArray[np.bool_]:
    """Return which rows of signs give a sum at least as far from 0 as the observed one."""
    return np.abs(signs @ differences) >= abs(float(differences.sum())) - _ROUNDING
