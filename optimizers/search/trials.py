"""One trial: runs a design at its largest depth on growing batches of examples, and ends early if it cannot win."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from optuna import Study, Trial
from optuna.trial import TrialState

from moa_dspy.cost.budget import BudgetGuard
from moa_dspy.cost.usage import Price
from moa_dspy.errors import AllRunsFailedError, ConfigurationError
from moa_dspy.optimizers.measuring import Metric, Run, run_examples
from moa_dspy.optimizers.search.designs import BoundSpace, Design
from moa_dspy.optimizers.search.objective import Objective, cannot_win, pick_rule
from moa_dspy.optimizers.search.results import front_of, incumbents_of
from moa_dspy.optimizers.stop_fitting.replay import StopRule
from moa_dspy.optimizers.stop_fitting.rescoring import Rescored, StopRuleScores, score_rules

__all__ = ["Pruning", "TrialRunner"]


@dataclass(frozen=True)
class Pruning:
    """When a trial ends early. A trial runs growing batches of examples; after each, it ends if it cannot win.

    Args:
        first_batch: examples of the first batch; None is an eighth of all, at least 4. From batch to batch the
            number of examples doubles.
        level: one-sided level of the paired test; 0 ends no trial.

    Raises:
        ConfigurationError: if a value is out of range.
    """

    first_batch: int | None = None
    level: float = 0.2

    def __post_init__(self) -> None:
        if self.first_batch is not None and self.first_batch < 1:
            raise ConfigurationError(f"first_batch={self.first_batch!r} must be at least 1")
        if not 0 <= self.level < 1:
            raise ConfigurationError(f"level={self.level!r} of Pruning must be from 0 to below 1")

    def sizes(self, examples: int) -> list[int]:
        """Return the number of examples after each batch, for a number of all examples."""
        first = max(4, examples // 8) if self.first_batch is None else self.first_batch
        doublings = range(max(0, math.ceil(math.log2(examples / first))))
        return [*(first * 2**k for k in doublings), examples]


@dataclass(frozen=True)
class TrialRunner:
    """Runs the trials of a study, one at a time. Every trial runs the examples in their order.

    ``on_batch`` is called with the number of examples that a trial has run.
    """

    study: Study
    bound: BoundSpace
    examples: Sequence[dspy.Example]
    metric: Metric
    objective: Objective
    pruning: Pruning
    guard: BudgetGuard
    concurrency: int
    on_batch: Callable[[Trial, int], None]

    def run(self, trial: Trial, design: Design) -> tuple[TrialState, list[float] | None]:
        """Run ``trial``, record it in its attributes, and return its state and values for Optuna.

        A pruned trial has no values. Otherwise Optuna would treat them as a point of its front.

        Raises:
            BudgetExhaustedError: if the budget ends first. The scores so far are recorded.
            AllRunsFailedError: if every run of a batch failed, or if the metric never judged an answer.
        """
        program, rules = self.bound.program(design), self.bound.rules(design)
        scores, unjudged = StopRuleScores(), list[str]()
        rule, pruned = rules[-1], False
        for size in self.pruning.sizes(len(self.examples)):
            runs = run_examples(
                program,
                self.examples[scores.examples : size],
                None,
                guard=self.guard,
                concurrency=self.concurrency,
                keep_traces=True,
                succeeded=scores.examples > 0,
            ).runs
            batch = score_rules(program, runs, rules, self.metric, concurrency=self.concurrency)
            self._check_judged(trial, runs, batch)
            unjudged += batch.errors
            scores.extend(batch.scores)
            rule = self._record(trial, scores)
            self.on_batch(trial, size)
            pruned = size < len(self.examples) and self._cannot_win(scores)
            if pruned:
                trial.set_user_attr("pruned_after", size)
                break
        self._conclude(trial, design, scores, rule, unjudged)
        if pruned:
            return TrialState.PRUNED, None
        price = scores[rule].mean_price
        if self.objective.price is not None:
            trial.set_constraint("price", self.objective.excess(price))
        return TrialState.COMPLETE, self.objective.values(scores[rule].score, price)

    def _check_judged(self, trial: Trial, runs: Sequence[Run], batch: Rescored) -> None:
        """Raise AllRunsFailedError if the metric judged no answer of this batch and of the study so far.

        It is then probably broken.
        """
        if batch.judged:
            trial.set_user_attr("judged", True)
        elif not any(other.user_attrs.get("judged") for other in self.study.get_trials(deepcopy=False)):
            reasons = [*batch.errors, *(run.error for run in runs if run.error)]
            raise AllRunsFailedError(f"no answer could be judged: {reasons[0]}")

    def _record(self, trial: Trial, scores: StopRuleScores) -> StopRule:
        """Record the scores so far in as few writes as possible, because databases are slow."""
        front = front_of(self.study, self.objective) if self.objective.two else []
        rule = pick_rule(scores, self.objective, [(point.scores.score, point.cost) for point in front])
        trial.set_user_attr("rules", scores.to_attrs())
        if not self.objective.two:
            trial.report(scores[rule].score, scores.examples)
        return rule

    def _conclude(
        self, trial: Trial, design: Design, scores: StopRuleScores, rule: StopRule, unjudged: Sequence[str]
    ) -> None:
        attrs: dict[str, Any] = {
            "rule": str(rule),
            "score": scores[rule].score,
            "price": (scores[rule].mean_price or Price()).model_dump(),
            "architecture": self.bound.program(design, rule).architecture.model_dump(mode="json"),
        }
        if unjudged:
            attrs["unjudged"] = {"answers": len(unjudged), "first": unjudged[0]}
        for name, value in attrs.items():
            trial.set_user_attr(name, value)

    def _cannot_win(self, scores: StopRuleScores) -> bool:
        level = self.pruning.level
        return level > 0 and cannot_win(scores, incumbents_of(self.study, self.objective), self.objective, level)
