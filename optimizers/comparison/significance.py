"""What a paired difference may be taken to show: one-sided tests, several at once, and how many examples it takes.

The test itself is ``Gain``'s, the sign-flip permutation test.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from moa_dspy.errors import ConfigurationError

__all__ = ["check_alpha", "check_share", "examples_needed", "holm", "one_sided"]


def one_sided(difference: float, p: float) -> float:
    """Return the p value of "it is better", given that of "it is different".

    Sign flips are as likely to reach a sum as its negative, so half of the two-sided p value lies on each side.

    Args:
        difference: mean or sum of the paired differences.
        p: their two-sided p value.
    """
    return p / 2 if difference > 0 else 1 - p / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's method, in the order given.

    Those at most alpha are rejected together with a chance of at most alpha that any of them is a false alarm.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def examples_needed(differences: Sequence[float], alpha: float, power: float) -> int | None:
    """Return how many examples a one-sided paired test would need, if the true difference were the one observed.

    By the normal approximation, and never fewer than the permutation test needs to reach ``alpha`` at all.

    Args:
        differences: candidate minus baseline, for each example.
        alpha: level of the test.
        power: chance of finding the difference.

    Returns:
        None where there is no gain to find.
    """
    mean = statistics.fmean(differences)
    if mean <= 0:
        return None
    spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
    normal = statistics.NormalDist()
    reach = normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)
    return max(math.ceil((reach * spread / mean) ** 2), math.ceil(-math.log2(alpha)))


def check_share(name: str, value: float) -> None:
    """Refuse what is no share strictly between 0 and 1.

    Raises:
        ConfigurationError: names it.
    """
    if not 0 < value < 1:
        raise ConfigurationError(f"{name}={value!r} is out of range; it must be between 0 and 1")


def check_alpha(alpha: float) -> None:
    """Refuse a level at which a test would find what is more likely chance than not.

    Raises:
        ConfigurationError: says what it must be.
    """
    if not 0 < alpha < 0.5:
        raise ConfigurationError(f"alpha={alpha!r} is out of range; it must be above 0 and below 0.5, such as 0.05")
