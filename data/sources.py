"""Rows from files and from the Hugging Face hub, with actionable errors.

Text files are read here, one row at a time: `datasets` would guess types ("007" becomes 7, "NA" becomes None), and
reports no line numbers. Parquet files, which contain their types, and hub data sets are read with `datasets`.
"""

from __future__ import annotations

import ast
import codecs
import contextlib
import csv
import glob
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from moa_dspy.errors import ConfigurationError

__all__ = ["DATA_VARIABLE", "FORMATS", "Row", "parse_structure", "read_file", "read_hub", "read_stdin"]

Row = dict[str, Any]

DATA_VARIABLE = "MOA_DSPY_DATA"
"""Environment variable with the path of a folder that contains one folder of files per benchmark."""

FORMATS = (".jsonl", ".json", ".csv", ".parquet")

_FIELD_MAX = 2**31 - 1
_QUOTED_MAX = 60
_OTHER_SIGN = re.compile(r"[;\t|]")  # between columns, in place of a comma
_RUN_TOGETHER = re.compile(r"""^\s*\[\s*(?:'[^']*'|"[^"]*")\s+['"]""")
"""A list of texts as numpy prints it. Python would join it into one text."""
_SPLITS_IN_MESSAGE = re.compile(r"(?:Should be one of|Available splits:) (\[.*\])")
_CONFIGS_IN_MESSAGE = re.compile(r"(?:Available:|available config names:|among the available configs:) (\[.*\])")
_OFFLINE = {"ConnectionError", "OfflineModeIsEnabled", "ConnectError", "TimeoutException", "LocalEntryNotFoundError"}
_UNREADABLE = {"DatasetGenerationError", "ArrowInvalid", "FileNotFoundError", "DataFilesNotFoundError"}


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
    readers: dict[str, Callable[[], Iterator[Row]]] = {
        ".jsonl": lambda: _jsonl_rows(path),
        ".json": lambda: _json_rows(path),
        ".csv": lambda: _csv_rows(path, columns),
        ".parquet": lambda: read_hub("parquet", split="train", file=glob.escape(str(path)), streaming=True),
    }
    if path.suffix.lower() not in readers:
        kind = path.suffix or "a file without suffix"
        raise ConfigurationError(f"{path.name}: cannot read {kind}; use {', '.join(FORMATS)}")
    return readers[path.suffix.lower()]()


def read_stdin() -> Iterator[Row]:
    """Yield the rows of standard input, an object a line.

    Raises:
        ConfigurationError: if it is closed, or has a line that cannot be read.
    """
    if sys.stdin is None:
        raise ConfigurationError("standard input is closed; give a file, or send the rows to standard input")
    stream = getattr(sys.stdin, "buffer", None)
    lines = sys.stdin if stream is None else (line.decode("utf-8-sig") for line in stream)
    with _decoding("standard input"):
        yield from _objects(lines, "standard input")


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with _text(path) as lines:
        yield from _objects(lines, path.name)


@contextlib.contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """Open a text file in UTF-8, or in the encoding that its byte order mark names.

    The line ends of CSV stay as they are.
    """
    with path.open("rb") as file:
        mark = file.read(4)
    marks = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
    marks |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((name for known, name in marks.items() if mark.startswith(known)), "utf-8-sig")
    with (
        _decoding(path.name),
        path.open(newline="" if path.suffix.lower() == ".csv" else None, encoding=encoding) as file,
    ):
        yield file


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        byte = f": byte 0x{error.object[error.start]:02x}" if isinstance(error, UnicodeDecodeError) else ""
        raise ConfigurationError(f"{name} is not UTF-8 text{byte}; save it as UTF-8") from error


def _objects(lines: Iterable[str], name: str) -> Iterator[Row]:
    first = True
    for number, line in enumerate(lines, start=1):
        if line.strip():
            advice = "; a .jsonl file has one object a line, a list of objects belongs in a .json file" if first else ""
            yield _object(_json(line, f"{name}, line {number}", advice), f"{name}, line {number}", advice)
            first = False


def _json_rows(path: Path) -> Iterator[Row]:
    with _text(path) as file:
        content = _json(file.read(), path.name, "; one object a line belongs in a .jsonl file")
    rows = content
    if isinstance(content, dict):
        lists = [v for v in content.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        rows = lists[0] if len(lists) == 1 else None
    if not isinstance(rows, list):
        raise ConfigurationError(
            f"{path.name}: expected a list of objects, or an object with one such list, got {_kind(content)}"
        )
    yield from (_object(row, f"{path.name}, entry {number}") for number, row in enumerate(rows, start=1))


def _json(text: str, where: str, advice: str = "") -> Any:
    try:
        return json.loads(text, parse_constant=lambda name: None if name == "NaN" else float(name))  # pandas' "missing"
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where}: not JSON ({error}){advice}") from error


def _object(value: Any, where: str, advice: str = "") -> Row:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where}: expected an object with named fields, got {_kind(value)}{advice}")
    return value


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "null"}.get(type(value), type(value).__name__)


def _csv_rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_MAX))  # a process-wide setting; it is never lowered
    with _text(path) as lines:
        reader = csv.DictReader(lines, fieldnames=columns, strict=True)
        try:
            reader.fieldnames = names = [name.strip() for name in reader.fieldnames or ()]
            repeated = [name for name, number in Counter(names).items() if number > 1]
            if repeated:
                raise ConfigurationError(f"{path.name}: several columns are called {repeated[0]!r}; rename all but one")
            if len(names) == 1 and (sign := _OTHER_SIGN.search(names[0])):
                raise ConfigurationError(
                    f"{path.name}: its columns seem to be separated by {sign[0]!r}; separate them with commas"
                )
            for row in reader:
                if None in row or None in row.values():
                    raise ConfigurationError(f"{path.name}, line {reader.line_num}: expected {len(names)} columns")
                yield dict(row)
        except csv.Error as error:
            raise ConfigurationError(f"{path.name}, line {reader.reader.line_num}: {error}") from error


def parse_structure(value: object) -> Any:
    """Return a list or an object of a data row. In CSV files it is a text, which is never evaluated.

    Raises:
        ValueError: if the text is neither JSON nor a Python literal of a list or object.
    """
    if not isinstance(value, str):
        return value
    parsed: Any = None
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            parsed = parse(value.strip())
            break
    if not isinstance(parsed, list | tuple | dict) or _RUN_TOGETHER.search(value):
        quoted = value if len(value) <= _QUOTED_MAX else f"{value[:_QUOTED_MAX]}..."
        raise ValueError(f"expected a list or an object, as JSON or as a Python literal, got {quoted!r}")
    return parsed


def read_hub(
    repository: str, *, split: str, config: str | None = None, file: str | None = None, streaming: bool = False
) -> Iterator[Row]:
    """Yield the rows of one split of a hub data set, from the hub or its local cache.

    Args:
        repository: the id of the data set, such as `openai/gsm8k`, or the format of `file` ("json", "parquet").
        split: name of the split.
        config: name of the configuration, if there are several.
        file: path or address of the split's file.
        streaming: read during the download, and cache nothing.

    Raises:
        ConfigurationError: if the data set is gated, unknown, without this split, or neither reachable nor cached.
    """
    import datasets  # heavy: takes seconds to import

    files = {split: file} if file else None
    try:
        yield from map(
            dict, datasets.load_dataset(repository, config, split=split, data_files=files, streaming=streaming)
        )
    except Exception as error:
        message = _explain(error, Path(file).name if file else repository, split, config)
        if message is None:
            raise
        raise ConfigurationError(message) from error


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
    if kinds & _OFFLINE:
        return (
            f"{name} cannot be fetched without a network and is not in the local cache; "
            "give a folder with its files: in its place, as path= of a benchmark, or in the environment variable "
            f"{DATA_VARIABLE}"
        )
    if kinds & _UNREADABLE:
        return f"{name} cannot be read: {' '.join(str(error.__cause__ or error).split())[:300]}"
    return None


def _names(listed: str) -> str:
    return ", ".join(re.findall(r"'([^']*)'", listed)) or listed
