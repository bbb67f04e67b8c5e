"""Records from the files that the command line writes: JSON reports, evaluation records, traces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moa_dspy.cost.usage import Usage
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.records import FORMAT, latest, read_records
from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.report.page import records_in
from moa_dspy.optimizers.report.records import KINDS

__all__ = ["evaluation_record", "is_program", "records_of_file"]


def is_program(path: str) -> bool:
    """Return whether a JSON file is, or claims to be, a program file.

    Raises:
        ConfigurationError: if the file cannot be read or is not JSON.
    """
    content = _content(path)
    return isinstance(content, dict) and "format" in content and content["format"] != FORMAT


def records_of_file(path: str) -> list[Mapping[str, Any]]:
    """Return the records in a JSON file: reports, evaluation records, or a trace.

    Raises:
        ConfigurationError: if the file cannot be read, or contains no such record.
    """
    content = _content(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return [evaluation_record(path)]
    if isinstance(content, dict) and content.keys() >= {"steps", "outputs", "stopped_by"}:
        return [{"kind": "trace", "name": Path(path).name, "trace": content}]
    records = records_in(content)
    if not records:
        raise ConfigurationError(
            f"{path} holds no record that a report can show; give a result's .report as JSON, or a file that --out, "
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


def evaluation_record(path: str) -> dict[str, Any]:
    """Return a file of evaluation records as one record, with the score of each category.

    Raises:
        ConfigurationError: if the file cannot be read or is damaged.
    """
    run, lines = read_records(path)
    items = list(latest(lines).values())
    names = sorted({item.category for item in items if item.category is not None})
    groups = {"all": items, **{name: [item for item in items if item.category == name] for name in names}}
    categories = []
    for name, members in groups.items() if len(names) > 1 else [("all", items)]:
        scores = [item.score for item in members if item.score is not None]
        states = [item.status for item in members]
        categories.append(
            {
                "name": name,
                "score": Score.of(scores, seed=run.get("seed") or 0) if scores else None,
                "items": len(members),
                "errors": states.count("error"),
                "unparsed": states.count("unparsed"),
            }
        )
    labels = {name: value.get("name") if isinstance(value, dict) else value for name, value in run.items()}
    return {
        "kind": "evaluation",
        "name": Path(path).name,
        **labels,
        "categories": categories,
        "cost": sum((item.program for item in items), start=Usage()),
        "judge_cost": sum((item.judge for item in items), start=Usage()),
        "items": items,
    }
