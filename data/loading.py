"""`load` and `stream`: examples with inputs set, from benchmarks by name, your own files, and hub data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.data.benchmark import Benchmark
from moa_dspy.data.benchmarks.registry import benchmarks, get_benchmark
from moa_dspy.data.sources import FORMATS, Row, read_file, read_hub, read_stdin
from moa_dspy.data.splitting import first_or_sampled
from moa_dspy.errors import ConfigurationError, RunError

__all__ = [
    "STDIN",
    "ConfigurationError",
    "RunError",
    "is_benchmark",
    "load",
    "stream",
]

STDIN = "-"
"""The name under which `stream` reads standard input, as JSON lines."""

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def load(
    name_or_path: str | Path,
    split: str | None = None,
    *,
    limit: int | None = None,
    seed: int | None = None,
    fields: Mapping[str, str] | Sequence[str] | None = None,
    inputs: Sequence[str] = ("question",),
    path: str | Path | None = None,
    config: str | None = None,
) -> list[dspy.Example]:
    """Return examples with inputs set.

    Args:
        name_or_path: the name of a benchmark; a `.jsonl`, `.json`, `.csv` or `.parquet` file; a folder with one such
            file for each split; or the id of a data set on the Hugging Face hub.
        split: name of the split. None means the benchmark's first, or "test" for a folder or a hub data set.
        limit: maximum number of examples.
        seed: draw a random sample by content. A larger limit contains the smaller sample. None takes the first ones.
        fields: for your own data: the column of each example field, or a list of columns to keep. None keeps all.
        inputs: for your own data: the example fields that are inputs of the task.
        path: for a benchmark: the folder with its files. None means `MOA_DSPY_DATA`, then the hub or its cache.
        config: for a hub data set: its configuration.

    Returns:
        At least one example, unless `limit` is 0.

    Raises:
        ConfigurationError: if the name, split or file does not exist, a field is missing, a line is malformed, the data
            set is gated or empty, or there is no network.
    """
    if is_benchmark(name_or_path):
        benchmark = _benchmark(name_or_path, fields, inputs, config)
        return benchmark.load(split, limit=limit, seed=seed, path=path)
    rows = _own_examples(name_or_path, split, fields, inputs, config, path, streaming=False)
    examples = first_or_sampled(rows, limit, seed)
    if not examples and limit != 0:
        raise ConfigurationError(f"{name_or_path} is empty")
    return examples


def stream(
    name_or_path: str | Path,
    split: str | None = None,
    *,
    fields: Mapping[str, str] | Sequence[str] | None = None,
    inputs: Sequence[str] = ("question",),
    path: str | Path | None = None,
    config: str | None = None,
) -> Iterator[dspy.Example]:
    """Yield the examples of `load` in order, for data sets that do not fit in memory.

    `-` reads standard input, as JSON lines. Hub data sets are read during the download and not cached. The arguments
    are those of `load`.
    """
    if is_benchmark(name_or_path):
        return _benchmark(name_or_path, fields, inputs, config).stream(split, path=path)
    return _own_examples(name_or_path, split, fields, inputs, config, path, streaming=True)


def is_benchmark(name: str | Path) -> bool:
    """Return whether this is the name of a benchmark and not of an existing path.

    Raises:
        ConfigurationError: if it is a plain word that is neither.
    """
    if isinstance(name, Path) or name == STDIN or "/" in name or "\\" in name or Path(name).suffix.lower() in FORMATS:
        return False
    try:
        get_benchmark(name)
    except ConfigurationError:
        if Path(name).exists():
            return False
        raise ConfigurationError(
            f"{name!r} is neither a benchmark ({', '.join(benchmarks())}) nor a file ({', '.join(FORMATS)}), "
            "a folder or a hub id (owner/name)"
        ) from None
    return True


def _benchmark(
    name: str | Path, fields: Mapping[str, str] | Sequence[str] | None, inputs: Sequence[str], config: str | None
) -> Benchmark:
    if fields is not None or tuple(inputs) != ("question",) or config is not None:
        raise ConfigurationError(f"fields, inputs and config are for your own data; {name} brings its own")
    return get_benchmark(str(name))


def _own_examples(
    name: str | Path,
    split: str | None,
    fields: Mapping[str, str] | Sequence[str] | None,
    inputs: Sequence[str],
    config: str | None,
    path: str | Path | None,
    *,
    streaming: bool,
) -> Iterator[dspy.Example]:
    if path is not None:
        raise ConfigurationError("path= is for benchmarks; leave it out, and name your own file or folder as the data")
    for argument, value in (("fields", fields), ("inputs", inputs)):
        if isinstance(value, str):
            raise ConfigurationError(f"{argument}={value!r} is one text; give a list of names, such as [{value!r}]")
    columns = fields if fields is None or isinstance(fields, Mapping) else dict(zip(fields, fields, strict=True))
    rows = _rows(name, split, config, streaming=streaming)
    return (_example(row, number, columns, inputs) for number, row in enumerate(rows, start=1))


def _rows(name: str | Path, split: str | None, config: str | None, *, streaming: bool) -> Iterator[Row]:
    if name == STDIN:
        return read_stdin()
    path = Path(name)
    if path.is_dir():
        files = {file.stem: file for suffix in reversed(FORMATS) for file in sorted(path.glob(f"*{suffix}"))}
        split = split or "test"
        if split not in files:
            raise ConfigurationError(f"{path} has no split {split!r}; there are: {', '.join(sorted(files)) or 'none'}")
        return read_file(files[split])
    if isinstance(name, Path) or path.suffix.lower() in FORMATS or path.exists():
        if split is not None:
            raise ConfigurationError(f"{path.name} is one file and has no split {split!r}; leave split= out")
        return read_file(path)
    if not _HUB_ID.fullmatch(str(name)):
        raise ConfigurationError(f"no such file or folder: {name}")
    return read_hub(str(name), split=split or "test", config=config, streaming=streaming)


def _example(row: Row, number: int, columns: Mapping[str, str] | None, inputs: Sequence[str]) -> dspy.Example:
    columns = dict(zip(row, row, strict=True)) if columns is None else columns
    if missing := [column for column in columns.values() if column not in row]:
        raise ConfigurationError(f"row {number} lacks {_listed(missing)}; it has: {', '.join(row) or 'none'}")
    values: dict[str, Any] = {name: row[column] for name, column in columns.items()}
    if absent := [name for name in inputs if name not in values]:
        raise ConfigurationError(
            f"row {number} has no input field {_listed(absent)}; it has: {', '.join(values) or 'none'} "
            f"(map columns with fields={{{absent[0]!r}: 'COLUMN'}}, or name the inputs with inputs=)"
        )
    return dspy.Example(values).with_inputs(*inputs)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
