"""``moa-dspy run``: many questions, answered row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from moa_dspy.batches import Batches
from moa_dspy.cli.costs import require_approval
from moa_dspy.cli.examples import fields_of
from moa_dspy.cli.options import Run
from moa_dspy.cli.output import confirmed, note, settings, table, warning, write_json, write_parts
from moa_dspy.cli.programs import budget_of, build_program, check_keys, note_default_agents
from moa_dspy.cli.views.progress import usage_line
from moa_dspy.data.loading import STDIN
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.planning import PartEstimate, WorkEstimate
from moa_dspy.rows.reading import Rows
from moa_dspy.rows.results import RunResult
from moa_dspy.rows.run import RowRun

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["run"]


def run(options: Run) -> None:
    """Answer the rows, and write what that took."""
    budget = budget_of(options)
    program = build_program(options)
    rows = Rows(options.data, program, fields=fields_of(options.fields), split=options.split, limit=options.limit)
    rest: Any = options.batch_rest
    with RowRun(
        program,
        rows,
        options.out,
        trace=options.trace,
        batch=options.batch and Batches(rest=rest),
        concurrency=options.concurrency,
        budget=budget,
    ) as prepared:
        note_default_agents(options, "running")
        check_keys(program)
        if options.estimate:
            _estimate(prepared, options)
        _announce(prepared)
        if prepared.survey.waiting and options.data != STDIN and not (options.yes or options.quiet):
            _confirm()
        result = _go(prepared)
    _warn_of_gaps(result)
    write_json(result.to_dict()) if options.json else write_parts(*_parts(result))
    if not result.answered and not result.errors and options.data == STDIN and result.ended_by == "rows":
        raise ConfigurationError("standard input is empty; send an object a line")
    if not result.answered:
        raise RunError(f"no row has an answer; {options.out} says why in its column error")


def _estimate(prepared: RowRun, options: Run) -> None:
    survey, cost = prepared.survey, prepared.estimate()
    if survey.total is None or cost is None:
        raise ConfigurationError("--estimate: the rows are read as they are answered, so their number is not known")
    part = PartEstimate(part=f"{survey.waiting:,} of {survey.total:,} rows", most=cost.at_most, expected=cost)
    require_approval(options, lambda: WorkEstimate(parts=(part,), notes=()))


def _announce(prepared: RowRun) -> None:
    survey, cost = prepared.survey, prepared.estimate()
    if survey.total is None:
        note("the rows are read as they are answered, so their number and their cost are not known")
    elif cost is not None:
        note(
            f"{survey.waiting:,} of {survey.total:,} rows wait; estimated, if nothing stops early: "
            f"{cost.calls_in_words}, {cost.tokens:,} tokens, {cost.dollars}"
        )


def _confirm() -> None:
    if confirmed() is False:
        raise ConfigurationError("not confirmed; nothing was run")


def _go(prepared: RowRun) -> RunResult:
    try:
        return prepared.go(progress=not settings.quiet)
    except KeyboardInterrupt:
        note(f"the same command resumes the run: the answers so far are in {prepared.journal}")
        raise


def _warn_of_gaps(result: RunResult) -> None:
    if result.errors:
        warning(f"{result.errors:,} rows failed; the same command tries them again")
    if result.ended_by == "budget":
        pending = "further rows" if result.pending is None else f"{result.pending:,} rows"
        warning(f"the budget ended the run: {pending} were not run; the same command with a larger budget resumes it")


def _parts(result: RunResult) -> Iterator[RenderableType]:
    counts = f"{result.answered:,}", f"{result.errors:,}", _count(result.pending)
    yield table([("", "answered", "failed", "not run"), ("rows", *counts)])
    yield f"\nprogram  {result.program}"
    yield f"usage    {usage_line(result.own_usage)}"
    if result.own_usage.remark is not None:
        yield f"         {result.own_usage.remark}"
    if result.usage != result.own_usage:
        yield f"in all   {usage_line(result.usage)}, with earlier runs"
    yield f"answers  {result.path}"


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"
