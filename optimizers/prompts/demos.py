"""Which steps of an accepted run may become demos: those that are right themselves.

An ensemble is often right although one of its agents is not. DSPy's optimizers make demos of all steps of a run whose
answer the metric accepts, so wrong answers of single agents would be shown as models to follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import dspy
from pydantic_core import to_jsonable_python

from moa_dspy.evaluation.scoring import Metric, call_metric
from moa_dspy.optimizers.analysis.stages import StageScores, attribute
from moa_dspy.program import AttentionMoA
from moa_dspy.trace import Step, Trace

__all__ = ["is_accepted", "keep_right_steps", "right_demos_only", "steps_of"]

Captured: TypeAlias = list[Any]
"""A DSPy trace: predictor, inputs and outputs of each successful call."""


def keep_right_steps(
    captured: Captured,
    prediction: Any,
    example: dspy.Example,
    metric: Metric,
    program: AttentionMoA,
    threshold: float | None = None,
) -> tuple[str, ...]:
    """Remove the calls from a run's DSPy trace that must not become demos.

    A call with the outputs of the task is kept if the metric accepts its answer. A critique is kept if the answer that
    it criticised was refined to an accepted one. A synthesis must also have decided rightly. Other calls are kept.
    The trace is changed in place, because DSPy's optimizers read it after the metric. The metric gets it unchanged.

    Returns:
        The metric's error for each answer on which it raised.
    """
    record = getattr(prediction, "trace", None)
    if not isinstance(record, Trace):
        return ()
    whole = list(captured)

    scores = attribute(record, example, lambda one, answer, *_: call_metric(metric, one, answer, whole), program)
    pairs = zip(whole, steps_of(record, whole), strict=True)
    captured[:] = [entry for entry, step in pairs if step is not None and _is_right(scores, step, threshold)]
    return scores.unjudged


def right_demos_only(strategy: Callable[..., bool], metric: Metric, program: AttentionMoA) -> Callable[..., bool]:
    """Return SIMBA's strategy that adds demos, for right steps only. Other strategies are returned as they are."""
    if strategy.__name__ != "append_a_demo_":
        return strategy

    def append_right_demos(bucket: Any, system: Any, **options: Any) -> bool:
        best = dict(bucket[0], trace=list(bucket[0]["trace"]))
        keep_right_steps(best["trace"], best["prediction"], best["example"], metric, program)
        return strategy([best, *bucket[1:]], system, **options)

    append_right_demos.__name__ = strategy.__name__
    return append_right_demos


def steps_of(record: Trace, captured: Captured) -> list[Step | None]:
    """Return the step of each call in a DSPy trace, which has one for each successful step, in canonical order."""
    asked = [step for step in record.steps if step.status == "ok" and step.model is not None]
    if len(asked) == len(captured):
        return list(asked)
    written = [to_jsonable_python(dict(outputs), fallback=str) for _, _, outputs in captured]
    return [next((step for step in asked if step.outputs == outputs), None) for outputs in written]


def is_accepted(score: float, threshold: float | None) -> bool:
    """Return whether an answer is accepted: its score reaches the threshold, or is above 0 if there is none."""
    return score >= threshold if threshold else score > 0


def _is_right(scores: StageScores, step: Step, threshold: float | None) -> bool:
    if step.stage == "critique":
        parts = scores.trace.select(layer=step.layer, stage="critique", agent=step.agent)
        targets = [step.target] if step.target is not None else [part.target for part in parts if part.target]
        refined = [next(scores.select(step.layer, "refine", target), None) for target in targets]
        return all(one is not None and is_accepted(one.score, threshold) for one in refined)
    own = next((one.score for one in scores.steps if one.step is step), None)
    if own is None:
        return True  # it has no answer: a comparison
    return is_accepted(own, threshold) and not (step.stage == "synthesize" and _decided_wrongly(scores, step))


def _decided_wrongly(scores: StageScores, step: Step) -> bool:
    """Return whether a synthesis said that a better newest answer does not improve, or that a worse one does."""
    newest, decision = next(scores.select(step.layer, "aggregate"), None), scores.decision(step.layer)
    if newest is None or decision is None:
        return False
    change = newest.score - scores.layers[step.layer - 2]
    return change < 0 if decision else change > 0
