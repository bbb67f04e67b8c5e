"""Scores of all depths and stop rules, computed from recorded runs of one deep program without LM calls.

A layer's prompts do not depend on the number of layers. A shallower program, or one that stops early, therefore makes
exactly the calls of the deep run's first layers, and returns the output that the deep run recorded there.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import dspy
import pydantic

from moa_dspy.cost.usage import Price
from moa_dspy.data.metrics.metric import Metric as BuiltInMetric
from moa_dspy.errors import ConfigurationError, MetricError
from moa_dspy.evaluation.runner import Run, in_threads, price_of
from moa_dspy.evaluation.scoring import Judgement, Metric, judge
from moa_dspy.evaluation.statistics import Score
from moa_dspy.gate import gate_of, rule_of
from moa_dspy.optimizers.measuring import sharing
from moa_dspy.optimizers.stop_fitting.replay import (
    End,
    StopRule,
    decisions_of,
    end_of,
    gate_end,
    stop_rules,
    thresholds_of,
)
from moa_dspy.program import AttentionMoA, Prediction
from moa_dspy.signatures import TaskSignature, read_json_value
from moa_dspy.trace import Trace

__all__ = [
    "AnswerJudge",
    "Depth",
    "ExampleScores",
    "Rescored",
    "StopRuleScores",
    "depth_curve",
    "fit_stop",
    "readings_of",
    "score_rules",
]


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
        stop: dict[str, Any] = dataclasses.asdict(self.rule)
        return {**stop, "score": self.score.model_dump(), "price": self.price.model_dump()}


@dataclass
class ExampleScores:
    """Scores and costs of examples under one stop rule.

    Attributes:
        scores: one per example, in order; 0 if the run failed or the metric raised.
        prices: costs without the response cache of the examples whose run did not fail.
    """

    scores: list[float] = field(default_factory=list)
    prices: list[Price] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Return the mean score."""
        return math.fsum(self.scores) / len(self.scores)

    @property
    def mean_price(self) -> Price | None:
        """Return the mean cost of an example; None if every run failed."""
        prices, count = self.prices, len(self.prices)
        if not prices:
            return None
        dollars = [price.usd for price in prices if price.usd is not None]
        return Price(
            calls=sum(price.calls for price in prices) / count,
            tokens=sum(price.tokens for price in prices) / count,
            usd=sum(dollars) / count if len(dollars) == count else None,
        )


class StopRuleScores(dict[StopRule, ExampleScores]):
    """Scores of one program by stop rule."""

    @property
    def examples(self) -> int:
        """Return the number of examples so far."""
        return min((len(one.scores) for one in self.values()), default=0)

    @property
    def depths(self) -> list[Depth]:
        """Return score, interval and mean price of each rule."""
        return [Depth(rule, Score.of(one.scores), one.mean_price or Price()) for rule, one in self.items()]

    def extend(self, other: StopRuleScores) -> None:
        """Add further examples."""
        for rule, one in other.items():
            known = self.setdefault(rule, ExampleScores())
            known.scores += one.scores
            known.prices += one.prices

    def to_attrs(self) -> dict[str, Any]:
        """Return the scores as an attribute of a trial, with the depth curve."""
        prices = {rule: one.mean_price or Price() for rule, one in self.items()}
        return {
            "examples": self.examples,
            "failed": max((len(one.scores) - len(one.prices) for one in self.values()), default=0),
            "depths": {str(rule): {"score": one.score, **prices[rule].model_dump()} for rule, one in self.items()},
            "scores": {str(rule): list(one.scores) for rule, one in self.items()},
        }

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Self:
        """Read the output of ``to_attrs``. Every price is then the mean price."""
        read = cls()
        for text, scores in attrs.get("scores", {}).items():
            price = Price(**{name: attrs["depths"][text][name] for name in Price.model_fields})
            answered = len(scores) - attrs.get("failed", 0)
            read[StopRule.parse(text)] = ExampleScores([float(score) for score in scores], [price] * answered)
        return read


class Rescored(NamedTuple):
    """Recorded runs, scored under every stop rule; the metric's errors; and whether it judged any answer."""

    scores: StopRuleScores
    errors: list[str]
    judged: bool


class RunReading(NamedTuple):
    """The outputs of a recorded run under a stop rule, as JSON values, and its price under the rule."""

    outputs: dict[str, Any]
    price: Price


class AnswerJudge:
    """Scores the recorded answers of one run of a program of ``task``. Equal answers are scored once."""

    def __init__(self, task: TaskSignature, trace: Trace, example: dspy.Example, metric: Metric) -> None:
        self._fields = task.output_fields
        if isinstance(metric, BuiltInMetric):
            metric = metric.for_task(list(task.output_fields), [example])
        self._metric = metric
        self._trace, self._example = trace, example
        self._known: dict[str, Judgement] = {}

    def score(self, outputs: Mapping[str, Any]) -> float:
        """Return the score of an answer, given as JSON values; 0 if the metric raises or returns no score.

        Raises:
            ConfigurationError: if the type of an output does not read what it writes.
        """
        answer = {name: outputs[name] for name in self._fields}
        key = json.dumps(answer, sort_keys=True)
        if key not in self._known:
            typed = {name: _restored(name, self._fields[name].annotation, answer[name]) for name in answer}
            with sharing(None):  # what a metric calls is not a part of the optimization
                self._known[key] = judge(self._metric, self._example, Prediction(**typed, trace=self._trace))
        return self._known[key].score or 0.0

    @property
    def errors(self) -> tuple[str, ...]:
        """Return the metric's error for each distinct answer on which it raised."""
        return tuple(one.error for one in self._known.values() if one.error is not None)

    @property
    def judged(self) -> bool:
        """Return whether the metric judged any answer."""
        return any(one.failure is None for one in self._known.values())


def _restored(name: str, kind: Any, value: Any) -> Any:
    """Return a recorded value of an output with its type."""
    try:
        return read_json_value(pydantic.TypeAdapter(kind), value)
    except pydantic.ValidationError as error:
        where, why = ".".join(map(str, (name, *error.errors()[0]["loc"]))), error.errors()[0]["msg"]
        raise ConfigurationError(
            f"recorded answers cannot be scored: their JSON values do not give the output type again ({where}: {why}); "
            "give it aliases and serializers whose output it also accepts, and no excluded fields"
        ) from None


def readings_of(trace: Trace, rules: Sequence[StopRule], program: AttentionMoA) -> dict[StopRule, RunReading]:
    """Return the result under each rule of a run without early stopping, at least as deep as the deepest rule."""
    decisions = decisions_of(trace)
    ends = {rule: end_of(rule, decisions, len(trace.outputs)) for rule in rules}
    if program.architecture.residual == "answers":  # only the whole run has an output
        ends = dict.fromkeys(rules, End(len(trace.outputs), trace.layers))
    prices = {paid: price_of(trace, paid) for paid in {end.paid for end in ends.values()}}
    readings = {rule: RunReading(trace.outputs[end.answer - 1], prices[end.paid]) for rule, end in ends.items()}
    for rule, end in ends.items():
        gate = rule_of(gate_of(rule.gate))
        agreed = None if gate is None else gate_end(trace, gate, end.paid)
        if agreed is not None:
            readings[rule] = RunReading(*agreed)
    return readings


def score_rules(
    program: AttentionMoA, runs: Sequence[Run], rules: Sequence[StopRule], metric: Metric, *, concurrency: int = 1
) -> Rescored:
    """Score recorded runs of a program without early stopping under stop rules that are no deeper. No LM call is made.

    Failed runs have no traces. ``concurrency`` runs are scored at once.
    """

    def rescore(run: Run) -> Rescored:
        if run.trace is None:
            return Rescored(StopRuleScores({rule: ExampleScores([0.0]) for rule in rules}), [], judged=False)
        answers = AnswerJudge(program.signature, run.trace, run.example, metric)
        readings = readings_of(run.trace, rules, program)
        scores = {rule: ExampleScores([answers.score(one.outputs)], [one.price]) for rule, one in readings.items()}
        return Rescored(StopRuleScores(scores), list(answers.errors), answers.judged)

    rescored = in_threads(rescore, runs, concurrency)
    scores = StopRuleScores()
    for one in rescored:
        scores.extend(one.scores)
    return Rescored(scores, [error for one in rescored for error in one.errors], any(one.judged for one in rescored))


def depth_curve(
    program: AttentionMoA, runs: Sequence[Run], metric: Metric, rules: Sequence[StopRule] | None = None
) -> list[Depth]:
    """Return the scores of shallower programs, computed from recorded runs of a deep one. No LM call is made.

    Args:
        program: the program that made the runs, without early stopping.
        runs: at least one, with traces (``measure(..., keep_traces=True)``).
        metric: the task's metric.
        rules: default: every depth that has an output, without early stopping and, if layers are joined by synthesis,
            with it.

    Raises:
        MetricError: if the metric raises on every answer.
    """
    scores, errors, judged = score_rules(program, runs, rules or _rules_of(program), metric)
    if errors and not judged:
        raise MetricError(f"no answer could be judged: {errors[0]}")
    return scores.depths


def fit_stop(program: AttentionMoA, runs: Sequence[Run], metric: Metric) -> Depth:
    """Return the depth and stop rule with the best score on recorded runs; on a tie, the cheapest. No LM call is made.

    Thresholds are tried if every decision has a recorded probability.

    Args:
        program: the program that made the runs, without early stopping.
        runs: at least one, with traces.
        metric: the task's metric.
    """
    thresholds = thresholds_of(decisions_of(run.trace) for run in runs if run.trace is not None)
    curve = depth_curve(program, runs, metric, _rules_of(program, thresholds))
    return max(curve, key=lambda depth: (depth.score.value, -depth.price.calls))


def _rules_of(program: AttentionMoA, thresholds: Sequence[float] = ()) -> tuple[StopRule, ...]:
    """Return every depth with an output, without early stopping and, if layers are joined by synthesis, with it."""
    stops = (False, True) if program.architecture.synthesizes else (False,)
    return stop_rules(program.architecture.output_layers, stops, thresholds)
