"""Matched spend: the price of an example without the response cache, and the size with the nearest price."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeAlias

import dspy

from moa_dspy.cost.budget import Budget
from moa_dspy.cost.prices import PriceTable, offline_prices
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.evaluation.runs import Price, mean_price as runs_price
from moa_dspy.optimizers.measuring import Run, models_of
from moa_dspy.program import AttentionMoA

__all__ = [
    "LARGEST",
    "UNKNOWN_PRICE",
    "Unit",
    "amount",
    "check_budget",
    "check_price",
    "mean_price",
    "models_without_price",
    "nearest_size",
]

Unit: TypeAlias = Literal["calls", "tokens", "usd"]

LARGEST: Final = 64
"""Maximum number of samples or layers of a baseline."""

UNKNOWN_PRICE: Final = "dollars cannot be matched: {why}; use match='tokens' or match='calls'"


def mean_price(runs: Iterable[Run]) -> Price:
    """Return the mean price of a run without the response cache. Failed runs are left out.

    Raises:
        RunError: if all runs failed.
    """
    runs = list(runs)
    price = runs_price(runs)
    if price is None:
        raise RunError(f"every run failed; the first one: {runs[0].error}")
    return price


def amount(price: Price, unit: Unit) -> float:
    """Return a price in one unit.

    Raises:
        ConfigurationError: if ``unit`` is dollars and the price is unknown.
    """
    value = getattr(price, unit)
    if value is None:
        raise ConfigurationError(UNKNOWN_PRICE.format(why="the price of a model is not known"))
    return float(value)


def check_price(program: AttentionMoA, others: Iterable[AttentionMoA], example: object) -> None:
    """Raise ConfigurationError if dollars cannot be matched.

    Args:
        program: the program whose spend is matched.
        others: the programs it is compared with. They may cost nothing.
        example: an example that it answers.

    Raises:
        ConfigurationError: if the price of a model is unknown, or all models of the program are free.
    """
    unknown = models_without_price(lm for one in (program, *others) for lm in models_of(one))
    if unknown:
        raise ConfigurationError(UNKNOWN_PRICE.format(why=f"the price of {', '.join(unknown)} is not known"))
    if not program.plan(example).full.usd:  # type: ignore[arg-type, unused-ignore]
        raise ConfigurationError(UNKNOWN_PRICE.format(why="the program's models cost nothing"))


def check_budget(budget: Budget | None, lms: Iterable[str | dspy.BaseLM | None]) -> None:
    """Raise ConfigurationError if a budget in dollars cannot be enforced. Calls of unknown price would count as free.

    Args:
        budget: the budget.
        lms: all models that may be called; None is DSPy's configured model.

    Raises:
        ConfigurationError: if the budget limits dollars and the price of a model is unknown.
    """
    if budget is None or budget.usd is None:
        return
    if dspy.settings.disable_history or dspy.settings.max_history_size == 0:
        raise ConfigurationError("a budget in dollars needs DSPy's history, which holds the prices; it is switched off")
    unknown = models_without_price(lms)
    if unknown:
        raise ConfigurationError(
            f"a budget in dollars cannot be kept: the price of {', '.join(unknown)} is not known; limit calls, tokens "
            "or seconds instead"
        )


def models_without_price(lms: Iterable[str | dspy.BaseLM | None]) -> list[str]:
    """Return the distinct models whose price per token is unknown."""
    there = [lm or dspy.settings.lm for lm in lms]
    prices = PriceTable()
    with offline_prices():
        return sorted({lm.model for lm in there if isinstance(lm, dspy.BaseLM) and prices.price(lm) is None})


def nearest_size(price: Callable[[int], float], target: float, tolerance: float, smallest: int) -> int | None:
    """Return the size whose price is nearest to a target, without exceeding it by more than a tolerance.

    Prices grow approximately linearly with the size. Each next size comes from a line through two known prices, so few
    prices are needed.

    Args:
        price: returns the price of a size. A call may cost something.
        target: the target price.
        tolerance: the share of the target by which it may be exceeded.
        smallest: the smallest size.

    Returns:
        The size, or None if the smallest size already exceeds the target.
    """
    limit = target * (1 + tolerance) + 1e-9
    known = {smallest: price(smallest)}
    if known[smallest] > limit:
        return None
    known[smallest + 1] = price(smallest + 1)
    while True:
        near = min((size for size in known if known[size] <= limit), key=lambda size: abs(known[size] - target))
        over = min((size for size in known if known[size] > limit), default=LARGEST + 1)
        slope = _slope(known, near)
        guess = near + round((target - known[near]) / slope) if slope > 0 else near
        guess = max(smallest, min(guess, over - 1))
        if guess in known:
            return near
        known[guess] = price(guess)


def _slope(known: dict[int, float], size: int) -> float:
    """Return the approximate price of one more sample or layer at this size."""
    other = min((there for there in known if there != size), key=lambda there: abs(there - size))
    return (known[other] - known[size]) / (other - size)
