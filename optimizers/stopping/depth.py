"""Depth for free: one run at the largest depth, without stopping, read at every depth and under every stop rule.

A layer's prompts do not depend on how many layers follow. So a shallower program, or one that stops early, makes
exactly the calls of the deep run's first layers, and gives the output that the deep run has on record there. What it
costs is the sum of those layers' steps, cached calls at the price that they had when they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import dspy
import pydantic

from moa_dspy.errors import MetricError
from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.measuring import Judged, Metric, Run, judged
from moa_dspy.optimizers.stopping.rules import StopRule, decisions_of, end_of, stop_rules, thresholds_of
from moa_dspy.program import AttentionMoA, Prediction
from moa_dspy.trace import Trace

__all__ = [
    "Depth",
    "DepthMetric",
    "Price",
    "Reading",
    "depth_curve",
    "fit_stop",
    "prediction_of",
    "price_of",
    "readings_of",
]


class Price(pydantic.BaseModel):
    """What runs cost where nothing is cached: in total, or for one example.

    Attributes:
        calls: LM calls.
        tokens: prompt plus completion.
        usd: dollars; None where the price of a call is not known.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    calls: float = 0.0
    tokens: float = 0.0
    usd: float | None = 0.0

    def __add__(self, other: Price) -> Price:
        usd = None if self.usd is None or other.usd is None else self.usd + other.usd
        return Price(calls=self.calls + other.calls, tokens=self.tokens + other.tokens, usd=usd)

    def __sub__(self, other: Price) -> Price:
        usd = None if self.usd is None or other.usd is None else self.usd - other.usd
        return Price(calls=self.calls - other.calls, tokens=self.tokens - other.tokens, usd=usd)

    def per(self, examples: int) -> Price:
        """Return the mean over ``examples``."""
        usd = None if self.usd is None else self.usd / examples
        return Price(calls=self.calls / examples, tokens=self.tokens / examples, usd=usd)


@dataclass(frozen=True)
class Reading:
    """One run, read under a stop rule.

    Attributes:
        outputs: the answer that the program would have given, as JSON values.
        price: what it would have cost.
    """

    outputs: dict[str, Any]
    price: Price


@dataclass(frozen=True)
class Depth:
    """A point of the depth curve: how a program would have done under a stop rule.

    Attributes:
        rule: depth and stop.
        score: over the examples.
        price: for one example.
    """

    rule: StopRule
    score: Score
    price: Price

    def to_dict(self) -> dict[str, Any]:
        """Return the point as JSON values."""
        stop = {"layers": self.rule.layers, "early_stop": self.rule.early_stop, "threshold": self.rule.threshold}
        return {**stop, "score": self.score.model_dump(), "price": self.price.model_dump()}


Marks: TypeAlias = dict[StopRule, float]


def price_of(trace: Trace, layers: int) -> Price:
    """Return what the first ``layers`` layers of a run cost where nothing is cached."""
    steps = [step for step in trace.steps if step.layer <= layers]
    costs = [None if None in (step.cost_usd, step.saved_usd) else _sum(step.cost_usd, step.saved_usd) for step in steps]
    return Price(
        calls=sum(step.calls for step in steps),
        tokens=sum(step.tokens.total + step.saved_tokens.total for step in steps),
        usd=None if None in costs else sum(cost for cost in costs if cost is not None),
    )


def readings_of(trace: Trace, rules: Sequence[StopRule]) -> dict[StopRule, Reading]:
    """Read a run under each of ``rules``.

    Args:
        trace: of a run without early stopping, at least as deep as the deepest rule.
        rules: see ``moa_dspy.optimizers.stopping.rules``.
    """
    decisions = decisions_of(trace)
    ends = {rule: end_of(rule, decisions, len(trace.outputs)) for rule in rules}
    return {rule: Reading(trace.outputs[end.answer - 1], price_of(trace, end.paid)) for rule, end in ends.items()}


def prediction_of(program: AttentionMoA, outputs: dict[str, Any], trace: Trace) -> Prediction:
    """Return outputs on record as the prediction that the program would have given."""
    fields = program.signature.output_fields
    types: dict[str, Any] = {name: fields[name].annotation for name in outputs}
    typed = {name: pydantic.TypeAdapter(types[name]).validate_python(outputs[name]) for name in outputs}
    return Prediction(**typed, trace=trace)


class DepthMetric:
    """Scores a prediction of a deep program under every stop rule; itself a metric, for ``measure``.

    Equal answers are scored once. An answer that the task's metric raises on scores 0, whatever it says of the others.

    Args:
        program: goes through all its layers, without early stopping.
        rules: no deeper than the program.
        metric: the task's.

    Attributes:
        unjudged: what the metric raised, for each answer that it raised on.
    """

    def __init__(self, program: AttentionMoA, rules: Sequence[StopRule], metric: Metric) -> None:
        self.unjudged: list[str] = []
        self._program, self._rules, self._metric = program, rules, metric
        self._marks: dict[int, Marks] = {}

    def __call__(self, example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        """Return the score of the deepest answer, and keep those of all rules.

        Raises:
            MetricError: the metric raises on all answers.
        """
        del trace
        found = self._found(example, prediction)
        self._marks[id(prediction)] = {rule: said.score for rule, said in found.items()}
        deepest = found[max(found, key=lambda rule: (rule.layers, not rule.early_stop))]
        if all(said.error is not None for said in found.values()):
            raise MetricError(deepest.error)
        return deepest.score

    def _found(self, example: dspy.Example, prediction: Any) -> dict[StopRule, Judged]:
        known: list[tuple[dict[str, Any], Judged]] = []
        found: dict[StopRule, Judged] = {}
        for rule, reading in readings_of(prediction.trace, self._rules).items():
            said = next((said for outputs, said in known if outputs == reading.outputs), None)
            if said is None:
                said = judged(self._metric, example, prediction_of(self._program, reading.outputs, prediction.trace))
                known.append((reading.outputs, said))
            found[rule] = said
        self.unjudged += [said.error for _, said in known if said.error is not None]
        return found

    def marks_of(self, run: Run) -> Marks:
        """Return the scores of a run that this metric has looked at; zeros where the run failed."""
        if run.prediction is None:
            return dict.fromkeys(self._rules, 0.0)
        return self._marks[id(run.prediction)]

    def prices_of(self, run: Run) -> dict[StopRule, Price] | None:
        """Return what the run would have cost under each rule; None where it failed."""
        if run.prediction is None:
            return None
        readings = readings_of(run.prediction.trace, self._rules)
        return {rule: reading.price for rule, reading in readings.items()}


def depth_curve(
    program: AttentionMoA, runs: Sequence[Run], metric: Metric, rules: Sequence[StopRule] | None = None
) -> list[Depth]:
    """Return how shallower programs would have done, from a measurement of a deep one; no LM call is made.

    Args:
        program: what was measured; it goes through all its layers, without early stopping.
        runs: of the measurement, at least one.
        metric: the task's.
        rules: default: every depth, with and, where layers are joined by synthesis, without early stopping.
    """
    stops = (False, True) if program.architecture.synthesizes else (False,)
    rules = rules or stop_rules(range(1, program.architecture.layers + 1), stops)
    judge = DepthMetric(program, rules, metric)
    for run in runs:
        if run.prediction is not None:
            judged(judge, run.example, run.prediction)
    marks = [judge.marks_of(run) for run in runs]
    prices = [prices for run in runs if (prices := judge.prices_of(run)) is not None]
    return [
        Depth(
            rule,
            Score.of([mark[rule] for mark in marks]),
            sum((price[rule] for price in prices), start=Price()).per(max(1, len(prices))),
        )
        for rule in rules
    ]


def fit_stop(program: AttentionMoA, runs: Sequence[Run], metric: Metric) -> Depth:
    """Return the depth and stop rule that would have done best on recorded runs, the cheaper of equals; no LM call.

    Besides stopping where the model says so, thresholds are tried where every decision has its probability on record.

    Args:
        program: what was measured; it goes through all its layers, without early stopping.
        runs: of the measurement, at least one.
        metric: the task's.
    """
    depths = range(1, program.architecture.layers + 1)
    thresholds = thresholds_of(decisions_of(run.prediction.trace) for run in runs if run.prediction is not None)
    stops = (False, True) if program.architecture.synthesizes else (False,)
    curve = depth_curve(program, runs, metric, stop_rules(depths, stops, thresholds))
    return max(curve, key=lambda depth: (depth.score.value, -depth.price.calls))


def _sum(first: float | None, second: float | None) -> float:
    return (first or 0.0) + (second or 0.0)
