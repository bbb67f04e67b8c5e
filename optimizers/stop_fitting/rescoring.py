"""Scores of all depths and stop rules, computed from recorded runs of one deep program without LM calls.

A layer's prompts do not depend on the number of layers. A shallower program, or one that stops early, therefore makes
exactly the calls of the deep run's first layers, and returns the output that the deep run recorded there. Its cost is
the sum over the steps of those layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydantic

from moa_dspy.errors import MetricError
from moa_dspy.evaluation.answering import in_threads
from moa_dspy.evaluation.runs import Price, Run, price_of
from moa_dspy.evaluation.scoring import Judgement, Metric, judge
from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.stop_fitting.replay import StopRule, decisions_of, end_of, stop_rules, thresholds_of
from moa_dspy.program import AttentionMoA, Prediction
from moa_dspy.trace import Trace

__all__ = [
    "Depth",
    "Price",
    "Reading",
    "RuleScores",
    "depth_curve",
    "fit_stop",
    "prediction_of",
    "price_of",
    "readings_of",
    "score_rules",
]


@dataclass(frozen=True)
class Reading:
    """The result of a recorded run under a stop rule.

    Attributes:
        outputs: the program's answer under the rule, as JSON values.
        price: the price of the run under the rule.
    """

    outputs: dict[str, Any]
    price: Price


@dataclass(frozen=True)
class RuleScores:
    """A run's score and price under every stop rule.

    Attributes:
        scores: score by rule; 0 if the run failed or the metric raised.
        prices: price by rule; None if the run failed.
        errors: the metric's error for each answer on which it raised.
        judged: whether the metric judged any answer.
    """

    scores: Mapping[StopRule, float]
    prices: Mapping[StopRule, Price] | None
    errors: tuple[str, ...] = ()
    judged: bool = True


@dataclass(frozen=True)
class Depth:
    """A program's score and price under a stop rule.

    Attributes:
        rule: depth and stop condition.
        score: score over the examples.
        price: mean price of an example.
    """

    rule: StopRule
    score: Score
    price: Price

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON values."""
        stop = {"layers": self.rule.layers, "early_stop": self.rule.early_stop, "threshold": self.rule.threshold}
        return {**stop, "score": self.score.model_dump(), "price": self.price.model_dump()}


def readings_of(trace: Trace, rules: Sequence[StopRule]) -> dict[StopRule, Reading]:
    """Return the result of a run under each of ``rules``.

    Args:
        trace: a run without early stopping, at least as deep as the deepest rule.
        rules: see ``moa_dspy.optimizers.stop_fitting.replay``.
    """
    decisions = decisions_of(trace)
    ends = {rule: end_of(rule, decisions, len(trace.outputs)) for rule in rules}
    prices = {paid: price_of(trace, paid) for paid in {end.paid for end in ends.values()}}
    return {rule: Reading(trace.outputs[end.answer - 1], prices[end.paid]) for rule, end in ends.items()}


def prediction_of(program: AttentionMoA, outputs: dict[str, Any], trace: Trace) -> Prediction:
    """Return recorded outputs as a prediction of the program."""
    fields = program.signature.output_fields
    types: dict[str, Any] = {name: fields[name].annotation for name in outputs}
    typed = {name: pydantic.TypeAdapter(types[name]).validate_python(outputs[name]) for name in outputs}
    return Prediction(**typed, trace=trace)


def score_rules(
    program: AttentionMoA, runs: Sequence[Run], rules: Sequence[StopRule], metric: Metric, *, concurrency: int = 1
) -> list[RuleScores]:
    """Score recorded runs under every stop rule. Equal answers of a run are scored once. No LM call is made.

    Args:
        program: the program that made the runs, without early stopping.
        runs: runs with their traces; failed runs have none.
        rules: no deeper than the program.
        metric: the task's metric.
        concurrency: number of runs scored at once.

    Raises:
        ConfigurationError: if the metric returns something that is not a score.
    """
    return in_threads(lambda run: _score(program, run, rules, metric), runs, concurrency)


def depth_curve(
    program: AttentionMoA, runs: Sequence[Run], metric: Metric, rules: Sequence[StopRule] | None = None
) -> list[Depth]:
    """Return the scores of shallower programs, computed from recorded runs of a deep one. No LM call is made.

    Args:
        program: the program that made the runs, without early stopping.
        runs: at least one, with traces (``measure(..., keep_traces=True)``).
        metric: the task's metric.
        rules: default: every depth without early stopping and, if layers are joined by synthesis, with it.

    Raises:
        MetricError: if the metric raises on every answer.
    """
    stops = (False, True) if program.architecture.synthesizes else (False,)
    rules = rules or stop_rules(range(1, program.architecture.layers + 1), stops)
    scored = score_rules(program, runs, rules, metric)
    prices = [one.prices for one in scored if one.prices is not None]
    errors = [error for one in scored for error in one.errors]
    if errors and not any(one.judged for one in scored):
        raise MetricError(f"no answer could be judged: {errors[0]}")
    return [
        Depth(
            rule,
            Score.of([one.scores[rule] for one in scored]),
            sum((price[rule] for price in prices), start=Price()).per(max(1, len(prices))),
        )
        for rule in rules
    ]


def fit_stop(program: AttentionMoA, runs: Sequence[Run], metric: Metric) -> Depth:
    """Return the depth and stop rule with the best score on recorded runs; on a tie, the cheapest. No LM call is made.

    Thresholds are tried if every decision has a recorded probability.

    Args:
        program: the program that made the runs, without early stopping.
        runs: at least one, with traces.
        metric: the task's metric.
    """
    depths = range(1, program.architecture.layers + 1)
    thresholds = thresholds_of(decisions_of(run.trace) for run in runs if run.trace is not None)
    stops = (False, True) if program.architecture.synthesizes else (False,)
    curve = depth_curve(program, runs, metric, stop_rules(depths, stops, thresholds))
    return max(curve, key=lambda depth: (depth.score.value, -depth.price.calls))


def _score(program: AttentionMoA, run: Run, rules: Sequence[StopRule], metric: Metric) -> RuleScores:
    if run.trace is None:
        return RuleScores(dict.fromkeys(rules, 0.0), None, judged=False)
    readings = readings_of(run.trace, rules)
    judgements: list[tuple[dict[str, Any], Judgement]] = []
    scores: dict[StopRule, float] = {}
    for rule, reading in readings.items():
        judgement = next((judgement for outputs, judgement in judgements if outputs == reading.outputs), None)
        if judgement is None:
            judgement = judge(metric, run.example, prediction_of(program, reading.outputs, run.trace))
            judgements.append((reading.outputs, judgement))
        scores[rule] = judgement.score
    errors = tuple(one.failure.message for _, one in judgements if one.failure is not None)
    prices = {rule: reading.price for rule, reading in readings.items()}
    return RuleScores(scores, prices, errors, len(errors) < len(judgements))
