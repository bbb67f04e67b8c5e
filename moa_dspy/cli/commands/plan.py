"""``moa-dspy plan``: the cost of a question before it is paid."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa_dspy.cli.console import is_terminal, printable, table, write_result
from moa_dspy.cli.options import (
    BudgetOptions,
    InputOptions,
    Json,
    ProgramFile,
    ProgramOptions,
    Question,
    command,
)
from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from moa_dspy.planning import Lengths, Plan
    from moa_dspy.trace import Trace

__all__ = ["plan"]


@dataclass(frozen=True)
class LengthOptions:
    """Assumed lengths of texts that nobody has written yet, in tokens."""

    answer_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Assumed tokens of an answer.  [default: 450]")
    ] = None
    critique_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Assumed tokens of a critique.  [default: 200]")
    ] = None
    reasoning_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Assumed tokens of a reasoning field.  [default: 150]")
    ] = None
    thinking_tokens: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Assumed hidden thinking in each call.  [default: 0]")
    ] = None
    input_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Assumed tokens of an input not given.  [default: 100]")
    ] = None
    like: Annotated[
        str | None, typer.Option(metavar="FILE", help="Take these lengths from the trace of an earlier run.")
    ] = None

    def lengths(self) -> Lengths:
        """Return the lengths: those given, else those of the trace, else the defaults.

        Raises:
            ConfigurationError: if the trace cannot be read or holds no text.
        """
        from moa_dspy.planning import Lengths

        base = Lengths() if self.like is None else Lengths.from_trace(_trace(self.like))
        given = {field.name: getattr(self, f"{field.name}_tokens") for field in dataclasses.fields(base)}
        return dataclasses.replace(base, **{name: tokens for name, tokens in given.items() if tokens is not None})


@command
def plan(
    question: Question = None,
    program: ProgramFile = None,
    *,
    shape: ProgramOptions,
    inputs: InputOptions,
    limits: BudgetOptions,
    times: Annotated[int, typer.Option("--times", "-n", min=1, metavar="N", help="Number of such questions.")] = 1,
    lengths: LengthOptions,
    seconds_per_call: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Time of a call, for an estimate of the wall time.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a question would cost: calls, tokens and dollars. No model is called, and no key is needed.

    Calls are exact for a run in which none fails. Tokens and dollars follow from the real prompts, from LiteLLM's price
    list, and from assumed lengths of the answers. The limits are those of each run.
    """
    from moa_dspy.cli.inputs import gather_inputs
    from moa_dspy.cli.programs import build_program, note_default_agents

    assumed, budget = lengths.lengths(), limits.budget()
    built = build_program(shape, program)
    values = gather_inputs(built.task, question, inputs.input or ()) if question is not None or inputs.input else {}
    note_default_agents(shape, program, "planning for")
    result = built.plan(values, budget=budget, lengths=assumed, times=times, seconds_per_call=seconds_per_call)
    if as_json:
        write_result(result.to_json(indent=2))
    elif is_terminal(sys.stdout):
        _print_styled(result)
    else:
        write_result(printable(result.to_table()))


def _trace(path: str) -> Trace:
    from moa_dspy.trace import Trace

    try:
        return Trace.from_json(Path(path).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read the trace {path}: {error.strerror or error}") from None
    except ConfigurationError:
        raise ConfigurationError(f"{path} is no trace; give a file that moa-dspy ask --trace has written") from None


def _print_styled(plan: Plan) -> None:
    from rich.console import Console
    from rich.text import Text

    from moa_dspy.planning import model_rows, stage_rows, summary_lines

    console = Console()
    for rows, left in ((stage_rows(plan), (1,)), (model_rows(plan), (0,))):
        console.print(table(rows, left=left))
        console.print()
    for line in summary_lines(plan):
        name, colon, rest = line.partition(":")
        console.print(Text.assemble((printable(name + colon), "bold"), printable(rest)))
