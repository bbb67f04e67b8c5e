"""The cost of a comparison before it is paid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce

import dspy

from moa_dspy.cost.budget import Budget
from moa_dspy.optimizers.comparison.baselines import BaselineName, Ensemble, Single, singles_of
from moa_dspy.optimizers.comparison.contenders import PROBE, nearest_size
from moa_dspy.optimizers.measuring import Unit
from moa_dspy.planning import CostEstimate, PartEstimate, WorkEstimate, evenly_spaced, total
from moa_dspy.program import AttentionMoA

__all__ = ["estimate"]

_PLANNED = 3  # examples


def estimate(
    program: AttentionMoA,
    others: Mapping[str, AttentionMoA],
    names: Sequence[BaselineName],
    singles: Sequence[Single],
    test: Sequence[dspy.Example],
    pilot: int,
    *,
    match: Unit,
    tolerance: float,
    budget: Budget | None,
) -> WorkEstimate:
    """Return the estimated cost of ``compare``, by contender. No LM is called.

    A few examples are planned, and their cost is scaled to all examples.

    Args:
        program: the program.
        others: the caller's own programs by name.
        names: the baselines to build.
        singles: the single models of which one is chosen; empty if no baseline needs the best of them.
        test: the test examples.
        pilot: number of other examples, which choose the single model.
        match: unit of the matched spend.
        tolerance: the share by which a baseline may exceed it.
        budget: limits of the comparison.
    """
    sample = evenly_spaced(test, _PLANNED)

    def price(one: AttentionMoA) -> CostEstimate:
        return total(one.plan(example).full for example in sample).times(1 / len(sample))

    def part(name: str, prices: Sequence[CostEstimate], count: float) -> PartEstimate:
        """Return the part of runs of one of several programs, of which any may be chosen."""
        most = reduce(CostEstimate.largest, prices, CostEstimate()).times(count)
        return PartEstimate(part=name, most=most, expected=total(prices).times(count / max(1, len(prices))))

    own = price(program)
    parts = [part("program", [own], len(test)), *(part(name, [price(one)], len(test)) for name, one in others.items())]
    if pilot:
        parts.append(part("pilot", [total(price(single.program) for single in singles)], pilot))
    for name in names:
        best = singles or singles_of(program)[:1]
        if name == "single":
            parts.append(part(name, [price(single.program) for single in best], len(test)))
            continue
        sized = [_sized(Ensemble(name, program, single), price, own, match, tolerance) for single in best]
        parts.append(part(name, sized, len(test) + (0 if match == "calls" else 2 * min(PROBE, len(test)))))
    return WorkEstimate(parts=tuple(parts), notes=_notes(match, budget))


def _sized(
    ensemble: Ensemble,
    price: Callable[[AttentionMoA], CostEstimate],
    own: CostEstimate,
    match: Unit,
    tolerance: float,
) -> CostEstimate:
    """Return the planned price of a baseline at the size that matches the program's; nothing if none does."""

    def spend(cost: CostEstimate) -> float:
        return float(cost.usd_at_least if match == "usd" else cost.calls if match == "calls" else cost.tokens)

    size = nearest_size(lambda size: spend(price(ensemble.build(size))), spend(own), tolerance, ensemble.smallest)
    return CostEstimate() if size is None else price(ensemble.build(size))


def _notes(match: Unit, budget: Budget | None) -> tuple[str, ...]:
    notes = ["calls that the response cache answers are included, and cost nothing; retries and judges are not"]
    if match != "calls":
        notes.append(f"sizes follow from the measured {match}; one that spends too much runs again, smaller")
    if budget is not None:
        limits = ", ".join(f"{value:g} {name}" for name, value in asdict(budget).items() if value is not None)
        notes.append(f"the budget ends it at {limits}")
    return tuple(notes)
