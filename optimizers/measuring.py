"""Running a program over examples: the one loop that every optimizer here uses.

A failed run counts as the lowest score, 0, and is told apart from a wrong answer. So does one that the metric fails on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import dspy

from moa_dspy import background
from moa_dspy.errors import ConfigurationError, MoAError, RunError
from moa_dspy.optimizers.purse import Gate, Purse
from moa_dspy.optimizers.results import Cost, Score
from moa_dspy.program import AttentionMoA
from moa_dspy.trace import Trace

__all__ = ["Measurement", "Metric", "Run", "check_concurrency", "measure", "score_of"]

Metric: TypeAlias = Callable[..., Any]
"""As DSPy's: ``metric(example, prediction, trace=None)``, giving a bool, a number, or a prediction with a ``score``."""


@dataclass(frozen=True)
class Run:
    """One example, as a program answered it.

    Attributes:
        example: what was asked.
        score: the metric's; 0 where the run failed.
        prediction: None where the run failed.
        trace: what happened, where the program keeps a trace.
        error: why the run failed.
        judged: False where the program answered and the metric raised.
    """

    example: dspy.Example
    score: float
    prediction: dspy.Prediction | None = None
    trace: Trace | None = None
    error: str | None = None
    judged: bool = True


@dataclass(frozen=True)
class Measurement:
    """A program's runs over examples, in the order of the examples."""

    runs: tuple[Run, ...]
    cost: Cost

    @property
    def scores(self) -> list[float]:
        """Return each example's score."""
        return [run.score for run in self.runs]

    @property
    def errors(self) -> int:
        """Return how many runs failed."""
        return sum(run.error is not None for run in self.runs)

    def score(self, seed: int = 0) -> Score:
        """Return the mean score with its interval."""
        return Score.of(self.scores, seed=seed)


def measure(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    metric: Metric,
    *,
    concurrency: int = 8,
    on_run: Callable[[Run], None] | None = None,
    purse: Purse | None = None,
) -> Measurement:
    """Run ``program`` on every example.

    Args:
        program: an ``AttentionMoA``, or any DSPy module that can be awaited.
        examples: with their inputs set.
        metric: see ``Metric``.
        concurrency: runs under way at once.
        on_run: told of each run as it ends.
        purse: what may be spent; ``program`` is then an ``AttentionMoA``.

    Raises:
        ConfigurationError: there are no examples, or the program or its inputs cannot work.
        RunError: the metric raises on every answer.
        BudgetEndedError: the purse does not cover all runs.
    """
    if not examples:
        raise ConfigurationError("there are no examples to run the program on")
    runner = program if purse is None else Gate(cast("AttentionMoA", program), purse)
    return background.run(lambda: _measure(runner, examples, metric, concurrency, on_run))


def check_concurrency(concurrency: int) -> None:
    """Refuse what lets nothing run.

    Raises:
        ConfigurationError: says what it must be.
    """
    if concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency!r} lets nothing run; give at least 1")


def score_of(value: Any) -> float:
    """Return a metric's result as a number.

    Raises:
        ConfigurationError: it is none.
    """
    inner = value.score if isinstance(value, dspy.Prediction) else value
    try:
        return float(inner)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"the metric returned {value!r}, which is no score; return a bool or a number"
        ) from None


async def _measure(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    metric: Metric,
    concurrency: int,
    on_run: Callable[[Run], None] | None,
) -> Measurement:
    places = asyncio.Semaphore(concurrency)
    clock = asyncio.get_running_loop().time
    began = clock()

    async def one(example: dspy.Example) -> Run:
        async with places:
            run = await _run(program, example, metric)
        if on_run is not None:
            on_run(run)
        return run

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(example)) for example in examples]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    runs = tuple(task.result() for task in tasks)
    if not any(run.judged for run in runs):
        raise RunError(f"no answer could be judged: {runs[0].error}")
    costs = [Cost.of_trace(run.trace) for run in runs if run.trace is not None]
    return Measurement(runs, sum(costs, start=Cost()).model_copy(update={"seconds": clock() - began}))


async def _run(program: dspy.Module, example: dspy.Example, metric: Metric) -> Run:
    try:
        prediction = await program.acall(**example.inputs())
    except RunError as error:
        return Run(example, 0.0, error=str(error))
    trace = getattr(prediction, "trace", None)
    record = trace if isinstance(trace, Trace) else None
    try:
        judged = await asyncio.to_thread(metric, example, prediction)
    except (MoAError, AssertionError):  # said on purpose: by us, or by whoever wrote the metric
        raise
    except Exception as error:  # noqa: BLE001 (a metric is anybody's code; what it cannot judge is not right)
        raised = f"the metric raised {type(error).__name__}: {error}"
        return Run(example, 0.0, trace=record, error=raised, judged=False)
    return Run(example, score_of(judged), prediction, record)
