"""The Typer application: run the commands, and turn errors into messages and exit codes.

A failure is one line on standard error and an exit code. A traceback appears only with ``--debug``.
"""

from __future__ import annotations

import functools
import gc
import importlib
import inspect
import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final

import typer

import moa_dspy
from moa_dspy.cli.options import COMMANDS, CallingOptions, Command, CostOptions, parameters
from moa_dspy.cli.output import error, quiet_libraries, settings, warning
from moa_dspy.errors import DeclinedError, MoAError
from moa_dspy.files.atomic_write import check_folder
from moa_dspy.redaction import redacted

__all__ = ["app", "run"]

DEBUG_VARIABLE: Final = "MOA_DSPY_DEBUG"
_INTERRUPTED: Final = 130
_CACHE_ROOM: Final = 1 << 20  # bytes of a new response cache

# Python arguments in messages of the library, and the matching command line options.
_ARGUMENT: Final = re.compile(r"(?<![\w.-])(budget )?([a-z]\w*)=(\{[^}]*\}|\[[^\]]*\]|\w*\([^)]*\)|'[^']*'|[^\s,;:)]*)")
_METRIC: Final = re.compile(r"(?P<kind>\w+)\(field='(?P<field>\w+)'\)")
_GATE: Final = re.compile(r"(?<![\w-])gate (?=agreement=|first=|compare=|')")
_OBJECT: Final = re.compile(r",? or an object with a method \w+\(\)")
_OF_A_FILE: Final = re.compile(r"\S+\.toml: ")
_PARAMETERS: Final = {each: {given.name: given for given in parameters(each)} for each in COMMANDS}
_LIMITS: Final = ("calls", "tokens", "usd", "seconds")
_OPTIONS: Final = {
    **{name: f"--{name.replace('_', '-')}" for given in _PARAMETERS.values() for name in given},
    **{name: f"--max-{name}" for name in _LIMITS},
    "inputs": "--signature",
    "trainset": "--data",
    "devset": "--data",
    "parts": "--only",
    "baselines": "--baseline",
    "vectorizers": "--vectorizer",
    "modules": "--module",
    "rest": "--batch-rest",
}

app = typer.Typer(
    rich_markup_mode=None,  # rich adds more than a tenth of a second to every --help
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 10_000},
)


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
    settings.debug = settings.debug or debug
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _function(command: type[Command]) -> Callable[..., None]:
    """Return a command as the function that Typer expects: a parameter for each option, the help as docstring."""

    def function(**values: Any) -> None:
        options = command(**values)
        settings.quiet = options.quiet
        with quiet_libraries():
            implementation = _implementation(command)
            try:
                with _cache_for(options):
                    implementation.run(options)
            except DeclinedError:
                if not (isinstance(options, CostOptions) and options.estimate):  # the cost is all that was wanted
                    raise

    function.__doc__ = command.__doc__
    given = _PARAMETERS[command]
    function.__signature__ = inspect.Signature(list(given.values()))  # type: ignore[attr-defined]
    function.__annotations__ = {name: parameter.annotation for name, parameter in given.items()}
    return function


@contextmanager
def _cache_for(options: Command) -> Iterator[None]:
    """Turn DSPy's response cache off within the block if that is asked for, for agents, judges and other models.

    If its folder cannot be used, replies are kept in memory, and a warning says so. DSPy would do this without a word,
    or wait for minutes for a lock that its file system does not have.
    """
    if not isinstance(options, CallingOptions):
        yield
        return
    problem = None if options.no_cache else _cache_problem()
    if problem is None and not options.no_cache:
        yield
        return
    if problem is not None:
        warning(
            f"replies cannot be kept on disk ({problem}), so a command that is interrupted pays for them again; set "
            "DSPY_CACHEDIR to another folder"
        )
    import dspy  # only now: --help does not pay for it

    module = dspy.__dict__
    before = module.get("cache")  # DSPy creates its cache, and a folder, when it is first read
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=not options.no_cache, disk_cache_dir=None)
    try:
        yield
    finally:
        del module["cache"]
        if before is not None:
            module["cache"] = before


def _cache_problem() -> str | None:
    """Return why the folder of DSPy's response cache cannot be used; None if it can, or is in use already."""
    import dspy  # only now, as above

    from moa_dspy._dspy import cache_folder

    if "cache" in vars(dspy):
        return None
    folder = Path(cache_folder())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_folder(folder, _CACHE_ROOM)
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    return None


def _implementation(command: type[Command]) -> Any:
    """Return the module of a command. It is imported only when it runs, because DSPy takes more than a second.

    The many objects of an import are never garbage. Without the collector, it takes a tenth of a second less.
    """
    gc.disable()
    try:
        return importlib.import_module(f"moa_dspy.cli.commands.{command.__name__.lower()}")
    finally:
        gc.enable()


for _command in COMMANDS:
    app.command(_command.__name__.lower())(_function(_command))


@functools.cache
def _group() -> Any:
    return typer.main.get_command(app)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; see ``moa_dspy.cli.main``."""
    settings.debug, settings.quiet = os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"), False
    if sys.stdout is None:
        error("standard output is closed, so the result would be lost; leave it open, or send it to a file")
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # models may write characters that the encoding lacks
    group = _group()
    arguments = None if argv is None else list(argv)
    try:
        code = group.main(args=arguments, prog_name="moa-dspy", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon_stdout()
        return 1
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as problem:  # noqa: BLE001 (whatever it is, the user gets one line)
        if settings.debug:
            print(redacted(traceback.format_exc()), file=sys.stderr)
        return _report(problem)
    if code == _INTERRUPTED:
        error("interrupted")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends the process while threads and servers stop
    return code if isinstance(code, int) else 0


def _report(problem: Exception) -> int:
    """Write the main error in one line, and return its exit code."""
    while isinstance(problem, ExceptionGroup):
        ours, _ = problem.split(MoAError)
        problem = (ours or problem).exceptions[0]
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
    """Return a library message with Python arguments replaced by command line options, and without objects of Python.

    ``match='tokens'`` becomes ``--match tokens`` and ``budget usd=0`` becomes ``--max-usd 0``.
    """

    def option(match: re.Match[str]) -> str:
        budget, name, value = match[1], match[2], match[3]
        if name not in _OPTIONS or (name in _LIMITS and not budget):
            return match[0]
        if value.startswith("{"):  # a mapping of fields to columns
            value = ",".join("=".join(part.strip(" '") for part in pair.split(":")) for pair in value[1:-1].split(","))
        if value[:1] in ("(", "["):
            value = ",".join(part.strip(" '") for part in value[1:-1].split(","))
        text = _metric_option(value) if name == "metric" else value if value == "''" else value.strip("'")
        return f"{_OPTIONS[name]} {text}".rstrip()

    if _OF_A_FILE.match(message):
        return message
    return _GATE.sub("--gate ", _ARGUMENT.sub(option, _OBJECT.sub("", message)))


def _metric_option(value: str) -> str:
    """Return the value of ``--metric`` for a built-in metric of an output: ``exact:category``."""
    from moa_dspy.evaluation.suite import METRICS  # imported long ago if there is such a message

    match = _METRIC.fullmatch(value)
    names = {kind.__name__: name for name, kind in METRICS.items()}
    return value if match is None else f"{names.get(match['kind'], match['kind'])}:{match['field']}"


def _abandon_stdout() -> None:
    """Discard all further output to a pipe without a reader, including the flush when the interpreter ends."""
    with suppress(OSError, ValueError):  # standard output is not a file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
