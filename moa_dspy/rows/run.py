"""``run``: a program's answers to many rows, without a metric."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import dspy

from moa_dspy._dspy import few_replies_in_memory
from moa_dspy.batches.batcher import PRICE, Batcher, Batches, may_have_batches
from moa_dspy.cost.budget import Amounts, Budget, BudgetGuard
from moa_dspy.cost.usage import Usage
from moa_dspy.errors import AllRunsFailedError, ConfigurationError, RunError
from moa_dspy.evaluation.fingerprint import label
from moa_dspy.evaluation.progress import progress_display
from moa_dspy.evaluation.runner import (
    ExampleRunner,
    Item,
    Run,
    calls_of_a_run,
    check_budget,
    check_concurrency,
    models_of,
)
from moa_dspy.planning import CostEstimate, total
from moa_dspy.program import AttentionMoA
from moa_dspy.rows.answers import AnswerFile, Answers, Columns
from moa_dspy.rows.reading import Inputs, Rows, Survey
from moa_dspy.rows.results import RunProgress, RunResult
from moa_dspy.runtime import event_loop

__all__ = [
    "AllRunsFailedError",
    "ConfigurationError",
    "RowRun",
    "RunError",
    "run",
]

_PLANNED: Final = 5  # number of rows planned for an estimate
_AT_ONCE: Final = 8  # rows
_IN_BATCHES: Final = 10_000  # rows that are open at once in batches
_AHEAD: Final = 64  # rows that are read at once; of a stream, each is answered as it comes
_IN_MEMORY: Final = 10_000  # replies of DSPy's response cache that stay in memory


def run(
    program: dspy.Module,
    inputs: Inputs,
    *,
    out: str | Path | None = None,
    fields: Mapping[str, str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    trace: bool = False,
    batch: Batches | bool = False,
    concurrency: int | None = None,
    budget: Budget | None = None,
    progress: Callable[[RunProgress], None] | bool = False,
) -> RunResult:
    """Answer rows. With ``out``, memory does not grow with their number, and an interrupted run resumes.

    Rows are identified by their content: a row that equals an answered one in all columns is not asked again. Equal
    rows of one input each get an answer. The response cache answers all but the first of them.

    Args:
        program: any DSPy module.
        inputs: the rows: a JSONL, JSON, CSV or Parquet file, a folder, a hub id, a benchmark or its name, ``-`` for
            standard input (JSON lines), or mappings or examples. An iterator is read as the rows are answered.
        out: a ``.jsonl``, ``.csv`` or ``.parquet`` file of answers; see ``docs/scale.md`` for its columns.
        fields: the column of each input field. Default: columns of the same names; all others are kept, too.
        split: the split of a folder, a hub data set or a benchmark.
        limit: number of rows, from the first.
        trace: whether each answer has its trace.
        batch: whether requests are sent in batches of their provider, at half the price; or how, see ``Batches``.
        concurrency: maximum number of concurrent rows. Default: 8, or 10,000 in batches.
        budget: limits of the run, earlier starts included (seconds: this start only). At its end, running rows end.
        progress: called after each row; True shows progress on standard error.

    Raises:
        ConfigurationError: if program, rows and file are incompatible, if a row cannot be read, or if the budget is in
            dollars and the price of a model is unknown.
        RunError: if the first ten rows all failed, or the file cannot be written.
    """
    rows = Rows(inputs, program, fields=fields, split=split, limit=limit)
    with RowRun(program, rows, out, trace=trace, batch=batch, concurrency=concurrency, budget=budget) as prepared:
        return prepared.go(progress)


class RowRun:
    """One call of ``run``, with its arguments: rows, program and file of answers.

    Raises:
        ConfigurationError: if an argument does not fit.
    """

    def __init__(
        self,
        program: dspy.Module,
        rows: Rows,
        out: str | Path | None = None,
        *,
        trace: bool = False,
        batch: Batches | bool = False,
        concurrency: int | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._batches = Batches.of(batch)
        self._concurrency = (_AT_ONCE if self._batches is None else _IN_BATCHES) if concurrency is None else concurrency
        check_concurrency(self._concurrency)
        self._program, self._rows = program, rows
        check_budget(budget, models_of(program))
        self._guard = BudgetGuard(budget)
        calls, allowed = calls_of_a_run(program), self._guard.budget.calls
        if allowed is not None and allowed < calls:
            raise ConfigurationError(f"a budget of {allowed} calls is too small for a single row, which takes {calls}")
        if out is not None:
            rows.refuse(out)
        self._columns = Columns(program, trace=trace)
        self._files = ExitStack()
        self._answers = Answers() if out is None else self._files.enter_context(AnswerFile(out, self._columns.identity))
        self._out = None if out is None else Path(out)

    def __enter__(self) -> RowRun:
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    @property
    def journal(self) -> Path | None:
        """Return the file to which answers are written at once."""
        return self._answers.journal

    @cached_property
    def survey(self) -> Survey:
        """Return the number of rows, and some that wait. All rows are read, if they can be read again.

        Raises:
            ConfigurationError: if a row cannot be read, or there is none.
        """
        return self._rows.survey(self._answers.done, _PLANNED)

    def estimate(self) -> CostEstimate | None:
        """Return the estimated cost of the waiting rows; None if it has no plan, or their number is unknown."""
        survey = self.survey
        if survey.waiting is None or not isinstance(self._program, AttentionMoA):
            return None
        if not survey.sample:
            return CostEstimate()
        plans = total(self._planned(row) for row in survey.sample)
        return plans.times(survey.waiting / len(survey.sample))

    def _planned(self, row: dspy.Example) -> CostEstimate:
        """Return the planned cost of a row. Models whose provider has batches cost less in them."""
        assert isinstance(self._program, AttentionMoA)
        run = self._program.plan(row.inputs()).full
        if self._batches is None:
            return run
        return total(
            model.at_price(PRICE) if may_have_batches(model.model) else model  # a model on this machine is free
            for model in run.models
        )

    def go(self, progress: Callable[[RunProgress], None] | bool = False) -> RunResult:
        """Answer the rows that have no answer, and write the file.

        Raises:
            ConfigurationError: if a row cannot be read.
            RunError: if the first rows all failed, or the file cannot be written.
        """
        answers, guard = self._answers, self._guard
        guard.spend(answers.spent, pieces=answers.ended)
        survey, began = self.survey, time.perf_counter()
        known = answers.done.total() if survey.total is None else survey.total - (survey.waiting or 0)
        state, earlier = _State(known), answers.spent
        runner = ExampleRunner(
            self._program,
            None,
            concurrency=self._concurrency if survey.waiting is None else max(1, min(self._concurrency, survey.waiting)),
            guard=guard,
            keep_traces=True,
            succeeded=state.answered > 0,
        )
        with ExitStack() as stack:
            show = stack.enter_context(progress_display(progress, "rows"))

            def report(remark: str | None = None) -> None:
                if show is not None:
                    done, seconds = state.answered + state.errors, time.perf_counter() - began
                    show(RunProgress(survey.total, done, state.errors, earlier + state.usage, seconds, remark))

            def on_run(item: Item, run: Run) -> None:
                answer = self._columns.of(item.key, run, run.program_usage)
                answers.add(answer)
                state.usage += run.program_usage
                state.answered += run.failure is None
                state.errors += run.failure is not None
                report(None if run.failure is None else f"row {item.key.number} failed: {answer['error'][:200]}")

            report()
            if self._batches is not None:
                self._expect()
                stack.enter_context(Batcher(self._batches, self._out, report))
            stack.enter_context(few_replies_in_memory(_IN_MEMORY))
            ahead = _AHEAD if self._rows.replayable else 1
            items = (Item(row, row.example) for row, is_done in self._rows.answered(answers.done) if not is_done)
            complete = event_loop.run(lambda: runner.run(items, on_run, ahead, self._keep_cut))
        own = state.usage + runner.cut_short["program"]
        return RunResult(
            program=label(self._program),
            answered=state.answered,
            errors=state.errors,
            pending=None if survey.total is None else survey.total - state.answered - state.errors,
            ended_by="rows" if complete else "budget",
            usage=earlier + own,
            own_usage=own,
            answers=answers.finish(),
            seconds=time.perf_counter() - began,
            path=self._out,
        )

    def _keep_cut(self, item: Item, run: Run) -> None:
        """Write a row that the budget cut short, so that its calls count in the budget of a later start."""
        if run.program_usage.calls and self._out is not None:
            self._answers.add(self._columns.of(item.key, run, run.program_usage))

    def _expect(self) -> None:
        """Tell the budget what a row will use. In batches, no row has ended before all others have started."""
        limits = self._guard.budget
        if limits.tokens is None and limits.usd is None:
            return
        cost, waiting = self.estimate(), self.survey.waiting
        if cost is not None and waiting:
            each = cost.times(1 / waiting)
            self._guard.expect(Amounts(each.calls, each.tokens, each.usd or 0.0))


@dataclass
class _State:
    answered: int
    usage: Usage = field(default_factory=Usage)
    errors: int = 0
