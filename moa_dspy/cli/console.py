"""What the command line writes, and what it keeps other libraries from writing.

Standard output is for the answer alone. Notes, warnings, errors and progress go to standard error, a line each.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from moa_dspy.errors import RunError

__all__ = ["error", "is_terminal", "note", "printable", "quiet_libraries", "set_quiet", "warning", "write_result"]

_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_quiet_logs = True


def set_quiet(*, logs: bool) -> None:
    """Choose whether ``quiet_libraries`` has an effect."""
    global _quiet_logs
    _quiet_logs = logs


def write_result(text: str) -> None:
    """Write what the command was run for to standard output.

    Raises:
        RunError: there is no room for it, or the like.
        BrokenPipeError: whoever read it has gone.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as failure:
        message = f"the result could not be written to standard output: {failure.strerror or failure}"
        raise RunError(message) from failure


def error(message: str) -> None:
    """Say why the command failed."""
    _line(f"error: {message}")


def warning(message: str) -> None:
    """Say that the result is not all that was asked for."""
    _line(f"warning: {message}")


def note(message: str) -> None:
    """Say something that the user should know."""
    _line(message)


def is_terminal(stream: object) -> bool:
    """Return whether a person reads ``stream``, on a terminal that can move its cursor."""
    isatty = getattr(stream, "isatty", None)
    return bool(callable(isatty) and isatty()) and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """Return ``text`` without what would steer a terminal; newlines and tabs stay."""
    return _CONTROL.sub("", text)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep logs and warnings of other libraries off standard error, unless the user wants to see them.

    LiteLLM and DSPy are also told to use their own copies of the model price list instead of fetching one, which takes
    seconds, and longer without a network; ``LITELLM_LOCAL_MODEL_COST_MAP=False`` brings the fetching back.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    if not _quiet_logs:
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
    """Write a line to standard error; that nobody can read it is no reason to give up what is being paid for."""
    if sys.stderr is not None:  # it is None where it was closed before the command began
        with suppress(OSError):
            print(printable(" ".join(text.splitlines())), file=sys.stderr, flush=True)
