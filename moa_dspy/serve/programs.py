"""What is served: the programs by name, and what clients are told about them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from moa_dspy.config import load_config
from moa_dspy.cost.budget import Budget
from moa_dspy.errors import ConfigurationError, MoAError
from moa_dspy.evaluation.runner import check_budget, models_of
from moa_dspy.files.program_file import digest_of
from moa_dspy.prediction import Prediction
from moa_dspy.program import AttentionMoA, load
from moa_dspy.serve.inputs import outputs_schema
from moa_dspy.signatures import is_free_text

__all__ = ["facts_of", "load_programs", "outputs_of", "warning_of"]

_CONFIG = "moa.toml"


def load_programs(
    paths: Iterable[str],
    *,
    budget: Budget | None = None,
    vectorizers: Collection[str] = (),
    modules: Collection[str] = (),
) -> dict[str, AttentionMoA]:
    """Return programs by name: the name of the file, or of the folder for a ``moa.toml``.

    Args:
        paths: saved programs (``.json``), configurations (``.toml``), and folders with such files.
        budget: limits of each run; they narrow the programs' own.
        vectorizers: see ``moa_dspy.load``.
        modules: see ``moa_dspy.load``.

    Raises:
        ConfigurationError: if a file is not a program, a folder has none, two programs have the same name, or a limit
            is in dollars and the price of a model is unknown.
    """
    programs: dict[str, AttentionMoA] = {}
    for path in (file for given in paths for file in _files(Path(given))):
        name = (path.resolve().parent.name or path.stem) if path.name == _CONFIG else path.stem
        if name in programs:
            raise ConfigurationError(f"two programs would be called {name!r}, one of them {path}; rename a file")
        is_config = path.suffix == ".toml"
        program = load_config(path).program() if is_config else load(path, vectorizers=vectorizers, modules=modules)
        program.budget = program.budget.within(budget)
        check_budget(program.budget, models_of(program))
        programs[name] = program
    return programs


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix == ".json" or file.name == _CONFIG)
    if not found:
        raise ConfigurationError(f"{path} contains no program; save one there as NAME.json, or write a {_CONFIG}")
    return found


def warning_of(program: AttentionMoA) -> str | None:
    """Return a warning if a comparison preferred another program; None if not."""
    record = program.provenance
    if record is None or record.verdict is None or not record.verdict.startswith("use "):
        return None
    if record.verdict.startswith("use the program") or record.program == digest_of(program):
        return None
    return f"a comparison preferred another program: {record.verdict}"


def outputs_of(program: AttentionMoA, prediction: Prediction) -> dict[str, Any]:
    """Return the task's outputs as JSON values, without an added reasoning field."""
    values = program.roles.jsonable(dict(prediction.items()))
    return {name: values[name] for name in program.task.output_fields}


def facts_of(program: AttentionMoA) -> dict[str, Any]:
    """Return the task of a program, its agents, its price, and its measured scores, as JSON values."""
    task, record = program.task, program.provenance
    return {
        "task": task.signature,
        "agents": [spec.model_dump(include={"name", "model"}) for spec in program.architecture.agents],
        "price": _price(program),
        "answers": "text" if is_free_text(task) else outputs_schema(task),
        "verdict": None if record is None else record.verdict,
        "scores": [] if record is None else [figure.model_dump(mode="json") for figure in record.scores],
        "warning": warning_of(program),
    }


def _price(program: AttentionMoA) -> dict[str, Any] | None:
    """Return the expected calls and dollars of a question, the most and the least; None if they cannot be planned.

    ``most_calls`` counts a second request for every reply, as if none could be read at once.
    """
    try:
        plan = program.plan()
    except MoAError:
        return None
    runs = {"most": plan.full, "least": plan.minimum}
    return {name: {"calls": run.calls, "most_calls": run.most_calls, "usd": run.usd} for name, run in runs.items()}
