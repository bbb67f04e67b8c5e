"""``moa-dspy plan``: the cost of a question before it is paid."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from moa_dspy.cli.inputs import gather_inputs
from moa_dspy.cli.options import Plan
from moa_dspy.cli.output import is_terminal, printable, table, write_json, write_parts, write_result
from moa_dspy.cli.programs import budget_of, build_program, note_default_agents
from moa_dspy.errors import ConfigurationError
from moa_dspy.planning import Lengths, model_rows, stage_rows, summary_lines
from moa_dspy.trace import Trace

__all__ = ["run"]


def run(options: Plan) -> None:
    """Write the plan. No model is called."""
    lengths, budget = _lengths(options), budget_of(options)
    program = build_program(options)
    is_given = options.question is not None or options.input
    values = gather_inputs(program.task, options) if is_given else {}
    note_default_agents(options, "planning for")
    plan = program.plan(
        values, budget=budget, lengths=lengths, times=options.times, seconds_per_call=options.seconds_per_call
    )
    if options.json:
        write_json(plan.model_dump(mode="json"))
    elif not is_terminal(sys.stdout):
        write_result(printable(plan.to_table()))  # without rich, which takes a tenth of a second to import
    else:
        tables = table(stage_rows(plan), left=(1,)), "", table(model_rows(plan)), ""
        write_parts(*tables, *summary_lines(plan))


def _lengths(options: Plan) -> Lengths:
    """Return the lengths: those given, else those of the trace of ``--like``, else the defaults."""
    base = Lengths() if options.like is None else Lengths.from_trace(_trace(options.like))
    given = {field.name: getattr(options, f"{field.name}_tokens") for field in dataclasses.fields(base)}
    return dataclasses.replace(base, **{name: tokens for name, tokens in given.items() if tokens is not None})


def _trace(path: str) -> Trace:
    try:
        return Trace.from_json(Path(path).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read the trace {path}: {error.strerror or error}") from None
    except ConfigurationError:
        raise ConfigurationError(f"{path} is not a trace; give a file that moa-dspy ask --trace has written") from None
