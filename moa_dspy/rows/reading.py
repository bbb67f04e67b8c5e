"""The rows to answer, read one at a time. Nothing of a row is kept once it has been answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dspy

from moa_dspy._dspy import has_input_keys
from moa_dspy.data.benchmark import Benchmark
from moa_dspy.data.loading import STDIN, is_benchmark, stream
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.evaluate import check_inputs
from moa_dspy.evaluation.fingerprint import content_of
from moa_dspy.program import AttentionMoA
from moa_dspy.rows.tables import journal_of
from moa_dspy.signatures import needed_inputs

__all__ = ["InputRow", "Inputs", "Rows", "Survey"]

Inputs = str | Path | Benchmark | Iterable[Mapping[str, Any] | dspy.Example]

_DIGEST: Final = 16  # bytes


@dataclass(frozen=True)
class InputRow:
    """A row to answer.

    Attributes:
        number: its place in the input, from 1.
        id: digest of its content. Equal rows have equal digests.
        example: its columns, of which some are inputs of the program.
    """

    number: int
    id: bytes
    example: dspy.Example


@dataclass(frozen=True)
class Survey:
    """What a first reading of all rows has found.

    Attributes:
        total: number of rows; None if they can be read only once.
        waiting: number of rows without an answer; None likewise.
        sample: some of the waiting rows, for an estimate of the cost.
    """

    total: int | None
    waiting: int | None
    sample: Sequence[dspy.Example] = ()


class Rows:
    """The rows of an input. They are read anew at each iteration. The arguments are those of ``run``.

    Raises:
        ConfigurationError: if the input does not exist or has another form.
    """

    def __init__(
        self,
        inputs: Inputs,
        program: dspy.Module,
        *,
        fields: Mapping[str, str] | None = None,
        split: str | None = None,
        limit: int | None = None,
    ) -> None:
        if isinstance(inputs, (Mapping, dspy.Example)):
            raise ConfigurationError("inputs= is one row; give a list of rows, such as [row]")
        if limit is not None and limit < 1:
            raise ConfigurationError(f"limit={limit} is out of range; it must be at least 1")
        self._inputs, self._program, self._fields, self._split, self._limit = inputs, program, fields, split, limit
        task = program.task if isinstance(program, AttentionMoA) else None
        self._known = tuple(program.signature.input_fields) if isinstance(program, AttentionMoA) else None
        self._needed: Collection[str] = () if task is None else needed_inputs(task)
        self.replayable = str(inputs) != STDIN if isinstance(inputs, (str, Path)) else not isinstance(inputs, Iterator)

    def refuse(self, out: str | Path) -> None:
        """Raise ConfigurationError if the file of answers or its journal is the input: the run would not end."""
        if isinstance(self._inputs, (str, Path)) and self.replayable:
            source = Path(self._inputs).resolve()
            if source in (Path(out).resolve(), journal_of(Path(out)).resolve()):
                raise ConfigurationError(f"out={str(out)!r} would be written over its own input; give another file")

    def __iter__(self) -> Iterator[InputRow]:
        for number, example in enumerate(self._examples(), start=1):
            if self._limit is not None and number > self._limit:
                return
            if number == 1:
                self._check(example)
            if lacking := [name for name in self._needed if example.get(name) is None]:
                raise ConfigurationError(f"row {number:,} has no value for {', '.join(map(repr, lacking))}")
            yield InputRow(number, bytes.fromhex(content_of(example, _DIGEST)), example)

    def survey(self, done: Mapping[bytes, int], sample: int) -> Survey:
        """Read all rows, if they can be read again, so that a row that cannot be read is found before any is answered.

        ``done`` is the number of answered rows by digest.

        Raises:
            ConfigurationError: if a row cannot be read, or there is none.
        """
        if not self.replayable:
            return Survey(None, None)
        total, waiting, step = 0, 0, 1
        chosen: list[dspy.Example] = []
        for row, is_done in self.answered(done):
            total = row.number
            if is_done:
                continue
            if not waiting % step:
                chosen.append(row.example)
                if len(chosen) > 2 * sample:  # thin them out, so that the rest stays evenly spaced
                    chosen, step = chosen[::2], 2 * step
            waiting += 1
        if not total:
            name = self._inputs if isinstance(self._inputs, (str, Path)) else "the input"
            raise ConfigurationError(f"{name} is empty")
        return Survey(total, waiting, chosen[: 2 * sample : 2] if len(chosen) > sample else chosen)

    def answered(self, done: Mapping[bytes, int]) -> Iterator[tuple[InputRow, bool]]:
        """Yield all rows, and whether each has its answer. Of equal rows, the first ones have it."""
        met: Counter[bytes] = Counter()
        for row in self:
            is_done = row.id in done
            if is_done:
                met[row.id] += 1
                is_done = met[row.id] <= done[row.id]
            yield row, is_done

    def _examples(self) -> Iterator[dspy.Example]:
        inputs = self._inputs
        if isinstance(inputs, Benchmark):
            return inputs.stream(self._split)
        if isinstance(inputs, (str, Path)):
            if is_benchmark(inputs):
                return stream(inputs, self._split)
            return map(self._with_inputs, stream(inputs, self._split, fields=self._fields, inputs=()))
        return map(self._with_inputs, map(self._mapped, inputs))

    def _mapped(self, row: Any) -> dspy.Example:
        if not isinstance(row, (Mapping, dspy.Example)):
            raise ConfigurationError(
                f"a row is of type {type(row).__name__}; give rows as mappings of columns to values"
            )
        values = dict(row.items())
        if unnamed := [name for name in values if not isinstance(name, str)]:
            raise ConfigurationError(f"a row has a column {unnamed[0]!r}; column names must be text")
        if self._fields is None:
            return row if isinstance(row, dspy.Example) else dspy.Example(values)
        if missing := [column for column in self._fields.values() if column not in values]:
            raise ConfigurationError(f"a row lacks {', '.join(map(repr, missing))}; it has: {', '.join(values)}")
        return dspy.Example({name: values[column] for name, column in self._fields.items()})

    def _with_inputs(self, example: dspy.Example) -> dspy.Example:
        if self._known is not None:
            return example.with_inputs(*(name for name in self._known if name in example))
        marked = has_input_keys(example) and len(example.inputs()) > 0
        return example if marked else example.with_inputs(*example.keys())

    def _check(self, example: dspy.Example) -> None:
        missing = [name for name in self._needed if name not in example]
        if missing:
            raise ConfigurationError(
                f"the first row has no {', '.join(map(repr, missing))}; it has: {', '.join(example.keys()) or 'none'} "
                f"(map columns with fields={{{missing[0]!r}: 'COLUMN'}})"
            )
        check_inputs(self._program, [example])
