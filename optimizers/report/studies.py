"""Records of Optuna studies.

A study's storage is only read. Its search may still be running.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import optuna
from optuna import Study
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.prompts.silence import silenced
from moa_dspy.optimizers.search.objective import Objective
from moa_dspy.optimizers.search.results import report_of
from moa_dspy.optimizers.search.storage import open_storage, path_in, without_password
from moa_dspy.optimizers.stop_fitting.replay import StopRule

__all__ = ["study_in", "study_record"]

_TIMEOUT: Final = 60


def study_in(source: str, name: str | None = None) -> Study:
    """Return the current state of a study in a storage; see ``open_storage``. Nothing is created or written.

    Raises:
        ConfigurationError: if there is no such study, or if several exist and no name is given.
    """
    shown = without_password(source)
    _check(source)
    try:
        storage = open_storage(source)
        names = sorted(study.study_name for study in storage.get_all_studies())
        name = names[0] if name is None and len(names) == 1 else name
        if name in names:
            memory = InMemoryStorage()  # a search may still be writing to the study
            with silenced(output=False):
                optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=memory)
            return optuna.load_study(study_name=name, storage=memory)
    except ConfigurationError:
        raise
    except Exception as error:
        problem = (str(error).splitlines() or [""])[0].replace(source, shown)
        raise ConfigurationError(f"{shown} cannot be read: {type(error).__name__}: {problem}") from error
    if not names:
        raise ConfigurationError(f"{shown} has no study; give the storage that the search used")
    problem = "several studies, none named" if name is None else f"no study {name!r}"
    raise ConfigurationError(f"{shown}: {problem}; name one of: {', '.join(names)}")


def study_record(study: Study) -> dict[str, Any]:
    """Return the trials of a study as the record of a search. A study does not contain the amount paid.

    Raises:
        ConfigurationError: if the study was not written by ``search``.
    """
    about = study.user_attrs.get("about") or {}
    trials = study.get_trials(deepcopy=False)
    if not about and trials:
        raise ConfigurationError(f"study {study.study_name!r} was not written by moa-dspy; use optuna-dashboard")
    objective = Objective(**about["objective"]) if "objective" in about else Objective(unit="calls")
    states = [trial.state for trial in trials]
    running, waiting = states.count(TrialState.RUNNING), states.count(TrialState.WAITING)
    facts: dict[str, Any] = {
        "task": about.get("task"),
        "objective": about.get("objective"),
        "seed": study.user_attrs.get("seed"),
        "now": f"{running} running, {waiting} waiting" if running or waiting else "no trial is running",
    }
    return report_of(study, objective, _architecture, facts)


def _check(source: str) -> None:
    """Raise ConfigurationError for a missing or foreign file. Opening it would create or change it."""
    kind, is_url, _ = source.partition(":///")
    path = Path(path_in(source) if is_url else source)
    if kind not in ("sqlite", "journal") and "://" in source:
        return
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise ConfigurationError(f"cannot read {path}: {what}")
    if kind == "journal":
        return
    try:
        uri = f"file:{quote(str(path.resolve()))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_TIMEOUT)) as database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE name = 'studies'").fetchall()
    except sqlite3.Error as error:
        raise ConfigurationError(f"{path} is damaged or not a SQLite database: {error}") from None
    if not tables:
        raise ConfigurationError(f"{path} has no Optuna study; give the file that the search used as its storage")


def _architecture(trial: FrozenTrial, rule: StopRule) -> dict[str, Any] | None:
    """Return a trial's architecture with the layers and early stop of ``rule``, as the search space builds it."""
    shape = trial.user_attrs.get("architecture")
    if shape is None:
        return None
    ruled = {
        "layers": rule.layers,
        "early_stop": rule.early_stop,
        "residual": shape["residual"] if rule.layers > 1 else "synthesis",
        "gate": rule.gate,
    }
    return {name: value for name, value in {**shape, **ruled}.items() if (name, value) != ("gate", "off")}
