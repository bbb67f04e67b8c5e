"""The loop over examples: a program answers, and a metric scores. Evaluations, optimizers and comparisons use it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import dspy

from moa_dspy.cost.budget import Amounts, BudgetGuard
from moa_dspy.cost.meter import metered
from moa_dspy.cost.usage import Usage
from moa_dspy.data.benchmark import Benchmark
from moa_dspy.errors import AllRunsFailedError, BudgetExhaustedError, ConfigurationError
from moa_dspy.evaluation.answering import Asker, in_thread
from moa_dspy.evaluation.runs import Run, price_of
from moa_dspy.evaluation.scoring import Judgement, Metric, failure_of, judge
from moa_dspy.evaluation.suite import OwnData
from moa_dspy.program import AttentionMoA
from moa_dspy.trace import Step, StepStarted, Trace, watch

__all__ = ["FIRST_FAILURES", "ExampleRunner", "Item", "calls_of_a_run", "check_concurrency", "usage_of"]

FIRST_FAILURES: Final = 10
"""The loop ends if this many examples fail before any has succeeded, because they probably have one cause."""

_POLL_SECONDS: Final = 0.02


@dataclass(frozen=True)
class Item:
    """An example to run.

    Attributes:
        key: identifies the item.
        example: the example.
        prediction: the answer, if only the metric is to be called.
    """

    key: Any
    example: dspy.Example
    prediction: Any = None


@dataclass
class ExampleRunner:
    """Runs a program on examples and scores the answers.

    An exception of the program or the metric becomes a failed run, except a ``ConfigurationError``. An item starts only
    if the budget has room for it and for the running items. Each item is expected to use as much as the largest so far.
    If tokens or dollars are limited, no second item starts before the first has ended. At the end of the budget's
    seconds the running items are cancelled.

    Args:
        program: any DSPy module.
        metric: scores the answers; None for no scores.
        concurrency: maximum number of concurrent items.
        guard: the budget.
        benchmark: runs the program on an example.
        calls: maximum number of LM calls of one item; default: that of one run of the program.
        keep_traces: whether runs keep their trace.
        patience: number of failures before any success that end the loop; None for no limit.
        metric_may_fail: whether an answer counts as a success although the metric raises on it.
        succeeded: whether an item has succeeded before.
        largest: usage of the largest item so far.
    """

    program: dspy.Module
    metric: Metric | None
    concurrency: int = 8
    guard: BudgetGuard = field(default_factory=BudgetGuard)
    benchmark: Benchmark = field(default_factory=lambda: OwnData("examples"))
    calls: int | None = None
    keep_traces: bool = False
    patience: int | None = FIRST_FAILURES
    metric_may_fail: bool = False
    succeeded: bool = False
    largest: Amounts | None = None

    def __post_init__(self) -> None:
        self._asker = Asker(self.program, self.benchmark)
        self._calls = calls_of_a_run(self.program) if self.calls is None else self.calls
        self._under_way = 0
        self._failures: list[str | None] = []
        self._complete, self._total = True, 0

    async def run(self, items: Sequence[Item], on_run: Callable[[Item, Run], None]) -> bool:
        """Run the items concurrently.

        Args:
            items: in the order in which they start.
            on_run: called with each finished run.

        Returns:
            Whether all items were run; False if the budget ended first.

        Raises:
            ConfigurationError: if program, metric and data are incompatible.
            AllRunsFailedError: if the first items all failed.
        """
        waiting, self._total = iter(items), len(items)
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="moa-dspy-examples") as self._threads:
            workers = [asyncio.create_task(self._work(waiting, on_run)) for _ in range(self.concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return self._complete

    async def _work(self, waiting: Iterator[Item], on_run: Callable[[Item, Run], None]) -> None:
        for item in waiting:
            calls = max(self._calls, int(self.largest.calls) if self.largest else 0)
            if not await self._admitted(calls):
                self._complete = False
                return
            used: list[Usage] = []
            try:
                run = await self._run(item, used)
            finally:
                self._under_way -= 1
                self.guard.settle(sum(used, start=Usage()), calls=calls)
            if run is None:
                self._complete = False
                return
            self.largest = Amounts.of(run.usage).largest(self.largest or Amounts())
            on_run(item, run)
            self._check_failures(run)

    async def _admitted(self, calls: int) -> bool:
        """Wait for room in the budget and reserve it. Return False if no running work could make room."""
        while not self._has_room(calls):
            if not self._under_way and not self.guard.is_busy:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        self._under_way += 1
        return True

    def _has_room(self, calls: int) -> bool:
        budget = self.guard.budget
        if self.largest is None and self._under_way and (budget.tokens or budget.usd):
            return False
        return self.guard.reserve(calls, own=(self.largest or Amounts()) * (self._under_way + 1))

    async def _run(self, item: Item, used: list[Usage]) -> Run | None:
        """Return the run of an item; None if the budget's time ended first. Append its usage to ``used``."""
        began = time.perf_counter()
        prediction, judgement = item.prediction, None
        if prediction is None:
            with usage_of(self.program) as program_usage:
                try:
                    prediction = await self._answer(item.example)
                except (ConfigurationError, BudgetExhaustedError):
                    raise
                except Exception as error:  # noqa: BLE001 - a program may raise anything; that is a failed run
                    if isinstance(error, TimeoutError) and self.guard.seconds_left <= 0:
                        return None
                    judgement = Judgement("error", failure=failure_of(error))
                finally:
                    used.append(program_usage())
        used += [Usage()] * (1 - len(used))  # for an answer that was recorded before
        if judgement is None:
            judgement = await self._judge(item.example, prediction, used)
        seconds = time.perf_counter() - began
        return self._finished(item.example, prediction, judgement, [*used, Usage()][:2], seconds)

    async def _judge(self, example: dspy.Example, prediction: Any, used: list[Usage]) -> Judgement:
        metric = self.metric
        if metric is None:
            return Judgement("scored")
        with metered() as meter:
            try:
                return await in_thread(self._threads, lambda: judge(metric, example, prediction))
            finally:
                if meter.usage.calls:
                    used.append(meter.usage)

    async def _answer(self, example: dspy.Example) -> Any:
        left = self.guard.seconds_left
        if left == float("inf"):
            return await self._asker.ask(example, self._threads)
        async with asyncio.timeout(max(left, 0.0)):
            return await self._asker.ask(example, self._threads)

    def _finished(
        self, example: dspy.Example, prediction: Any, judgement: Judgement, used: list[Usage], seconds: float
    ) -> Run:
        trace = getattr(prediction, "trace", None)
        trace = trace if isinstance(trace, Trace) else None
        if trace is not None and not self.keep_traces:
            prediction = dspy.Prediction(**dict(prediction.items()))
        return Run(
            example=example,
            score=judgement.score,
            prediction=prediction,
            trace=trace if self.keep_traces else None,
            error=None if judgement.failure is None else judgement.failure.message,
            status=judgement.status,
            failure=judgement.failure,
            feedback=judgement.feedback,
            details=judgement.details,
            program_usage=used[0],
            metric_usage=used[1],
            price=None if trace is None else price_of(trace),
            seconds=seconds,
        )

    def _check_failures(self, run: Run) -> None:
        if run.status != "error" or (self.metric_may_fail and run.prediction is not None):
            self.succeeded = True
        else:
            self._failures.append(run.error)
        failed = len(self._failures)
        if not self.succeeded and self.patience is not None and failed >= self.patience:
            who = "program" if run.prediction is None else "metric"
            which = "every example" if failed == self._total else f"the first {failed} examples"
            raise AllRunsFailedError(f"the {who} fails on {which}; the first one: {self._failures[0]}")


@contextmanager
def usage_of(program: dspy.Module) -> Iterator[Callable[[], Usage]]:
    """Measure a program's runs within the block: by the traces of an ``AttentionMoA``, else by the LM calls.

    Traces also include failed calls, and estimate usage that a provider does not report.
    """
    if not isinstance(program, AttentionMoA):
        with metered() as meter:
            yield lambda: meter.usage
        return
    usages: list[Usage] = []

    def watcher(event: StepStarted | Step | Trace) -> None:
        if isinstance(event, Trace):
            usages.append(event.usage)

    with watch(watcher):
        yield lambda: sum(usages, start=Usage())


def calls_of_a_run(program: dspy.Module) -> int:
    """Return the maximum number of LM calls of one run; 1 if it is unknown (no ``AttentionMoA``)."""
    if not isinstance(program, AttentionMoA):
        return 1
    most, allowed = program.architecture.max_calls, program.budget.calls
    return most if allowed is None else min(most, allowed)


def check_concurrency(concurrency: Any) -> None:
    """Check the maximum number of concurrent examples.

    Raises:
        ConfigurationError: if it is not a whole number of at least 1.
    """
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency!r} lets nothing run; it must be a whole number from 1")
