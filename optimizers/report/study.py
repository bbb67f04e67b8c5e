"""A study in its storage, also while its search goes on, as the record that a report shows. It is only read."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import optuna
from optuna import Study
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.search.objective import Objective
from moa_dspy.optimizers.search.results import best_trial, depth_points, report_of
from moa_dspy.optimizers.search.storage import open_storage, without_password
from moa_dspy.optimizers.search.trials import board_of, chosen_of, front_of, summary_of
from moa_dspy.optimizers.stopping.rules import StopRule

__all__ = ["is_storage", "study_in", "study_record"]

_SUFFIXES: Final = (".db", ".sqlite", ".sqlite3")
_SQLITE: Final = b"SQLite format 3\x00"
_PATIENCE: Final = 60


def is_storage(source: str) -> bool:
    """Return whether a source names a storage of studies: a URL, or a file that is or should be SQLite's."""
    if "://" in source or source.endswith(_SUFFIXES):
        return True
    try:
        with Path(source).open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def study_in(source: str, name: str | None = None) -> Study:
    """Return a study that is there.

    Args:
        source: see ``open_storage``; nothing is created where there is nothing.
        name: of the study; default: the only one there.

    Raises:
        ConfigurationError: there is no such storage, no such study, or there are several to choose from.
    """
    shown = without_password(source)
    _check(source)
    try:
        storage = open_storage(source)
        names = sorted(study.study_name for study in storage.get_all_studies())
        if name is None and len(names) == 1:
            name = names[0]
        if name in names:
            return _copied(optuna.load_study(study_name=name, storage=storage))
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace(source, shown)) from None
    except Exception as error:
        problem = (str(error).splitlines() or [""])[0].replace(source, shown)
        raise ConfigurationError(f"{shown} cannot be read: {type(error).__name__}: {problem}") from error
    wanted = f"there is no study {name!r}" if name is not None else "name a study with --study" if names else ""
    there = f"the studies there are: {', '.join(names)}" if names else "it holds no study"
    raise ConfigurationError(f"{shown}: {f'{wanted}; ' if wanted else ''}{there}")


def study_record(study: Study) -> dict[str, Any]:
    """Return what a study holds by now, in the form of a search's report; no model is asked.

    Trials have the interval of their score as well. What was paid is not on record in a study.

    Raises:
        ConfigurationError: it is no study of ``search``.
    """
    about = study.user_attrs.get("about") or {}
    trials = study.get_trials(deepcopy=False)
    if not about and trials:
        raise ConfigurationError(f"study {study.study_name!r} is no search of moa-dspy; try optuna-dashboard")
    objective = Objective(**about["objective"]) if "objective" in about else Objective(unit="calls")
    facts: dict[str, Any] = {
        "task": about.get("task"),
        "objective": about.get("objective"),
        "seed": study.user_attrs.get("seed"),
        "now": _now(trials),
        "pareto": _front(study, objective),
    }
    best = best_trial(study, objective)
    if best is None:
        begun = [summary_of(trial) for trial in trials if trial.state != TrialState.WAITING]
        return {"kind": "search", "study": study.study_name, **facts, "trials": begun, "history": []}
    rule = chosen_of(best, objective)
    score = Score.of(board_of(best)[rule].scores).model_dump()
    return report_of(
        study, best, _architecture(best, rule), {**facts, "score": score, "depth_curve": depth_points(best)}
    )


def _check(source: str) -> None:
    """Refuse a file that is not there or is something else, which opening it would create or change."""
    kind, found, rest = source.partition(":///")
    path = Path(rest.partition("?")[0] if found else source)
    if kind not in ("sqlite", "journal") and "://" in source:
        return
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise ConfigurationError(f"cannot read {path}: {what}")
    if kind == "journal":
        return
    try:
        uri = f"file:{quote(str(path.resolve()))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_PATIENCE)) as database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE name = 'studies'").fetchall()
    except sqlite3.Error as error:
        raise ConfigurationError(f"{path} is damaged or no SQLite database: {error}") from None
    if not tables:
        raise ConfigurationError(f"{path} holds no Optuna study; give the file that search had as storage=")


def _copied(study: Study) -> Study:
    """The study as it is at this moment, in memory, so that all that is read off it fits together."""
    memory, verbosity = InMemoryStorage(), optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        memory.create_new_study(study.directions, study.study_name)
    finally:
        optuna.logging.set_verbosity(verbosity)
    copy = optuna.load_study(study_name=study.study_name, storage=memory)
    for name, value in study.user_attrs.items():
        copy.set_user_attr(name, value)
    copy.add_trials(study.get_trials(deepcopy=False))
    return copy


def _now(trials: Sequence[FrozenTrial]) -> str:
    states = [trial.state for trial in trials]
    running, waiting = states.count(TrialState.RUNNING), states.count(TrialState.WAITING)
    return f"{running} running, {waiting} waiting" if running or waiting else "no trial is running"


def _front(study: Study, objective: Objective) -> list[dict[str, Any]]:
    """The front as ``pareto_of`` gives it, without the space."""
    return [
        {
            "architecture": _architecture(point.trial, point.rule),
            "score": Score.of(point.tally.scores).model_dump(),
            "price": point.tally.mean_price.model_dump(),
            "trial": point.trial.number,
        }
        for point in front_of(study, objective)
    ]


def _architecture(trial: FrozenTrial, rule: StopRule) -> dict[str, Any]:
    """A trial's architecture under another stop rule than its own, as the search's space makes it."""
    shape = trial.user_attrs.get("architecture")
    if shape is None:
        return {}
    joined = shape["residual"] if rule.layers > 1 else "synthesis"
    return {**shape, "layers": rule.layers, "early_stop": rule.early_stop, "residual": joined}
