"""What the designs tried so far tell of the others: a Gaussian process over the choices of a space.

Two designs are alike as far as their choices are, and how much each choice counts is learnt from the scores (automatic
relevance determination). A few dozen trials over a handful of choices are what such a model is made for. It is
written here in numpy, since Optuna's ``GPSampler`` needs PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Observation", "Surrogate", "expected_improvement"]

Features: TypeAlias = tuple[Any, ...]
Array: TypeAlias = npt.NDArray[np.float64]

_WEIGHTS: Final = (0.03, 0.1, 0.3, 1.0, 3.0)
"""How much a choice may count: how fast likeness falls where it differs."""
_USUAL_WEIGHT: Final = 0.3
_AMPLITUDES: Final = (0.5, 1.0, 2.0)
_JITTER: Final = 1e-4
_LEAST: Final = 1e-6
_SWEEPS: Final = 3


@dataclass(frozen=True)
class Observation:
    """What is known of one design.

    Attributes:
        features: its choices; numbers are compared by their distance, anything else by equality.
        value: how good it is, more being better.
        variance: of the value, where not all examples have been run.
    """

    features: Features
    value: float
    variance: float = 0.0


class Surrogate:
    """A Gaussian process with an exponential kernel, fitted to observations.

    Args:
        observations: at least one.
        features: of every design that will be asked for, so that distances have one scale.
    """

    def __init__(self, observations: Sequence[Observation], features: Sequence[Features]) -> None:
        self._rows = [one.features for one in observations]
        self._spans = [_span(column) for column in zip(*self._rows, *features, strict=True)]
        values = np.array([one.value for one in observations], dtype=float)
        self._mean, self._deviation = float(values.mean()), max(float(values.std()), _LEAST)
        self._values = (values - self._mean) / self._deviation
        self._noise = np.array([one.variance for one in observations]) / self._deviation**2 + _JITTER
        self._distances = self._apart(self._rows)
        self._weights = np.full(len(self._distances), _USUAL_WEIGHT)
        self._amplitude = 1.0
        self._fit()

    def predict(self, features: Sequence[Features]) -> tuple[Array, Array]:
        """Return means and standard deviations of the values of designs; shape (designs,) each."""
        kernel = _kernel(self._apart(features), self._weights, self._amplitude)
        covariance = self._covariance(self._weights, self._amplitude)
        mean = kernel.T @ np.linalg.solve(covariance, self._values)
        explained = np.einsum("ij,ij->j", kernel, np.linalg.solve(covariance, kernel))
        deviation = np.sqrt(np.maximum(self._amplitude - explained, 1e-12))
        return self._mean + self._deviation * mean, self._deviation * deviation

    def _apart(self, features: Sequence[Features]) -> Array:
        """Return how far designs are from those observed, by choice; shape (choices, observations, designs)."""
        columns = zip(self._spans, zip(*self._rows, strict=True), zip(*features, strict=True), strict=True)
        return np.stack([_distances(ours, theirs, span) for span, ours, theirs in columns])

    def _fit(self) -> None:
        """Choose weights and amplitude, one after the other, by marginal likelihood and a prior on the weights."""
        best = self._merit(self._weights, self._amplitude)
        for _ in range(_SWEEPS):
            before = best
            for choice in range(len(self._weights)):
                for weight in _WEIGHTS:
                    weights = self._weights.copy()
                    weights[choice] = weight
                    merit = self._merit(weights, self._amplitude)
                    if merit > best:
                        best, self._weights = merit, weights
            for amplitude in _AMPLITUDES:
                merit = self._merit(self._weights, amplitude)
                if merit > best:
                    best, self._amplitude = merit, amplitude
            if best <= before:
                return

    def _merit(self, weights: Array, amplitude: float) -> float:
        covariance = self._covariance(weights, amplitude)
        sign, determinant = np.linalg.slogdet(covariance)
        if sign <= 0:
            return -math.inf
        fit = float(self._values @ np.linalg.solve(covariance, self._values))
        prior = float(np.sum(np.log(weights / _USUAL_WEIGHT) ** 2)) / (2 * 1.5**2)
        return -0.5 * (fit + float(determinant)) - prior

    def _covariance(self, weights: Array, amplitude: float) -> Array:
        return _kernel(self._distances, weights, amplitude) + np.diag(self._noise)


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Return by how much designs are expected to better ``best``; shape as given."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))
    return (mean - best) * below + deviation * density


def _kernel(distances: Array, weights: Array, amplitude: float) -> Array:
    return amplitude * np.exp(-np.tensordot(weights, distances, axes=1))


def _span(column: Sequence[Any]) -> float:
    numbers = [value for value in column if _is_number(value)]
    return (max(numbers) - min(numbers) if numbers else 0.0) or 1.0


def _distances(ours: Sequence[Any], theirs: Sequence[Any], span: float) -> Array:
    """From 0 to 1: by size between numbers, else 1 where two values differ; shape (ours, theirs)."""
    codes = {value: code for code, value in enumerate(dict.fromkeys((*ours, *theirs)))}
    differ = np.not_equal.outer([codes[value] for value in ours], [codes[value] for value in theirs])
    sizes = np.subtract.outer(_numbers(ours), _numbers(theirs))
    return np.where(np.isnan(sizes), differ, np.abs(sizes) / span)


def _numbers(values: Sequence[Any]) -> Array:
    return np.array([float(value) if _is_number(value) else math.nan for value in values])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
