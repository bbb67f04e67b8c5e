"""The file that ``--trace`` names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.files.atomic_write import check_writable, replace_file

if TYPE_CHECKING:
    from moa_dspy.trace import Trace

__all__ = ["TraceFile"]


class TraceFile:
    """A place for a trace, tried before anything is paid for; there is no file before there is a trace.

    Args:
        path: the file; None where no trace is wanted, and nothing happens.

    Raises:
        ConfigurationError: the file cannot be written.
    """

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        if self._path is not None:
            try:
                check_writable(self._path)
            except OSError as error:
                raise ConfigurationError(f"cannot write the trace to {path}: {error.strerror or error}") from None

    def write(self, trace: Trace) -> None:
        """Write the trace, unless it is of a run in which nothing happened.

        Raises:
            RunError: the file cannot be written any more.
        """
        if self._path is None or not trace.steps:
            return
        try:
            replace_file(self._path, f"{trace.to_json(indent=2)}\n".encode())
        except OSError as error:
            raise RunError(f"the trace could not be written to {self._path}: {error.strerror or error}") from None
