"""Rows written as a CSV or a Parquet file, a chunk at a time."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from moa_dspy.files.atomic_write import replacing

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SUFFIXES", "journal_of", "write_table"]

SUFFIXES: Final = (".jsonl", ".csv", ".parquet")

_CHUNK: Final = 2_000  # rows


def journal_of(path: Path) -> Path:
    """Return the file to which answers are written at once: a JSONL file is its own."""
    return path if path.suffix.lower() == ".jsonl" else path.parent / f"{path.name}.jsonl"


Values = Callable[[], Iterator[Mapping[str, Any]]]


def write_table(path: Path, rows: Values, numbers: Collection[str] = ()) -> None:
    """Write rows to a ``.csv`` or ``.parquet`` file, which is replaced when it is complete.

    Lists and objects are written as JSON. A Parquet column whose values have no common type is written as text. The
    columns ``numbers`` are numbers, also if all values are None.

    Raises:
        OSError: if the file cannot be written. The old file is then unchanged.
    """
    with replacing(path) as file:
        if path.suffix.lower() == ".csv":
            _write_csv(file, rows)
        else:
            _write_parquet(file, rows, numbers)


def _write_csv(file: BinaryIO, rows: Values) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows() for name in row)))
    writer.writeheader()
    writer.writerows(map(_flat, rows()))
    text.flush()
    text.detach()


def _write_parquet(file: BinaryIO, rows: Values, numbers: Collection[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq  # heavy: only for this format

    types: dict[str, pa.DataType] = dict.fromkeys(numbers, pa.float64())
    names: dict[str, None] = {}
    for chunk in _chunks(rows()):
        for name in dict.fromkeys(name for row in chunk for name in row):
            names[name] = None
            found = _type_of([row.get(name) for row in chunk])
            types[name] = _common(types[name], found) if name in types else found
    types = {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in types.items()}
    order = [(name, types[name]) for name in names]
    with pq.ParquetWriter(file, pa.schema(order)) as writer:
        for chunk in _chunks(rows()):
            columns = {name: pa.array([_as(kind, row.get(name)) for row in chunk], kind) for name, kind in order}
            writer.write_table(pa.table(columns))


def _type_of(values: list[Any]) -> pa.DataType:
    import pyarrow as pa

    try:
        return pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.string()


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return the type that holds the values of both; text if there is no other."""
    import pyarrow as pa

    try:
        schemas = [pa.schema([("", one)]), pa.schema([("", other)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        return pa.string()


def _as(kind: pa.DataType, value: Any) -> Any:
    if value is None or isinstance(value, str) or str(kind) != "string":
        return value
    return json.dumps(value)


def _chunks(rows: Iterator[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(map(_flat, itertools.islice(rows, _CHUNK))):
        yield chunk


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its lists and objects as JSON text."""
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
        for name, value in row.items()
    }
