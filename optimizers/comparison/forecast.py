"""The cost of a comparison before it is paid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from moa_dspy.cost.budget import Budget
from moa_dspy.optimizers.comparison.baselines import SMALLEST, Ensemble, singles_of
from moa_dspy.optimizers.comparison.contenders import PROBE, ComparisonRun, nearest_size
from moa_dspy.optimizers.comparison.verdict import PROGRAM
from moa_dspy.optimizers.measuring import Unit
from moa_dspy.optimizers.optimize_budget import CACHED_NOTE, budget_notes, mean_cost
from moa_dspy.planning import CostEstimate, PartEstimate, WorkEstimate, evenly_spaced, total
from moa_dspy.program import AttentionMoA

__all__ = ["estimate"]

_PLANNED = 3  # examples


def estimate(run: ComparisonRun, budget: Budget | None) -> WorkEstimate:
    """Return the estimated cost of ``compare``, by contender. No LM is called.

    A few examples are planned, and their cost is scaled to all examples.
    """
    match, singles, test = run.unit, run.singles, run.test
    sample = evenly_spaced(test, _PLANNED)

    def price(one: AttentionMoA) -> CostEstimate:
        return mean_cost(one, sample)

    def part(name: str, prices: Sequence[CostEstimate], count: float) -> PartEstimate:
        """Return the part of runs of one of several programs, of which any may be chosen."""
        most = reduce(CostEstimate.largest, prices, CostEstimate()).times(count)
        return PartEstimate(part=name, most=most, expected=total(prices).times(count / max(1, len(prices))))

    own = price(run.program)
    parts = [part(name, [price(one)], len(test)) for name, one in {PROGRAM: run.program, **run.own}.items()]
    if run.pilot:
        parts.append(part("pilot", [total(price(single.program) for single in singles)], len(run.pilot)))
    for name in run.names:
        best = singles or singles_of(run.program)[:1]
        if name == "single":
            parts.append(part(name, [price(single.program) for single in best], len(test)))
            continue
        sized = [_sized(Ensemble(name, run.program, single), price, own, match, run.tolerance) for single in best]
        parts.append(part(name, sized, len(test) + (0 if match == "calls" else 2 * min(PROBE, len(test)))))
    notes = [CACHED_NOTE]
    if match != "calls":
        notes.append(f"sizes follow from the measured {match}; one that spends too much runs again, smaller")
    return WorkEstimate(parts=tuple(parts), notes=(*notes, *budget_notes(budget)))


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

    size = nearest_size(lambda size: spend(price(ensemble.build(size))), spend(own), tolerance, SMALLEST)
    return CostEstimate() if size is None else price(ensemble.build(size))
