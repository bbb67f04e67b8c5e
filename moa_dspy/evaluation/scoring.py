"""Calls a metric and reads its result. All evaluations and optimizers call metrics through this module."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import dspy
from pydantic_core import to_jsonable_python

from moa_dspy.data.metrics.metric import Metric as RichMetric
from moa_dspy.errors import BudgetExhaustedError, ConfigurationError, MetricError, MoAError, UnparsedVerdictError
from moa_dspy.redaction import redacted
from moa_dspy.trace import Failure

__all__ = [
    "Judgement",
    "Metric",
    "Status",
    "accepts",
    "call_metric",
    "check_metric",
    "failure_of",
    "jsonable",
    "judge",
    "judge_in_context",
    "metric_name",
    "score_of",
]

Metric: TypeAlias = Callable[..., Any]
"""A metric as in DSPy: ``metric(example, prediction, trace=None)``. It returns a bool, a number from 0 to 1, or an
object with a ``score``, such as ``dspy.Prediction(score=, feedback=)``."""

Status: TypeAlias = Literal["scored", "unparsed", "error", "unscored"]

_ROUNDING: Final = 1e-9
_LONGEST: Final = 500  # maximum length of an error message
_LONGEST_VALUE: Final = 100  # of a value in an error message


@dataclass(frozen=True)
class Judgement:
    """A metric's verdict on one answer.

    Attributes:
        status: ``scored``; ``unparsed`` if a judge's verdict could not be read; ``error`` if the program or the metric
            failed; ``unscored`` without a metric.
        score: from 0 to 1; None unless scored.
        feedback: the metric's reason.
        details: further values from the metric, as JSON values.
        failure: why there is no score; None if scored or unscored.
    """

    status: Status
    score: float | None = None
    feedback: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    failure: Failure | None = None

    @property
    def error(self) -> str | None:
        """Return the failure in words."""
        return None if self.failure is None else self.failure.message


def judge(metric: Metric, example: dspy.Example, prediction: Any) -> Judgement:
    """Score one prediction. An answer on which the metric raises, or returns something that is no score, has none.

    Raises:
        ConfigurationError: if the metric raises it, because the metric and the data do not fit together.
    """
    return _judgement(metric, metric.assess if isinstance(metric, RichMetric) else metric, example, prediction)


def judge_in_context(metric: Metric, example: dspy.Example, prediction: Any, *context: Any) -> Judgement:
    """Do as ``judge``, and pass DSPy's context to the metric; see ``call_metric``."""
    return _judgement(metric, functools.partial(call_metric, metric), example, prediction, *context)


def _judgement(metric: Metric, assess: Callable[..., Any], *args: Any) -> Judgement:
    try:
        value = assess(*args)
        score = score_of(value, metric)
        feedback = str(getattr(value, "feedback", "") or "")
        return Judgement("scored", score, feedback, jsonable(getattr(value, "details", {})))
    except (ConfigurationError, BudgetExhaustedError):
        raise
    except UnparsedVerdictError as error:
        return Judgement("unparsed", feedback=str(error), details=jsonable(error.details), failure=failure_of(error))
    except MoAError as error:
        return Judgement("error", failure=failure_of(error))
    except Exception as error:  # noqa: BLE001 - a metric is the caller's code and may raise anything
        return Judgement("error", failure=failure_of(error, f"the metric raised {type(error).__name__}: "))


def score_of(value: Any, metric: Metric | None = None) -> float:
    """Return the score that a metric returned as a number from 0 to 1.

    Raises:
        MetricError: if ``value`` is not a bool, a number from 0 to 1, or an object with such a ``score``.
    """
    name = "the metric" if metric is None else f"the metric {metric_name(metric)}"
    number: Any = getattr(value, "score", value)
    if isinstance(number, (str, bytes)):
        number = None  # not a number, even if it reads like one
    try:
        score = float(number)
    except Exception:  # noqa: BLE001 - the caller's object may raise anything
        raise MetricError(
            f"{name} returned {_shown(value)}, which is no score; return a bool or a number from 0 to 1"
        ) from None
    if not -_ROUNDING <= score <= 1 + _ROUNDING:  # also not a number (NaN)
        raise MetricError(f"{name} returned {score!r}; scores are from 0 (a failed run) to 1: scale them")
    return min(max(score, 0.0), 1.0)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - the caller's object may raise anything
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def call_metric(metric: Metric, example: dspy.Example, prediction: Any, *context: Any) -> Any:
    """Return the metric's result. Pass as much of DSPy's context as the metric accepts.

    The context is the DSPy trace, then the predictor's name and trace. If all are None, they are not passed.
    """
    if not any(part is not None for part in context) or not accepts(metric, 2 + len(context)):
        return metric(example, prediction)
    return metric(example, prediction, *context)


def accepts(function: Callable[..., Any], arguments: int) -> bool:
    """Return whether ``function`` can be called with this many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError:
        return False
    return True


def check_metric(metric: Any) -> None:
    """Raise ConfigurationError if a metric cannot be called, or is asynchronous."""
    if not callable(metric):
        raise ConfigurationError(f"metric={metric!r} is invalid; pass a function of an example and a prediction")
    if inspect.iscoroutinefunction(metric) or inspect.iscoroutinefunction(type(metric).__call__):
        raise ConfigurationError(f"the metric {metric_name(metric)} is async; pass a function that returns the score")


def metric_name(metric: Metric) -> str:
    """Return the module and name of a function, or the class name of an object."""
    if not hasattr(metric, "__qualname__"):
        return type(metric).__name__
    module = getattr(metric, "__module__", None)
    return f"{module}:{metric.__qualname__}" if module else str(metric.__qualname__)


def failure_of(error: Exception, prefix: str = "") -> Failure:
    """Return an exception as a record with its kind, and its message on one line."""
    kind = str(getattr(error, "code", None) or type(error).__name__)
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - the caller's exception may raise anything
        words = "(it has no readable message)"
    return Failure(kind=kind, message=redacted(prefix + " ".join(words.split()))[:_LONGEST])


def jsonable(values: Any) -> dict[str, Any]:
    """Return a mapping as JSON values. Bytes become base64, and other values that JSON cannot represent become text."""
    plain: dict[str, Any] = to_jsonable_python(dict(values), bytes_mode="base64", fallback=str)
    return plain
