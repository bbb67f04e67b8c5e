"""Answers as files for the official evaluators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dspy

from moa_dspy.data.benchmark import Answered, Benchmark
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.evaluation.records import Record

__all__ = ["check_outputs", "write_outputs"]


def check_outputs(task: Benchmark, path: str | Path) -> None:
    """Check that official outputs can be written.

    Raises:
        ConfigurationError: if the benchmark has no official format, or the file has no folder.
    """
    if not task.official_outputs:
        raise ConfigurationError(f"{task.name} has no official format of outputs; leave the file of outputs out")
    folder = Path(path).parent
    if Path(path).is_dir() or not folder.is_dir():
        raise ConfigurationError(f"cannot write {path}: it is a folder, or its folder is not there")


def write_outputs(
    task: Benchmark, examples: Mapping[str, dspy.Example], records: Mapping[str, Record], path: str | Path, name: str
) -> list[str]:
    """Write the answers in the benchmark's official format, in the order of the examples.

    Returns:
        A remark if answers are missing: an item that failed or was not run has none.

    Raises:
        RunError: if the file cannot be written.
    """
    answered = [
        Answered(example, records[key].outputs, records[key].finished)
        for key, example in examples.items()
        if key in records and records[key].outputs
    ]
    try:
        Path(path).write_text(task.format_outputs(answered, name), encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None
    if len(answered) == len(examples):
        return []
    return [f"{path} holds {len(answered)} of {len(examples)} answers: the others failed or were not run"]
