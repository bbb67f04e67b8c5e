"""Tests and intervals of the mean of scores that lie in a known range. Nothing else is assumed of them.

The p value of "the mean is at most m" is Gaffke's. Weigh the n values, and one more value at the low end of the range,
with random weights that add up to 1 (uniform on the simplex). The p value is the probability that the weighted mean is
at most m. An interval contains the means that the test does not reject, so the two never contradict each other.

For right and wrong answers this is Clopper and Pearson's exact interval. For differences of right and wrong answers it
is McNemar's exact test. For other values the level is a conjecture; docs/evaluation.md has the sources.
"""

from __future__ import annotations

import math
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "mean_interval", "mean_p_value", "mean_p_values"]

Array = NDArray[np.float64]

_ROUNDING: Final = 1e-12
_HALVINGS: Final = 45
_STEP: Final = 0.15  # of the integration
_CELLS: Final = 500  # more distinct values are split between the ends of so many cells
_NEGLIGIBLE: Final = -34.0  # logarithm of the integrand at the end, against the vertex
_BEND: Final = math.pi / 6


def mean_p_values(values: Array, mean: float = 0.0, *, lowest: float, counts: Array | None = None) -> Array:
    """Return the one-sided p value of "the mean is at most ``mean``" for each sample.

    Args:
        values: shape (..., n): independent samples of n values.
        mean: the hypothesis.
        lowest: the least possible value.
        counts: shape (n,): how often each value occurs; default: once.

    Returns:
        Shape (...).
    """
    samples = np.asarray(values, dtype=float)
    rows = samples.reshape(-1, samples.shape[-1])
    gaps = np.concatenate([rows, np.full((len(rows), 1), lowest)], axis=1) - mean
    gaps[np.abs(gaps) < _ROUNDING] = 0.0
    p = np.where(gaps.max(axis=1) <= 0, 1.0, 0.0)
    mixed = (gaps.min(axis=1) < 0) & (gaps.max(axis=1) > 0)
    if mixed.any():
        times = np.ones(gaps.shape[1]) if counts is None else np.append(counts, 1.0)
        p[mixed] = _at_most_zero(gaps[mixed], times)
    return p.reshape(samples.shape[:-1])


def mean_interval(values: Array, lowest: float, highest: float, level: float) -> tuple[float, float]:
    """Return the interval of the means that neither one-sided test rejects at (1 - level) / 2. Shape (n,)."""
    beyond = (1 - level) / 2
    return _lower_end(values, lowest, beyond), -_lower_end(-values, -highest, beyond)


def mean_p_value(values: Array, mean: float = 0.0, *, lowest: float) -> float:
    """Return the p value of one sample; see ``mean_p_values``."""
    distinct, counts = _grouped(values)
    return float(mean_p_values(distinct, mean, lowest=lowest, counts=counts))


def _grouped(values: Array) -> tuple[Array, Array]:
    """Return the distinct values and how often each occurs.

    A great many values are split between the two nearest points of a grid. The mean stays the same, and the variance
    grows a little, which makes intervals longer and never shorter.
    """
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= _CELLS:
        return distinct, counts.astype(float)
    grid = np.linspace(distinct[0], distinct[-1], _CELLS + 1)
    left = np.clip(np.searchsorted(grid, distinct, side="right") - 1, 0, _CELLS - 1)
    right = counts * (distinct - grid[left]) / (grid[left + 1] - grid[left])
    times = np.zeros(_CELLS + 1)
    np.add.at(times, left, counts - right)
    np.add.at(times, left + 1, right)
    return grid[times > 0], times[times > 0]


def _lower_end(values: Array, lowest: float, beyond: float) -> float:
    from scipy.optimize import brentq  # takes long to import

    distinct, counts = _grouped(values)

    def excess(mean: float) -> float:
        return math.log(max(float(mean_p_values(distinct, mean, lowest=lowest, counts=counts)), 1e-300) / beyond)

    observed = float(values.mean())
    if observed <= lowest + _ROUNDING:  # all values are lowest, up to rounding
        return lowest
    if excess(observed) <= 0:
        return observed
    return float(cast("float", brentq(excess, lowest, observed, xtol=_ROUNDING)))


def _at_most_zero(gaps: Array, counts: Array) -> Array:
    """Return the probability that a sum of exponential variables, weighted with ``gaps``, is at most 0.

    The weighted mean is at most m if and only if this sum over "value minus m" is at most 0. Its Laplace transform is
    inverted along a hyperbola through the saddle point. It bends towards the nearest pole, so that the integrand falls
    without turning. All poles are real, and none is crossed.

    Args:
        gaps: shape (samples, weights); each row has weights of both signs.
        counts: shape (weights,): how many variables have this weight.
    """
    vertex = _saddle_points(gaps, counts)
    tilted = gaps / (1 - vertex[:, None] * gaps)
    # The pole at 0 is at least 0.8 widths away from the vertex.
    width = np.minimum(1 / np.sqrt(_sum(tilted**2, counts)), np.abs(vertex) / 0.8)
    bend = np.where(tilted.max(axis=1) > -tilted.min(axis=1), _BEND, -_BEND)

    def from_vertex(at: Array) -> NDArray[np.complex128]:
        turned = 1j * np.sinh(at) * math.cos(_BEND) + (np.cosh(at) - 1) * np.sin(bend)[:, None]
        return np.asarray(width[:, None] * turned)

    def log_factor(offset: NDArray[np.complex128]) -> NDArray[np.complex128]:
        return -_sum(np.log(1 - offset[:, :, None] * tilted[:, None, :]), counts)

    end = np.ones((len(gaps), 1))
    while (short := log_factor(from_vertex(end)).real > _NEGLIGIBLE).any():
        end[short] *= 1.3
    count = math.ceil(float(end.max()) / _STEP)
    at = end * (np.arange(count) + 0.5) / count
    offset = from_vertex(at)
    slope = width[:, None] * (1j * np.cosh(at) * math.cos(_BEND) + np.sinh(at) * np.sin(bend)[:, None])
    integrand = (np.exp(log_factor(offset)) * slope / (vertex[:, None] + offset)).imag
    area = integrand.sum(axis=1) * end[:, 0] / count
    above = np.exp(-_sum(np.log1p(-vertex[:, None] * gaps), counts)) * area / math.pi
    return np.where(vertex > 0, 1 - above, -above).clip(0.0, 1.0)


def _saddle_points(gaps: Array, counts: Array) -> Array:
    """Return where the moment generating function of each sum is least, kept away from its pole at 0."""
    low, high = 1 / gaps.min(axis=1), 1 / gaps.max(axis=1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rising = _sum(gaps / (1 - middle[:, None] * gaps), counts) > 0
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    middle = (low + high) / 2
    least = 0.8 / np.sqrt(_sum(gaps**2, counts))
    return np.where(np.abs(middle) < least, np.copysign(least, middle), middle)


def _sum(terms: NDArray[Any], counts: Array) -> NDArray[Any]:
    return np.asarray((terms * counts).sum(axis=-1))
