"""Running a program over examples, and judging answers: the one loop, and the one call of a metric, of all optimizers.

Scores are from 0 to 1. A failed run counts as the lowest, 0, and is told apart from a wrong answer. So does an answer
that the metric raises on. Where every run fails nothing is scored at all: that is no program's fault, more likely.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

import dspy

from moa_dspy.data.splitting import unit_hash
from moa_dspy.errors import (
    AllRunsFailedError,
    BudgetExhaustedError,
    ConfigurationError,
    MetricError,
    MoAError,
    RunError,
    UnparsedVerdictError,
)
from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.leakage import check_examples
from moa_dspy.optimizers.purse import Gate, Purse
from moa_dspy.optimizers.results import Cost
from moa_dspy.optimizers.spending import count_spending
from moa_dspy.program import AttentionMoA
from moa_dspy.run import event_loop
from moa_dspy.trace import Trace

__all__ = [
    "Judged",
    "Measurement",
    "Metric",
    "Run",
    "check_concurrency",
    "check_metric",
    "judged",
    "measure",
    "metric_name",
    "models_of",
    "score_of",
]

Metric: TypeAlias = Callable[..., Any]
"""As DSPy's: ``metric(example, prediction, trace=None)``, giving a bool, a number from 0 to 1, or a prediction with a
``score``."""

_HOPELESS: Final = 10
"""So many runs that fail before any has succeeded end a measurement: what is wrong with one is wrong with all."""
_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Judged:
    """What a metric says of an answer.

    Attributes:
        score: from 0 to 1; 0 where the metric raised.
        error: what it raised, in words.
    """

    score: float
    error: str | None = None


@dataclass(frozen=True)
class Run:
    """One example, as a program answered it.

    Attributes:
        example: what was asked.
        score: the metric's; 0 where the run failed.
        prediction: None where the run failed.
        trace: what happened, where the program keeps a trace.
        error: why the run failed, or what the metric raised.
    """

    example: dspy.Example
    score: float
    prediction: dspy.Prediction | None = None
    trace: Trace | None = None
    error: str | None = None


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
        """Return how many runs failed, or could not be judged."""
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
    hopeful: bool = False,
    tolerant: bool = False,
) -> Measurement:
    """Run ``program`` on every example.

    Args:
        program: an ``AttentionMoA``, or any DSPy module that can be awaited.
        examples: with their inputs set.
        metric: see ``Metric``.
        concurrency: runs under way at once.
        on_run: told of each run as it ends.
        purse: what may be spent; ``program`` is then an ``AttentionMoA``.
        hopeful: whether runs have succeeded before, so that a few failures mean little.
        tolerant: whether answers score 0 also where the metric raises on every one; for programs among others, which
            the same metric judges.

    Raises:
        ConfigurationError: there are no examples, or the program, its inputs or the metric cannot work.
        AllRunsFailedError: every run failed, or the first ten.
        RunError: the metric raises on every answer, which is not tolerated.
        BudgetExhaustedError: the purse does not cover all runs.
    """
    if not examples:
        raise ConfigurationError("there are no examples to run the program on")
    check_examples(examples)
    check_metric(metric)
    check_concurrency(concurrency)
    runner = program if purse is None else Gate(cast("AttentionMoA", program), purse)
    work = _Work(runner, metric, asyncio.Semaphore(concurrency), on_run, tolerant)
    if len(examples) > _HOPELESS or hopeful:
        work.patience, work.what = _HOPELESS, f"the first {_HOPELESS} examples that it was run on"
    else:
        work.patience = len(examples)
    with count_spending(models_of(program)) as spending:
        runs = event_loop.run(lambda: work.over(examples))
        return Measurement(runs, spending.cost)


def judged(metric: Metric, example: dspy.Example, prediction: Any) -> Judged:
    """Return what the metric says; an answer that it raises on scores 0.

    Raises:
        ConfigurationError: what it says is no score.
        MoAError: it raises one, or an ``AssertionError``: said on purpose, by us or by whoever wrote it.
    """
    try:
        value = metric(example, prediction)
    except (UnparsedVerdictError, MetricError) as error:
        return Judged(0.0, str(error))
    except (MoAError, AssertionError):
        raise
    except Exception as error:  # noqa: BLE001 (a metric is anybody's code; what it cannot judge is not right)
        return Judged(0.0, f"the metric raised {type(error).__name__}: {error}")
    return Judged(score_of(value))


def score_of(value: Any) -> float:
    """Return a metric's result as a number from 0 to 1.

    Raises:
        ConfigurationError: it is none.
    """
    inner = value.score if isinstance(value, dspy.Prediction) else value
    try:
        score = float(inner)
    except (TypeError, ValueError):
        raise ConfigurationError(
            f"the metric returned {value!r}, which is no score; return a bool or a number from 0 to 1"
        ) from None
    if not -_ROUNDING <= score <= 1 + _ROUNDING:
        raise ConfigurationError(
            f"the metric returned {score!r}; scores are from 0, which is what a failed run counts as, to 1: scale them"
        )
    return min(max(score, 0.0), 1.0)


def metric_name(metric: Metric) -> str:
    """Return what a metric is called: a function's module and name, an object's kind."""
    function = getattr(metric, "function", metric)  # a function that was made a metric
    if not hasattr(function, "__qualname__"):
        return type(function).__name__
    module = getattr(function, "__module__", None)
    return f"{module}:{function.__qualname__}" if module else str(function.__qualname__)


def models_of(program: dspy.Module) -> list[dspy.BaseLM]:
    """Return the models that a program of ours asks; none of another one, whose models only it knows."""
    if not isinstance(program, AttentionMoA):
        return []
    agents = [*program.agents, *([] if program.aggregator is None else [program.aggregator])]
    lms = [agent.lm or dspy.settings.lm for agent in agents]
    return [lm for lm in lms if isinstance(lm, dspy.BaseLM)]


def check_concurrency(concurrency: int) -> None:
    """Refuse what lets nothing run.

    Raises:
        ConfigurationError: says what it must be.
    """
    if concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency!r} lets nothing run; give at least 1")


def check_metric(metric: Any) -> None:
    """Refuse what cannot be called.

    Raises:
        ConfigurationError: says what it must be.
    """
    if metric is None:
        raise ConfigurationError("there is no metric; pass metric=, a function of an example and a prediction")
    if not callable(metric):
        raise ConfigurationError(f"metric={metric!r} is no function of an example and a prediction")


@dataclass
class _Work:
    """A measurement under way."""

    program: dspy.Module
    metric: Metric
    places: asyncio.Semaphore
    on_run: Callable[[Run], None] | None
    tolerant: bool
    patience: int = _HOPELESS
    what: str = "every example"
    failed: list[str | None] = field(default_factory=list)
    answered: bool = False

    async def over(self, examples: Sequence[dspy.Example]) -> tuple[Run, ...]:
        """Run all; in an order drawn from what they ask, so that the first few are like the rest."""
        order = sorted(range(len(examples)), key=lambda index: unit_hash(examples[index]))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {index: group.create_task(self._one(examples[index])) for index in order}
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        runs = tuple(tasks[index].result() for index in range(len(examples)))
        if not self.tolerant and self.answered and all(run.error for run in runs):
            raised = next(run for run in runs if run.prediction is not None)
            raise RunError(f"no answer could be judged: {raised.error}")
        return runs

    async def _one(self, example: dspy.Example) -> Run:
        async with self.places:
            run = await self._run(example)
        if run.prediction is not None:
            self.answered = True
        else:
            self.failed.append(run.error)
        if not self.answered and len(self.failed) >= self.patience:
            raise AllRunsFailedError(f"the program fails on {self.what}; the first one: {self.failed[0]}")
        if self.on_run is not None:
            self.on_run(run)
        return run

    async def _run(self, example: dspy.Example) -> Run:
        try:
            prediction = await self.program.acall(**example.inputs())
        except BudgetExhaustedError:
            raise
        except RunError as error:
            return Run(example, 0.0, error=str(error))
        trace = getattr(prediction, "trace", None)
        said = await asyncio.to_thread(judged, self.metric, example, prediction)
        return Run(example, said.score, prediction, trace if isinstance(trace, Trace) else None, said.error)
