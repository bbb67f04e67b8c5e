"""The records of an evaluation: one JSON line for each item, written as the item ends.

The first line says of which run the file is. A line is written by one append of the operating system, so a killed
process leaves at most one torn line, the last; it is cut off when the file is opened again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import pydantic

from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.evaluation.spending import Spending
from moa_dspy.trace import Failure

__all__ = ["FORMAT", "Record", "RecordFile", "latest", "read_records"]

FORMAT: Final = "moa-dspy-evaluation"
_VERSION: Final = 1

Status = Literal["scored", "unparsed", "error"]


class Record(pydantic.BaseModel):
    """One finished item.

    Attributes:
        id: the example's id, unique within the run.
        content: digest of the example, so that equal ids of different data are told apart.
        category: what it is reported under.
        status: ``scored``; ``unparsed``, where a judge's verdict could not be read; ``error``, where the program or the
            metric failed. Only scored items are in a score.
        score: from 0 to 1, None unless scored.
        feedback: the metric's reason.
        outputs: what the program answered; empty where it failed.
        details: what the metric keeps of the item, such as a judge's scores.
        error: why it failed.
        program: what the program's calls took.
        judge: what the metric's calls took.
        seconds: wall time of program and metric.
        finished: when, in seconds since 1970.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    id: str
    content: str
    category: str | None = None
    status: Status
    score: float | None = None
    feedback: str = ""
    outputs: dict[str, Any] = pydantic.Field(default_factory=dict)
    details: dict[str, Any] = pydantic.Field(default_factory=dict)
    error: Failure | None = None
    program: Spending = Spending()
    judge: Spending = Spending()
    seconds: float = 0.0
    finished: float = 0.0

    @property
    def spent(self) -> Spending:
        """Return what program and metric took together."""
        return self.program + self.judge


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """Return the last record of each item: one that failed may have been tried again."""
    return {record.id: record for record in records}


def read_records(path: str | Path) -> tuple[dict[str, Any], list[Record]]:
    """Read a file of records; a torn last line is left out.

    Returns:
        What the file says of its run, and the records.

    Raises:
        ConfigurationError: the file cannot be read, is damaged, or holds something else.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"cannot read {path}: there is no such file")
    header, records, _ = _read(Path(path))
    if header is None:
        raise ConfigurationError(f"{path} is empty; it should hold the records of an evaluation")
    return header, records


class RecordFile:
    """Appends the records of one run, and knows those that an earlier start of the same run has written.

    Args:
        path: the file; it is created if it is not there.
        run: the fingerprint of the run, see ``moa_dspy.evaluation.fingerprint``.
        contents: digest of each example by id; all records in the file must be of these.

    Attributes:
        records: what was there already.

    Raises:
        ConfigurationError: the file is of another run or no such file, cannot be read or written, or is in use.
    """

    def __init__(self, path: str | Path, run: Mapping[str, Any], contents: Mapping[str, str]) -> None:
        self.path = Path(path)
        header, self.records, whole = _read(self.path)
        if header is not None:
            _refuse_others(self.path, header, run)
            _refuse_other_examples(self.path, latest(self.records), contents)
        try:
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None
        try:
            _lock(self._file, self.path)
            os.ftruncate(self._file, whole)
            if header is None:
                self._write({"format": FORMAT, "format_version": _VERSION, "run": dict(run)})
        except BaseException:
            os.close(self._file)
            raise

    def append(self, record: Record) -> None:
        """Write a record; it is there, whatever happens to this process afterwards.

        Raises:
            RunError: it cannot be written.
        """
        self._write(record.model_dump(mode="python"))

    def _write(self, value: Mapping[str, Any]) -> None:
        line = (json.dumps(value) + "\n").encode("ascii")
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}") from None
        if written != len(line):
            raise RunError(f"cannot write {self.path}: the disk is full")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)


def _read(path: Path) -> tuple[dict[str, Any] | None, list[Record], int]:
    """Header (None where there is none yet), records, and the length of all whole lines in bytes."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, [], 0
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    whole = content.rfind(b"\n") + 1
    first, *lines = content[:whole].split(b"\n")
    if not whole:
        if content and not content.startswith(b'{"format"'[: len(content)]):
            raise ConfigurationError(f"{path} does not hold records of an evaluation; give another file")
        return None, [], 0
    header = _header(first, path)
    return header, [_record(line, number, path) for number, line in enumerate(lines, 2) if line], whole


def _header(line: bytes, path: Path) -> dict[str, Any]:
    header: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        header = json.loads(line)
    if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("run"), dict):
        raise ConfigurationError(f"{path} does not hold records of an evaluation; give another file")
    if header.get("format_version") != _VERSION:
        raise ConfigurationError(f"{path} has format {header.get('format_version')!r}, this version reads {_VERSION}")
    run: dict[str, Any] = header["run"]
    return run


def _record(line: bytes, number: int, path: Path) -> Record:
    try:
        return Record.model_validate(json.loads(line))
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{path} is damaged in line {number}; take the line out to go on") from None


def _refuse_others(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    differ = [name for name in ours if ours[name] != theirs.get(name)]
    if differ:
        said = "; ".join(_difference(name, theirs.get(name), ours[name]) for name in differ)
        raise ConfigurationError(f"{path} is of another run: {said}. Give another file, or the options of that run")


def _refuse_other_examples(path: Path, records: Mapping[str, Record], contents: Mapping[str, str]) -> None:
    """A trial may be extended to more examples; what has been paid for may not be left out, or be of something else."""
    foreign = [name for name, record in records.items() if contents.get(name) != record.content]
    if foreign:
        raise ConfigurationError(
            f"{path} is of another run: {len(foreign)} of its {len(records)} items are not among these examples, or "
            f"have another content here (the first is {foreign[0]}). Give another file, or the options of that run"
        )


def _difference(name: str, theirs: Any, ours: Any) -> str:
    """What differs in words; digests are not worth showing."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        theirs, ours = theirs.get("name"), ours.get("name")
    if theirs == ours:
        return f"its {name} differs"
    return f"its {name} is {theirs}, not {ours}"


def _lock(file: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigurationError(f"{path} is being written by another evaluation; wait for it, or end it") from None
