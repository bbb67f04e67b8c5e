"""``moa-dspy ask``: one question, one answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, cast

import typer

from moa_dspy.cli.console import is_terminal, note, printable, quiet_libraries, warning, write_result
from moa_dspy.cli.options import (
    Agents,
    Aggregator,
    AttentionPattern,
    ConfigFile,
    Inputs,
    Layers,
    Options,
    ProgramFile,
    Question,
    Quiet,
    Signature,
    refuse_contradictions,
)
from moa_dspy.errors import AllProposalsFailedError, RunError

if TYPE_CHECKING:
    from moa_dspy.cli.trace_file import TraceFile
    from moa_dspy.program import AttentionMoA, Prediction
    from moa_dspy.trace import Trace

__all__ = ["ask"]


def ask(
    question: Question = None,
    agent: Agents = None,
    config: ConfigFile = None,
    program: ProgramFile = None,
    layers: Layers = None,
    attention: AttentionPattern = None,
    aggregator: Aggregator = None,
    signature: Signature = None,
    inputs: Inputs = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the answer.")] = False,
    trace: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the record of every step to this file, as JSON.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Let several models answer, criticise each other, refine and unite their answers.

    Without --agent, --config or --program three agents run on the model that is embedded in moa-dspy.
    """
    options = Options(
        question=question,
        agents=tuple(agent or ()),
        config=config,
        program=program,
        layers=layers,
        attention=attention,
        aggregator=aggregator,
        signature=signature,
        inputs=tuple(inputs or ()),
        trace=trace,
        as_json=as_json,
        quiet=quiet,
    )
    refuse_contradictions(options)
    with quiet_libraries():
        _ask(options)


def _ask(options: Options) -> None:
    from moa_dspy.cli.trace_file import TraceFile

    trace_file = TraceFile(options.trace)
    from moa_dspy.cli.inputs import gather_inputs
    from moa_dspy.cli.keys import check_keys
    from moa_dspy.cli.programs import build_program, uses_default_agents

    program = build_program(options)
    check_keys(program)
    values = gather_inputs(program.task, options.question, options.inputs)
    if uses_default_agents(options) and not options.quiet:
        note("no agent is named: asking three on the embedded model 'local'; --agent names others")
    prediction = _run(program, values, options, trace_file)
    try:
        trace_file.write(prediction.trace)  # first: printing may fail, as into a pipe whose reader has gone
    finally:
        _print_answer(program, prediction, options)


def _run(program: AttentionMoA, values: dict[str, object], options: Options, trace_file: TraceFile) -> Prediction:
    from moa_dspy.cli.views.failures import explained
    from moa_dspy.cli.views.progress import Progress
    from moa_dspy.trace import watch

    progress = Progress(program.architecture, silent=options.quiet)
    try:
        with progress, watch(progress):
            prediction = cast("Prediction", program(**values))
    except BaseException as problem:
        if progress.trace is not None:
            _keep(trace_file, progress.trace)
            if isinstance(problem, AllProposalsFailedError):
                raise explained(progress.trace.steps) from problem
        raise
    progress.conclude(prediction.trace)
    return prediction


def _keep(trace_file: TraceFile, trace: Trace) -> None:
    """Write what there is of a failed run's trace; that it cannot be written must not hide why the run failed."""
    try:
        trace_file.write(trace)
    except RunError as error:
        warning(str(error))


def _print_answer(program: AttentionMoA, prediction: Prediction, options: Options) -> None:
    from moa_dspy.cli.views.answer import as_json, as_text

    write: Callable[[AttentionMoA, Prediction], str] = as_json if options.as_json else as_text
    text = write(program, prediction)
    if is_terminal(sys.stdout):
        text = printable(text)
    write_result(text)
