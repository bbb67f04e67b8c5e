"""The items of an evaluation, run a few at a time, each recorded as it ends."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import dspy
from pydantic_core import to_jsonable_python

from moa_dspy.data.benchmark import Benchmark
from moa_dspy.data.metrics.metric import Metric, Verdict
from moa_dspy.errors import ConfigurationError, MoAError, RunError, UnparsedVerdictError
from moa_dspy.evaluation.purse import Purse
from moa_dspy.evaluation.records import Record
from moa_dspy.evaluation.restoring import restored
from moa_dspy.evaluation.results import Progress
from moa_dspy.evaluation.settings import Tuned
from moa_dspy.evaluation.spending import Spending, metered
from moa_dspy.program import AttentionMoA
from moa_dspy.trace import Failure, Step, StepStarted, Trace, watch

__all__ = ["Runner"]

T = TypeVar("T")

_HOPELESS: Final = 10
"""So many items that fail in a row from the start end the evaluation: what is wrong with one is wrong with all."""


@dataclass
class Runner:
    """Runs the items that have no record yet.

    Args:
        program: what answers.
        benchmark: how it is asked.
        metric: what scores.
        examples: all examples, by id.
        contents: the digest of each.
        purse: the budget.
        write: takes each new record.
        show: takes the progress after each item.
        done: the records that there are, by id; new ones are added.
        concurrency: items under way at once.
    """

    program: dspy.Module
    benchmark: Benchmark
    metric: Metric
    examples: Mapping[str, dspy.Example]
    contents: Mapping[str, str]
    purse: Purse
    write: Callable[[Record], None]
    show: Callable[[Progress], None]
    done: dict[str, Record]
    concurrency: int
    _under_way: int = 0
    _failed: int = 0
    _began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._tuned = Tuned(self.program)
        self._answered = {  # the answer is there, the metric failed: only that is done again
            name: record for name, record in self.done.items() if record.status == "error" and record.outputs
        }
        self._hopeful = any(record.status != "error" for record in self.done.values())
        for record in self.done.values():
            self.purse.book(record.spent)

    async def run(self) -> None:
        """Run until all items have a record or the budget allows no more.

        Raises:
            ConfigurationError: program, metric and data do not fit together.
            RunError: all of the first items failed, or a record cannot be written.
        """
        self.show(self._progress(None))
        waiting = iter([name for name in self.examples if not self._finished(name)])
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="moa-dspy-eval") as self._threads:
            if not self.purse.learned and self.purse.admits(0):
                await self._next(waiting)  # what an item takes is not known: the first one tells
            workers = [asyncio.create_task(self._work(waiting)) for _ in range(self.concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    def _finished(self, name: str) -> bool:
        record = self.done.get(name)
        return record is not None and record.status != "error"

    async def _work(self, waiting: Iterator[str]) -> None:
        while self.purse.admits(self._under_way) and await self._next(waiting):
            continue

    async def _next(self, waiting: Iterator[str]) -> bool:
        name = next(waiting, None)
        if name is None:
            return False
        self._under_way += 1
        try:
            record, spent = await self._item(name, self.examples[name])
        finally:
            self._under_way -= 1
        self.write(record)
        self.done[name] = record
        self.purse.book(spent)
        self.show(self._progress(record))
        self._refuse_the_hopeless(record)
        return True

    def _refuse_the_hopeless(self, record: Record) -> None:
        self._hopeful = self._hopeful or record.status != "error"
        self._failed += record.status == "error"
        if not self._hopeful and self._failed >= _HOPELESS and record.error is not None:
            raise RunError(f"the first {self._failed} items all failed, the last of them of: {record.error.message}")

    async def _item(self, name: str, example: dspy.Example) -> tuple[Record, Spending]:
        """The record of an item, and what this try took; the record counts what failed tries before it took too."""
        began = time.perf_counter()
        before, answered = self.done.get(name), self._answered.get(name)
        attempt = _Attempt()
        if answered is not None:
            attempt.outputs, attempt.prediction = answered.outputs, restored(self.program, answered.outputs)
        if attempt.prediction is None:
            await self._answer(attempt, example)
        if attempt.prediction is not None:
            await self._judge(attempt, example)
        record = Record(
            id=name,
            content=self.contents[name],
            category=self.benchmark.category(example),
            outputs=attempt.outputs,
            program=attempt.program + (before.program if before else Spending()),
            judge=attempt.judge + (before.judge if before else Spending()),
            seconds=round(time.perf_counter() - began + (answered.seconds if answered else 0.0), 3),
            finished=round(time.time(), 3),
            **attempt.values,
        )
        return record, attempt.program + attempt.judge

    async def _answer(self, attempt: _Attempt, example: dspy.Example) -> None:
        with self._measured() as spent:
            try:
                attempt.prediction = await self._ask(example)
                attempt.outputs = _outputs(attempt.prediction)
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001 (a program is an outside party: whatever it raises is its failure)
                attempt.values = {"status": "error", "error": _failure(error)}
            finally:
                attempt.program = spent()

    async def _judge(self, attempt: _Attempt, example: dspy.Example) -> None:
        with metered() as meter:
            try:
                verdict = await self._in_thread(lambda: self.metric.assess(example, attempt.prediction))
                attempt.values = _scored(verdict)
            except ConfigurationError:
                raise
            except UnparsedVerdictError as error:
                attempt.values = {
                    "status": "unparsed",
                    "feedback": str(error),
                    "details": _jsonable(error.details),
                }
            except MoAError as error:
                attempt.values = {"status": "error", "error": _failure(error)}
            except Exception as error:  # noqa: BLE001 (so is a metric, or a judge's provider)
                attempt.values = {"status": "error", "error": _failure(error, f"the metric failed, {_kind(error)}: ")}
            finally:
                attempt.judge = meter.spent

    async def _ask(self, example: dspy.Example) -> Any:
        with self._tuned.under(self.benchmark.generation(example)) as program:
            if hasattr(program, "aforward"):
                return await self.benchmark.arun(program, example)
            return await self._in_thread(lambda: self.benchmark.run(program, example))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: context.run(work))

    def _measured(self) -> _Measured:
        return _Measured(isinstance(self.program, AttentionMoA))

    def _progress(self, record: Record | None) -> Progress:
        records = list(self.done.values())
        scores = [record.score for record in records if record.score is not None]
        return Progress(
            total=len(self.examples),
            done=len(records),
            scored=len(scores),
            errors=sum(record.status == "error" for record in records),
            unparsed=sum(record.status == "unparsed" for record in records),
            mean=sum(scores) / len(scores) if scores else None,
            spent=total(records),
            seconds=time.perf_counter() - self._began,
            record=record,
        )


def total(records: Iterable[Record]) -> Spending:
    """Return what records took together."""
    return sum((record.spent for record in records), start=Spending())


@dataclass
class _Attempt:
    """One try of an item."""

    prediction: Any = None
    outputs: dict[str, Any] = field(default_factory=dict)
    program: Spending = field(default_factory=Spending)
    judge: Spending = field(default_factory=Spending)
    values: dict[str, Any] = field(default_factory=dict)


class _Measured:
    """Measures a program: by the traces of an ``AttentionMoA``, which know failed calls too, else by the LM calls."""

    def __init__(self, traced: bool) -> None:
        self._traced = traced
        self._traces: list[Trace] = []
        self._metered = metered()
        self._watched = watch(self._keep)

    def _keep(self, event: StepStarted | Step | Trace) -> None:
        if isinstance(event, Trace):
            self._traces.append(event)

    def __enter__(self) -> Callable[[], Spending]:
        self._meter = self._metered.__enter__()
        self._watched.__enter__()
        return self._spent

    def __exit__(self, *problem: Any) -> None:
        self._watched.__exit__(*problem)
        self._metered.__exit__(*problem)

    def _spent(self) -> Spending:
        if self._traced:
            return sum((Spending.of(trace) for trace in self._traces), start=Spending())
        return self._meter.spent


def _scored(verdict: Verdict) -> dict[str, Any]:
    return {
        "status": "scored",
        "score": float(verdict.score),
        "feedback": verdict.feedback,
        "details": _jsonable(verdict.details),
    }


def _outputs(prediction: Any) -> dict[str, Any]:
    return _jsonable(dict(prediction.items()) if isinstance(prediction, dspy.Prediction) else {"answer": prediction})


def _jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = to_jsonable_python(dict(values), fallback=str)
    return plain


def _failure(error: Exception, said: str = "") -> Failure:
    message = said + " ".join(str(error).split())
    return Failure(kind=_kind(error), message=message[:500])


def _kind(error: Exception) -> str:
    return str(getattr(error, "code", None) or type(error).__name__)
