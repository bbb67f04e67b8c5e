"""The runs under way, and the last ones that ended: their steps, their partial answers, and how they are stopped."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

from moa_dspy.cost.budget import Budget
from moa_dspy.cost.usage import Usage
from moa_dspy.program import AttentionMoA, Prediction
from moa_dspy.runtime.answer_stream import AnswerStream, answer_streams
from moa_dspy.serve.problems import Problem
from moa_dspy.serve.usage_file import UsageFile
from moa_dspy.trace import Step, StepStarted, Trace, watch

__all__ = ["Event", "Runs", "ServedRun"]

Event: TypeAlias = StepStarted | Step | Trace | str
"""An event of a run: a step that starts or ends, a part of the answer, or the trace at the end."""

Status: TypeAlias = Literal["running", "ok", "failed", "stopped"]


_TITLE: Final = 200


class ServedRun:
    """A run of a program.

    Attributes:
        id: cannot be guessed.
        created: seconds since the epoch.
        title: the beginning of its first text input, or the program's name.
        task: the asyncio task of the run.
        answer: the part of the answer that is known.
        trace: the record; None during the run.
    """

    def __init__(
        self,
        model: str,
        program: AttentionMoA,
        inputs: Mapping[str, Any],
        budget: Budget,
        usage_file: UsageFile | None = None,
    ) -> None:
        self.id, self.model, self.created = secrets.token_hex(12), model, int(time.time())
        self.program = program
        self.trace: Trace | None = None
        self.answer = AnswerStream(lambda _: self._wake())
        self.title = next((value for value in inputs.values() if isinstance(value, str) and value), model)[:_TITLE]
        self._inputs, self._budget, self._usage_file = inputs, budget, usage_file
        self._events: list[StepStarted | Step | Trace] = []
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._work(), name=f"run {self.id}")
        self.task.add_done_callback(lambda _: self._wake())

    @property
    def status(self) -> Status:
        """Return the state of the run."""
        if not self.task.done():
            return "running"
        if self.task.cancelled():
            return "stopped"
        return "ok" if self.task.exception() is None else "failed"  # which also tells asyncio that it was seen

    @cached_property
    def letters(self) -> int:
        """Return about how many letters the record of a run that ended has."""
        steps = () if self.trace is None else self.trace.steps
        return sum(len(step.text) + len(str(step.outputs)) for step in steps) + len(str(self._inputs))

    def stop(self) -> None:
        """Cancel the calls under way. A run that has ended stays as it is."""
        self.task.cancel("the client stopped the run")

    async def result(self) -> Prediction:
        """Return the answer of the run. Cancelling the wait does not stop the run.

        Raises:
            Problem: if the run was stopped.
            Exception: what the program raised.
        """
        await asyncio.wait({self.task})
        if self.task.cancelled():
            raise Problem("the run was stopped", 409, code="run_stopped")
        return self.task.result()

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events of the run from its beginning, until it has ended. Parts of the answer may be joined."""
        at = read = 0
        while True:
            ended, changed = self.task.done(), self._changed
            while at < len(self._events):
                at += 1
                yield self._events[at - 1]
            if text := self.answer.sent[read:]:
                read += len(text)
                yield text
            if ended:
                return
            await changed.wait()

    async def _work(self) -> Prediction:
        with watch(self._note), answer_streams(self.answer):
            prediction: Any = await self.program.acall(budget=self._budget, **self._inputs)
        return prediction

    def _note(self, event: StepStarted | Step | Trace) -> None:
        if isinstance(event, Trace):
            self.trace = event
        elif self._usage_file is not None:
            self._usage_file.note(self.id, self.model, event)
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


@dataclass
class Runs:
    """The runs of a server.

    Args:
        limit: number of runs under way at once.
        keep: number of runs that have ended, of which the record is kept.
        keep_letters: letters in these records, of which the last one is always kept.
        usage_file: where the usage of steps is written; None if it is not.

    Attributes:
        total: usage of all runs that have ended, and what the usage file had before.
    """

    limit: int = 64
    keep: int = 100
    keep_letters: int = 50_000_000
    usage_file: UsageFile | None = None
    total: Usage = field(default_factory=Usage)
    running: dict[str, ServedRun] = field(default_factory=dict)
    ended: OrderedDict[str, ServedRun] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        if self.usage_file is not None:
            self.total += self.usage_file.before

    def start(self, model: str, program: AttentionMoA, inputs: Mapping[str, Any], budget: Budget) -> ServedRun:
        """Start a run.

        Raises:
            Problem: if too many are under way.
        """
        if len(self.running) >= self.limit:
            raise Problem(
                f"{self.limit} runs are under way, and no more are allowed at once; try again later",
                429,
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        run = ServedRun(model, program, inputs, budget, self.usage_file)
        self.running[run.id] = run
        run.task.add_done_callback(lambda _: self._move(run))
        return run

    def find(self, run_id: str) -> ServedRun:
        """Return a run.

        Raises:
            Problem: if there is none.
        """
        run_id = run_id.removeprefix("chatcmpl-")
        run = self.running.get(run_id) or self.ended.get(run_id)
        if run is None:
            raise Problem(f"there is no such run; the last {self.keep} are kept", 404, code="run_not_found")
        return run

    async def close(self) -> None:
        """Stop all runs, wait until their calls have ended, and close the usage file."""
        for run in list(self.running.values()):
            run.stop()
        while self.running:
            await asyncio.sleep(0.01)
        if self.usage_file is not None:
            self.usage_file.close()

    def _move(self, run: ServedRun) -> None:
        if run.trace is not None:
            self.total += run.trace.usage
        del self.running[run.id]
        if run.status != "running":
            self.ended[run.id] = run
        letters = sum(one.letters for one in self.ended.values())
        while len(self.ended) > self.keep or (letters > self.keep_letters and len(self.ended) > 1):
            letters -= self.ended.popitem(last=False)[1].letters
