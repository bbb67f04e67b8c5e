"""``measure``: a program's scores on examples, with their cost, for all optimizers.

A failed run scores 0, and so does an answer on which the metric raises. If every run fails there is no score: the cause
is then more likely the set-up than the program.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import dspy

from moa_dspy.cost.budget import Budget, BudgetGuard
from moa_dspy.cost.usage import Price, Usage
from moa_dspy.data.splitting import unit_hash
from moa_dspy.errors import AllRunsFailedError, BudgetExhaustedError, ConfigurationError, RunError
from moa_dspy.evaluation.evaluate import check_inputs
from moa_dspy.evaluation.fingerprint import content_of, fingerprint
from moa_dspy.evaluation.runner import (
    FIRST_FAILURES,
    ExampleRunner,
    Item,
    Run,
    check_budget,
    check_concurrency,
    mean_price,
    models_of,
)
from moa_dspy.evaluation.scoring import Metric, metric_name
from moa_dspy.evaluation.statistics import Score
from moa_dspy.evaluation.suite import fit_metric, output_fields_of
from moa_dspy.optimizers.leakage import check_examples
from moa_dspy.program import AttentionMoA
from moa_dspy.runtime import event_loop

__all__ = [
    "CachedRuns",
    "Measurement",
    "Metric",
    "Run",
    "Unit",
    "check_budget",
    "check_concurrency",
    "check_count",
    "check_program",
    "check_seed",
    "failures_of",
    "fit_metric",
    "guard_of",
    "measure",
    "metric_name",
    "models_of",
    "output_fields_of",
    "run_examples",
    "sharing",
]

Unit: TypeAlias = Literal["calls", "tokens", "usd"]
"""A unit of prices."""

_shared: ContextVar[BudgetGuard | None] = ContextVar("moa_dspy_shared_budget", default=None)


@dataclass(frozen=True)
class Measurement:
    """A program's runs over examples.

    Attributes:
        runs: one per example, in their order.
        cost: what program and metric used.
    """

    runs: tuple[Run, ...]
    cost: Usage

    @property
    def scores(self) -> list[float]:
        """Return the score of each example; 0 without a score."""
        return [run.score or 0.0 for run in self.runs]

    @property
    def errors(self) -> int:
        """Return the number of runs that failed or could not be judged."""
        return sum(run.error is not None for run in self.runs)

    @property
    def price(self) -> Price | None:
        """Return the mean price of an example without the response cache; None if the program keeps no traces."""
        return mean_price(self.runs)

    @property
    def known_price(self) -> Price:
        """Return ``price``.

        Raises:
            RunError: if no run has a price.
        """
        if self.price is None:
            raise RunError(f"every run failed; the first one: {self.runs[0].error}")
        return self.price

    def __add__(self, other: Measurement) -> Measurement:
        return Measurement(self.runs + other.runs, self.cost + other.cost)

    def score(self) -> Score:
        """Return the mean score with its interval."""
        return Score.of(self.scores)


class CachedRuns:
    """The examples on which a program has run before, so that DSPy's response cache answers its calls.

    They are noted in that cache. Without a cache nothing is noted, and no program that holds a user's code.
    A note may be wrong, for example if the cache has dropped replies: budgets are kept to all the same.
    """

    def __init__(self, program: dspy.Module) -> None:
        self._program: dict[str, Any] | None = None
        if not isinstance(program, AttentionMoA) or program.architecture.custom_parts:
            return
        no_code = all(isinstance(agent.module, str | None) for agent in program.agents)
        if no_code and all(getattr(lm, "cache", False) for lm in models_of(program)):
            with suppress(ConfigurationError, TypeError, ValueError, RecursionError):  # of what cannot be described
                self._program = fingerprint(program, "run", "", 0, None)

    def __contains__(self, example: dspy.Example) -> bool:
        return self._program is not None and dspy.cache.get(self._request(example)) is not None

    def add(self, example: dspy.Example) -> None:
        """Note that the program has run on an example."""
        if self._program is not None and example not in self:
            dspy.cache.put(self._request(example), [True])

    def lacks(self, examples: Iterable[dspy.Example]) -> list[dspy.Example]:
        """Return the examples on which the program has not run."""
        return [example for example in examples if example not in self]

    def _request(self, example: dspy.Example) -> dict[str, Any]:
        return {"moa_dspy": self._program, "example": content_of(example)}


def measure(
    program: dspy.Module,
    devset: Sequence[dspy.Example],
    metric: Metric,
    *,
    concurrency: int = 8,
    budget: Budget | None = None,
    progress: Callable[[Run], None] | None = None,
    keep_traces: bool = False,
) -> Measurement:
    """Run a program on every example and score its answers.

    Args:
        program: any DSPy module.
        devset: examples with their inputs set.
        metric: the task's metric.
        concurrency: examples under way at once.
        budget: limits.
        progress: called with each run as it ends.
        keep_traces: whether runs keep their trace. A trace takes much more memory than the answer.

    Raises:
        ConfigurationError: if there are no examples; if program, inputs and metric do not fit together; or if the
            budget is in dollars and the price of a model is unknown.
        AllRunsFailedError: if the first ten runs, or all, failed or could not be judged.
        BudgetExhaustedError: if the budget does not cover all runs.
    """
    guard = guard_of(budget, program)
    return run_examples(
        program, devset, metric, guard=guard, concurrency=concurrency, on_run=progress, keep_traces=keep_traces
    )


def run_examples(
    program: dspy.Module,
    devset: Sequence[dspy.Example],
    metric: Metric | None,
    *,
    guard: BudgetGuard,
    concurrency: int = 8,
    on_run: Callable[[Run], None] | None = None,
    keep_traces: bool = False,
    metric_may_fail: bool = False,
    succeeded: bool = False,
) -> Measurement:
    """Do what ``measure`` does, as a part of something larger. Without a metric, runs have no scores.

    With ``metric_may_fail`` the metric may raise on every answer, because it has judged answers of other programs. With
    ``succeeded`` all of a few runs may fail, because runs of this program have succeeded before.
    """
    if not devset:
        raise ConfigurationError("no examples to run the program on; pass at least one")
    check_examples(devset)
    check_inputs(program, devset)
    if metric is not None:
        metric, _ = fit_metric(metric, output_fields_of(program), devset)
    check_concurrency(concurrency)
    runs: dict[int, Run] = {}
    known = CachedRuns(program)

    def keep(item: Item, run: Run) -> None:
        runs[item.key] = run
        if run.prediction is not None:
            known.add(item.example)
        if on_run is not None:
            on_run(run)

    runner = ExampleRunner(
        program,
        metric,
        concurrency=concurrency,
        guard=BudgetGuard(parent=guard),
        keep_traces=keep_traces,
        patience=FIRST_FAILURES if succeeded else min(FIRST_FAILURES, len(devset)),
        metric_may_fail=metric_may_fail,
    )
    order = sorted(range(len(devset)), key=lambda index: unit_hash(devset[index]))  # the first few are like the rest
    began = time.perf_counter()
    items = [Item(index, devset[index]) for index in order]
    with sharing(None):  # what program and metric call is not a part of the optimization
        whole = event_loop.run(lambda: runner.run(items, keep))
    if not whole:
        raise BudgetExhaustedError(f"the budget ended after {len(runs)} of {len(devset)} examples")
    cost = sum((run.usage for run in runs.values()), start=Usage())
    cost = cost.model_copy(update={"seconds": time.perf_counter() - began})
    return Measurement(tuple(runs[index] for index in range(len(devset))), cost)


@contextmanager
def failures_of(what: str) -> Iterator[None]:
    """Put ``what`` in front of the message if every run fails within the block."""
    try:
        yield
    except AllRunsFailedError as error:
        raise AllRunsFailedError(f"{what}: {error}") from None


@contextmanager
def sharing(guard: BudgetGuard | None) -> Iterator[None]:
    """Let all functions that are called without a budget within the block share this one.

    What programs and metrics call has no share: it is counted as their usage.
    """
    token = _shared.set(guard)
    try:
        yield
    finally:
        _shared.reset(token)


def guard_of(budget: Budget | None, *programs: dspy.Module) -> BudgetGuard:
    """Return the shared guard, or a new one for a budget of the programs; see ``sharing`` and ``check_budget``."""
    shared = _shared.get()
    if budget is None and shared is not None:
        return shared
    check_budget(budget, [lm for program in programs for lm in models_of(program)])
    return BudgetGuard(budget)


def check_seed(seed: object) -> None:
    """Raise ConfigurationError unless a seed is a whole number from 0."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigurationError(f"seed={seed!r} is invalid; it must be a whole number from 0")


def check_count(name: str, value: object) -> None:
    """Raise ConfigurationError unless a number of something is a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name}={value!r} must be a whole number from 1")


def check_program(program: object, name: str = "program") -> AttentionMoA:
    """Return ``program``, or raise ConfigurationError if it is not an ``AttentionMoA``."""
    if not isinstance(program, AttentionMoA):
        raise ConfigurationError(f"{name} must be an AttentionMoA, not {type(program).__name__}")
    return program
