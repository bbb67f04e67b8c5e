"""Mean scores with intervals, paired tests, and what a number of examples can show.

Scores lie from 0 to 1, and differences of two scores from -1 to 1. Tests and intervals assume nothing else of them; see
``bounded_mean``. Nothing is drawn at random, except by ``sign_flip_p_value``.
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
from moa_dspy.evaluation.bounded_mean import Array, mean_interval, mean_p_value

__all__ = [
    "LEVEL",
    "POWER",
    "Gain",
    "Score",
    "check_alpha",
    "check_gain",
    "check_share",
    "detectable_gain",
    "examples_for_gain",
    "examples_needed",
    "improvement_p_value",
    "one_sided",
    "sensitivity",
    "sign_flip_p_value",
]

LEVEL: Final = 0.95
"""Default coverage of intervals."""

POWER: Final = 0.8
"""Probability with which a test is planned to find a gain."""

_CHANGED: Final = 0.3
"""Share of answers that two programs are assumed to differ in, before anything was measured."""

_MOST_EXAMPLES: Final = 1_000_000
_RESAMPLES: Final = 10_000
_CELLS: Final = 2_000_000  # numbers drawn at once, to bound memory
_ENUMERATED: Final = 14  # up to this many differences, all sign flips are enumerated
_ROUNDING: Final = 1e-9


class Score(pydantic.BaseModel):
    """A mean score over examples with its interval.

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
    def of(cls, values: Sequence[float]) -> Self:
        """Return the mean of ``values``, one score from 0 to 1 per example, with its interval.

        Raises:
            ValueError: if there are no values, or if one is not from 0 to 1.
        """
        scores = _checked(values)
        low, high = mean_interval(scores, 0.0, 1.0, LEVEL)
        return cls(value=float(scores.mean()), low=low, high=high, examples=len(scores))

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Gain(pydantic.BaseModel):
    """A mean difference over paired examples, with its interval and the p value of a paired test.

    Both come from one procedure: the interval leaves out 0 if and only if p is at most 1 - level.

    Attributes:
        value: mean of after minus before.
        low: lower end of the interval.
        high: upper end.
        p: two-sided p value of "the mean difference is 0"; 1 if nothing differs.
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
    def of(cls, before: Sequence[float], after: Sequence[float], *, level: float = LEVEL) -> Self:
        """Return the gain of ``after`` over ``before``, each one score from 0 to 1 per example, in the same order.

        Raises:
            ValueError: if there are no scores, if the numbers of scores differ, or if one is not from 0 to 1.
        """
        differences = _differences(before, after)
        low, high = mean_interval(differences, -1.0, 1.0, level)
        tails = (mean_p_value(differences, lowest=-1.0), mean_p_value(-differences, lowest=-1.0))
        return cls(
            value=math.fsum(differences) / len(differences),
            low=low,
            high=high,
            p=min(1.0, 2 * min(tails)),
            examples=len(differences),
            level=level,
        )

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def improvement_p_value(before: Sequence[float], after: Sequence[float]) -> float:
    """Return the one-sided p value of "after is on average no better than before", over paired scores from 0 to 1.

    Raises:
        ValueError: as ``Gain.of``.
    """
    return mean_p_value(_differences(before, after), lowest=-1.0)


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Return the two-sided p value of the sign-flip permutation test on the mean difference.

    It assumes that each difference could have the other sign. Where losses are rare and large this is wrong, and the
    test errs far more often than its level. The search uses it to end trials, where an error costs a trial; decisions
    use ``improvement_p_value``. Differences may have any range. Up to 14 are enumerated, otherwise 10,000 sign flips
    are drawn. ``scipy.stats.permutation_test`` gives the same values but takes ten times as long.
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
    random, rows = np.random.default_rng(0), max(1, _CELLS // count)
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


def examples_needed(differences: Sequence[float], alpha: float, power: float = POWER) -> int | None:
    """Return about how many examples the one-sided paired test takes, if the true difference is the observed one.

    ``differences`` are candidate minus baseline, one per example. The normal approximation is used, with what the test
    adds for losses that were not seen: 1.5 in the sum of the differences, and at least the number that it takes if no
    example gets worse.

    Returns:
        The number; None if the mean difference is not positive.
    """
    mean = statistics.fmean(differences)
    if mean <= 0:
        return None
    spread = statistics.pstdev(differences)
    normal = statistics.NormalDist()
    reach = (normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)) * spread
    root = (reach + math.sqrt(reach**2 + 6 * mean)) / (2 * mean)
    return math.ceil(max(root**2, -math.log(alpha) / math.log1p(mean)) - _ROUNDING)


def detectable_gain(examples: int, alpha: float, *, changed: float = 0.0) -> float | None:
    """Return the smallest gain that the one-sided paired test finds in right and wrong answers.

    ``changed`` is the share of the answers that change from right to wrong or back. A larger gain changes as many as it
    must.

    Returns:
        The gain; None if not even a gain of 1 is found.
    """
    if _power(examples, 1.0, alpha, changed) < POWER:
        return None
    low, high = 0.0, 1.0
    while high - low > 0.001:
        middle = (low + high) / 2
        low, high = (low, middle) if _power(examples, middle, alpha, changed) >= POWER else (middle, high)
    return high


def examples_for_gain(gain: float, alpha: float, *, changed: float = 0.0) -> int | None:
    """Return how many examples ``detectable_gain`` takes to be ``gain``, from 0 to 1; None if more than a million."""
    low, high = 1, 2
    while _power(high, gain, alpha, changed) < POWER:
        low, high = high, 2 * high
        if high > _MOST_EXAMPLES:
            return None
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, gain, alpha, changed) >= POWER else (middle, high)
    return high


def _power(examples: int, gain: float, alpha: float, changed: float) -> float:
    """Return the probability that the test finds a gain in right and wrong answers."""
    from scipy.stats import binom  # takes most of a second to import

    share = max(changed, gain)
    low, high = (int(binom.ppf(beyond, examples, share)) for beyond in (1e-6, 1 - 1e-6))
    changes = np.arange(low, high + 1)
    wins = binom.isf(alpha, changes, 0.5) + 1  # the fewest with a p value of at most alpha
    found = binom.pmf(changes, examples, share) * binom.sf(wins - 1, changes, (1 + gain / share) / 2)
    return float(found.sum())


def sensitivity(examples: int, alpha: float, gain: float | None = None) -> str:
    """Return in words what gain the test can show with so many examples, and how many a wished ``gain`` takes."""
    best, usual = (detectable_gain(examples, alpha, changed=changed) for changed in (0.0, _CHANGED))
    of = f"with {examples} examples that decide, alpha {alpha:.3g} and {POWER:.0%} power"
    if best is None or usual is None:
        words = f"{of}, no gain can be shown"
    else:
        words = f"{of}, the smallest gain that can be shown is about {usual:.2f}"
        words += f" if {_CHANGED:.0%} of the answers change, and {best:.2f} if none gets worse" if usual > best else ""
    if gain is None:
        return words
    most, least = (examples_for_gain(gain, alpha, changed=changed) for changed in (_CHANGED, 0.0))
    return (
        f"{words}; a gain of {gain:g} takes about {most or 'more than a million'} examples ({least} if none gets worse)"
    )


def check_gain(gain: float | None) -> None:
    """Raise ConfigurationError unless the wished gain of ``sensitivity`` is above 0 and at most 1."""
    if gain is not None and not 0 < gain <= 1:
        raise ConfigurationError(f"gain={gain!r} is out of range; it must be above 0 and at most 1, such as 0.05")


def check_share(name: str, value: float) -> None:
    """Raise ConfigurationError unless a share is strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ConfigurationError(f"{name}={value!r} is out of range; it must be between 0 and 1")


def check_alpha(alpha: float) -> None:
    """Raise ConfigurationError unless the level of a test is above 0 and below 0.5."""
    if not 0 < alpha < 0.5:
        raise ConfigurationError(f"alpha={alpha!r} is out of range; it must be above 0 and below 0.5, such as 0.05")


def _checked(values: Sequence[float]) -> Array:
    """Return scores as an array. Raise ValueError if there are none, or if one is not from 0 to 1."""
    scores = np.asarray(values, dtype=float)
    if not len(scores):
        raise ValueError("a score needs at least one example")
    if not np.all((scores >= -_ROUNDING) & (scores <= 1 + _ROUNDING)):  # also not a number (NaN)
        raise ValueError(f"scores must be finite and from 0 to 1, not {scores.min()} to {scores.max()}; scale them")
    return scores.clip(0.0, 1.0)


def _differences(before: Sequence[float], after: Sequence[float]) -> Array:
    if not len(before) or len(before) != len(after):
        raise ValueError(f"a gain needs equally many values before and after, not {len(before)} and {len(after)}")
    return _checked(after) - _checked(before)


def _as_extreme(signs: NDArray[np.int64], differences: Array) -> NDArray[np.bool_]:
    """Return which rows of signs give a sum at least as far from 0 as the observed one."""
    return np.abs(signs @ differences) >= abs(float(differences.sum())) - _ROUNDING
