"""Matched spend: what an example costs where nothing is cached, and the size that comes nearest to a target."""

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
"""No baseline gets more samples or layers."""

UNKNOWN_PRICE: Final = "dollars cannot be matched: {why}; use match='tokens' or match='calls'"


def mean_price(runs: Iterable[Run]) -> Price:
    """Return what a run would have cost without the response cache, as a mean over those that did not fail.

    Raises:
        RunError: all failed.
    """
    runs = list(runs)
    price = runs_price(runs)
    if price is None:
        raise RunError(f"every run failed; the first one: {runs[0].error}")
    return price


def amount(price: Price, unit: Unit) -> float:
    """Return a price in one unit.

    Raises:
        ConfigurationError: it is asked for in dollars, and not known.
    """
    value = getattr(price, unit)
    if value is None:
        raise ConfigurationError(UNKNOWN_PRICE.format(why="the price of a model is not known"))
    return float(value)


def check_price(program: AttentionMoA, others: Iterable[AttentionMoA], example: object) -> None:
    """Refuse programs whose dollars cannot be matched, before anything is paid.

    Args:
        program: whose spend is matched.
        others: what it is compared with; these may cost nothing.
        example: one that it answers.

    Raises:
        ConfigurationError: a model's price is unknown, or all of the program's are free.
    """
    unknown = models_without_price(lm for one in (program, *others) for lm in models_of(one))
    if unknown:
        raise ConfigurationError(UNKNOWN_PRICE.format(why=f"the price of {', '.join(unknown)} is not known"))
    if not program.plan(example).full.usd:  # type: ignore[arg-type, unused-ignore]
        raise ConfigurationError(UNKNOWN_PRICE.format(why="the program's models cost nothing"))


def check_budget(budget: Budget | None, lms: Iterable[str | dspy.BaseLM | None]) -> None:
    """Refuse a budget in dollars that could not be kept, since calls without a known price count as free.

    Args:
        budget: what may be spent.
        lms: all models that may be asked; None is the one that DSPy is configured with.

    Raises:
        ConfigurationError: names the models whose price is not known.
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
    """Return the models whose price per token is not known, each once."""
    there = [lm or dspy.settings.lm for lm in lms]
    prices = PriceTable()
    with offline_prices():
        return sorted({lm.model for lm in there if isinstance(lm, dspy.BaseLM) and prices.price(lm) is None})


def nearest_size(price: Callable[[int], float], target: float, tolerance: float, smallest: int) -> int | None:
    """Return the size whose price is nearest to a target, without exceeding it by more than a tolerance.

    Prices grow about linearly with the size, so that a line through those known says what to look at next, and few
    need be found out.

    Args:
        price: of a size; may cost something to find out.
        target: the price to come near to.
        tolerance: share of the target by which it may be exceeded.
        smallest: the least size.

    Returns:
        None where the smallest size already exceeds it.
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
    """What one more costs about there."""
    other = min((there for there in known if there != size), key=lambda there: abs(there - size))
    return (known[other] - known[size]) / (other - size)
