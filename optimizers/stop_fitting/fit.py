"""Fits the depth and the stop rule of a program on recorded decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dspy

from moa_dspy.cost.budget import Budget
from moa_dspy.cost.usage import Price
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.runner import Run
from moa_dspy.optimizers.measuring import Metric, guard_of, run_examples
from moa_dspy.optimizers.stop_fitting.replay import StopRule, decisions_of, grade, stop_rules, thresholds_of
from moa_dspy.optimizers.stop_fitting.rescoring import Depth, depth_curve
from moa_dspy.program import AttentionMoA

if TYPE_CHECKING:
    from moa_dspy.optimizers.search.space import SearchSpace

__all__ = ["StopFit", "fit_stop_rule"]


@dataclass(frozen=True)
class StopFit:
    """A program with its fitted depth and stop rule.

    Attributes:
        program: the program with the chosen rule.
        before: the program's previous rule.
        chosen: the chosen rule, with score and price on the examples.
        curve: all rules that were tried.
    """

    program: AttentionMoA
    before: StopRule
    chosen: Depth
    curve: tuple[Depth, ...]

    @property
    def graded(self) -> bool:
        """Return whether the synthesis is asked for the probability of an improvement instead of yes or no."""
        return self.chosen.rule.threshold is not None

    @property
    def report(self) -> dict[str, Any]:
        """Return everything except the program, as JSON values."""
        return {
            "kind": "stop",
            "before": str(self.before),
            "chosen": self.chosen.to_dict(),
            "graded": self.graded,
            "curve": [depth.to_dict() for depth in self.curve],
        }


def fit_stop_rule(
    program: AttentionMoA,
    *,
    trainset: Sequence[dspy.Example],
    metric: Metric,
    concurrency: int = 8,
    budget: Budget | None = None,
    affordable: Callable[[Price], bool] = lambda _: True,
    space: SearchSpace | None = None,
    progress: Callable[[Run], None] | None = None,
) -> StopFit:
    """Choose the depth, and the probability of an improvement at which a run continues.

    The program runs on the examples to its full depth without stopping. If its layers are joined by synthesis, it runs
    once more with the synthesis asked for probabilities. The score of every rule is computed from these runs. Ties are
    broken by fewer calls, then by the program's own rule, then by yes or no instead of probabilities.

    Args:
        program: a program of at least two layers.
        trainset: examples to fit on.
        metric: the task's metric. An answer on which it raises scores 0.
        concurrency: maximum number of concurrent examples.
        budget: limits.
        affordable: whether an example may cost this price. If no rule is affordable, the cheapest is chosen.
        space: the allowed depths, stops and thresholds; default: all.
        progress: called with each finished run; the runs are not scored yet.

    Raises:
        BudgetExhaustedError: if the budget does not cover all runs.
        ConfigurationError: if the program has a stop condition of its own.
    """
    shape, guard = program.architecture, guard_of(budget, program)
    if not isinstance(shape.early_stop, bool):
        raise ConfigurationError(
            f"stop condition {type(shape.early_stop).__name__} cannot be fitted; use program.replace(early_stop=True)"
        )
    depths = [depth for depth in shape.output_layers if space is None or depth in space.layers] or [shape.layers]
    stops = (False,) if not shape.synthesizes else (False, True) if space is None else space.early_stop
    before = StopRule(shape.layers, shape.synthesizes and shape.early_stop)

    def runs_of(one: AttentionMoA) -> Sequence[Run]:
        return run_examples(
            one, trainset, None, guard=guard, concurrency=concurrency, on_run=progress, keep_traces=True
        ).runs

    deep = program.replace(early_stop=False)
    curve = depth_curve(deep, runs_of(deep), metric, stop_rules(depths, stops))
    if True in stops:
        graded = program.replace(early_stop=False)
        grade(graded)
        runs = runs_of(graded)
        recorded = thresholds_of(decisions_of(run.trace) for run in runs if run.trace is not None)
        thresholds = recorded if space is None else space.thresholds or recorded
        rules = [rule for rule in stop_rules(depths, stops, thresholds) if rule.threshold is not None]
        curve += depth_curve(graded, runs, metric, rules) if rules else []
    chosen = _best(curve, before, affordable)
    return StopFit(_with_rule(program, chosen.rule), before, chosen, tuple(curve))


def _best(curve: Sequence[Depth], before: StopRule, affordable: Callable[[Price], bool]) -> Depth:
    cheapest = min(curve, key=lambda depth: (depth.price.calls, depth.price.tokens))
    return max(
        [depth for depth in curve if affordable(depth.price)] or [cheapest],
        key=lambda depth: (
            depth.score.value,
            -depth.price.calls,
            depth.rule == before,
            depth.rule.threshold is None,
        ),
    )


def _with_rule(program: AttentionMoA, rule: StopRule) -> AttentionMoA:
    residual = program.architecture.residual if rule.layers > 1 else "synthesis"
    stop = rule.early_stop if rule.layers > 1 else True
    fitted = program.replace(layers=rule.layers, early_stop=stop, residual=residual)
    if rule.threshold is not None and fitted.architecture.synthesizes:
        grade(fitted, rule.threshold)
    return fitted
