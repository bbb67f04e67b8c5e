"""The run of a program on one example, with its score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy
import pydantic

from moa_dspy.cost.usage import Usage
from moa_dspy.evaluation.scoring import Status
from moa_dspy.trace import Failure, Step, Trace

__all__ = ["Price", "Run", "mean_price", "price_of", "price_of_steps"]


class Price(pydantic.BaseModel):
    """The cost of a run without the response cache; for one example or as a total.

    Attributes:
        calls: LM calls.
        tokens: prompt plus completion tokens.
        usd: dollars; None if the price of a call is unknown.
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
class Run:
    """The run of a program on one example, with its score.

    Attributes:
        example: the example.
        score: the metric's score; 0 if there is none.
        prediction: the answer; None if the program failed.
        trace: the trace of the run, if traces are kept and the program makes one.
        error: reason for a missing score; None if there is a score.
        status: ``scored``, ``unparsed`` (a judge's verdict could not be read) or ``error``.
        failure: the same as ``error``, with its kind.
        feedback: the metric's reason.
        details: further values from the metric, as JSON values.
        program_usage: usage of the program's calls.
        metric_usage: usage of the metric's calls.
        price: cost of the run without the response cache; None without a trace.
        seconds: wall time of program and metric.
    """

    example: dspy.Example
    score: float
    prediction: dspy.Prediction | None = None
    trace: Trace | None = None
    error: str | None = None
    status: Status = "scored"
    failure: Failure | None = None
    feedback: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    program_usage: Usage = field(default_factory=Usage)
    metric_usage: Usage = field(default_factory=Usage)
    price: Price | None = None
    seconds: float = 0.0

    @property
    def usage(self) -> Usage:
        """Return the usage of program and metric together."""
        return self.program_usage + self.metric_usage


def price_of(trace: Trace, layers: int | None = None) -> Price:
    """Return the cost of the first ``layers`` layers of a run without the response cache; default: all layers."""
    return price_of_steps(step for step in trace.steps if layers is None or step.layer <= layers)


def price_of_steps(steps: Iterable[Step]) -> Price:
    """Return the total cost of steps without the response cache."""
    steps = list(steps)
    dollars = [
        None if step.cost_usd is None or step.saved_usd is None else step.cost_usd + step.saved_usd for step in steps
    ]
    return Price(
        calls=sum(step.calls for step in steps),
        tokens=sum(step.tokens.total + step.saved_tokens.total for step in steps),
        usd=None if None in dollars else sum(usd for usd in dollars if usd is not None),
    )


def mean_price(runs: Iterable[Run]) -> Price | None:
    """Return the mean price of the runs that have one; None if no run has one."""
    prices = [run.price for run in runs if run.price is not None]
    return sum(prices, start=Price()).per(len(prices)) if prices else None
