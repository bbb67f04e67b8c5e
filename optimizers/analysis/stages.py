"""Scores of every stage of a recorded run, by the task's metric. No model is called.

Proposals, refinements, aggregates and syntheses have the output fields of the task, so the metric applies to each.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import dspy

from moa_dspy.evaluation.runner import Run, in_threads
from moa_dspy.evaluation.scoring import Metric
from moa_dspy.optimizers.stop_fitting.rescoring import AnswerJudge
from moa_dspy.program import AttentionMoA
from moa_dspy.trace import Stage, Step, Trace

__all__ = ["Pair", "StageScore", "StageScores", "attribute", "attribute_runs"]

_NOT_ANSWERS: Final[tuple[Stage, ...]] = ("agree", "critique", "dissent")

Pair: TypeAlias = tuple[float, float]
"""The score of what a step started from, and the score of its own answer."""


@dataclass(frozen=True)
class StageScore:
    """A step with an answer, and the metric's score of the answer."""

    step: Step
    score: float


@dataclass(frozen=True)
class StageScores:
    """A run with a score for every stage.

    Attributes:
        trace: the run.
        steps: the steps with an answer, in canonical order, without failed steps, critiques and comparisons.
        layers: the score of the accepted output of each layer, H_1 to H_l, or of the last layer if the program passes
            all answers on. The last one is the run's answer.
        passes_answers: whether the agents of a later layer read all answers of the layer before.
        unjudged: the metric's error for each answer on which it raised. These answers score 0.
    """

    trace: Trace
    steps: tuple[StageScore, ...]
    layers: tuple[float, ...]
    unjudged: tuple[str, ...] = ()
    passes_answers: bool = False

    @property
    def answer(self) -> float:
        """Return the score of the run's answer."""
        return self.layers[-1]

    def select(self, layer: int, stage: Stage, agent: str | None = None) -> Iterator[StageScore]:
        """Yield the scored steps of a layer and stage, of one agent or of all."""
        for scored in self.steps:
            step = scored.step
            if (step.layer, step.stage) == (layer, stage) and agent in (None, step.agent):
                yield scored

    def mean(self, layer: int, stage: Stage, agent: str | None = None) -> float | None:
        """Return the mean score of a layer and stage, or None if there is no answer."""
        scores = [scored.score for scored in self.select(layer, stage, agent)]
        return statistics.fmean(scores) if scores else None

    def given(self, step: Step) -> list[float]:
        """Return the scores of the answers that ``step`` started from.

        These are: the previous layer's output, or all its answers, for a proposal (none in the first layer), the
        agent's own proposal for a refinement, all agents' answers for an aggregate, and the layer's aggregate for a
        synthesis.
        """
        if step.stage == "propose" and step.layer > 1 and self.passes_answers:
            return [scored.score for scored in self.candidates(step.layer - 1)]
        if step.stage == "propose":
            return list(self.layers[step.layer - 2 : step.layer - 1]) if step.layer > 1 else []
        if step.stage == "refine":
            return [scored.score for scored in self.select(step.layer, "propose", step.agent)]
        if step.stage == "aggregate":
            return [scored.score for scored in self.candidates(step.layer)]
        if step.stage == "synthesize":
            return [scored.score for scored in self.select(step.layer, "aggregate")]
        return []

    def decision(self, layer: int) -> bool | None:
        """Return whether a layer was judged to improve on the one before; None without a decision."""
        decided = self.trace.improved
        return decided[layer - 2] if layer - 2 < len(decided) else None

    def pairs(self, layer: int, stage: Stage, agent: str | None = None) -> list[Pair]:
        """Return a pair for each step that started from answers: their median score, and the score of its own answer.

        The median of right and wrong answers is the majority.
        """
        made = [(self.given(scored.step), scored.score) for scored in self.select(layer, stage, agent)]
        return [(statistics.median(given), score) for given, score in made if given]

    def candidates(self, layer: int) -> list[StageScore]:
        """Return each agent's last answer in a layer: its refinement, or else its proposal.

        If a layer has none, because it is the aggregator alone, return those of the layer before.
        """
        last = {scored.step.agent: scored for scored in self.select(layer, "propose")}
        last |= {scored.step.agent: scored for scored in self.select(layer, "refine")}
        return list(last.values()) if last or layer == 1 else self.candidates(layer - 1)


def attribute(trace: Trace, example: dspy.Example, metric: Metric, program: AttentionMoA) -> StageScores:
    """Score every answer of a recorded run.

    Equal answers are scored once. An answer on which the metric raises or returns no score scores 0.

    Args:
        trace: a run of ``program``.
        example: the example of the run.
        metric: the task's metric.
        program: the program, which defines the types of the task's fields.
    """
    answers = AnswerJudge(program.signature, trace, example, metric)
    answering = [step for step in trace.steps if step.status == "ok" and step.stage not in _NOT_ANSWERS]
    return StageScores(
        trace=trace,
        steps=tuple(StageScore(step, answers.score(step.outputs)) for step in answering),
        layers=tuple(answers.score(outputs) for outputs in trace.outputs),
        unjudged=answers.errors,
        passes_answers=program.architecture.residual == "answers",
    )


def attribute_runs(runs: Sequence[Run], metric: Metric, program: AttentionMoA, concurrency: int) -> list[StageScores]:
    """Score every answer of the runs that have a trace; see ``attribute``."""
    traced = [(run.trace, run.example) for run in runs if run.trace is not None]
    return in_threads(lambda pair: attribute(*pair, metric, program), traced, concurrency)
