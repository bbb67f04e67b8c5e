"""How an optimization divides its budget among its parts, and keeps enough for the test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import dspy

from moa_dspy.cost.budget import Amounts
from moa_dspy.cost.usage import Price
from moa_dspy.data.splitting import unit_hash
from moa_dspy.errors import BudgetExhaustedError
from moa_dspy.planning import CostEstimate, evenly_spaced, total
from moa_dspy.program import AttentionMoA

__all__ = ["affordable", "is_limited", "share_of"]

_WEIGHTS: Final[Mapping[str, float]] = {
    "ceiling": 0.0,
    "architecture": 4.0,
    "prompts": 6.0,
    "prompts again": 1.0,
    "stop": 1.0,
    "acceptance": 2.0,
    "gate": 0.0,
    "explanation": 0.0,
}
"""Weights that divide the budget. Each part gets a share of what is left, so later parts get what is unused."""
_MOST_KEPT: Final = 0.5
"""The largest share of what is left that tuning leaves for the test, if the test needs more than its weight gives."""
_LEAST_HELD: Final = 10
"""A test on fewer examples is skipped."""
_MARGIN: Final = 1.25
"""A run over its mean price: retries, and second questions for values that a reply lacks."""
_PLANNED: Final = 5


def is_limited(part: str) -> bool:
    """Return whether a part gets a share of the budget, and not all that is left."""
    return _WEIGHTS[part] > 0


def share_of(stages: Sequence[str], left: Amounts, test: CostEstimate) -> float:
    """Return the share of what is left for the first of the remaining stages. Tuning leaves enough for the test.

    Args:
        stages: the remaining stages.
        left: the rest of the budget.
        test: what the test on all held-out examples costs.
    """
    weights, own = [_WEIGHTS[name] for name in stages], _WEIGHTS["acceptance"]
    if "acceptance" not in stages[1:]:
        return weights[0] / sum(weights)
    kept = max(own / sum(weights), min(_fraction(test, left), _MOST_KEPT))
    return (1 - kept) * weights[0] / (sum(weights) - own)


def affordable(
    held: Sequence[dspy.Example], programs: Mapping[AttentionMoA, Price | None], left: Amounts
) -> list[dspy.Example]:
    """Return the held-out examples, drawn by their content, on which the rest of a budget covers all programs.

    Args:
        held: all held-out examples.
        programs: with the measured price of an example, or None if it must be planned.
        left: the rest of the budget.

    Raises:
        BudgetExhaustedError: if they are too few for a test.
    """
    prices = (_planned(program, held) if price is None else price for program, price in programs.items())
    price = sum(prices, start=Price())
    fraction = len(held) * _MARGIN * _fraction(price, left)
    count = len(held) if fraction <= 1 else int(len(held) / fraction)
    if count < min(len(held), _LEAST_HELD):
        raise BudgetExhaustedError("the budget does not cover the test")
    return sorted(held, key=unit_hash)[:count]


def _planned(program: AttentionMoA, examples: Sequence[dspy.Example]) -> Price:
    sample = evenly_spaced(examples, _PLANNED)
    cost = total(program.plan(one).full for one in sample)
    return Price(calls=cost.calls, tokens=cost.tokens, usd=cost.usd).per(len(sample))


def _fraction(cost: CostEstimate | Price, left: Amounts) -> float:
    """Return what a cost takes of the rest of a budget; infinite if nothing is left of what it takes."""
    pairs = (cost.calls, left.calls), (cost.tokens, left.tokens), (cost.usd or 0.0, left.usd)
    return max((needed / has if has > 0 else math.inf for needed, has in pairs if needed), default=0.0)
