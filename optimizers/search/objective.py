"""The objective of a search: which stop rule of a trial is best, and when a trial cannot win."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import dspy

from moa_dspy.cost.prices import models_without_price
from moa_dspy.cost.usage import Price
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.statistics import one_sided, sign_flip_p_value
from moa_dspy.optimizers.measuring import Unit
from moa_dspy.optimizers.stop_fitting.replay import StopRule
from moa_dspy.optimizers.stop_fitting.rescoring import ExampleScores, StopRuleScores

__all__ = ["Incumbent", "Objective", "Unit", "Wanted", "cannot_win", "check_unit", "pick_rule"]

_COST_OF_FAILURE: Final = 1e12
"""The cost of a program whose runs all fail."""

Wanted: TypeAlias = Literal["score", "score_at_price"] | tuple[str, str]


@dataclass(frozen=True)
class Objective:
    """The objective of a search.

    Args:
        wanted: ``"score"``; ``"score_at_price"``, the best score of programs whose examples cost at most ``price`` on
            average; or ``("score", "cost")``, a Pareto front of both.
        price: maximum mean cost of an example, above 0.
        unit: unit of costs and price, for runs without a cache.

    Raises:
        ConfigurationError: if a value is unknown, or if the values are incompatible.
    """

    wanted: Wanted = "score"
    price: float | None = None
    unit: Unit = "usd"

    def __post_init__(self) -> None:
        wanted = tuple(self.wanted) if isinstance(self.wanted, list) else self.wanted
        object.__setattr__(self, "wanted", wanted)
        if wanted not in ("score", "score_at_price", ("score", "cost")):
            raise ConfigurationError(
                f"objective={wanted!r} is unknown; use 'score', 'score_at_price' or ('score', 'cost')"
            )
        if self.unit not in get_args(Unit):
            raise ConfigurationError(f"unit={self.unit!r} is unknown; use 'usd', 'tokens' or 'calls'")
        if (self.price is not None) != (wanted == "score_at_price"):
            raise ConfigurationError("objective='score_at_price' needs price=, and no other objective takes it")
        if self.price is not None and not self.price > 0:
            raise ConfigurationError(f"price={self.price!r} must be above 0")

    @property
    def two(self) -> bool:
        """Return whether there are two objectives."""
        return isinstance(self.wanted, tuple)

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """Return Optuna's names of the directions."""
        return ["maximize", "minimize"] if self.two else ["maximize"]

    def to_dict(self) -> dict[str, Any]:
        """Return the objective as JSON values."""
        return {"wanted": self.wanted, "price": self.price, "unit": self.unit}

    def cost(self, price: Price | None) -> float:
        """Return a price in the objective's unit. If a price in dollars is unknown, "score" compares calls.

        Args:
            price: the mean price of an example; None if every run failed.

        Raises:
            ConfigurationError: if dollars are needed and the price of a call is unknown.
        """
        if price is None:
            return _COST_OF_FAILURE
        value = getattr(price, self.unit)
        if value is not None:
            return float(value)
        if self.wanted == "score":
            return float(price.calls)
        raise ConfigurationError(
            "the price of a call in dollars is not known for every model; use unit='tokens' or unit='calls'"
        )

    def affords(self, price: Price) -> bool:
        """Return whether an example may cost this much."""
        return self.excess(price) <= 0

    def excess(self, price: Price | None) -> float:
        """Return the cost of an example minus the limit; 0 without a limit."""
        return 0.0 if self.price is None else self.cost(price) - self.price

    def values(self, score: float, price: Price | None) -> list[float]:
        """Return the values of a trial for Optuna."""
        return [score, self.cost(price)] if self.two else [score]


def check_unit(objective: Objective, lms: Iterable[str | dspy.BaseLM | None]) -> None:
    """Raise ConfigurationError if the objective needs dollars and the price of a model is unknown."""
    if objective.wanted == "score" or objective.unit != "usd":
        return
    unknown = models_without_price(lms)
    if unknown:
        raise ConfigurationError(
            f"the price of {', '.join(unknown)} in dollars is not known; use unit='tokens' or unit='calls'"
        )


@dataclass(frozen=True)
class Incumbent:
    """A finished trial to compare with: its scores on all examples, and the mean cost of an example."""

    scores: Sequence[float]
    cost: float


def pick_rule(scores: StopRuleScores, objective: Objective, front: Sequence[tuple[float, float]] = ()) -> StopRule:
    """Return the best stop rule of a trial: highest score, then fewest calls, then smallest depth.

    With a price limit, only rules within it count; if there are none, the cheapest is returned. With two objectives,
    return the rule that adds the most area to ``front``, the scores and costs of finished trials.
    """

    def merit(rule: StopRule) -> tuple[float, ...]:
        one = scores[rule]
        price = one.mean_price
        best = (one.score, -(price.calls if price is not None else 0.0), -float(rule.layers))
        if objective.two:
            return (_added_area(front, (one.score, objective.cost(price))), *best)
        return (min(0.0, -objective.excess(price)), *best)

    return max(scores, key=merit)


def cannot_win(scores: StopRuleScores, incumbents: Sequence[Incumbent], objective: Objective, level: float) -> bool:
    """Return whether, under every stop rule, the trial is significantly too expensive or worse than an incumbent.

    The trial has run the first examples. Incumbents are scored on the same examples, in the same order. ``level`` is
    that of the one-sided paired tests.
    """

    def above_zero(differences: Sequence[float]) -> bool:
        total = math.fsum(differences)
        return total > 0 and one_sided(total, sign_flip_p_value(differences)) < level

    def too_expensive(one: ExampleScores) -> bool:
        limit = objective.price
        return limit is not None and above_zero([objective.cost(price) / limit - 1 for price in one.prices])

    def worse(one: ExampleScores, incumbent: Incumbent) -> bool:
        count = len(one.scores)
        if len(incumbent.scores) < count or (objective.two and incumbent.cost > objective.cost(one.mean_price)):
            return False
        return above_zero([theirs - ours for theirs, ours in zip(incumbent.scores[:count], one.scores, strict=True)])

    return all(too_expensive(one) or any(worse(one, incumbent) for incumbent in incumbents) for one in scores.values())


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
