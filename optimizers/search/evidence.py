"""What the trials of a study say of their designs, made comparable: the evidence that a surrogate model learns from."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from moa_dspy.optimizers.search.objective import Board, Objective, Tally
from moa_dspy.optimizers.search.space import Design
from moa_dspy.optimizers.search.surrogate import Observation

__all__ = ["Tried", "observations"]

_BOTH: Final = 0.05
"""How much the sum of both objectives counts beside the worse one, so that no point is best that another betters."""
_LEAST_SPREAD: Final = 0.02
"""Variance of an example's score where all so far are equal: the next ones may differ."""


@dataclass(frozen=True)
class Tried:
    """A trial that has a design.

    Attributes:
        design: what it tries.
        params: its parameters so far.
        board: what it has scored so far.
    """

    design: Design
    params: Mapping[str, Any]
    board: Board

    @property
    def scored(self) -> bool:
        """Return whether it tells anything: a run that failed says nothing of a design."""
        return any(tally.priced for tally in self.board.values())

    @property
    def examples(self) -> int:
        """Return how many examples it has run."""
        return self.board.examples if self.board else 0

    @property
    def score(self) -> float:
        """Return its best score over all depths and stop rules."""
        return max((tally.score for tally in self.board.values()), default=0.0)


@dataclass(frozen=True)
class _Point:
    """How a design does under one depth and stop rule.

    Attributes:
        score: as it would be over all examples.
        variance: of that score; 0 where all examples have been run.
        cost: of an example, in the objective's unit.
        affordable: whether it keeps to the price, if there is one.
    """

    score: float
    variance: float
    cost: float
    affordable: bool


def observations(scored: Sequence[Tried], objective: Objective, generator: np.random.Generator) -> list[Observation]:
    """Return what trials say of their designs, each under the rule that is best for the objective.

    With a price, the score counts where the price is kept, and the least score elsewhere. With two objectives every
    trial draws its own weights for them (ParEGO, Knowles 2006), so that in time the whole front is looked for.

    Args:
        scored: trials that have been scored, on all examples or on the first ones.
        objective: what is wanted.
        generator: for the weights.
    """
    ease = _ease(scored)
    points = [[_point(tally, objective, ease) for tally in one.board.values() if tally.priced] for one in scored]
    every = [point for of_one in points for point in of_one]
    weight = float(generator.random()) if objective.two else 0.0
    least = min(point.score for point in every)
    dearest = max(point.cost for point in every) or 1.0

    def worth(point: _Point) -> float:
        if objective.two:
            missing, spent = 1 - point.score, point.cost / dearest
            return -max(weight * missing, (1 - weight) * spent) - _BOTH * (missing + spent)
        return point.score if point.affordable else least

    best = [max(of_one, key=worth) for of_one in points]
    return [
        Observation(one.design.features, worth(point), point.variance) for one, point in zip(scored, best, strict=True)
    ]


def _point(tally: Tally, objective: Objective, ease: Mapping[int, float]) -> _Point:
    run, examples = len(tally.scores), max(ease)
    spread = statistics.pvariance(tally.scores)
    return _Point(
        score=tally.score + ease[run],
        variance=max(spread, _LEAST_SPREAD) / run * (1 - run / examples),
        cost=objective.cost(tally.mean_price) if objective.two else 0.0,
        affordable=objective.excess(tally) <= 0,
    )


def _ease(scored: Sequence[Tried]) -> dict[int, float]:
    """Return, by number of examples run, how much higher scores over all examples are than over those first ones.

    Trials that were given up have seen the first examples alone, which may be easy or hard ones.
    """
    counts = {one.board.examples for one in scored}
    whole = [max(one.board.values(), key=lambda tally: tally.score).scores for one in scored]
    whole = [scores for scores in whole if len(scores) == max(counts)]
    return {
        count: statistics.fmean(statistics.fmean(scores) - statistics.fmean(scores[:count]) for scores in whole)
        for count in counts
    }
