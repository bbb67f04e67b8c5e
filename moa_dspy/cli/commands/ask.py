"""``moa-dspy ask``: one question, one answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, cast

import typer

from moa_dspy.cli.console import is_quiet, is_terminal, printable, warning, write_result
from moa_dspy.cli.options import (
    BudgetOptions,
    InputOptions,
    Json,
    ProgramFile,
    ProgramOptions,
    Question,
    command,
)
from moa_dspy.errors import AllProposalsFailedError, RunError

if TYPE_CHECKING:
    from moa_dspy.program import AttentionMoA, Prediction
    from moa_dspy.trace import Trace

__all__ = ["ask"]


@command
def ask(
    question: Question = None,
    program: ProgramFile = None,
    *,
    shape: ProgramOptions,
    inputs: InputOptions,
    limits: BudgetOptions,
    trace: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the record of every step to this file, as JSON.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let several models answer, criticise each other, refine and combine their answers.

    Without --agent, --config or --program, three agents run on the embedded model.
    """
    from moa_dspy.cli.files import check_writable_file
    from moa_dspy.cli.inputs import gather_inputs
    from moa_dspy.cli.programs import build_program, check_keys, note_default_agents

    check_writable_file(trace, "--trace")
    budget = limits.budget()
    built = build_program(shape, program)
    built.budget = built.budget.within(budget)
    check_keys(built)
    values = gather_inputs(built.task, question, inputs.input or ())
    note_default_agents(shape, program, "asking")
    prediction = _run(built, values, trace)
    try:
        _write_trace(prediction.trace, trace)  # first: printing may fail, as into a pipe whose reader has gone
    finally:
        _print_answer(built, prediction, as_json=as_json)


def _run(program: AttentionMoA, values: dict[str, object], trace: str | None) -> Prediction:
    from moa_dspy.cli.views.failures import failure_of
    from moa_dspy.cli.views.progress import Progress
    from moa_dspy.trace import watch

    progress = Progress(program.architecture, silent=is_quiet())
    try:
        with progress, watch(progress):
            prediction = cast("Prediction", program(**values))
    except BaseException as problem:
        if progress.trace is not None:
            try:
                _write_trace(progress.trace, trace)
            except RunError as error:  # it must not hide why the run failed
                warning(str(error))
            if isinstance(problem, AllProposalsFailedError):
                raise failure_of(progress.trace.steps) from problem
        raise
    progress.conclude(prediction.trace)
    return prediction


def _write_trace(trace: Trace, path: str | None) -> None:
    """Write the trace, unless nothing happened in the run."""
    from moa_dspy.cli.files import write_file

    if trace.steps:
        write_file(path, f"{trace.to_json(indent=2)}\n")


def _print_answer(program: AttentionMoA, prediction: Prediction, *, as_json: bool) -> None:
    from moa_dspy.cli.views.answer import answer_json, answer_text

    text = answer_json(program, prediction) if as_json else answer_text(program, prediction)
    write_result(printable(text) if is_terminal(sys.stdout) else text)
