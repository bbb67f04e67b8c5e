"""Records from files: JSON reports, evaluation records and traces; which files are programs or studies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.records import FORMAT, latest, read_records
from moa_dspy.optimizers.report.records import KINDS, records_in

__all__ = ["is_program", "is_storage", "records_of_file"]

_SUFFIXES: Final = (".db", ".sqlite", ".sqlite3")
_SQLITE: Final = b"SQLite format 3\x00"


def is_program(path: str) -> bool:
    """Return whether a JSON file is, or claims to be, a program file. Raise ConfigurationError if it cannot be read."""
    content = _content(path)
    return isinstance(content, dict) and "format" in content and content["format"] != FORMAT


def records_of_file(path: str) -> list[Mapping[str, Any]]:
    """Return the records in a JSON file: reports, evaluation records, or a trace.

    Raises:
        ConfigurationError: if the file cannot be read, is damaged, or contains no such record.
    """
    content, name = _content(path), Path(path).name
    if isinstance(content, dict) and content.get("format") == FORMAT:
        run, lines = read_records(path)
        labels = {key: value.get("name") if isinstance(value, dict) else value for key, value in run.items()}
        return [{"kind": "evaluation", "name": name, **labels, "items": tuple(latest(lines).values())}]
    if isinstance(content, dict) and content.keys() >= {"steps", "outputs", "stopped_by"}:
        return [{"kind": "trace", "name": name, "trace": content}]
    records = records_in(content)
    if not records:
        raise ConfigurationError(
            f"{path} has no record that a report can show; give a result's .report as JSON, or a file that --out, "
            f"--trace, --record or --json wrote (kinds: {', '.join(KINDS)})"
        )
    return records


def _content(path: str) -> Any:
    """Return the JSON value in a file, or the first line of a file of evaluation records."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        return json.loads(text.partition("\n")[0] if f'"{FORMAT}"' in text[:100] else text)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is damaged or not JSON: {error}") from None


def is_storage(source: str) -> bool:
    """Return whether a source is an Optuna storage: a URL, a SQLite file, or a file that is named like one."""
    if "://" in source or source.endswith(_SUFFIXES):
        return True
    try:
        with Path(source).open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False
