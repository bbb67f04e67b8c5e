"""Write the command line's output, and suppress output of other libraries.

Standard output is for the result. Notes, warnings, errors and progress go to standard error, one line each.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from moa_dspy.errors import RunError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "confirmed",
    "error",
    "is_quiet",
    "is_terminal",
    "note",
    "printable",
    "quiet_libraries",
    "set_debug",
    "set_quiet",
    "table",
    "table_text",
    "warning",
    "write_result",
]

_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_debug = False
_quiet = False


def set_debug(debug: bool) -> None:
    """Set whether logs and warnings of libraries are shown."""
    global _debug
    _debug = debug


def set_quiet(quiet: bool) -> None:
    """Set whether notes and warnings are suppressed."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Return whether notes, warnings and progress are suppressed."""
    return _quiet


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


def error(message: str) -> None:
    """Write why the command failed."""
    _line(f"error: {message}")


def warning(message: str) -> None:
    """Write why the result is incomplete, unless ``--quiet`` is set."""
    if not _quiet:
        _line(f"warning: {message}")


def note(message: str) -> None:
    """Write information for the user, unless ``--quiet`` is set."""
    if not _quiet:
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


def printable(text: str) -> str:
    """Return ``text`` without control characters, except newlines and tabs."""
    return _CONTROL.sub("", text)


def table(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), header: bool = True) -> Table:
    """Return rows as a table without borders.

    Args:
        rows: rows of equal length.
        left: the columns that are aligned left.
        header: whether the first row is the header.
    """
    from rich.table import Table
    from rich.text import Text

    result = Table(box=None, pad_edge=False, show_header=header, header_style="bold cyan")
    head, body = (rows[0], rows[1:]) if header else (rows[0], rows)
    for number, name in enumerate(head):
        is_left = number in left
        result.add_column(
            Text(printable(name)) if header else "", justify="left" if is_left else "right", no_wrap=not is_left,
            overflow="fold",
        )  # fmt: skip
    for row in body:
        result.add_row(*(Text(printable(cell)) for cell in row))
    return result


def table_text(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), header: bool = True) -> str:
    """Return rows as lines of plain text without a width limit; see ``table``."""
    from rich.console import Console

    console = Console(width=10_000, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(table(rows, left=left, header=header))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress logs and warnings of libraries, unless ``--debug`` is set.

    LiteLLM and DSPy use their packaged price lists, because downloading newer ones takes seconds. With
    ``LITELLM_LOCAL_MODEL_COST_MAP=False`` a user can allow the download.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    if _debug:
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
            print(printable(" ".join(text.splitlines())), file=sys.stderr, flush=True)
