"""``moa-dspy plan``: what a question will cost, before anything is paid."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli.console import is_terminal, note, printable, quiet_libraries, write_result
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
    Signature,
    refuse_contradictions,
)
from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from moa_dspy.cost.budget import Budget
    from moa_dspy.planning import Lengths, Plan
    from moa_dspy.trace import Trace

__all__ = ["plan"]


def plan(
    question: Question = None,
    agent: Agents = None,
    config: ConfigFile = None,
    program: ProgramFile = None,
    layers: Layers = None,
    attention: AttentionPattern = None,
    aggregator: Aggregator = None,
    signature: Signature = None,
    inputs: Inputs = None,
    times: Annotated[int, typer.Option("--times", "-n", min=1, metavar="N", help="For how many questions.")] = 1,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            "-b",
            metavar="NAME=VALUE",
            help="A limit of each run: calls, tokens, usd or seconds; repeatable.",
        ),
    ] = None,
    answer_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Assumed tokens of an answer.  [default: 450]")
    ] = None,
    critique_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Assumed tokens of a critique.  [default: 200]")
    ] = None,
    reasoning_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Assumed tokens of a reasoning field.  [default: 150]")
    ] = None,
    thinking_tokens: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Assumed hidden thinking in each call.  [default: 0]")
    ] = None,
    input_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Assumed tokens of each input, where none is given.  [default: 100]"),
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="FILE", help="Take these lengths from the trace of an earlier run.")
    ] = None,
    seconds_per_call: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds of a call, for an estimate of the wall time.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Show what a question would cost: calls, tokens and dollars. No model is called, and no key is needed.

    Calls are exact for a run in which none fails. Tokens and dollars follow from the real prompts, from prices in
    LiteLLM's local table, and from assumed lengths of the answers.
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
    )
    refuse_contradictions(options)
    lengths = {
        "answer": answer_tokens,
        "critique": critique_tokens,
        "reasoning": reasoning_tokens,
        "thinking": thinking_tokens,
        "input": input_tokens,
    }
    with quiet_libraries():
        assumed = _lengths(like, {name: tokens for name, tokens in lengths.items() if tokens is not None})
        limits = _budget(budget or ())
        result = _plan(options, budget=limits, lengths=assumed, times=times, seconds_per_call=seconds_per_call)
        _print(result, as_json=as_json)


def _plan(options: Options, **settings: Any) -> Plan:
    from moa_dspy.cli.inputs import gather_inputs
    from moa_dspy.cli.programs import build_program, uses_default_agents

    program = build_program(options)
    values = {}
    if options.question is not None or options.inputs:
        values = gather_inputs(program.task, options.question, options.inputs)
    if uses_default_agents(options):
        note("no agent is named: planning for three on the embedded model 'local'; --agent names others")
    return program.plan(values, **settings)


def _lengths(like: str | None, given: dict[str, int]) -> Lengths:
    from moa_dspy.planning import Lengths

    lengths = Lengths() if like is None else Lengths.from_trace(_trace(like))
    return dataclasses.replace(lengths, **given)


def _trace(path: str) -> Trace:
    from moa_dspy.trace import Trace

    try:
        return Trace.from_json(Path(path).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read the trace {path}: {error.strerror or error}") from None
    except ConfigurationError:
        raise ConfigurationError(f"{path} is no trace; give a file that moa-dspy ask --trace has written") from None


def _budget(pairs: Sequence[str]) -> Budget:
    from moa_dspy.cost.budget import Budget

    limits: dict[str, int | float] = {}
    names = [field.name for field in dataclasses.fields(Budget)]
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in names:
            raise ConfigurationError(f"--budget {pair!r} is no limit; write NAME=VALUE, NAME one of {', '.join(names)}")
        if name in limits:
            raise ConfigurationError(f"--budget {name} is given twice")
        limits[name] = _number(pair, value, whole=name in ("calls", "tokens"))
    return Budget(**limits)  # type: ignore[arg-type]  # it checks for itself that these are whole numbers


def _number(pair: str, value: str, *, whole: bool) -> int | float:
    try:
        return int(value) if whole else float(value)
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise ConfigurationError(f"--budget {pair!r}: {value!r} is not {kind}") from None


def _print(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        write_result(plan.to_json(indent=2))
    elif is_terminal(sys.stdout):
        _print_styled(plan)
    else:
        write_result(printable(plan.to_table()))


def _print_styled(plan: Plan) -> None:
    from rich.console import Console
    from rich.text import Text

    from moa_dspy.planning import model_rows, stage_rows, summary_lines

    console = Console()
    for rows, texts in ((stage_rows(plan), (1,)), (model_rows(plan), (0,))):
        console.print(_styled_table(rows, texts))
        console.print()
    for line in summary_lines(plan):
        name, colon, rest = line.partition(":")
        console.print(Text.assemble((printable(name + colon), "bold"), printable(rest)))


def _styled_table(rows: Sequence[tuple[str, ...]], texts: Sequence[int]) -> Any:
    from rich.table import Table
    from rich.text import Text

    head, *body = rows
    table = Table(box=None, pad_edge=False, header_style="bold cyan")
    for number, name in enumerate(head):
        is_text = number in texts
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for row in body:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
