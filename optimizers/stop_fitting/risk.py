"""An exact upper bound on the mean of losses from -1 to 1, of which nothing else is assumed.

Two tests of "the mean loss is at least m" share the level:

- A loss above 0 is at most 1, so the mean is at most the share of losses above 0. Clopper and Pearson's exact binomial
  test (1934) bounds this share. It is strong if losses are rare.
- Betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024): a
  capital of 1 is multiplied by 1 - b (loss - m) for each loss, which does not grow on average if the mean is at least
  m. By Markov's inequality it reaches 1 / p with a probability of at most p. The capital is split among several bets.
  It is strong if gains make up for losses.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Final

import numpy as np

__all__ = ["loss_bound", "loss_p_value", "losses_needed"]

_BINOMIAL: Final = 0.8  # share of the level
_BETS: Final = (0.98, 0.9, 0.75, 0.5, 0.3, 0.15, 0.07, 0.03)  # as shares of the largest bet
_HALVINGS: Final = 40
_MOST: Final = 1_000_000


def loss_p_value(losses: Sequence[float], most: float, *, repeated: float = 1.0) -> float:
    """Return the p value of "the mean loss is at least ``most``", which is above 0 and below 1.

    Losses are independent and from -1 to 1; negative ones are gains. ``repeated`` says how often they are taken as
    seen, for plans of further examples.
    """
    from scipy.stats import binom  # takes most of a second to import

    values, times = np.unique(np.asarray(losses, dtype=float), return_counts=True)
    counts = times * float(repeated)
    worse = math.ceil(float(counts[values > 0].sum()) - 1e-9)
    binomial = float(binom.cdf(worse, round(len(losses) * repeated), most))
    bets = np.asarray(_BETS) / (1 - most)
    grown = np.log1p(-bets[:, None] * (values - most)) @ counts
    capital = float(np.logaddexp.reduce(grown)) - math.log(len(_BETS))
    return min(1.0, binomial / _BINOMIAL, math.exp(min(0.0, -capital)) / (1 - _BINOMIAL))


def loss_bound(losses: Sequence[float], confidence: float) -> float:
    """Return an upper bound on the mean loss that holds with a probability of at least ``confidence``."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if loss_p_value(losses, middle) <= 1 - confidence else (middle, high)
    return high


def losses_needed(losses: Sequence[float], most: float, level: float) -> int | None:
    """Return how many losses like these would show at a level that their mean is below ``most``; None if none would."""
    counts = range(len(losses), max(len(losses), _MOST) + 1)
    first = bisect.bisect_left(
        counts, True, key=lambda count: loss_p_value(losses, most, repeated=count / len(losses)) <= level
    )
    return counts[first] if first < len(counts) else None
