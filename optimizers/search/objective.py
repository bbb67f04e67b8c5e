"""What a search optimizes, and the books of one trial: scores and prices under every stop rule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import dspy
from optuna.study import StudyDirection

from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.statistics import one_sided, sign_flip_p_value
from moa_dspy.optimizers.comparison.matching import models_without_price
from moa_dspy.optimizers.stopping.depth import Price
from moa_dspy.optimizers.stopping.rules import StopRule

__all__ = ["Board", "Champion", "Objective", "Tally", "Unit", "Wanted", "check_unit"]

_UNPAYABLE: Final = 1e12
"""The cost of a program of which every run fails: it is no bargain."""

Unit: TypeAlias = Literal["usd", "tokens", "calls"]
Wanted: TypeAlias = Literal["score", "score_at_price"] | tuple[str, str]


@dataclass
class Tally:
    """Scores of the examples so far, in their order, and what those of them that did not fail would cost each."""

    scores: list[float] = field(default_factory=list)
    prices: list[Price] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Return the mean score."""
        return math.fsum(self.scores) / len(self.scores)

    @property
    def priced(self) -> bool:
        """Return whether some run did not fail, so that there is a price."""
        return bool(self.prices)

    @property
    def mean_price(self) -> Price:
        """Return the price of one example whose run does not fail."""
        return sum(self.prices, start=Price()).per(max(1, len(self.prices)))


class Board(dict[StopRule, Tally]):
    """The tallies of one trial."""

    @classmethod
    def of(cls, rules: Sequence[StopRule]) -> Board:
        """Return empty tallies for ``rules``."""
        return cls({rule: Tally() for rule in rules})

    @property
    def examples(self) -> int:
        """Return how many examples have been run."""
        return min(len(tally.scores) for tally in self.values())

    def add(self, marks: Mapping[StopRule, float], prices: Mapping[StopRule, Price] | None) -> None:
        """Enter one example; it has no prices where its run failed."""
        for rule, tally in self.items():
            tally.scores.append(marks[rule])
            if prices is not None:
                tally.prices.append(prices[rule])

    def to_attrs(self) -> dict[str, Any]:
        """Return the board as attributes of a trial: the depth curve, and the scores of every example."""
        depths = {str(rule): {"score": tally.score, **tally.mean_price.model_dump()} for rule, tally in self.items()}
        scores = {str(rule): list(tally.scores) for rule, tally in self.items()}
        failed = max((len(tally.scores) - len(tally.prices) for tally in self.values()), default=0)
        return {"examples": self.examples, "failed": failed, "depths": depths, "scores": scores}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Board:
        """Read what ``to_attrs`` wrote; of prices that is their mean."""
        board = cls()
        for text, scores in attrs.get("scores", {}).items():
            point = attrs["depths"][text]
            price = Price(calls=point["calls"], tokens=point["tokens"], usd=point["usd"])
            priced = len(scores) - attrs.get("failed", 0)
            board[StopRule.parse(text)] = Tally([float(score) for score in scores], [price] * priced)
        return board


@dataclass(frozen=True)
class Champion:
    """What a trial has to stand up to: the scores of an earlier one under its rule, and its cost."""

    scores: Sequence[float]
    cost: float


@dataclass(frozen=True)
class Objective:
    """What is wanted.

    Args:
        wanted: ``"score"``; ``"score_at_price"``, the best score among programs whose examples cost at most ``price``
            on average; or ``("score", "cost")``, both, with a Pareto front.
        price: the most that an example may cost, above 0.
        unit: what cost and price are counted in; prices are those of a run without cache.

    Raises:
        ConfigurationError: these do not fit together.
    """

    wanted: Wanted = "score"
    price: float | None = None
    unit: Unit = "usd"

    def __post_init__(self) -> None:
        wanted = tuple(self.wanted) if isinstance(self.wanted, list) else self.wanted
        object.__setattr__(self, "wanted", wanted)
        if wanted not in ("score", "score_at_price", ("score", "cost")):
            raise ConfigurationError(
                f"objective={wanted!r} is none; use 'score', 'score_at_price' or ('score', 'cost')"
            )
        if self.unit not in ("usd", "tokens", "calls"):
            raise ConfigurationError(f"unit={self.unit!r} is none; use 'usd', 'tokens' or 'calls'")
        if (self.price is not None) != (wanted == "score_at_price"):
            raise ConfigurationError("price= goes with objective='score_at_price', and that needs it")
        if self.price is not None and not self.price > 0:
            raise ConfigurationError(f"price={self.price!r} must be above 0")

    @property
    def two(self) -> bool:
        """Return whether there are two objectives."""
        return isinstance(self.wanted, tuple)

    @property
    def directions(self) -> list[StudyDirection]:
        """Return Optuna's directions."""
        best = StudyDirection.MAXIMIZE
        return [best, StudyDirection.MINIMIZE] if self.two else [best]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"wanted": self.wanted, "price": self.price, "unit": self.unit}

    def cost(self, price: Price) -> float:
        """Return a price in the objective's unit.

        Raises:
            ConfigurationError: it is in dollars, which are wanted and not known.
        """
        value = getattr(price, self.unit)
        if value is not None:
            return float(value)
        if self.wanted == "score":
            return float(price.calls)
        raise ConfigurationError(
            "the price of a call in dollars is not known for every model; count in unit='tokens' or unit='calls'"
        )

    def affords(self, price: Price) -> bool:
        """Return whether an example may cost so much."""
        return self.price is None or self.cost(price) <= self.price

    def values(self, tally: Tally) -> list[float]:
        """Return what Optuna is told."""
        if not self.two:
            return [tally.score]
        return [tally.score, self.cost(tally.mean_price) if tally.priced else _UNPAYABLE]

    def excess(self, tally: Tally) -> float:
        """Return by how much the price is exceeded; at most 0 where it is kept, or there is none."""
        if self.price is None:
            return 0.0
        return self.cost(tally.mean_price) - self.price if tally.priced else _UNPAYABLE

    def pick(self, board: Board, front: Sequence[tuple[float, float]] = ()) -> StopRule:
        """Return the rule that a trial settles on.

        Best score, then the fewest calls; among those within the price, or else the cheapest. With two objectives it
        is the rule that adds most to ``front``, the scores and costs of finished trials.
        """

        def merit(rule: StopRule) -> tuple[float, ...]:
            tally = board[rule]
            best = (tally.score, -tally.mean_price.calls, -float(rule.layers))
            if self.two:
                return (_gain(front, (tally.score, self.cost(tally.mean_price))), *best)
            excess = self.excess(tally)
            return (-excess, *best) if excess > 0 else (0.0, *best)

        return max(board, key=merit)

    def hopeless(self, board: Board, champions: Sequence[Champion], level: float) -> bool:
        """Return whether a trial can be given up: under every rule it is shown too dear, or a champion is better.

        Args:
            board: after some of the examples.
            champions: as scored on the same examples, in the same order.
            level: of the one-sided paired tests, of scores and of prices.
        """
        return all(self._too_dear(tally, level) or self._beaten(tally, champions, level) for tally in board.values())

    def _too_dear(self, tally: Tally, level: float) -> bool:
        if self.price is None or not tally.priced or self.excess(tally) <= 0:
            return False
        return _p_above([self.cost(price) / self.price - 1 for price in tally.prices]) < level

    def _beaten(self, tally: Tally, champions: Sequence[Champion], level: float) -> bool:
        rivals = [champion for champion in champions if not self.two or champion.cost <= self.cost(tally.mean_price)]
        return any(_betters(champion.scores[: len(tally.scores)], tally.scores, level) for champion in rivals)


def check_unit(objective: Objective, lms: Iterable[str | dspy.BaseLM | None]) -> None:
    """Refuse an objective in dollars where these are not known, before anything is paid.

    Raises:
        ConfigurationError: names the models.
    """
    if objective.wanted == "score" or objective.unit != "usd":
        return
    unknown = models_without_price(lms)
    if unknown:
        raise ConfigurationError(
            f"the price of {', '.join(unknown)} in dollars is not known; count in unit='tokens' or unit='calls'"
        )


def _betters(theirs: Sequence[float], ours: Sequence[float], level: float) -> bool:
    """Whether a champion that has run as many examples is shown to be better on them."""
    if len(theirs) < len(ours) or math.fsum(theirs) <= math.fsum(ours):
        return False
    return _p_above([their - our for their, our in zip(theirs, ours, strict=True)]) < level


def _p_above(differences: Sequence[float]) -> float:
    return one_sided(math.fsum(differences), sign_flip_p_value(differences))


def _gain(front: Sequence[tuple[float, float]], point: tuple[float, float]) -> float:
    """How much area below score and to the right of cost ``point`` adds to that of ``front``."""
    worst = 1.0 + 1.1 * max((cost for _, cost in (*front, point)))
    return _area([*front, point], worst) - _area(front, worst)


def _area(points: Sequence[tuple[float, float]], worst: float) -> float:
    area, reached = 0.0, 0.0
    for score, cost in sorted(points, key=lambda point: (point[1], -point[0])):
        if score > reached:
            area += (score - reached) * (worst - cost)
            reached = score
    return area
