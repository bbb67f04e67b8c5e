"""The Typer application: register the commands, and turn errors into messages and exit codes.

A failure is one line on standard error and an exit code. A traceback appears only with ``--debug``.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

import moa_dspy
from moa_dspy.cli.commands.ask import ask
from moa_dspy.cli.commands.compare import compare_command
from moa_dspy.cli.commands.eval import evaluate_command
from moa_dspy.cli.commands.optimize import optimize_command
from moa_dspy.cli.commands.plan import plan
from moa_dspy.cli.commands.profile import profile_command
from moa_dspy.cli.commands.report import report_command
from moa_dspy.cli.commands.show import show
from moa_dspy.cli.console import error, set_debug, set_quiet
from moa_dspy.cli.options import command
from moa_dspy.errors import MoAError

__all__ = ["app", "run"]

DEBUG_VARIABLE: Final = "MOA_DSPY_DEBUG"
_INTERRUPTED: Final = 130

# Python arguments in messages of the library, and the matching command line options.
_ARGUMENT: Final = re.compile(r"(?<![\w.-])(budget )?([a-z]\w*)=(\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|'[^']*'|[^\s,;:)]*)")
_OF_A_FILE: Final = re.compile(r"\S+\.toml: ")
_OPTIONS: Final = {
    "calls": "--max-calls",
    "tokens": "--max-tokens",
    "usd": "--max-usd",
    "seconds": "--max-seconds",
    "trainset": "--data",
    "devset": "--data",
    "parts": "--only",
    "baselines": "--baseline",
}


@dataclass
class _Settings:
    """Settings shared by all commands."""

    debug: bool


app = typer.Typer(
    rich_markup_mode=None,  # rich adds more than a tenth of a second to every --help
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 10_000},
)
app.command(short_help="Ask a question.")(ask)
app.command(short_help="Show what a question would cost.")(plan)
app.command("eval", short_help="Score a program on a benchmark or on your own examples.")(evaluate_command)
app.command("optimize", short_help="Tune a program, and test the result.")(optimize_command)
app.command("compare", short_help="Compare a program with simpler ones at matched spend.")(compare_command)
app.command("profile", short_help="Show which stage gains and which loses.")(profile_command)
app.command("report", short_help="Show searches, tunings and programs as one HTML page.")(command(report_command))
app.command(short_help="Show a saved program.")(show)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moa-dspy {moa_dspy.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show logs, warnings and tracebacks (also: {DEBUG_VARIABLE}=1).")
    ] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Ask several language models that criticise each other's answers, and get one answer.

    Exit codes: 0 ok, 1 the work failed, 2 wrong usage, 130 interrupted.
    """
    settings: _Settings = context.obj
    settings.debug = settings.debug or debug
    set_debug(settings.debug)
    set_quiet(False)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments without the program's name. Default: those of this process.
    """
    settings = _Settings(debug=os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"))
    if sys.stdout is None:
        error("standard output is closed, so the result would be lost; leave it open, or send it to a file")
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # models may write characters that the encoding lacks
    group = typer.main.get_command(app)
    arguments = None if argv is None else list(argv)
    try:
        code = group.main(args=arguments, prog_name="moa-dspy", standalone_mode=False, obj=settings)
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon_stdout()
        return 1
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as problem:  # noqa: BLE001 (whatever it is, the user gets one line)
        if settings.debug:
            traceback.print_exc()
        return _report(problem)
    if code == _INTERRUPTED:
        error("interrupted")
        _end_at_the_next_interrupt()
    return code if isinstance(code, int) else 0


def _end_at_the_next_interrupt() -> None:
    """Let a second Ctrl-C end the process without a traceback while threads and servers stop."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _report(problem: Exception) -> int:
    """Write the error in one line, and return its exit code."""
    problem = _cause(problem)
    if isinstance(problem, MoAError):
        error(with_options(str(problem)))
        return problem.exit_code
    if isinstance(problem, OSError):
        error(f"{problem.filename or 'the system refused'}: {problem.strerror or problem}")
        return 1
    format_message: Any = getattr(problem, "format_message", None)
    if callable(format_message):  # a usage error of Typer, whose class differs between its versions
        error(f"{format_message()} (see --help)")
        return 2
    error(f"{type(problem).__name__}: {problem} (this is a bug; run moa-dspy --debug ... to see where)")
    return 1


def with_options(message: str) -> str:
    """Return a library message with Python arguments replaced by command line options.

    ``match='tokens'`` becomes ``--match tokens`` and ``budget usd=0`` becomes ``--max-usd 0``.
    """

    def option(match: re.Match[str]) -> str:
        budget, name, value = match[1], match[2], match[3]
        known = _OPTIONS.get(name) if budget or name not in ("calls", "tokens", "usd", "seconds") else None
        if known is None and name in _option_names():
            known = f"--{name.replace('_', '-')}"
        if known is None:
            return match[0]
        if value.startswith("{"):  # a mapping of fields to columns
            value = ",".join("=".join(part.strip(" '") for part in pair.split(":")) for pair in value[1:-1].split(","))
        if value[:1] in ("(", "["):
            value = ",".join(part.strip(" '") for part in value[1:-1].split(","))
        text = value if value == "''" else value.strip("'")
        return f"{known} {text}".rstrip()

    if _OF_A_FILE.match(message):
        return message
    return _ARGUMENT.sub(option, message)


def _option_names() -> set[str]:
    commands: dict[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    return {str(parameter.name) for command in commands.values() for parameter in command.params}


def _cause(problem: Exception) -> Exception:
    """Return the main error of an exception group: a ``MoAError`` if it has one, else the first error."""
    while isinstance(problem, ExceptionGroup):
        ours, _ = problem.split(MoAError)
        problem = (ours or problem).exceptions[0]
    return problem


def _abandon_stdout() -> None:
    """Discard all further output to a pipe without a reader, including the flush when the interpreter ends."""
    with suppress(OSError, ValueError):  # standard output is not a file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
