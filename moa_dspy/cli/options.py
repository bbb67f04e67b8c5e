"""What several commands let the user say: about the program, its inputs, and the examples that it is run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

import typer

from moa_dspy.errors import ConfigurationError

__all__ = [
    "Agents",
    "Aggregator",
    "AsJson",
    "AttentionPattern",
    "Concurrency",
    "ConfigFile",
    "Fields",
    "Inputs",
    "JudgeModel",
    "Layers",
    "Limit",
    "MetricName",
    "Options",
    "Own",
    "ProgramArgument",
    "ProgramFile",
    "Question",
    "Quiet",
    "Seed",
    "Signature",
    "Split",
    "refuse_contradictions",
]

_PROGRAM_HELP: Final = "A saved program; --config may add its connections and limits."

Question: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="QUESTION", help="The question; - reads it from standard input.")
]
Agents: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--agent", "-a", metavar="MODEL", help="A model, or model@temperature; repeat it for several agents."),
]
ConfigFile: TypeAlias = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="FILE", help="Agents, connections, architecture, limits, in TOML."),
]
ProgramFile: TypeAlias = Annotated[
    str | None,
    typer.Option("--program", "-p", metavar="FILE", help=_PROGRAM_HELP),
]
ProgramArgument: TypeAlias = Annotated[str | None, typer.Argument(metavar="PROGRAM", help=_PROGRAM_HELP)]
Layers: TypeAlias = Annotated[int | None, typer.Option(min=1, metavar="N", help="How many layers.  [default: 2]")]
AttentionPattern: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="PATTERN", help="full, cross, self, none, or a number of peers.  [default: full]"),
]
Aggregator: TypeAlias = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Who aggregates.  [default: the first agent's model]")
]
Signature: TypeAlias = Annotated[
    str | None, typer.Option(metavar="TEXT", help="The task's fields.  [default: 'question -> answer']")
]
Inputs: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="NAME=VALUE", help="An input field; JSON where it is not text."),
]
Own: TypeAlias = Annotated[
    str | None, typer.Option("--data", "-d", metavar="DATA", help="A file of your own, or the name of a benchmark.")
]
Fields: TypeAlias = Annotated[
    str | None, typer.Option(metavar="FIELD=COLUMN,...", help="Of your own data: fields of the task by column.")
]
MetricName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--metric",
        "-m",
        metavar="NAME",
        help="exact, normalized, f1, contains, numeric, choice, math, or package.module:function.",
    ),
]
JudgeModel: TypeAlias = Annotated[str | None, typer.Option(metavar="MODEL", help="Who judges, where that is needed.")]
Split: TypeAlias = Annotated[str | None, typer.Option(metavar="NAME", help="Of the benchmark.  [default: its first]")]
Limit: TypeAlias = Annotated[int | None, typer.Option(min=1, metavar="N", help="A sample of so many examples.")]
Seed: TypeAlias = Annotated[int, typer.Option(metavar="N", help="Of the samples and the intervals.")]
Concurrency: TypeAlias = Annotated[int, typer.Option(min=1, metavar="N", help="Examples under way at once.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes on standard error.")]


@dataclass(frozen=True)
class Options:
    """What the user wrote about the program, its inputs and its output."""

    question: str | None = None
    agents: tuple[str, ...] = ()
    config: str | None = None
    program: str | None = None
    layers: int | None = None
    attention: str | None = None
    aggregator: str | None = None
    signature: str | None = None
    inputs: tuple[str, ...] = ()
    trace: str | None = None
    as_json: bool = False
    quiet: bool = False


def refuse_contradictions(options: Options) -> None:
    """Refuse to change what a saved program settles.

    Raises:
        ConfigurationError: an option for the program's shape goes with ``--program``.
    """
    if options.program is None:
        return
    given = [
        f"--{name}"
        for name, value in (
            ("agent", options.agents),
            ("layers", options.layers),
            ("attention", options.attention),
            ("aggregator", options.aggregator),
            ("signature", options.signature),
        )
        if value not in (None, ())
    ]
    if given:
        raise ConfigurationError(
            f"{', '.join(given)} cannot go with --program: the program file settles it; leave one of them out"
        )
