"""The file of answers: a line of JSON for each answered row while it is written, and a table at the end.

A JSONL file is its own journal. Beside a CSV or Parquet file there is a journal in JSONL, ``NAME.csv.jsonl``, from
which the table is made. When a run ends, its rows are put in the order of the input, and failures that a later start
has repaired are left out.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import dspy

from moa_dspy.cost.usage import Tokens, Usage
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.evaluation.records import outputs_of
from moa_dspy.evaluation.runner import Run
from moa_dspy.files.append_file import AppendFile
from moa_dspy.files.atomic_write import check_writable, replacing
from moa_dspy.json_safe import json_safe
from moa_dspy.program import AttentionMoA
from moa_dspy.rows.reading import Row
from moa_dspy.rows.tables import SUFFIXES, write_table

__all__ = ["AnswerFile", "Answers", "Columns"]

_FIGURES: Final = (
    "row", "row_id", "calls", "cached_calls", "prompt_tokens", "completion_tokens", "cost_usd", "seconds",
    "stopped_by", "agreement", "error", "program", "trace",
)  # fmt: skip
_NUMBERS: Final = ("cost_usd", "agreement")  # also if all are None


class Columns:
    """The columns of answers: those of the row, the program's outputs, and the figures of its run.

    A column of the row that has the name of an output or of a figure is called ``input_NAME``, and an output with the
    name of a figure is called ``output_NAME``.

    Args:
        program: the program.
        identity: digest of the program and its models.
        trace: whether each answer has its trace.
    """

    def __init__(self, program: dspy.Module, identity: str, *, trace: bool) -> None:
        self.identity = identity
        self._program, self._trace = program, trace
        self._outputs = tuple(program.task.output_fields) if isinstance(program, AttentionMoA) else ()

    def of(self, row: Row, run: Run, used: Usage) -> dict[str, Any]:
        """Return the answer to a row.

        Args:
            row: the row.
            run: the program's run on it.
            used: the usage of this run and of earlier failed ones.
        """
        outputs = outputs_of(run.prediction)
        if isinstance(self._program, AttentionMoA):
            outputs = {name: outputs.get(name) for name in self._outputs}
        own = {f"output_{name}" if name in _FIGURES else name: value for name, value in outputs.items()}
        taken = {*own, *_FIGURES}
        carried = outputs_of(dspy.Prediction(**row.example.toDict()))
        trace, tokens = run.trace, used.tokens
        values = {
            "row": row.number,
            **{f"input_{name}" if name in taken else name: value for name, value in carried.items()},
            **own,
            "calls": used.calls,
            "cached_calls": used.cached_calls,
            "prompt_tokens": tokens.prompt,
            "completion_tokens": tokens.completion,
            "cost_usd": used.cost_usd,
            "seconds": round(run.seconds, 3),
            "stopped_by": None if trace is None else trace.stopped_by,
            "agreement": None if trace is None else trace.agreement,
            "error": None if run.failure is None else f"{run.failure.kind}: {run.failure.message}",
            "row_id": row.id.hex(),
            "program": self.identity,
        }
        if self._trace:
            values["trace"] = None if trace is None else trace.model_dump(mode="json")
        return json_safe(values)


class Answers:
    """Answers in memory, for a run without a file.

    Attributes:
        done: number of answered rows by digest, of earlier starts.
        spent: usage of earlier starts.
        ended: number of rows that it is of.
        journal: the file to which answers are written at once; None without a file.
    """

    journal: Path | None = None

    def __init__(self) -> None:
        self.done: Counter[bytes] = Counter()
        self.spent, self.ended = Usage(), 0
        self._answers: list[dict[str, Any]] = []

    def earlier(self, row: Row) -> Usage:  # noqa: ARG002 - a file has some
        """Return the usage of failed runs of a row in earlier starts."""
        return Usage()

    def add(self, answer: dict[str, Any]) -> None:
        """Keep an answer."""
        self._answers.append(answer)

    def finish(self) -> list[dict[str, Any]] | None:
        """Return the answers in the order of the rows."""
        return sorted(self._answers, key=lambda answer: answer["row"])


class AnswerFile(Answers):
    """Answers in a file, from which the same run can go on.

    Args:
        path: a ``.jsonl``, ``.csv`` or ``.parquet`` file.
        identity: digest of the program and its models. All answers in the file must have it.

    Raises:
        ConfigurationError: if the file has another suffix, is in use, cannot be written, or holds something else.
    """

    def __init__(self, path: str | Path, identity: str) -> None:
        super().__init__()
        self.path = Path(path)
        self._identity = identity
        if self.path.suffix.lower() not in SUFFIXES:
            raise ConfigurationError(f"out={str(path)!r} has an unknown format; use {', '.join(SUFFIXES)}")
        self._is_table = self.path.suffix.lower() != ".jsonl"
        self.journal = journal = self.path.with_name(f"{self.path.name}.jsonl") if self._is_table else self.path
        if self._is_table and self.path.exists() and not journal.exists():
            raise ConfigurationError(
                f"{path} exists, without the journal {journal.name} from which a run goes on; give another file"
            )
        _check(self.path)
        self._failed: dict[bytes, Usage] = {}
        self._file = AppendFile(journal, "run")
        try:
            self._read()
        except BaseException:
            self._file.__exit__()
            raise
        self._began = self._file.size

    def _read(self) -> None:
        """Read the answers of earlier starts. An incomplete last line is removed."""
        end = 0
        for number, (place, line) in enumerate(self._file.lines(), start=1):
            answer = self._parsed(line, number)
            key, used = bytes.fromhex(answer["row_id"]), _usage_in(answer)
            if answer["error"] is None:
                self._failed.pop(key, None)
                self.done[key] += 1
                self.spent += used
            else:
                self._failed[key] = used  # it includes those of earlier failures
            end = place + len(line)
        self.spent += sum(self._failed.values(), start=Usage())
        self.ended = self.done.total() + len(self._failed)
        self._file.truncate(end)

    def _parsed(self, line: bytes, number: int) -> Mapping[str, Any]:
        answer: Any = None
        with suppress(ValueError, RecursionError):
            answer = json.loads(line)
        if not isinstance(answer, dict) or not {"row", "row_id", "program", "error"} <= answer.keys():
            raise ConfigurationError(
                f"{self._file.path}, line {number}: no answer of a run; give another file, or remove that line"
            )
        if answer["program"] != self._identity:
            raise ConfigurationError(
                f"{self._file.path} holds answers of another program, or of other models; give another file"
            )
        return answer

    def earlier(self, row: Row) -> Usage:
        """Return the usage of failed runs of a row in earlier starts."""
        return self._failed.pop(row.id, Usage())

    def add(self, answer: dict[str, Any]) -> None:
        """Write an answer. It is kept even if this process is killed afterwards.

        Raises:
            RunError: if it cannot be written.
        """
        self._file.append(json.dumps(answer).encode() + b"\n")

    def finish(self) -> None:
        """Write the file in the order of the rows.

        Raises:
            RunError: if it cannot be written. The journal is kept.
        """
        try:
            if self._is_table:
                write_table(self.path, self._in_order, _NUMBERS)
            elif self._needs_order():
                with replacing(self.path) as file:
                    file.writelines(line for _, line in self._lines())
        except OSError as error:
            raise RunError(
                f"cannot write {self.path}: {error.strerror}; the answers are in {self._file.path}"
            ) from None

    def _in_order(self) -> Iterator[dict[str, Any]]:
        return (json.loads(line) for _, line in self._lines())

    def _needs_order(self) -> bool:
        places, _ = self._index()
        return any(one > other for one, other in itertools.pairwise(places)) or bool(self._repaired)

    def _index(self) -> tuple[array[int], array[int]]:
        """Return places and numbers of the lines to keep, 16 bytes for a line, in the order of the rows."""
        places, numbers = array("q"), array("q")
        self._repaired = 0
        for place, line in self._file.lines():
            answer = json.loads(line)
            if answer["error"] is not None and place < self._began:
                self._repaired += 1
                continue
            places.append(place)
            numbers.append(answer["row"])
        order = sorted(range(len(places)), key=numbers.__getitem__)
        return array("q", map(places.__getitem__, order)), array("q", map(numbers.__getitem__, order))

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        places, numbers = self._index()
        with self._file.path.open("rb") as file:
            for place, number in zip(places, numbers, strict=True):
                file.seek(place)
                yield number, file.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__()


def _usage_in(answer: Mapping[str, Any]) -> Usage:
    return Usage(
        calls=answer["calls"],
        cached_calls=answer["cached_calls"],
        tokens=Tokens(prompt=answer["prompt_tokens"], completion=answer["completion_tokens"]),
        cost_usd=answer["cost_usd"],
    )


def _check(path: Path) -> None:
    try:
        check_writable(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None
