"""The default design sampler: expected improvement of a Gaussian process, divided by the square root of the price.

With a price limit, the improvement is multiplied by the probability that the design is within it (Gardner et al. 2014).
It learns from all trials, including pruned trials and running trials of other processes. Requests that designs share
are paid only once, because the response cache answers them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial
from scipy.special import ndtr
from threadpoolctl import threadpool_limits

from moa_dspy.attention import critics_of
from moa_dspy.optimizers.search.designs import ENUMERABLE, BoundSpace, Design, Params
from moa_dspy.optimizers.search.gaussian_process import (
    Array,
    Features,
    GaussianProcess,
    Observation,
    expected_improvement,
)
from moa_dspy.optimizers.search.objective import Objective
from moa_dspy.optimizers.search.results import scores_of
from moa_dspy.optimizers.search.usual import LEAST_EXAMPLES
from moa_dspy.optimizers.search.workers import in_order
from moa_dspy.optimizers.stop_fitting.rescoring import ExampleScores, StopRuleScores

__all__ = ["GaussianProcessDesigns", "Request", "Tried", "observations", "requests_of", "unpaid"]

Request: TypeAlias = int
"""A hash of an agent, its role, and the requests whose answers it reads; equal for equal requests."""

_STARTUP: Final = 6
"""Number of scored trials before the process is fitted. Until then designs are random."""
_DRAWS: Final = 1000
_CENTRES: Final = 5
_PRICE_EXPONENT: Final = 0.5
_MARGIN: Final = 0.5
"""Least improvement that counts, in standard deviations of the values so far. Else near ties take most of the calls.

With few examples there are no near ties: one example more is an improvement.
"""
_BOTH: Final = 0.05
"""Weight of the sum of both objectives beside the worse one. A dominated point is then never best."""
_LEAST_SHARE: Final = 1e-3
"""Share of the price limit that a run costs at least, since free models have no logarithm."""
_LEAST_VARIANCE: Final = 0.02
"""Variance of an example's score if all scores so far are equal."""


@dataclass(frozen=True)
class Tried:
    """A trial with a design: its parameters and scores so far."""

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
    """Proposes the design with the highest expected improvement for its price. This is the default."""

    def __init__(self, objective: Objective | None = None) -> None:
        self._objective = objective or Objective()

    def propose(
        self, space: BoundSpace, study: Study, trial: FrozenTrial, generator: np.random.Generator
    ) -> Mapping[str, Any]:
        """Return the parameters of a design that has no trial, if one is found."""
        others = [
            Tried(design, other.params, scores_of(other))
            for other in in_order(study)
            if other.number != trial.number and (design := space.design_of(other)) is not None
        ]
        candidates = _candidates(space, others, generator)
        if not candidates:
            return space.draw(generator)
        scored = [other for other in others if other.scored]
        if len(scored) < _STARTUP:
            return next(iter(candidates.values()))
        running = [other.design.features for other in others if not other.scores]
        designs = list(candidates)
        features = [design.features for design in designs]
        # Threads of the linear algebra wait for one another in a loop. On a busy machine, with matrices of this size,
        # they take 25 times the CPU time of one thread.
        with threadpool_limits(1, "blas"):
            process = GaussianProcess(observations(scored, self._objective, generator))
            if running:
                process = process.believing(running)
            known, _ = process.predict([*(other.design.features for other in scored), *running])
            within = [any(map(self._affords, other.scores.values())) for other in scored] + [True] * len(running)
            best = max(known[within], default=min(known))
            if max(other.scores.examples for other in scored) >= LEAST_EXAMPLES:
                best += _MARGIN * process.spread
            gain = expected_improvement(*process.predict(features), best) * self._chances(scored, features)
        prices = _unpaid_calls(designs, others, space.layers)
        return candidates[designs[int(np.argmax(gain / prices**_PRICE_EXPONENT))]]

    def _affords(self, one: ExampleScores) -> bool:
        price = one.mean_price
        return price is not None and self._objective.affords(price)

    def _chances(self, scored: Sequence[Tried], features: Sequence[Features]) -> Array:
        """Return the probabilities that designs are within the price limit under a stop rule; shape (designs,)."""
        cost, limit = self._objective.cost, self._objective.price
        if limit is None:
            return np.ones(len(features))
        costs = [min(cost(one.mean_price) for one in trial.scores.values() if one.prices) for trial in scored]
        shares = [math.log(max(one / limit, _LEAST_SHARE)) for one in costs]
        seen = [Observation(trial.design.features, share) for trial, share in zip(scored, shares, strict=True)]
        mean, deviation = GaussianProcess(seen).predict(features)
        return np.asarray(ndtr(-mean / deviation))


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
        for name in space.distributions:
            yield from ({**drawn, name: value} for value in space.choices[name])


def _unpaid_calls(candidates: Sequence[Design], others: Sequence[Tried], layers: int) -> Array:
    """Return the number of uncached calls per example of each design, at least 1; shape (designs,)."""
    paid: dict[Request, float] = {}
    examples = max(other.scores.examples for other in others)
    for other in others:
        for request in requests_of(other.design, layers):
            paid[request] = max(paid.get(request, 0.0), other.scores.examples / examples)
    return np.array([max(1.0, unpaid(requests_of(design, layers), paid)) for design in candidates])


def requests_of(design: Design, layers: int) -> frozenset[Request]:
    """Return the requests of one run of ``design`` at ``layers`` layers, without early stopping."""
    made: set[Request] = set()

    def ask(role: str, member: object, *read: Request) -> Request:
        made.add(request := hash((role, member, design.tuned, *read)))
        return request

    counted = enumerate(zip(design.samples, design.temperatures, strict=True))
    members = [(agent, sample, warmth) for agent, (count, warmth) in counted for sample in range(count)]
    stack: list[Request] = []
    passes_answers = design.residual == "answers"
    previous: list[Request] = []
    for layer in range(1, layers + 1 - passes_answers):
        proposals = [ask("propose", member, *previous or [0]) for member in members]
        answers, critics = [], [critics_of(j, design.attention, len(members), layer) for j in range(len(members))]

        def criticise(i: int, j: int, own: list[Request] = proposals, of: list[tuple[int, ...]] = critics) -> Request:
            if design.critiques == "joint":
                targets = [own[target] for target, of_one in enumerate(of) if i in of_one]
                return hash((j, ask("critiques", members[i], own[i], *targets)))
            return ask("critique", members[i], own[i], own[j])

        for j, own in enumerate(proposals):
            critiques = [criticise(i, j) for i in critics[j]]
            answers.append(ask("refine", members[j], own, *critiques) if critiques else own)
        previous = answers
        if passes_answers and layer < layers - 1:
            continue
        if design.aggregation == "synthesis":
            output = ask("aggregate", design.aggregator, *answers)
        else:
            output = hash((design.aggregation, *answers))
        if stack and design.residual == "synthesis":
            output = ask("synthesize", design.aggregator, *stack, output)
        stack.append(output)
        previous = stack[-1:]
    return frozenset(made)


def unpaid(requests: frozenset[Request], paid: Mapping[Request, float]) -> float:
    """Return the number of unpaid requests of a run, given the share of the examples on which each was made."""
    return math.fsum(1 - paid.get(request, 0.0) for request in requests)  # exact, for their order is not the same twice


def observations(scored: Sequence[Tried], objective: Objective, generator: np.random.Generator) -> list[Observation]:
    """Return one observation per trial, under the stop rule that is best for the objective.

    With a price limit, rules within it come first, and else those nearest to it: a design that is too expensive shows
    what its cheaper neighbours can do. With two objectives, every call draws new weights (ParEGO, Knowles 2006), so
    that repeated calls cover the whole front.
    """
    offsets, two = _offsets(scored), objective.two
    answered = [[one for one in trial.scores.values() if one.prices] for trial in scored]
    weight = float(generator.random()) if two else 0.0
    costs = [objective.cost(one.mean_price) for rules in answered for one in rules] if two else []
    highest_cost = max(costs, default=0.0) or 1.0

    def value(one: ExampleScores) -> float:
        score = _estimated(one, offsets)
        if not two:
            return score
        missing, spent = 1 - score, objective.cost(one.mean_price) / highest_cost
        return -max(weight * missing, (1 - weight) * spent) - _BOTH * (missing + spent)

    def merit(one: ExampleScores) -> tuple[float, float]:
        return min(0.0, -objective.excess(one.mean_price)), value(one)

    best = [max(rules, key=merit) for rules in answered]
    return [
        Observation(trial.design.features, value(one), _variance(one, max(offsets)))
        for trial, one in zip(scored, best, strict=True)
    ]


def _estimated(one: ExampleScores, offsets: Mapping[int, float]) -> float:
    """Return the estimated score on all examples."""
    return one.score + offsets[len(one.scores)]


def _variance(one: ExampleScores, examples: int) -> float:
    """Return the variance of the estimated score; 0 if all examples were run."""
    count = len(one.scores)
    return max(statistics.pvariance(one.scores), _LEAST_VARIANCE) / count * (1 - count / examples)


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
