"""The loop over examples: a program answers, and a metric scores. Evaluations, optimizers and comparisons use it."""

from __future__ import annotations

import asyncio
import contextvars
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Final, ParamSpec, TypeVar

import dspy

from moa_dspy.agents import Agent
from moa_dspy.batches.batcher import Question, current_batcher
from moa_dspy.cost.budget import Amounts, Budget, BudgetGuard
from moa_dspy.cost.meter import CallsOfItem, metered
from moa_dspy.cost.prices import check_prices
from moa_dspy.cost.usage import Price, Usage
from moa_dspy.data.benchmark import Benchmark
from moa_dspy.data.judges import asked_again
from moa_dspy.errors import (
    AllRunsFailedError,
    BudgetExhaustedError,
    BudgetInterruptError,
    ConfigurationError,
    MetricError,
)
from moa_dspy.evaluation.scoring import Judgement, Metric, failure_of, judge
from moa_dspy.evaluation.suite import OwnData
from moa_dspy.program import AttentionMoA
from moa_dspy.signatures import TaskSignature
from moa_dspy.trace import Failure, Step, StepStarted, Trace, watch

__all__ = [
    "FIRST_FAILURES",
    "ExampleRunner",
    "Item",
    "Run",
    "calls_of_a_run",
    "check_budget",
    "check_concurrency",
    "in_threads",
    "mean_price",
    "models_of",
    "price_of",
    "price_of_steps",
]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

FIRST_FAILURES: Final = 10
"""The loop ends if this many examples fail before any has succeeded, because they probably have one cause."""

_NO_USAGE: Final = Usage()
_CUT: Final = Failure(kind="budget", message="the budget ended while this item ran")
_AGENT_FIELDS: Final = frozenset({"temperature", "max_tokens"})


@dataclass(frozen=True)
class Item:
    """An example to run.

    Attributes:
        key: identifies the item.
        prediction: the answer, if only the metric is to be called.
        again: whether what was read before could not be used, so that the response cache is bypassed.
    """

    key: Any
    example: dspy.Example
    prediction: Any = None
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Run(Judgement):
    """The run of a program on one example, with the metric's judgement of its answer.

    Attributes:
        prediction: the answer; None if the program failed.
        trace: the trace of the run, if traces are kept and the program makes one.
        task: the signature of the program that made the trace, which defines the types of its outputs.
        program_usage: usage of the program's calls.
        metric_usage: usage of the metric's calls.
        price: cost of the run without the response cache; None without a trace.
        seconds: wall time of program and metric.
    """

    example: dspy.Example
    prediction: dspy.Prediction | None = None
    trace: Trace | None = None
    task: TaskSignature | None = None
    program_usage: Usage = field(default_factory=Usage)
    metric_usage: Usage = field(default_factory=Usage)
    price: Price | None = None
    seconds: float = 0.0

    @property
    def usage(self) -> Usage:
        """Return the usage of program and metric together."""
        return self.program_usage + self.metric_usage

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle, which cannot find the class of a signature: its fields and instructions."""
        task: Any = self.task
        return {**vars(self), "task": task and (dict(task.fields), task.instructions)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        task = state.get("task")
        vars(self).update(state, task=task and dspy.make_signature(*task))


@dataclass
class ExampleRunner:
    """Runs a program on examples and scores the answers.

    An exception of the program or the metric becomes a failed run, except a ``ConfigurationError``. An item starts only
    if the budget has room for it and for the running items, see ``BudgetGuard.admit``. At the end of the budget's
    seconds the running items are cut short, and so is an item that needs a call for which there is no room, such as a
    retry. A benchmark may prescribe settings per example, such as MT-Bench's
    temperatures. They apply to the program's models.

    Args:
        program: any DSPy module.
        metric: scores the answers; None for no scores.
        concurrency: maximum number of concurrent items.
        guard: the budget of these items. It knows the largest item.
        benchmark: runs the program on an example.
        calls: maximum number of LM calls of one item; default: that of one run of the program.
        keep_traces: whether runs keep their trace.
        patience: number of failures before any success that end the loop; None for no limit.
        metric_may_fail: whether an answer counts as a success although the metric raises on it.
        succeeded: whether an item has succeeded before.

    Attributes:
        cut_short: usage of program and metric on the items that the budget cut short. They have no run.
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

    def __post_init__(self) -> None:
        self._calls = calls_of_a_run(self.program) if self.calls is None else self.calls
        self._programs: dict[str, dspy.Module] = {}  # by the settings of its models
        self._failed = self._scoreless = 0
        self._first_failure: str | None = None
        self._complete = True
        self._total: int | None = None  # None if it is unknown
        self.cut_short = {"program": _NO_USAGE, "metric": _NO_USAGE}

    async def run(
        self,
        items: Iterable[Item],
        on_run: Callable[[Item, Run], None],
        ahead: int = 1,
        on_cut: Callable[[Item, Run], None] | None = None,
    ) -> bool:
        """Run the items concurrently.

        Args:
            items: in the order in which they start. Items without a length are read in a thread as they start, so any
                number of them takes little memory.
            on_run: called with each finished run.
            ahead: number of such items that are read at once.
            on_cut: called with each item that the budget cut short, and a failed run that holds the usage so far.

        Returns:
            Whether all items were run; False if the budget ended first.

        Raises:
            ConfigurationError: if program, metric and data are incompatible.
            AllRunsFailedError: if the first items all failed.
        """
        waiting, self._on_cut = iter(items), on_cut
        self._total = len(items) if isinstance(items, Sized) else None
        self._read, self._ahead, self._all_read = deque[Item](), ahead, False
        self._reading, self._admitting = asyncio.Lock(), asyncio.Lock()
        self._batcher = current_batcher.get()
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
        with nullcontext() if self._batcher is None else self._batcher.question() as question:
            await self._work_on(waiting, on_run, question)

    async def _work_on(
        self, waiting: Iterator[Item], on_run: Callable[[Item, Run], None], question: Question | None
    ) -> None:
        while (item := await self._next(waiting)) is not None:
            calls = max(self._calls, int(self.guard.largest.calls))
            with nullcontext() if question is None else question.closed():
                async with self._admitting:
                    is_admitted = await self.guard.admit(calls)
            if not is_admitted:
                self._complete = False
                return
            used, run, room = {"program": _NO_USAGE, "metric": _NO_USAGE}, None, CallsOfItem(self.guard, calls)
            try:
                with room.kept(), suppress(BudgetInterruptError):
                    run = await self._run(item, used)
            finally:
                self.guard.settle(Amounts.of(used["program"]) + Amounts.of(used["metric"]), calls=room.reserved)
            if run is None:
                self._complete = False
                self.cut_short = {who: usage + used[who] for who, usage in self.cut_short.items()}
                if self._on_cut is not None:
                    own, metrics = used["program"], used["metric"]
                    cut = Run(
                        status="error", failure=_CUT, example=item.example, program_usage=own, metric_usage=metrics
                    )
                    self._on_cut(item, cut)
                return
            on_run(item, run)
            self._check_failures(run)

    async def _next(self, waiting: Iterator[Item]) -> Item | None:
        if self._total is not None:
            return next(waiting, None)
        if not self._read:
            async with self._reading:
                if not self._read and not self._all_read:
                    self._read.extend(await self._in_thread(list, islice(waiting, self._ahead)))
                    self._all_read = not self._read
        return self._read.popleft() if self._read else None

    async def _run(self, item: Item, used: dict[str, Usage]) -> Run | None:
        """Return the run of an item; None if the budget's time ended first. Set its usage in ``used``."""
        began = time.perf_counter()
        prediction, judgement = item.prediction, None
        if prediction is None:
            with _usage_of(self.program) as program_usage:
                try:
                    prediction = await self._answer(item)
                except (ConfigurationError, BudgetExhaustedError):
                    raise
                except Exception as error:  # noqa: BLE001 - a program may raise anything; that is a failed run
                    if isinstance(error, TimeoutError) and self.guard.seconds_left <= 0:
                        return None
                    judgement = Judgement("error", failure=failure_of(error))
                finally:
                    used["program"] = program_usage()
        if judgement is None:
            judgement = await self._judge(item, prediction, used)
        recorded: Any = getattr(prediction, "trace", None)
        trace = recorded if isinstance(recorded, Trace) else None
        price = None if trace is None else price_of(trace)
        if prediction is not None and trace is not None and not self.keep_traces:
            prediction, trace = dspy.Prediction(**dict(prediction.items())), None
        return Run(
            **vars(judgement),
            example=item.example,
            prediction=prediction,
            trace=trace,
            task=self.program.signature if trace is not None and isinstance(self.program, AttentionMoA) else None,
            program_usage=used["program"],
            metric_usage=used["metric"],
            price=price,
            seconds=time.perf_counter() - began,
        )

    async def _answer(self, item: Item) -> Any:
        """Return the program's prediction. A program without ``aforward`` runs in a thread."""
        left = self.guard.seconds_left
        example = item.example
        settings = {**self.benchmark.generation(example), **({"cache": False} if item.again else {})}
        lm = dspy.settings.lm if settings else None
        ambient = dspy.context(lm=lm.copy(**settings)) if isinstance(lm, dspy.BaseLM) else nullcontext()
        program = self._with(settings)
        async with asyncio.timeout(None if left == math.inf else max(left, 0.0)):
            with ambient:
                if hasattr(program, "aforward"):
                    return await self.benchmark.arun(program, example)
                return await self._in_thread(self.benchmark.run, program, example)

    async def _judge(self, item: Item, prediction: Any, used: dict[str, Usage]) -> Judgement:
        if self.metric is None:
            return Judgement("unscored")
        with metered() as meter, asked_again(item.again):
            try:
                return await self._in_thread(judge, self.metric, item.example, prediction)
            finally:
                if meter.reading.paid_calls or meter.reading.cached_calls:
                    used["metric"] = meter.usage

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Run blocking work in a thread that ``run`` waits for, in the caller's context."""
        work = partial(contextvars.copy_context().run, function, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _with(self, settings: Mapping[str, Any]) -> dspy.Module:
        """Return the program with these settings on its LMs. It has the same prompts, demos and connections."""
        if not settings:
            return self.program
        key = json.dumps(dict(settings), sort_keys=True)
        if key not in self._programs:
            self._programs[key] = _program_with(self.program, settings)
        return self._programs[key]

    def _check_failures(self, run: Run) -> None:
        if run.status != "error" or (self.metric_may_fail and run.prediction is not None):
            self.succeeded = True
        else:
            self._first_failure = self._first_failure or run.error
            self._failed += 1
            self._scoreless += run.failure is not None and run.failure.kind == MetricError.__name__
        failed = self._failed
        scoreless = failed == self._scoreless  # the metric returned something that is no score, whatever the answer
        if self.succeeded or self.patience is None or not failed:
            return
        if failed >= self.patience or (scoreless and failed == self._total):
            who = "program" if run.prediction is None else "metric"
            which = "every example" if failed == self._total else f"the first {failed} examples"
            kind = ConfigurationError if scoreless else AllRunsFailedError
            raise kind(f"the {who} fails on {which}; the first one: {self._first_failure}")


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


def in_threads(work: Callable[[S], T], items: Sequence[S], concurrency: int) -> list[T]:
    """Run blocking work on items in threads, in the caller's context. Return the results in the items' order."""
    if concurrency == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(concurrency) as threads:
        futures = [threads.submit(contextvars.copy_context().run, work, item) for item in items]
        return [future.result() for future in futures]


def calls_of_a_run(program: dspy.Module) -> int:
    """Return the maximum number of LM calls of one run; 1 if it is unknown (no ``AttentionMoA``)."""
    if not isinstance(program, AttentionMoA):
        return 1
    most, allowed = program.architecture.max_calls, program.budget.calls
    return most if allowed is None else min(most, allowed)


def check_budget(budget: Budget | None, lms: Iterable[str | dspy.BaseLM | None]) -> None:
    """Raise ConfigurationError if it is no budget, or in dollars and cannot be enforced.

    ``lms`` are all models that may be called; None is DSPy's configured model.
    """
    if Budget.of(budget).usd is None:
        return
    if dspy.settings.disable_history or dspy.settings.max_history_size == 0:
        raise ConfigurationError("a budget in dollars needs DSPy's history, which holds the prices; it is switched off")
    check_prices(lms)


def models_of(program: dspy.Module) -> list[dspy.BaseLM]:
    """Return the models of an ``AttentionMoA``; none of another module, whose models are unknown."""
    if not isinstance(program, AttentionMoA):
        return []
    agents = [*program.agents, *([] if program.aggregator is None else [program.aggregator])]
    lms = [agent.lm or dspy.settings.lm for agent in agents]
    return [lm for lm in lms if isinstance(lm, dspy.BaseLM)]


def check_concurrency(concurrency: Any) -> None:
    """Raise ConfigurationError unless ``concurrency`` is a whole number of at least 1."""
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigurationError(f"concurrency={concurrency!r} is invalid; it must be a whole number of at least 1")


@contextmanager
def _usage_of(program: dspy.Module) -> Iterator[Callable[[], Usage]]:
    """Measure a program's runs within the block: by the traces of an ``AttentionMoA``, else by the LM calls.

    Traces also include failed calls, and estimate usage that a provider does not report.
    """
    if not isinstance(program, AttentionMoA):
        with metered() as meter:
            yield lambda: meter.usage if meter.reading.paid_calls or meter.reading.cached_calls else _NO_USAGE
        return
    usages: list[Usage] = []

    def watcher(event: StepStarted | Step | Trace) -> None:
        if isinstance(event, Trace):
            usages.append(event.usage)

    with watch(watcher):
        yield lambda: sum(usages, start=Usage())


def _program_with(program: dspy.Module, settings: Mapping[str, Any]) -> dspy.Module:
    if isinstance(program, AttentionMoA):
        aggregator = program.aggregator
        return program.replace(
            agents=[_agent_with(agent, settings) for agent in program.agents],
            aggregator=None if aggregator is None else _agent_with(aggregator, settings),
        )
    copy: dspy.Module = program.deepcopy()
    for _, predictor in copy.named_predictors():
        if isinstance(predictor.lm, dspy.BaseLM):
            predictor.lm = predictor.lm.copy(**settings)
    return copy


def _agent_with(agent: Agent, settings: Mapping[str, Any]) -> Agent:
    own = {name: value for name, value in settings.items() if name in _AGENT_FIELDS}
    others = {name: value for name, value in settings.items() if name not in _AGENT_FIELDS}
    lm = agent.lm.copy(**others) if others and isinstance(agent.lm, dspy.BaseLM) else agent.lm
    return replace(agent, lm=lm, **own)
