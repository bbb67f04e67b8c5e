"""A file with the usage of each step of a server's runs. What was paid is on record even if the server is killed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import pydantic

from moa_dspy.cost.usage import Usage
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.files.append_file import AppendFile
from moa_dspy.serve.problems import tell_operator
from moa_dspy.trace import Status, Step, StepStarted, usage_of

__all__ = ["UsageFile"]


_BEGINNING: Final = b'{"time":'  # of each line


class _Line(pydantic.BaseModel):
    """A line of the file: a step that started, or one that ended."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    time: datetime
    run: str
    model: str
    layer: int
    stage: str
    agent: str
    target: str | None = None
    status: Status | Literal["started"]
    usage: Usage | None = None


class UsageFile:
    """The file, which one server writes at a time. Lines that cannot be written are written later.

    Attributes:
        before: usage in the file when it was opened, without seconds. A step without an end counts as one call that
            was not answered.

    Raises:
        ConfigurationError: if it cannot be written, or is another kind of file.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = AppendFile(path, "moa-dspy serve")
        self._waiting: list[bytes] = []
        try:
            self.before, size = _read(self._file)
        except ValueError as error:
            self._file.__exit__()
            raise ConfigurationError(f"{path} is no usage file of moa-dspy serve ({error}); give another one") from None
        self._file.truncate(size)  # a killed server may have left half a line

    def note(self, run: str, model: str, event: Step | StepStarted) -> None:
        """Write a line for a step. A line that cannot be written is kept until the next one."""
        about = {name: getattr(event, name) for name in ("layer", "stage", "agent", "target")}
        usage = usage_of([event]) if isinstance(event, Step) else None
        status: Any = event.status if isinstance(event, Step) else "started"
        line = _Line(time=datetime.now(UTC), run=run, model=model, status=status, usage=usage, **about)
        failed_before = bool(self._waiting)
        self._waiting.append(line.model_dump_json().encode() + b"\n")
        try:
            self._write()
        except RunError as error:
            if not failed_before:
                tell_operator(f"{_reason(error)}; the usage of steps is kept in memory until it can be")

    def close(self) -> None:
        """Write what is left, and close the file."""
        try:
            self._write()
        except RunError as error:
            tell_operator(f"{_reason(error)}; {len(self._waiting)} lines about the usage of steps are lost")
        self._file.__exit__()

    def _write(self) -> None:
        while self._waiting:
            self._file.append(self._waiting[0])
            del self._waiting[0]


def _read(file: AppendFile) -> tuple[Usage, int]:
    """Return the usage in a file, and the size of its complete lines.

    Raises:
        ValueError: if it is another kind of file.
    """
    used, started, size = Usage(), 0, 0
    for number, (place, line) in enumerate(file.lines(), 1):
        try:
            step = _Line.model_validate_json(line)
        except pydantic.ValidationError:
            raise ValueError(f"line {number}") from None
        started += 1 if step.usage is None else -1
        used += step.usage or Usage()
        size = place + len(line)
    if not _BEGINNING.startswith(file.rest(size)[: len(_BEGINNING)]):
        raise ValueError("its last line")
    under_way = Usage(calls=max(started, 0), unanswered=max(started, 0))
    return (used + under_way).model_copy(update={"seconds": 0.0}), size


def _reason(error: RunError) -> str:
    return str(error).partition(";")[0]
