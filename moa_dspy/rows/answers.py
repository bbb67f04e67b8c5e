"""The file of answers: a line of JSON for each answered row while it is written, and a table at the end.

A JSONL file is its own journal. Beside a CSV or Parquet file there is a journal in JSONL, ``NAME.csv.jsonl``, from
which the table is made. When a run ends, its rows are put in the order of the input. A failure that was tried again is
left out then, and its usage is added to that of the later run of its row. So the sum over a file is always all usage.
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, cast

import dspy

from moa_dspy.cost.usage import Tokens, Usage
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.evaluation.fingerprint import CONNECTION, digest, fingerprint
from moa_dspy.evaluation.records import outputs_of
from moa_dspy.evaluation.runner import Run
from moa_dspy.files.append_file import AppendFile
from moa_dspy.files.atomic_write import check_writable, replacing
from moa_dspy.json_safe import json_safe
from moa_dspy.program import AttentionMoA
from moa_dspy.rows.reading import InputRow
from moa_dspy.rows.tables import SUFFIXES, journal_of, write_table

__all__ = ["AnswerFile", "Answers", "Columns", "carried_name", "output_name"]

_FIGURES: Final = (
    "row", "row_id", "calls", "cached_calls", "prompt_tokens", "completion_tokens", "cost_usd", "seconds",
    "stopped_by", "agreement", "error", "program", "trace",
)  # fmt: skip
_NUMBERS: Final = ("cost_usd", "agreement")  # also if all are None


class Columns:
    """The columns of answers: those of the row, the program's outputs, and the figures of its run.

    A column of the row that has the name of an output or of a figure is called ``input_NAME``, and an output with the
    name of a figure is called ``output_NAME``.

    Attributes:
        identity: digest of the program, its models and their servers, and of the settings that it takes from DSPy.
    """

    def __init__(self, program: dspy.Module, *, trace: bool) -> None:
        parts = fingerprint(program, "", "", 0, None)
        self.identity = digest([parts["program"], parts[CONNECTION]])
        self._program, self._trace = program, trace
        self._outputs = tuple(program.task.output_fields) if isinstance(program, AttentionMoA) else ()

    def of(self, row: InputRow, run: Run, used: Usage) -> dict[str, Any]:
        """Return the answer to a row, with the row's columns. ``used`` includes earlier failed runs."""
        own = self.own(row, run, used)
        carried = json_safe(outputs_of(dspy.Prediction(**row.example.toDict())))
        return {"row": row.number, **{carried_name(name, own): value for name, value in carried.items()}, **own}

    def own(self, row: InputRow, run: Run, used: Usage) -> dict[str, Any]:
        """Return the program's outputs and the figures of its run."""
        outputs = outputs_of(run.prediction)
        if isinstance(self._program, AttentionMoA):
            outputs = {name: outputs.get(name) for name in self._outputs}
        trace = run.trace
        values = {
            **{output_name(name): value for name, value in outputs.items()},
            **_figures_of(used),
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


def output_name(name: str) -> str:
    """Return the column of a program's output."""
    return f"output_{name}" if name in _FIGURES else name


def carried_name(name: str, own: Collection[str]) -> str:
    """Return the column of a row's column, beside the program's ``own``."""
    return f"input_{name}" if name in own or name in _FIGURES else name


_BEGINNING: Final = b'{"row": '  # of each line


class Answers:
    """Answers in memory, for a run without a file.

    Attributes:
        done: number of answered rows by digest, of earlier starts.
        spent: usage of earlier starts.
        ended: number of runs that used it.
        journal: the file to which answers are written at once; None without a file.
    """

    journal: Path | None = None

    def __init__(self) -> None:
        self.done: Counter[bytes] = Counter()
        self.spent, self.ended = Usage(), 0
        self._answers: list[dict[str, Any]] = []

    def add(self, answer: dict[str, Any]) -> None:
        """Keep an answer."""
        self._answers.append(answer)

    def finish(self) -> list[dict[str, Any]] | None:
        """Return the answers in the order of the rows."""
        return sorted(self._answers, key=lambda answer: answer["row"])


class AnswerFile(Answers):
    """Answers in a file, from which the same run can resume.

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
        table = self.path.with_suffix("")
        if self.path.suffix.lower() == ".jsonl" and table.suffix.lower() in SUFFIXES:
            raise ConfigurationError(f"out={str(path)!r} is the journal of {table.name}; write out={str(table)!r}")
        self._is_table = self.path.suffix.lower() != ".jsonl"
        self.journal = journal = journal_of(self.path)
        if self._is_table and self.path.exists() and not journal.exists():
            raise ConfigurationError(
                f"{path} exists, but the journal {journal.name} to resume from does not; give another file"
            )
        _check(self.path)
        self._file = AppendFile(journal, "run")
        try:
            self._read()
        except BaseException:
            self._file.__exit__()
            raise
        self._began = self._file.size

    def _read(self) -> None:
        end = number = 0
        for number, (place, line) in enumerate(self._file.lines(), start=1):
            self._count(self._parsed(line, number))
            end = place + len(line)
        if rest := self._file.rest(end):
            self._close(rest, number + 1, end)

    def _close(self, rest: bytes, number: int, start: int) -> None:
        """Keep a last line that lacks only its end. Remove the beginning of one, which a killed process left."""
        if not (rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)):
            raise self._foreign(number)
        try:
            json.loads(rest)
        except ValueError:
            self._file.truncate(start)
        else:
            self._count(self._parsed(rest, number))
            self._file.append(b"\n")

    def _count(self, answer: Mapping[str, Any]) -> None:
        if answer["error"] is None:
            self.done[bytes.fromhex(answer["row_id"])] += 1
        self.spent += _usage_in(answer)
        self.ended += 1

    def _foreign(self, number: int) -> ConfigurationError:
        return ConfigurationError(
            f"{self._file.path}, line {number}: not an answer of a run; give another file, or remove that line"
        )

    def _parsed(self, line: bytes, number: int) -> Mapping[str, Any]:
        try:
            answer = json.loads(line)
            _ = bytes.fromhex(answer["row_id"]), answer["row"] + 0, answer["error"], answer["program"]
            _usage_in(answer)
        except (ValueError, TypeError, LookupError, RecursionError):
            raise self._foreign(number) from None
        if answer["program"] != self._identity:
            raise ConfigurationError(
                f"{self._file.path} holds answers of another program, or of other models; give another file"
            )
        return cast("Mapping[str, Any]", answer)

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
                    file.writelines(json.dumps(answer).encode() + b"\n" for answer in self._in_order())
        except OSError as error:
            raise RunError(
                f"cannot write {self.path}: {error.strerror}; the answers are in {self._file.path}"
            ) from None

    def _needs_order(self) -> bool:
        places, repaired = self._index()
        return bool(repaired) or any(one > other for one, other in itertools.pairwise(places))

    def _index(self) -> tuple[array[int], dict[int, Usage]]:
        """Return the places of the lines to keep, in the order of the rows, and the usage to add to some of them.

        A failure that was tried again is left out: that of an equal row with the same number. A row may have moved
        since an earlier start, so an answer of this start may also follow any failure of an earlier one.

        It takes 16 bytes for a line, and more for a failure.
        """
        places, numbers = array("q"), array("q")
        failures = defaultdict[str, list[_Failure]](list)
        replaced, repaired = set[int](), dict[int, Usage]()
        for place, line in self._file.lines():
            answer = json.loads(line)
            number, row_id = answer["row"], answer["row_id"]
            known = failures.get(row_id, [])
            same = [failure for failure in known if failure.number == number]
            moved = [failure for failure in known if failure.place < self._began <= place]
            for failure in (same or moved)[:1]:
                known.remove(failure)
                replaced.add(failure.place)
                repaired[place] = failure.used + repaired.pop(failure.place, Usage())
            if answer["error"] is not None:
                failures[row_id].append(_Failure(number, place, _usage_in(answer)))
            places.append(place)
            numbers.append(number)
        order = sorted(range(len(places)), key=numbers.__getitem__)
        return array("q", (places[index] for index in order if places[index] not in replaced)), repaired

    def _in_order(self) -> Iterator[dict[str, Any]]:
        places, repaired = self._index()
        with self._file.path.open("rb") as file:
            for place in places:
                file.seek(place)
                answer = json.loads(file.readline())
                if place in repaired:
                    answer |= _figures_of(_usage_in(answer) + repaired[place])
                yield answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)


class _Failure(NamedTuple):
    """A failed run in a file of answers: the number of its row, its place and its usage."""

    number: int
    place: int
    used: Usage


def _figures_of(used: Usage) -> dict[str, Any]:
    return {
        "calls": used.calls,
        "cached_calls": used.cached_calls,
        "prompt_tokens": used.tokens.prompt,
        "completion_tokens": used.tokens.completion,
        "cost_usd": used.cost_usd,
    }


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
