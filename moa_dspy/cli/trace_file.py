"""The file that ``--trace`` names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from moa_dspy.errors import ConfigurationError, RunError

if TYPE_CHECKING:
    from types import TracebackType

    from moa_dspy.trace import Trace

__all__ = ["TraceFile"]


class TraceFile:
    """A place for a trace, tried before anything is paid for.

    Args:
        path: the file; None where no trace is wanted, and nothing happens.

    Raises:
        ConfigurationError: the file cannot be written.
    """

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._is_new = self._path is not None and not self._path.exists()
        self._written = False
        if self._path is not None:
            try:
                self._path.open("ab").close()
            except OSError as error:
                raise ConfigurationError(f"cannot write the trace to {path}: {error.strerror or error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave no empty file behind where there was none and no step was taken."""
        if self._path is not None and self._is_new and not self._written:
            self._path.unlink(missing_ok=True)

    def write(self, trace: Trace) -> None:
        """Write the trace, unless it is of a run in which nothing happened.

        Raises:
            RunError: the file cannot be written any more.
        """
        if self._path is None or not trace.steps:
            return
        try:
            self._path.write_text(trace.to_json(indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise RunError(f"the trace could not be written to {self._path}: {error.strerror or error}") from None
        self._written = True
