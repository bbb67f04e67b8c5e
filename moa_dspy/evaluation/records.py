"""The file of an evaluation's records: one JSON line per item, written as the item ends.

The first line identifies the run. Each line is one append of the operating system, so a killed process leaves at most
one incomplete line at the end. It is removed when the file is opened again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import dspy
import pydantic

from moa_dspy.cost.usage import Usage
from moa_dspy.data.metrics.metric import UNREAD
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.fingerprint import CONNECTION
from moa_dspy.evaluation.scoring import Status, jsonable
from moa_dspy.files.append_file import AppendFile
from moa_dspy.trace import Failure, Trace

__all__ = ["FORMAT", "Record", "RecordFile", "difference", "latest", "outputs_of", "read_records", "restored"]

FORMAT: Final = "moa-dspy-evaluation"
_VERSION: Final = 1
_HEADER: Final = json.dumps({"format": FORMAT}).encode()[:-1]  # what every file begins with


class Record(pydantic.BaseModel):
    """One finished item.

    Attributes:
        id: the example's id, unique within the run.
        content: digest of the example, which distinguishes equal ids of different data.
        category: the category in reports.
        status: ``scored``; ``unparsed`` if a judge's verdict could not be read; ``error`` if the program or the metric
            failed. Only scored items count in a score.
        score: from 0 to 1; None unless scored.
        feedback: the metric's reason.
        outputs: the program's outputs; empty if it failed.
        details: further values from the metric, such as a judge's scores.
        error: why the item failed.
        program: usage of the program's calls.
        judge: usage of the metric's calls.
        seconds: wall time of program and metric.
        finished: end time, in seconds since 1970.
        trace: the record of every step, if it was asked for.
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
    program: Usage = Usage()
    judge: Usage = Usage()
    seconds: float = 0.0
    finished: float = 0.0
    trace: Trace | None = None

    @property
    def unread(self) -> bool:
        """Return whether the metric could not read an answer from the outputs."""
        return bool(self.details.get(UNREAD))

    @property
    def complete(self) -> bool:
        """Return whether a resumed evaluation keeps the item: it did not fail, and all of it could be read."""
        return self.status in ("scored", "unscored") and not self.unread

    @property
    def usage(self) -> Usage:
        """Return the usage of program and metric together."""
        return self.program + self.judge


def outputs_of(prediction: Any) -> dict[str, Any]:
    """Return the outputs of a prediction as JSON values; empty without a prediction."""
    if prediction is None:
        return {}
    return jsonable(prediction.items() if isinstance(prediction, dspy.Prediction) else {"answer": prediction})


def restored(program: dspy.Module, outputs: Mapping[str, Any]) -> dspy.Prediction | None:
    """Return a prediction from its recorded outputs, with values of the types in the program's signature.

    If it has none, its only predictor has one.

    Returns:
        The prediction; None if a type is unknown and the value may have been an object.
    """
    signature, predictors = getattr(program, "signature", None), program.predictors()
    if signature is None and len(predictors) == 1:
        signature = predictors[0].signature
    types = {name: field.annotation for name, field in (getattr(signature, "output_fields", None) or {}).items()}
    values: dict[str, Any] = {}
    for name, value in outputs.items():
        if name not in types and not _is_plain(value):
            return None
        try:
            values[name] = pydantic.TypeAdapter(types[name]).validate_python(value) if name in types else value
        except (pydantic.ValidationError, pydantic.errors.PydanticUserError):
            return None
    return dspy.Prediction(**values)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float))


def latest(records: Iterable[Record]) -> dict[str, Record]:
    """Return the last record of each item. A failed item may have several records."""
    return {record.id: record for record in records}


def read_records(path: str | Path) -> tuple[dict[str, Any], list[Record]]:
    """Read a file of records. An incomplete last line is left out.

    Returns:
        The fingerprint of the run, and the records.

    Raises:
        ConfigurationError: if the file cannot be read, is damaged, or does not contain records.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"cannot read {path}: no such file")
    run, records, _ = _read(Path(path))
    if run is None:
        raise ConfigurationError(f"{path} is empty; it must contain the records of an evaluation")
    return run, records


def difference(name: str, recorded: Any, current: Any) -> str:
    """Return in words how a part of a run's fingerprint differs from that of another run. Digests are not shown."""
    if name == CONNECTION:
        return "its models are on other servers (api_base), or have other settings"
    if isinstance(recorded, Mapping) and isinstance(current, Mapping):
        recorded, current = recorded.get("name"), current.get("name")
    return f"its {name} differs" if recorded == current else f"its {name} is {recorded}, not {current}"


class RecordFile(AppendFile):
    """Appends the records of one run, and holds the records of earlier starts of the same run.

    Args:
        path: the file; it is created if it does not exist.
        run: the fingerprint of the run, see ``moa_dspy.evaluation.fingerprint``.
        contents: digest of each example by id. All records in the file must match them.

    Attributes:
        records: the records of earlier starts.

    Raises:
        ConfigurationError: if the file belongs to another run, does not contain records, is in use, or cannot be read
            or written.
    """

    def __init__(self, path: str | Path, run: Mapping[str, Any], contents: Mapping[str, str]) -> None:
        super().__init__(path, "evaluation")
        try:
            recorded, self.records, length = _read(self.path)
            if self.records and recorded is not None:
                _check_run(self.path, recorded, run, latest(self.records), contents)
            self._header = None if self.records else {"format": FORMAT, "format_version": _VERSION, "run": dict(run)}
            length = length if self.records else 0  # a run that ended before its first record blocks no other one
            self.truncate(length)
            if length and self.rest(length - 1) != b"\n":
                self.append(b"\n")
        except BaseException:
            self.__exit__()
            raise

    def add(self, record: Record) -> None:
        """Write a record durably: it is kept even if this process is killed afterwards.

        Raises:
            RunError: if it cannot be written.
        """
        if self._header is not None:
            self._write(self._header)
            self._header = None
        trace = {} if record.trace is None else {"trace": record.trace.model_dump(mode="json")}
        self._write({**record.model_dump(mode="python", exclude={"trace"}), **trace})

    def _write(self, value: Mapping[str, Any]) -> None:
        self.append((json.dumps(value) + "\n").encode("ascii"))


def _read(path: Path) -> tuple[dict[str, Any] | None, list[Record], int]:
    """Return the run's fingerprint (None if not yet written), the records, and the length of all complete lines."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    length = content.rfind(b"\n") + 1
    if not length and content.startswith(_HEADER[: len(content)]):
        return None, [], 0
    first, *lines = content[:length].split(b"\n")
    header: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        header = json.loads(first)
    if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("run"), dict):
        raise ConfigurationError(f"{path} does not hold records of an evaluation; give another file")
    if header.get("format_version") != _VERSION:
        raise ConfigurationError(f"{path} has format {header.get('format_version')!r}, this version reads {_VERSION}")
    records = [_record(line, number, path) for number, line in enumerate(lines, 2) if line]
    with contextlib.suppress(ConfigurationError):  # the last line may lack only its end, if it was edited
        records += [_record(content[length:], 0, path)] if content[length:] else []
        length = len(content)
    return header["run"], records, length


def _record(line: bytes, number: int, path: Path) -> Record:
    try:
        return Record.model_validate(json.loads(line))
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{path} is damaged in line {number}; remove that line to go on") from None


def _check_run(
    path: Path,
    recorded: Mapping[str, Any],
    run: Mapping[str, Any],
    records: Mapping[str, Record],
    contents: Mapping[str, str],
) -> None:
    """Check that a file belongs to this run. A run may get more examples, but no other ones."""
    # Records of an older version do not say which servers answered.
    known = [name for name in run if name != CONNECTION or name in recorded]
    reasons = [difference(name, recorded.get(name), run[name]) for name in known if run[name] != recorded.get(name)]
    foreign = [name for name, record in records.items() if contents.get(name) != record.content]
    if foreign and not reasons:
        count = f"{len(foreign)} of its {len(records)} items"
        reasons = [f"{count} are not among these examples, or have another content here (the first is {foreign[0]})"]
    if reasons:
        raise ConfigurationError(
            f"{path} is of another run: {'; '.join(reasons)}. Give another file, or the options of that run"
        )
