"""Write a command's result, its messages and its files, and suppress output of other libraries.

Standard output is for the result. Notes, warnings, errors and progress go to standard error, one line each.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.files.atomic_write import check_writable, replace_file
from moa_dspy.json_safe import json_text, printable
from moa_dspy.redaction import redacted

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from moa_dspy.program import AttentionMoA

__all__ = [
    "check_files",
    "confirmed",
    "error",
    "is_terminal",
    "note",
    "printable",
    "quiet_libraries",
    "settings",
    "table",
    "warning",
    "write_file",
    "write_json",
    "write_parts",
    "write_program",
    "write_result",
]

_UNLIMITED: Final = 10_000  # columns


@dataclass
class Settings:
    """Settings of all commands.

    Attributes:
        debug: whether logs and warnings of libraries, and tracebacks, are shown.
        quiet: whether notes, warnings and progress are suppressed.
    """

    debug: bool = False
    quiet: bool = False


settings: Final = Settings()


def write_result(text: str) -> None:
    """Write the result of the command to standard output.

    Raises:
        RunError: if it cannot be written, for example to a full disk.
        BrokenPipeError: if the reader has closed the pipe.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as failure:
        message = f"the result could not be written to standard output: {failure.strerror or failure}"
        raise RunError(message) from failure


def write_json(value: Any) -> None:
    """Write the result as one JSON value; see ``write_result``. Characters that a terminal obeys are escaped."""
    write_result(json_text(value, encoding=sys.stdout.encoding or "utf-8"))


def write_parts(*parts: RenderableType) -> None:
    """Write texts and tables, in colour and wrapped on a terminal; see ``write_result``."""
    from rich.console import Console
    from rich.text import Text

    console = Console() if is_terminal(sys.stdout) else Console(width=_UNLIMITED, color_system=None)
    with console.capture() as capture:
        for part in parts:
            console.print(Text(printable(part)) if isinstance(part, str) else part, soft_wrap=isinstance(part, str))
    write_result("\n".join(line.rstrip() for line in capture.get().rstrip().splitlines()))


def table(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), header: bool = True) -> Table:
    """Return rows of equal length as a table without borders. The columns in ``left`` are aligned left."""
    from rich.table import Table
    from rich.text import Text

    result = Table(box=None, pad_edge=False, show_header=header, header_style="bold cyan")
    head, body = (rows[0], rows[1:]) if header else ([""] * len(rows[0]), rows)
    for number, name in enumerate(head):
        is_left = number in left
        result.add_column(
            Text(printable(name)), justify="left" if is_left else "right", no_wrap=not is_left, overflow="fold"
        )
    for row in body:
        result.add_row(*(Text(printable(cell)) for cell in row))
    return result


def error(message: str) -> None:
    """Write why the command failed."""
    _line(f"error: {message}")


def warning(message: str) -> None:
    """Write why the result is incomplete, unless ``--quiet`` is set."""
    note(f"warning: {message}")


def note(message: str) -> None:
    """Write information for the user, unless ``--quiet`` is set."""
    if not settings.quiet:
        _line(message)


def confirmed() -> bool | None:
    """Ask whether to continue. Return None without a terminal."""
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        return None
    print("run it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def is_terminal(stream: object) -> bool:
    """Return whether ``stream`` is a terminal that supports cursor movement."""
    isatty = getattr(stream, "isatty", None)
    return bool(callable(isatty) and isatty()) and os.environ.get("TERM") != "dumb"


def check_files(files: Mapping[str, str | None], *, replace: bool) -> None:
    """Check that the files, by option, can be written, and differ from each other. Nothing is changed.

    Raises:
        ConfigurationError: if two paths are the same, a file exists without ``replace``, or a path cannot be written.
            The message names the option.
    """
    wanted = {option: Path(path) for option, path in files.items() if path is not None}
    resolved = [path.resolve() for path in wanted.values()]
    for option, path in wanted.items():
        if resolved.count(path.resolve()) > 1:
            raise ConfigurationError(f"{option} {path} is named by another option too; give each a file of its own")
        try:
            check_writable(path)
        except OSError as failure:
            reasons = {FileNotFoundError: "its folder does not exist", IsADirectoryError: "it is a folder"}
            reason = reasons.get(type(failure), failure.strerror or str(failure))
            raise ConfigurationError(f"{option} {path} cannot be written: {reason}") from None
        if path.exists() and not replace:
            raise ConfigurationError(f"{option} {path} exists already; name another file, or add --force")


def write_file(path: str | None, text: str) -> None:
    """Write a file atomically. Do nothing without a path.

    Raises:
        RunError: if it cannot be written.
    """
    if path is None:
        return
    try:
        replace_file(Path(path), text.encode())
    except OSError as failure:
        raise RunError(f"{path} could not be written: {failure.strerror or failure}") from None


def write_program(path: str | None, program: AttentionMoA) -> None:
    """Save a program that was paid for. Do nothing without a path.

    Raises:
        RunError: if it cannot be saved.
    """
    if path is None:
        return
    try:
        program.save(path)
    except ConfigurationError as failure:
        raise RunError(str(failure)) from None


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress logs and warnings of libraries, unless ``--debug`` is set.

    LiteLLM and DSPy use their packaged price lists, because downloading newer ones takes seconds. With
    ``LITELLM_LOCAL_MODEL_COST_MAP=False`` a user can allow the download.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    if settings.debug:
        yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


def _line(text: str) -> None:
    """Write a line to standard error. A failed write does not stop the work."""
    if sys.stderr is not None:  # None if closed before the start
        with suppress(OSError):
            print(printable(redacted(" ".join(text.splitlines()))), file=sys.stderr, flush=True)
