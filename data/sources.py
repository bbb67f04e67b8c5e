"""Rows from files and from the Hugging Face hub, with actionable errors.

Text files (JSON lines, JSON, CSV) are read here, one row at a time. `datasets` would guess types from the text: an
answer "2024-01-01 00:00:00" becomes a date, "007" becomes 7, and "NA" becomes None. It also cannot report the number of
a broken line. Parquet files, which contain their types, and hub data sets are read with `datasets`.
"""

from __future__ import annotations

import csv
import glob
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moa_dspy.errors import ConfigurationError

__all__ = ["FORMATS", "Row", "read_file", "read_hub"]

Row = dict[str, Any]

_FIELD_MAX = 2**31 - 1
FORMATS = (".jsonl", ".json", ".csv", ".parquet")
_SPLITS_IN_MESSAGE = re.compile(r"(?:Should be one of|Available splits:) (\[.*\])")
_CONFIGS_IN_MESSAGE = re.compile(r"(?:Available:|available config names:|among the available configs:) (\[.*\])")


def read_file(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of one file.

    Args:
        path: a `.jsonl`, `.json` (a list of objects, or an object with one such list), `.csv` or `.parquet` file.
        columns: names of the columns of a CSV file without a header line.

    Raises:
        ConfigurationError: if the file does not exist, has an unknown format, or has a row that cannot be read.
    """
    if not path.is_file():
        raise ConfigurationError(f"no such file: {path}")
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _csv_rows(path, columns)
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".jsonl": _jsonl_rows,
        ".json": _json_rows,
        ".parquet": _parquet_rows,
    }
    if suffix not in readers:
        raise ConfigurationError(
            f"{path.name}: cannot read {path.suffix or 'a file without suffix'}; use {', '.join(FORMATS)}"
        )
    return readers[suffix](path)


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _json_object(line, path, number)
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path.name} is not UTF-8 text: {error.reason}") from error


def _json_object(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path.name}, line {number}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ConfigurationError(f"{path.name}, line {number}: expected an object with named fields, got {_kind(row)}")
    return row


def _json_rows(path: Path) -> Iterator[Row]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{path.name}: not JSON ({error}); one object a line belongs in a .jsonl file"
        ) from error
    rows = content
    if isinstance(content, dict):
        lists = [
            value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        rows = lists[0] if len(lists) == 1 else None
    if not isinstance(rows, list):
        raise ConfigurationError(f"{path.name}: expected a list of objects, got {_kind(content)}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ConfigurationError(f"{path.name}, entry {number}: expected an object, got {_kind(row)}")
        yield row


def _csv_rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_MAX))  # a process-wide setting; it is never lowered
    with path.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines, fieldnames=columns, strict=True)
        try:
            repeated = [name for name, number in Counter(reader.fieldnames or ()).items() if number > 1]
            if repeated:
                raise ConfigurationError(f"{path.name}: several columns are called {repeated[0]!r}; rename all but one")
            for row in reader:
                if None in row or None in row.values():
                    expected = len(reader.fieldnames or ())
                    raise ConfigurationError(f"{path.name}, line {reader.line_num}: expected {expected} columns")
                yield dict(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path.name}, line {reader.reader.line_num}: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    yield from read_hub("parquet", split="train", data_files={"train": glob.escape(str(path))}, streaming=True)


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(type(value), type(value).__name__)


def read_hub(
    repository: str,
    *,
    split: str,
    config: str | None = None,
    data_files: Mapping[str, str] | None = None,
    streaming: bool = False,
) -> Iterator[Row]:
    """Yield the rows of one split of a hub data set, from the hub or its local cache.

    Args:
        repository: the id of the data set, such as `openai/gsm8k`.
        split: name of the split.
        config: name of the configuration, if there are several.
        data_files: the file of each split, if `repository` is a format name ("json", "parquet").
        streaming: read during the download, and cache nothing.

    Raises:
        ConfigurationError: if the data set is gated, unknown, without this split, or neither reachable nor cached.
    """
    import datasets  # heavy: takes seconds to import

    try:
        loaded = datasets.load_dataset(repository, config, split=split, data_files=data_files, streaming=streaming)
        yield from (dict(row) for row in loaded)
    except ConfigurationError:
        raise
    except Exception as error:
        message = _explain(error, _label(repository, data_files), split, config)
        if message is None:
            raise
        raise ConfigurationError(message) from error


def _label(repository: str, data_files: Mapping[str, str] | None) -> str:
    return ", ".join(Path(file).name for file in data_files.values()) if data_files else repository


def _explain(error: BaseException, name: str, split: str, config: str | None) -> str | None:
    """Return the cause and the remedy of an error, or None for an error that the caller cannot fix."""
    text = str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds or "gated" in text.lower():
        return (
            f"{name} is gated: accept its terms on its hub page, then log in with `hf auth login` or set HF_TOKEN; "
            "or give a folder with its files"
        )
    if splits := _SPLITS_IN_MESSAGE.search(text):
        return f"{name} has no split {split!r}; there are: {_names(splits[1])}"
    if configs := _CONFIGS_IN_MESSAGE.search(text):
        return f"{name} has no configuration {config!r}; there are: {_names(configs[1])}"
    if kinds & {"DatasetNotFoundError", "RepositoryNotFoundError"}:
        return f"{name} is not on the hub, or you have no access; check the id, or log in with `hf auth login`"
    if kinds & {
        "ConnectionError",
        "OfflineModeIsEnabled",
        "ConnectError",
        "TimeoutException",
        "LocalEntryNotFoundError",
    }:
        return (
            f"{name} cannot be fetched without a network and is not in the local cache; "
            "give a folder with its files (path=, or the environment variable MOA_DSPY_DATA)"
        )
    if kinds & {"DatasetGenerationError", "ArrowInvalid", "FileNotFoundError", "DataFilesNotFoundError"}:
        return f"{name} cannot be read: {' '.join(str(error.__cause__ or error).split())[:300]}"
    return None


def _names(listed: str) -> str:
    return ", ".join(re.findall(r"'([^']*)'", listed)) or listed
