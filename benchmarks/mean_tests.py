"""Level, power and coverage of tests and intervals, recommendations, and examples saved, on simulated scores.

::

    python -m benchmarks.mean_tests level counterexamples power saved coverage recommended speed
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from benchmarks.common import table
from moa_dspy.evaluation.bounded_mean import Array, mean_interval, mean_p_values
from moa_dspy.evaluation.statistics import Gain, Score
from moa_dspy.optimizers.comparison.acceptance import looks
from moa_dspy.optimizers.comparison.verdict import PROGRAM, ContenderScores, judge

ALPHA: Final = 0.05
TRIALS: Final = 2000
SIZES: Final = (20, 35, 100)
RARE: Final = ((0.05, 0.95, 1.0), (0.05, 0.90, 0.5), (0.02, 0.98, 1.0))
"""Gain, its probability, and the loss of the candidates that often gain a little."""


def sign_flips(differences: Array, random: np.random.Generator, flips: int = 999) -> Array:
    """Return the one-sided p values of the former test, which assumes symmetric differences."""
    signs = random.integers(0, 2, size=(differences.shape[1], flips)) * 2 - 1
    extreme = differences @ signs >= differences.sum(axis=1)[:, None] - 1e-9
    return np.asarray((extreme.sum(axis=1) + 1) / (flips + 1))


def tested(differences: Array) -> Array:
    """Return the p values of the test, in parts that bound the memory."""
    return np.concatenate([mean_p_values(part, lowest=-1.0) for part in np.array_split(differences, 20)])


def drawn(kind: str, gain: float, count: int, random: np.random.Generator) -> Array:
    """Return paired differences of scores with a base of 0.6; half of each candidate's luck is the baseline's."""
    if kind == "graded":
        before, own = random.beta(3, 2, (2, TRIALS, count))
        return np.asarray(np.clip((before + own) / 2 + gain, 0, 1) - before)
    luck, other = random.random((2, TRIALS, count))
    shared = np.where(random.random((TRIALS, count)) < 0.5, luck, other)
    return np.asarray((shared < 0.6 + gain).astype(float) - (luck < 0.6))


def level(random: np.random.Generator) -> Iterator[tuple[str, ...]]:
    """Yield how often a candidate that is no better is accepted: worse ones, and ones whose mean gain is exactly 0."""
    yield ("gain, loss", "mean", *(f"n = {count}: test, sign flips" for count in SIZES))
    for gain, often, loss in RARE:
        for share in (1 - often, gain / (gain + loss)):
            cells = []
            for count in SIZES:
                values = np.where(random.random((TRIALS, count)) < share, -loss, gain)
                cells.append(f"{_accepted(tested(values))}, {_accepted(sign_flips(values, random))}")
            yield (f"+{gain:g}, -{loss:g}", f"{gain * (1 - share) - loss * share:+.4f}", *cells)


def counterexamples(random: np.random.Generator, tries: int = 400) -> Iterator[tuple[str, ...]]:
    """Yield the largest level found over alpha, for random distributions of three values with mean 0; exact."""
    levels = (0.01, 0.025, 0.05, 0.1)
    yield ("n", *(f"alpha = {alpha:g}" for alpha in levels))
    for count in (3, 5, 8, 12):
        cells = [(a, b, count - a - b) for a, b in itertools.product(range(count + 1), repeat=2) if a + b <= count]
        ways = np.array([math.factorial(count) / math.prod(map(math.factorial, cell)) for cell in cells])
        places = np.array([np.repeat([0, 1, 2], cell) for cell in cells])
        most = np.zeros(len(levels))
        for _ in range(tries):
            values = np.array(
                [-1.0 if random.random() < 0.7 else -random.random(), random.uniform(-1, 1), random.random()]
            )
            chances = random.dirichlet(np.full(3, 0.7))
            mean = chances @ values
            end = 0 if mean > 0 else int(values.argmax())  # more of this value brings the mean to 0
            moved = mean / (mean - values[end])
            chances = chances * (1 - moved) + moved * (np.arange(3) == end)
            p_values = mean_p_values(values[places], lowest=-1.0)
            weights = ways * np.prod(chances ** np.array(cells), axis=1)
            most = np.maximum(most, [weights @ (p_values <= alpha) / alpha for alpha in levels])
        yield (str(count), *(f"{ratio:.3f}" for ratio in most))


def power(random: np.random.Generator) -> Iterator[tuple[str, ...]]:
    """Yield how often a gain is found."""
    yield ("scores", "gain", *(f"n = {count}: test, sign flips" for count in SIZES))
    for kind in ("right or wrong", "graded"):
        for gain in (0.0, 0.05, 0.1, 0.2):
            samples = [drawn(kind, gain, count, random) for count in SIZES]
            cells = [f"{_accepted(tested(one))}, {_accepted(sign_flips(one, random))}" for one in samples]
            yield (kind, f"{gain:+.2f}", *cells)


def saved(random: np.random.Generator) -> Iterator[tuple[str, ...]]:
    """Yield the share of examples that the look half-way saves, and how often a gain is found with and without it."""
    yield ("scores", "gain", *(f"n = {count}: saved, found, without the look" for count in SIZES))
    for kind in ("right or wrong", "graded"):
        for gain in (-0.1, 0.0, 0.05, 0.1, 0.2):
            cells = []
            for count in SIZES:
                values = drawn(kind, gain, count, random)
                (half, first), (_, last) = looks(count, ALPHA, interim=True)
                early, whole = tested(values[:, :half]) <= first, tested(values)
                stopped = early | (values[:, :half].mean(axis=1) <= 0)
                found = early | ~stopped & (whole <= last)
                share = stopped.mean() * (1 - half / count)
                cells.append(f"{share:.0%}, {found.mean():.3f}, {_accepted(whole)}")
            yield (kind, f"{gain:+.2f}", *cells)


def coverage(random: np.random.Generator) -> Iterator[tuple[str, ...]]:
    """Yield how often a 95 % interval contains the mean. For right and wrong answers the figures are exact."""
    from scipy.stats import binom

    sizes = (20, 50, 200)
    yield ("scores", "mean", *(f"n = {count}" for count in sizes))
    for share in (0.5, 0.7, 0.9, 0.95, 0.98, 0.02):
        cells = []
        for count in sizes:
            ends = [_interval(right, count) for right in range(count + 1)]
            held = np.array([low <= share <= high for low, high in ends])
            cells.append(f"{binom.pmf(np.arange(count + 1), count, share) @ held:.3f}")
        yield ("right or wrong", f"{share:g}", *cells)
    graded: dict[str, tuple[float, Callable[[int], Array]]] = {
        "beta(4, 2)": (4 / 6, lambda count: random.beta(4, 2, count)),
        "beta(8, 1)": (8 / 9, lambda count: random.beta(8, 1, count)),
        "beta(1, 8)": (1 / 9, lambda count: random.beta(1, 8, count)),
        "beta(.3, .3)": (0.5, lambda count: random.beta(0.3, 0.3, count)),
        "1 (95 %) or uniform": (0.975, lambda count: np.where(random.random(count) < 0.95, 1, random.random(count))),
    }
    for name, (mean, draw) in graded.items():
        yield (name, f"{mean:.3f}", *(_covered(draw, mean, count, 0.0) for count in sizes))
    differences: dict[str, tuple[float, Callable[[int], Array]]] = {
        "graded, no gain": (0.0, lambda count: random.beta(3, 2, count) - random.beta(3, 2, count)),
        "+.05 (95 %) or -1": (-0.0025, lambda count: np.where(random.random(count) < 0.05, -1, 0.05)),
        "right (+1), wrong (-1)": (0.1, lambda count: random.choice([1.0, -1.0, 0.0], count, p=[0.2, 0.1, 0.7])),
    }
    for name, (mean, draw) in differences.items():
        yield (f"difference: {name}", f"{mean:+.4f}", *(_covered(draw, mean, count, -1.0) for count in sizes))


def recommended(random: np.random.Generator, trials: int = 200) -> Iterator[tuple[str, ...]]:
    """Yield how often compare recommends the single model: one call, against ensembles of 33."""
    sizes = (20, 50, 100, 200)
    yield ("truth", *(f"n = {count}" for count in sizes))
    for what, gain in (("all equal", 0.0), ("ensembles +0.10", 0.1), ("ensembles +0.20", 0.2)):
        cells = []
        for count in sizes:
            used = 0
            for _ in range(trials):
                scores = {name: random.random(count) < 0.6 + gain for name in (PROGRAM, "self-consistency", "moa")}
                scores["single"] = random.random(count) < 0.6
                field = {
                    name: ContenderScores(name, right.astype(float).tolist(), (1.0 if name == "single" else 33.0,))
                    for name, right in scores.items()
                }
                used += judge(field, ALPHA).use == "single"
            cells.append(f"{used / trials:.3f}")
        yield (what, *cells)


def speed(random: np.random.Generator, count: int = 10_000) -> Iterator[tuple[str, ...]]:
    """Yield the seconds for two scores with intervals, and their paired difference with interval and test."""
    yield ("scores", f"seconds for a comparison of {count:,} examples")
    samples = {
        "right or wrong": (random.random((2, count)) < 0.6).astype(float),
        "graded, two places": random.beta(3, 2, (2, count)).round(2),
        "graded, all distinct": random.beta(3, 2, (2, count)),
    }
    Score.of([0.5])  # imports scipy
    for name, (before, after) in samples.items():
        began = time.perf_counter()
        Score.of(before.tolist())
        Score.of(after.tolist())
        Gain.of(before.tolist(), after.tolist())
        yield (name, f"{time.perf_counter() - began:.2f}")


def _accepted(p_values: Array) -> str:
    return f"{(p_values <= ALPHA).mean():.3f}"


def _interval(right: int, count: int) -> tuple[float, float]:
    return mean_interval(np.repeat([1.0, 0.0], [right, count - right]), 0.0, 1.0, 0.95)


def _covered(draw: Callable[[int], Array], mean: float, count: int, lowest: float) -> str:
    """Return how often neither test rejects the true mean, which is when the interval contains it."""
    samples = np.stack([draw(count) for _ in range(TRIALS)])
    parts = np.array_split(samples, 20)
    low = np.concatenate([mean_p_values(part, mean, lowest=lowest) for part in parts])
    high = np.concatenate([mean_p_values(-part, -mean, lowest=-1.0) for part in parts])
    return f"{((low > 0.025) & (high > 0.025)).mean():.3f}"


PARTS: Final = {part.__name__: part for part in (level, counterexamples, power, saved, coverage, recommended, speed)}


def main() -> None:
    """Print the tables that are named in the arguments; without arguments, all."""
    for name in sys.argv[1:] or PARTS:
        print(f"\n{name}\n")
        table(list(PARTS[name](np.random.default_rng(0))))


if __name__ == "__main__":
    main()
