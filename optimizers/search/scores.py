"""The scores and costs of one trial under every stop rule, and the test that ends a trial early."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from moa_dspy.evaluation.statistics import one_sided, sign_flip_p_value
from moa_dspy.optimizers.search.objective import Objective
from moa_dspy.optimizers.stop_fitting.replay import StopRule
from moa_dspy.optimizers.stop_fitting.rescoring import Price

__all__ = ["ExampleScores", "Incumbent", "StopRuleScores", "cannot_win", "pick_rule"]


@dataclass
class ExampleScores:
    """Scores and costs of the examples so far, under one stop rule.

    Attributes:
        scores: one per example, in order.
        prices: costs without a cache of the examples whose run did not fail.
    """

    scores: list[float] = field(default_factory=list)
    prices: list[Price] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Return the mean score."""
        return math.fsum(self.scores) / len(self.scores)

    @property
    def mean_price(self) -> Price | None:
        """Return the mean cost of an example; None if every run failed."""
        return sum(self.prices, start=Price()).per(len(self.prices)) if self.prices else None


class StopRuleScores(dict[StopRule, ExampleScores]):
    """The scores of one trial by stop rule."""

    @classmethod
    def of(cls, rules: Sequence[StopRule]) -> Self:
        """Return empty scores for ``rules``."""
        return cls({rule: ExampleScores() for rule in rules})

    @property
    def examples(self) -> int:
        """Return the number of examples so far."""
        return min((len(one.scores) for one in self.values()), default=0)

    def add(self, scores: Mapping[StopRule, float], prices: Mapping[StopRule, Price] | None) -> None:
        """Add one example; ``prices`` is None if its run failed."""
        for rule, one in self.items():
            one.scores.append(scores[rule])
            if prices is not None:
                one.prices.append(prices[rule])

    def to_attrs(self) -> dict[str, Any]:
        """Return the scores as an attribute of a trial, with the depth curve."""
        prices = {rule: one.mean_price or Price() for rule, one in self.items()}
        return {
            "examples": self.examples,
            "failed": max((len(one.scores) - len(one.prices) for one in self.values()), default=0),
            "depths": {str(rule): {"score": one.score, **prices[rule].model_dump()} for rule, one in self.items()},
            "scores": {str(rule): list(one.scores) for rule, one in self.items()},
        }

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Self:
        """Read the output of ``to_attrs``. Every price is then the mean price."""
        read = cls()
        for text, scores in attrs.get("scores", {}).items():
            point = attrs["depths"][text]
            price = Price(calls=point["calls"], tokens=point["tokens"], usd=point["usd"])
            answered = len(scores) - attrs.get("failed", 0)
            read[StopRule.parse(text)] = ExampleScores([float(score) for score in scores], [price] * answered)
        return read


@dataclass(frozen=True)
class Incumbent:
    """A finished trial that a new one is compared with.

    Attributes:
        scores: scores of all examples, under the trial's stop rule.
        cost: mean cost of an example.
    """

    scores: Sequence[float]
    cost: float


def pick_rule(scores: StopRuleScores, objective: Objective, front: Sequence[tuple[float, float]] = ()) -> StopRule:
    """Return the best stop rule of a trial: highest score, then fewest calls, then smallest depth.

    With a price limit, only rules within it count; if there are none, the cheapest is returned. With two objectives,
    return the rule that adds the most area to ``front``.

    Args:
        scores: scores of the trial.
        objective: objective of the search.
        front: scores and costs of finished trials.
    """

    def merit(rule: StopRule) -> tuple[float, ...]:
        one = scores[rule]
        price = one.mean_price
        best = (one.score, -(price.calls if price is not None else 0.0), -float(rule.layers))
        if objective.two:
            return (_added_area(front, (one.score, objective.cost(price or Price()))), *best)
        return (min(0.0, -objective.excess(price)), *best)

    return max(scores, key=merit)


def cannot_win(scores: StopRuleScores, incumbents: Sequence[Incumbent], objective: Objective, level: float) -> bool:
    """Return whether, under every stop rule, the trial is significantly too expensive or worse than an incumbent.

    Args:
        scores: scores of the trial, on the first examples.
        incumbents: scored on the same examples, in the same order.
        objective: objective of the search.
        level: level of the one-sided paired tests.
    """
    return all(
        _too_expensive(one, objective, level) or _is_worse(one, incumbents, objective, level) for one in scores.values()
    )


def _too_expensive(one: ExampleScores, objective: Objective, level: float) -> bool:
    limit = objective.price
    if limit is None or one.mean_price is None or objective.excess(one.mean_price) <= 0:
        return False
    return _p_above_zero([objective.cost(price) / limit - 1 for price in one.prices]) < level


def _is_worse(one: ExampleScores, incumbents: Sequence[Incumbent], objective: Objective, level: float) -> bool:
    count, cost = len(one.scores), objective.cost(one.mean_price or Price())
    for incumbent in incumbents:
        if (objective.two and incumbent.cost > cost) or len(incumbent.scores) < count:
            continue
        differences = [theirs - ours for theirs, ours in zip(incumbent.scores[:count], one.scores, strict=True)]
        if math.fsum(differences) > 0 and _p_above_zero(differences) < level:
            return True
    return False


def _p_above_zero(differences: Sequence[float]) -> float:
    return one_sided(math.fsum(differences), sign_flip_p_value(differences))


def _added_area(front: Sequence[tuple[float, float]], point: tuple[float, float]) -> float:
    """Return how much ``point`` adds to the area below the scores and to the right of the costs of ``front``."""
    worst = 1.0 + 1.1 * max(cost for _, cost in (*front, point))
    return _area([*front, point], worst) - _area(front, worst)


def _area(points: Sequence[tuple[float, float]], worst: float) -> float:
    area, reached = 0.0, 0.0
    for score, cost in sorted(points, key=lambda point: (point[1], -point[0])):
        if score > reached:
            area += (score - reached) * (worst - cost)
            reached = score
    return area
