"""The default design sampler: expected improvement of a Gaussian process, divided by the square root of the price.

It learns from all trials, including pruned trials and running trials of other processes.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial

from moa_dspy.optimizers.search.designs import ENUMERABLE, BoundSpace, Design, Params, values_of
from moa_dspy.optimizers.search.gaussian_process import Array, GaussianProcess, Observation, expected_improvement
from moa_dspy.optimizers.search.objective import Objective
from moa_dspy.optimizers.search.results import scores_of
from moa_dspy.optimizers.search.sampler import SpaceExhaustedError, design_of
from moa_dspy.optimizers.search.scores import ExampleScores, StopRuleScores
from moa_dspy.optimizers.search.sharing import Request, requests_of, unpaid

__all__ = ["GaussianProcessDesigns", "Tried", "observations"]

_STARTUP: Final = 6
"""Number of scored trials before the process is fitted. Until then designs are random."""
_DRAWS: Final = 1000
_CENTRES: Final = 5
_PRICE_EXPONENT: Final = 0.5
_BOTH: Final = 0.05
"""Weight of the sum of both objectives beside the worse one. A dominated point is then never best."""
_LEAST_VARIANCE: Final = 0.02
"""Variance of an example's score if all scores so far are equal."""


@dataclass(frozen=True)
class Tried:
    """A trial with a design.

    Attributes:
        design: design of the trial.
        params: its parameters so far.
        scores: its scores so far.
    """

    design: Design
    params: Mapping[str, Any]
    scores: StopRuleScores

    @property
    def scored(self) -> bool:
        """Return whether any run was answered."""
        return any(one.prices for one in self.scores.values())

    @property
    def score(self) -> float:
        """Return the best score over all stop rules."""
        return max((one.score for one in self.scores.values()), default=0.0)


class GaussianProcessDesigns:
    """Proposes the design with the highest expected improvement for its price. This is the default.

    Args:
        objective: objective of the search.
    """

    def __init__(self, objective: Objective | None = None) -> None:
        self._objective = objective or Objective()

    def propose(
        self, space: BoundSpace, study: Study, trial: FrozenTrial, generator: np.random.Generator
    ) -> Mapping[str, Any]:
        """Return the parameters of a design that has no trial; see ``DesignSampler``.

        Raises:
            SpaceExhaustedError: if every design has a trial.
        """
        others = [
            Tried(design, other.params, scores_of(other))
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and (design := design_of(space, other)) is not None
        ]
        candidates = _candidates(space, others, generator)
        if not candidates:
            if space.size <= ENUMERABLE:
                raise SpaceExhaustedError
            return space.draw(generator)
        if sum(other.scored for other in others) < _STARTUP:
            return next(iter(candidates.values()))
        return candidates[self._most_promising(space, list(candidates), others, generator)]

    def _most_promising(
        self, space: BoundSpace, candidates: Sequence[Design], others: Sequence[Tried], generator: np.random.Generator
    ) -> Design:
        scored = [other for other in others if other.scored]
        running = [other.design.features for other in others if not other.scores]
        process = GaussianProcess(observations(scored, self._objective, generator))
        if running:
            process = process.believing(running)
        gain = expected_improvement(*process.predict([design.features for design in candidates]), process.best)
        prices = _unpaid_calls(candidates, others, space.layers)
        return candidates[int(np.argmax(gain / prices**_PRICE_EXPONENT))]


def _candidates(space: BoundSpace, others: Sequence[Tried], generator: np.random.Generator) -> dict[Design, Params]:
    """Return designs without a trial, in random order: all of a small space, or many of a large one."""
    known = {other.design for other in others}
    listed = space.size <= ENUMERABLE
    designs = space.designs() if listed else space.unique(_draws(space, others, generator))
    items = [(design, params) for design, params in designs.items() if design not in known]
    return dict(items[index] for index in generator.permutation(len(items)))


def _draws(space: BoundSpace, others: Sequence[Tried], generator: np.random.Generator) -> Iterator[Params]:
    """Yield random parameters, and the neighbours of the best designs."""
    for _ in range(_DRAWS):
        yield space.draw(generator)
    for centre in sorted(others, key=lambda other: -other.score)[:_CENTRES]:
        drawn = {**space.draw(generator), **centre.params}
        for name, distribution in space.distributions.items():
            yield from ({**drawn, name: value} for value in values_of(distribution))


def _unpaid_calls(candidates: Sequence[Design], others: Sequence[Tried], layers: int) -> Array:
    """Return the number of uncached calls per example of each design, at least 1; shape (designs,)."""
    paid: dict[Request, float] = {}
    examples = max(other.scores.examples for other in others)
    for other in others:
        for request in requests_of(other.design, layers):
            paid[request] = max(paid.get(request, 0.0), other.scores.examples / examples)
    return np.array([max(1.0, unpaid(requests_of(design, layers), paid)) for design in candidates])


@dataclass(frozen=True)
class _Point:
    """A design under one stop rule.

    Attributes:
        score: estimated score over all examples.
        variance: variance of that score; 0 if all examples were run.
        cost: mean cost of an example, in the objective's unit.
        affordable: whether it is within the price limit.
    """

    score: float
    variance: float
    cost: float
    affordable: bool


def observations(scored: Sequence[Tried], objective: Objective, generator: np.random.Generator) -> list[Observation]:
    """Return one observation per trial, under the stop rule that is best for the objective.

    With a price limit, rules above it count as the lowest score. With two objectives, every call draws new weights
    (ParEGO, Knowles 2006), so that repeated calls cover the whole front.

    Args:
        scored: trials with scores, on all examples or on the first ones.
        objective: objective of the search.
        generator: draws the weights.
    """
    offsets = _offsets(scored)
    points = [[_point(one, objective, offsets) for one in trial.scores.values() if one.prices] for trial in scored]
    every = [point for of_trial in points for point in of_trial]
    weight = float(generator.random()) if objective.two else 0.0
    lowest = min(point.score for point in every)
    highest_cost = max(point.cost for point in every) or 1.0

    def value(point: _Point) -> float:
        if objective.two:
            missing, spent = 1 - point.score, point.cost / highest_cost
            return -max(weight * missing, (1 - weight) * spent) - _BOTH * (missing + spent)
        return point.score if point.affordable else lowest

    best = [max(of_trial, key=value) for of_trial in points]
    return [
        Observation(trial.design.features, value(point), point.variance)
        for trial, point in zip(scored, best, strict=True)
    ]


def _point(one: ExampleScores, objective: Objective, offsets: Mapping[int, float]) -> _Point:
    count, examples, price = len(one.scores), max(offsets), one.mean_price
    variance = statistics.pvariance(one.scores)
    return _Point(
        score=one.score + offsets[count],
        variance=max(variance, _LEAST_VARIANCE) / count * (1 - count / examples),
        cost=objective.cost(price) if objective.two and price is not None else 0.0,
        affordable=objective.excess(price) <= 0,
    )


def _offsets(scored: Sequence[Tried]) -> dict[int, float]:
    """Return, by number of examples, the mean score on all examples minus the mean score on that many first examples.

    Pruned trials have run only the first examples, which may be easier or harder than the rest.
    """
    counts = {trial.scores.examples for trial in scored}
    best = [max(trial.scores.values(), key=lambda one: one.score).scores for trial in scored]
    complete = [scores for scores in best if len(scores) == max(counts)]
    return {
        count: statistics.fmean(statistics.fmean(scores) - statistics.fmean(scores[:count]) for scores in complete)
        for count in counts
    }
