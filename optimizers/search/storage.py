"""Storage of a study: a file, a database or memory."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from sqlalchemy.exc import DBAPIError, IntegrityError

from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.fingerprint import CONNECTION

__all__ = ["check_storage", "open_storage", "open_study", "without_password"]

_SECONDS_FOR_A_LOCK = 60
_SECONDS_FOR_TABLES = 30
_POLL = 0.1


class _Journal(JournalFileBackend):
    """Optuna's journal file. An incomplete last line, left by a killed process, is removed."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append log entries, one per line."""
        path = Path(self._file_path)
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            complete = end == 0 or (file.seek(end - 1) >= 0 and file.read(1) == b"\n")
        if not complete:
            self._remove_last_line(path)
        super().append_logs(logs)

    def _remove_last_line(self, path: Path) -> None:
        acquired = self._lock.acquire()
        try:
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(path, whole)
        finally:
            if acquired:
                self._lock.release()


def open_storage(storage: str | Path | BaseStorage | None) -> BaseStorage:
    """Return an Optuna storage.

    Args:
        storage: a path or ``sqlite:///path`` (SQLite), ``journal:///path`` (a journal file, which also works on network
            file systems), the URL of a PostgreSQL or MySQL database, an Optuna storage, or None for memory.

    Raises:
        ConfigurationError: if it cannot be opened. The message names the cause.
    """
    if storage is None:
        return InMemoryStorage()
    if isinstance(storage, BaseStorage):
        return storage
    check_storage(storage)
    url = _url_of(storage)
    shown = without_password(url)
    try:
        return JournalStorage(_Journal(_path_in(url))) if url.startswith("journal://") else _database(url)
    except ImportError as error:
        raise ConfigurationError(f"storage {shown!r} needs a database driver: {error}") from error
    except Exception as error:
        message = str(error).splitlines()[0].replace(url, shown)
        raise ConfigurationError(f"storage {shown!r} cannot be opened: {message}") from error


def check_storage(storage: str | Path | BaseStorage | None) -> None:
    """Check that the folder of a storage exists; nothing is created.

    Raises:
        ConfigurationError: if the folder does not exist.
    """
    if storage is None or isinstance(storage, BaseStorage):
        return
    url = _url_of(storage)
    folder = Path(_path_in(url)).parent
    if url.startswith(("journal", "sqlite")) and ":memory:" not in url and not folder.is_dir():
        shown = without_password(url)
        raise ConfigurationError(f"storage {shown!r}: folder {str(folder)!r} does not exist; create it first")


def open_study(
    storage: BaseStorage, name: str, directions: list[StudyDirection], about: dict[str, Any]
) -> optuna.Study:
    """Return the study with this name. Create it if it does not exist.

    Args:
        storage: the storage.
        name: unique in the storage.
        directions: one for each objective.
        about: properties that must be equal for trials to be comparable; stored with the study.

    Raises:
        ConfigurationError: if the study exists and `about` differs.
    """
    study = optuna.create_study(
        storage=storage, study_name=name, directions=directions, load_if_exists=True, pruner=optuna.pruners.NopPruner()
    )
    known = study.user_attrs.get("about")
    if known is None and not study.get_trials(deepcopy=False):
        study.set_user_attr("about", about)
        return study
    compared = [key for key in about if known is None or key != CONNECTION or key in known]  # older studies lack it
    differing = sorted(key for key in compared if known is None or known.get(key) != about[key])
    if differing:
        raise ConfigurationError(
            f"study {name!r} was begun with another {', '.join(differing)}, so its trials cannot be compared with new "
            "ones; use another study_name or another storage"
        )
    return study


def without_password(storage: str) -> str:
    """Return the address of a storage without user name and password."""
    return storage if storage.startswith(("sqlite:", "journal:")) else re.sub(r"://.*@", "://", storage)


def _database(url: str) -> RDBStorage:
    """Open a database, even if another process is creating Optuna's tables.

    SQLite and MySQL then raise an OperationalError, PostgreSQL a ProgrammingError or an IntegrityError.
    """
    patient: dict[str, Any] = {"connect_args": {"timeout": _SECONDS_FOR_A_LOCK}}
    deadline = time.monotonic() + _SECONDS_FOR_TABLES
    while True:
        try:
            return RDBStorage(url, engine_kwargs=patient if url.startswith("sqlite") else {"pool_pre_ping": True})
        except DBAPIError as error:
            created_meanwhile = isinstance(error, IntegrityError) or "already exists" in str(error.orig)
            if not created_meanwhile or time.monotonic() > deadline:
                raise
            time.sleep(_POLL)


def _url_of(storage: str | Path) -> str:
    url = str(storage)
    return url if "://" in url else f"sqlite:///{url}"


def _path_in(url: str) -> str:
    """Return the file in a URL of SQLite or a journal."""
    return url.removeprefix("sqlite:///").removeprefix("journal:///")
