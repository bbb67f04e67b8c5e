"""The objective of a search."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import dspy
from optuna.study import StudyDirection

from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.comparison.matching import Unit, models_without_price
from moa_dspy.optimizers.stop_fitting.rescoring import Price

__all__ = ["Objective", "Unit", "Wanted", "check_unit"]

_COST_OF_FAILURE: Final = 1e12
"""The cost of a program whose runs all fail."""
_UNITS: Final = get_args(Unit)

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
        if self.unit not in _UNITS:
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
    def directions(self) -> list[StudyDirection]:
        """Return Optuna's directions."""
        return [StudyDirection.MAXIMIZE, *([StudyDirection.MINIMIZE] if self.two else [])]

    def to_dict(self) -> dict[str, Any]:
        """Return the objective as JSON values."""
        return {"wanted": self.wanted, "price": self.price, "unit": self.unit}

    def cost(self, price: Price) -> float:
        """Return a price in the objective's unit. If a price in dollars is unknown, "score" compares calls.

        Raises:
            ConfigurationError: if dollars are needed and the price of a call is unknown.
        """
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
        """Return the cost of an example minus the limit; 0 without a limit.

        Args:
            price: the mean price of an example; None if every run failed.
        """
        if self.price is None:
            return 0.0
        return self.cost(price) - self.price if price is not None else _COST_OF_FAILURE

    def values(self, score: float, price: Price | None) -> list[float]:
        """Return the values of a trial for Optuna.

        Args:
            score: the mean score.
            price: the mean price of an example; None if every run failed.
        """
        cost = [] if not self.two else [self.cost(price) if price is not None else _COST_OF_FAILURE]
        return [score, *cost]


def check_unit(objective: Objective, lms: Iterable[str | dspy.BaseLM | None]) -> None:
    """Check that prices in dollars are known if the objective needs them.

    Raises:
        ConfigurationError: if the price of a model is unknown.
    """
    if objective.wanted == "score" or objective.unit != "usd":
        return
    unknown = models_without_price(lms)
    if unknown:
        raise ConfigurationError(
            f"the price of {', '.join(unknown)} in dollars is not known; use unit='tokens' or unit='calls'"
        )
