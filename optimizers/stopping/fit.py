"""Depth and stop rule of a finished program, fitted on decisions that are recorded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dspy

from moa_dspy.optimizers.measuring import Measurement, Metric, Run, measure
from moa_dspy.optimizers.purse import Purse
from moa_dspy.optimizers.stopping.depth import Depth, Price, depth_curve
from moa_dspy.optimizers.stopping.rules import StopRule, decisions_of, grade, stop_rules, thresholds_of
from moa_dspy.program import AttentionMoA

if TYPE_CHECKING:
    from moa_dspy.optimizers.search.space import SearchSpace

__all__ = ["StopFit", "fit_stop_rule"]


@dataclass(frozen=True)
class StopFit:
    """How far a program had best go.

    Attributes:
        program: with the rule that was chosen.
        before: the rule that it had.
        chosen: the rule that it has, with score and price on the examples.
        graded: whether its synthesis is asked for the probability of an improvement instead of yes or no.
        curve: all rules that were tried.
    """

    program: AttentionMoA
    before: StopRule
    chosen: Depth
    graded: bool
    curve: tuple[Depth, ...]

    @property
    def report(self) -> dict[str, Any]:
        """Return everything but the program, as JSON values."""
        curve, chosen = [depth.to_dict() for depth in self.curve], self.chosen.to_dict()
        return {"kind": "stop", "before": str(self.before), "chosen": chosen, "graded": self.graded, "curve": curve}


def fit_stop_rule(
    program: AttentionMoA,
    examples: Sequence[dspy.Example],
    metric: Metric,
    *,
    concurrency: int = 8,
    purse: Purse | None = None,
    affordable: Callable[[Price], bool] = lambda _: True,
    space: SearchSpace | None = None,
    on_run: Callable[[Run], None] | None = None,
) -> StopFit:
    """Choose the depth, and from which probability of an improvement on a run goes on.

    The program runs on the examples to its full depth without stopping, and, where its layers are joined by synthesis,
    once more with the synthesis asked for probabilities. Every rule is then read off these runs. The best score counts,
    then the fewest calls; of equals, the rule that the program has, then one with yes or no. An answer that the metric
    raises on scores 0.

    Args:
        program: of at least two layers.
        examples: to tune on.
        metric: the task's.
        concurrency: runs under way at once.
        purse: what may be spent.
        affordable: whether an example may cost so much; where no rule is cheap enough, the cheapest is taken.
        space: the depths, stops and thresholds that are allowed; default: all of them.
        on_run: told of each run as it ends.

    Raises:
        BudgetExhaustedError: the purse does not cover all runs.
    """
    shape = program.architecture
    depths, stops = _allowed(program, space)
    before = StopRule(shape.layers, shape.synthesizes and shape.early_stop)

    def measured(one: AttentionMoA) -> Measurement:
        return measure(one, examples, metric, concurrency=concurrency, on_run=on_run, purse=purse)

    deep = program.replace(early_stop=False)
    found = [(depth, False) for depth in depth_curve(deep, measured(deep).runs, metric, stop_rules(depths, stops))]
    if True in stops:
        graded = program.replace(early_stop=False)
        grade(graded)
        runs = measured(graded).runs
        recorded = thresholds_of(decisions_of(run.trace) for run in runs if run.trace is not None)
        thresholds = recorded if space is None else space.thresholds or recorded
        rules = [rule for rule in stop_rules(depths, stops, thresholds) if rule.threshold is not None]
        found += [(depth, True) for depth in depth_curve(graded, runs, metric, rules)]
    within = [item for item in found if affordable(item[0].price)]
    cheapest = min(found, key=lambda item: (item[0].price.calls, item[0].price.tokens))
    chosen, with_probability = max(
        within or [cheapest],
        key=lambda item: (item[0].score.value, -item[0].price.calls, item[0].rule == before, not item[1]),
    )
    return StopFit(
        program=_with_rule(program, chosen.rule, graded=with_probability),
        before=before,
        chosen=chosen,
        graded=with_probability,
        curve=tuple(depth for depth, _ in found),
    )


def _allowed(program: AttentionMoA, space: SearchSpace | None) -> tuple[Sequence[int], Sequence[bool]]:
    """The depths, and whether runs may stop early, may not, or both; a depth that there is none of is the program's."""
    shape = program.architecture
    depths = [depth for depth in range(1, shape.layers + 1) if space is None or depth in space.layers]
    stops = (False, True) if space is None else tuple(space.early_stop)
    return depths or [shape.layers], stops if shape.synthesizes else (False,)


def _with_rule(program: AttentionMoA, rule: StopRule, *, graded: bool) -> AttentionMoA:
    shape = program.architecture
    residual = shape.residual if rule.layers > 1 else "synthesis"
    early_stop = rule.early_stop if rule.layers > 1 else True
    made = program.replace(layers=rule.layers, early_stop=early_stop, residual=residual)
    if graded and made.architecture.synthesizes:
        grade(made, rule.threshold)
    return made
