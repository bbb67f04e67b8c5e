"""How an optimization divides its budget among its parts, and keeps enough for the test."""

from __future__ import annotations

import bisect
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final

import dspy

from moa_dspy.cost.budget import Amounts, Budget, BudgetGuard
from moa_dspy.cost.usage import Price
from moa_dspy.data.splitting import unit_hash
from moa_dspy.errors import BudgetExhaustedError, BudgetTooSmallError
from moa_dspy.optimizers.measuring import CachedRuns
from moa_dspy.planning import CostEstimate, evenly_spaced, total
from moa_dspy.program import AttentionMoA

__all__ = [
    "CACHED_NOTE",
    "LEAST_HELD",
    "affordable",
    "budget_notes",
    "check_covers",
    "fraction_of",
    "is_limited",
    "least_calls",
    "least_paid",
    "limits_of",
    "mean_cost",
    "share_of",
    "smallest_calls",
]

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
LEAST_HELD: Final = 10
"""A test on fewer examples is skipped."""
_MARGIN: Final = 1.25
"""A run over its mean price: retries, and second questions for values that a reply lacks."""
_PLANNED: Final = 5


CACHED_NOTE: Final = "calls that the response cache answers are included, and cost nothing; retries and judges are not"


def limits_of(budget: Budget | None) -> dict[str, float]:
    """Return the limits of a budget, by name."""
    limits = {} if budget is None else asdict(budget)
    return {name: value for name, value in limits.items() if value is not None}


def budget_notes(budget: Budget | None) -> list[str]:
    """Return the limits of a budget as a note of an estimate; empty without a budget."""
    limits = ", ".join(f"{value:g} {name}" for name, value in limits_of(budget).items())
    return [] if budget is None else [f"the budget ends it at {limits}"]


def is_limited(part: str) -> bool:
    """Return whether a part gets a share of the budget, and not all that is left."""
    return _WEIGHTS[part] > 0


def share_of(stages: Sequence[str], left: Amounts, test: CostEstimate) -> float:
    """Return the share of what is left for the first of the remaining stages. Tuning leaves enough for the test."""
    weights, own = [_WEIGHTS[name] for name in stages], _WEIGHTS["acceptance"]
    if "acceptance" not in stages[1:]:
        return weights[0] / sum(weights)
    kept = max(own / sum(weights), min(fraction_of(test, left), _MOST_KEPT))
    return (1 - kept) * weights[0] / (sum(weights) - own)


def least_calls(program: AttentionMoA, examples: Sequence[dspy.Example]) -> int:
    """Return the calls of runs on all examples that stop as early as possible, as planned on a few of them."""
    few = evenly_spaced(examples, _PLANNED)
    return math.floor(sum(program.plan(one).minimum.calls for one in few) / len(few) * len(examples))


def least_paid(
    program: AttentionMoA, examples: Sequence[dspy.Example], further: int = 0, *, of: AttentionMoA | None = None
) -> int:
    """Return the calls of ``least_calls`` that the response cache does not answer, and calls that must follow.

    If it answers all of them, it may answer those that follow, too, so these do not count. ``of`` is the program that
    runs, if it is another form of ``program``.
    """
    unpaid = CachedRuns(of or program).lacks(examples)
    return least_calls(program, unpaid) + further if unpaid else 0


def check_covers(
    guard: BudgetGuard,
    program: AttentionMoA,
    examples: Sequence[dspy.Example],
    what: str,
    further: int = 0,
    *,
    of: AttentionMoA | None = None,
) -> None:
    """Check that a budget covers what ``least_paid`` returns for the same arguments, before anything is paid for it.

    Raises:
        BudgetTooSmallError: if it does not. ``what`` names the runs.
    """
    left = guard.left.calls
    if left == math.inf:
        return
    needed = least_paid(program, examples, further, of=of)
    if needed > left:
        raise BudgetTooSmallError(
            f"the budget does not cover {what} on {len(examples)} examples: they take at least {needed:,} calls, and "
            f"{max(left, 0):,.0f} are left for them; raise it, or give fewer examples"
        )


def smallest_calls(stages: Sequence[str], needs: Mapping[str, int], test: CostEstimate, least: int) -> int:
    """Return the smallest number of calls with which one part can start, and what it finds can be tested.

    Args:
        stages: all stages, in order.
        needs: the calls that the parts need at least, by stage.
        test: what the test on all held-out examples costs.
        least: the calls of the smallest test.
    """

    def covers(calls: int) -> bool:
        left = Amounts(calls, math.inf, math.inf, math.inf)
        shares = {
            stage: share_of(stages[number:], left, test) if is_limited(stage) else 1.0
            for number, stage in enumerate(stages)
            if stage in needs
        }
        return any(needs[stage] <= calls * share and needs[stage] + least <= calls for stage, share in shares.items())

    return bisect.bisect_left(range(sys.maxsize), True, key=covers)


def affordable(
    held: Sequence[dspy.Example], programs: Mapping[AttentionMoA, Price | None], left: Amounts
) -> list[dspy.Example]:
    """Return the held-out examples, drawn by their content, on which the rest of a budget covers all programs.

    Runs that the response cache answers cost nothing.

    Each program has the measured price of an example, or None if it must be planned.

    Raises:
        BudgetExhaustedError: if they are too few for a test.
    """
    sample, price = evenly_spaced(held, _PLANNED), Price()
    for program, measured in programs.items():
        one = mean_cost(program, sample) if measured is None else measured
        unpaid = len(CachedRuns(program).lacks(held)) / len(held)
        price += Price(calls=one.calls * unpaid, tokens=one.tokens * unpaid, usd=one.usd and one.usd * unpaid)
    fraction = len(held) * _MARGIN * fraction_of(price, left)
    count = len(held) if fraction <= 1 else int(len(held) / fraction)
    if count < min(len(held), LEAST_HELD):
        raise BudgetExhaustedError("the budget does not cover the test")
    return sorted(held, key=unit_hash)[:count]


def mean_cost(program: AttentionMoA, sample: Sequence[dspy.Example]) -> CostEstimate:
    """Return the planned cost of an example."""
    return total(program.plan(example).full for example in sample).times(1 / len(sample))


def fraction_of(cost: CostEstimate | Price, left: Amounts) -> float:
    """Return what a cost takes of the rest of a budget; infinite if nothing is left of what it takes."""
    pairs = (cost.calls, left.calls), (cost.tokens, left.tokens), (cost.usd or 0.0, left.usd)
    return max((needed / has if has > 0 else math.inf for needed, has in pairs if needed), default=0.0)
