"""The command line options, each declared once, in groups that commands share.

A command takes a group as one parameter. ``command`` passes the group's fields to Typer as separate parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_type_hints

import typer

from moa_dspy.cli.console import quiet_libraries, set_quiet

if TYPE_CHECKING:
    from moa_dspy.cost.budget import Budget

__all__ = [
    "BudgetOptions",
    "DataOptions",
    "Force",
    "InputOptions",
    "Json",
    "ProgramArgument",
    "ProgramFile",
    "ProgramOptions",
    "Question",
    "RunOptions",
    "Yes",
    "command",
]

_PROGRAM_HELP = "A saved program; --config may add its connections and limits."

Question: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="QUESTION", help="The question; - reads it from standard input.")
]
ProgramArgument: TypeAlias = Annotated[str | None, typer.Argument(metavar="PROGRAM", help=_PROGRAM_HELP)]
ProgramFile: TypeAlias = Annotated[str | None, typer.Option("--program", "-p", metavar="FILE", help=_PROGRAM_HELP)]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, notes or warnings on standard error.")
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the run.")]
Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]


@dataclass(frozen=True)
class ProgramOptions:
    """The program's architecture, or the configuration for a saved program."""

    config: Annotated[
        str | None,
        typer.Option("--config", "-c", metavar="FILE", help="Agents, connections, architecture and limits, in TOML."),
    ] = None
    agent: Annotated[
        list[str] | None,
        typer.Option("--agent", "-a", metavar="MODEL", help="A model, or model@temperature. Repeatable."),
    ] = None
    layers: Annotated[int | None, typer.Option(min=1, metavar="N", help="Number of layers.  [default: 2]")] = None
    attention: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="full, cross, self, none, or a number of peers.  [default: full]"),
    ] = None
    aggregator: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The aggregating model.  [default: the first agent's]")
    ] = None
    signature: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The task's fields.  [default: question -> answer]")
    ] = None


@dataclass(frozen=True)
class InputOptions:
    """The inputs of one question."""

    input: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=VALUE", help="An input field; JSON if it is not text. Repeatable."),
    ] = None


@dataclass(frozen=True)
class DataOptions:
    """The examples of a command, and their scoring."""

    benchmark: Annotated[
        str | None, typer.Option(metavar="NAME", help="The examples: a benchmark, or package.module:Class.")
    ] = None
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="DATA", help="The examples: a file, a folder or a hub id.")
    ] = None
    fields: Annotated[
        str | None, typer.Option(metavar="FIELD=COLUMN,...", help="For --data: the columns of the task's fields.")
    ] = None
    path: Annotated[str | None, typer.Option(metavar="FOLDER", help="For --benchmark: its files.")] = None
    split: Annotated[str | None, typer.Option(metavar="NAME", help="The split.  [default: the first]")] = None
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Use a sample of N examples.")] = None
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            "-m",
            metavar="NAME",
            help="exact, normalized, f1, contains, numeric, choice, math, or package.module:function.  "
            "[default: the benchmark's]",
        ),
    ] = None
    judge: Annotated[str | None, typer.Option(metavar="MODEL", help="The judge, for a metric that needs one.")] = None
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of samples, searches and intervals.")] = 0

    @property
    def source(self) -> str | None:
        """Return the benchmark or the data."""
        return self.data if self.benchmark is None else self.benchmark


@dataclass(frozen=True)
class BudgetOptions:
    """Limits on what a command may spend."""

    max_calls: Annotated[int | None, typer.Option(min=1, metavar="N", help="Limit of LM calls.")] = None
    max_tokens: Annotated[int | None, typer.Option(min=1, metavar="N", help="Limit of tokens.")] = None
    max_usd: Annotated[float | None, typer.Option(metavar="DOLLARS", help="Limit of dollars.")] = None
    max_seconds: Annotated[float | None, typer.Option(metavar="SECONDS", help="Limit of wall time.")] = None

    def budget(self) -> Budget | None:
        """Return the budget, or None without any limit.

        Raises:
            ConfigurationError: if a limit is too small.
        """
        limits = (self.max_calls, self.max_tokens, self.max_usd, self.max_seconds)
        if limits == (None, None, None, None):
            return None
        from moa_dspy.cost.budget import Budget  # imports DSPy, which --help does not need

        return Budget(*limits)


@dataclass(frozen=True)
class RunOptions:
    """How a program runs on many examples."""

    concurrency: Annotated[int, typer.Option(min=1, metavar="N", help="Examples that run at once.")] = 8


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Return ``function`` as a Typer command.

    The fields of option groups become separate parameters, and ``--quiet`` is added. Libraries are silent while it
    runs.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], list[str]]] = {}
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            fields = _fields(kind)
            groups[parameter.name] = kind, [field.name for field in fields]
            parameters += fields
        else:
            parameters.append(parameter.replace(annotation=kind, kind=parameter.KEYWORD_ONLY))

    parameters.append(inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Quiet))

    @functools.wraps(function)
    def run(**values: Any) -> None:
        set_quiet(values.pop("quiet"))
        for name, (group, fields) in groups.items():
            values[name] = group(**{field: values.pop(field) for field in fields})
        with quiet_libraries():
            function(**values)

    del run.__wrapped__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _fields(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in dataclasses.fields(group)
    ]
