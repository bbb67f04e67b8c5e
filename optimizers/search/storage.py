"""Storage of a study: a file, a database or memory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sqlite3
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages._rdb.models import BaseModel
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError

from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.evaluation.fingerprint import CONNECTION
from moa_dspy.files.atomic_write import check_folder, create_private

__all__ = ["check_storage", "open_storage", "open_study", "path_in", "storage_failures", "without_password"]

_SECONDS_FOR_A_LOCK = 60
_SECONDS_FOR_TABLES = 30
_POLL = 0.1
_ROOM = 1 << 18  # bytes of a new database
_BEGINNING = b'{"op_code"'  # of each entry of a journal
_NO_SUCH = re.compile(
    r"no such (?:column|table)|has no column|unknown column|(?:column|relation|table)\b.*\b(?:does not|doesn't) exist",
    re.IGNORECASE,
)


class _Journal(JournalFileBackend):
    """Optuna's journal file. Blank lines are skipped. An incomplete last line, left by a killed process, is removed."""

    def __init__(self, path: str) -> None:
        create_private(Path(path))
        super().__init__(path)
        self._offsets = {0: 0}  # of each log entry, in bytes

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the log entries from a number on. An incomplete last line may still be written by another process."""
        number = log_number_from if log_number_from in self._offsets else 0
        position, damaged = self._offsets[number], False
        with Path(self._file_path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(position)
            for line in file:
                position += len(line)
                if position > size or not line.endswith(b"\n"):
                    if number == 0 and not (line.startswith(_BEGINNING) or _BEGINNING.startswith(line)):
                        raise ConfigurationError(f"{self._file_path} is no journal of a study; name another file")
                    return
                if not line.strip():
                    continue
                if damaged:
                    raise ConfigurationError(f"{self._file_path} is damaged in entry {number + 1}; remove that line")
                entry = _entry(line)
                if entry is None and number == 0:
                    raise ConfigurationError(f"{self._file_path} is no journal of a study; name another file")
                if entry is None:
                    damaged = True
                    continue
                number += 1
                self._offsets[number] = position
                if number > log_number_from:
                    yield entry

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


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return the log entry in a line; None if it is none."""
    with contextlib.suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict) and "op_code" in entry:
            return entry
    return None


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
    shown = without_password(str(storage))
    try:
        if url.startswith("journal://"):
            return JournalStorage(_Journal(path_in(url)))
        if url.startswith("sqlite:///") and "?" not in url and path_in(url) not in ("", ":memory:"):
            create_private(Path(path_in(url)))
            check_folder(Path(path_in(url)).parent, _ROOM)
            _refuse_other_tables(path_in(url))
        return _database(url)
    except ImportError as error:
        raise ConfigurationError(f"storage={shown!r} needs a database driver: {error}") from error
    except OSError as error:
        advice = "; a journal:///FILE needs no locks" if error.errno == errno.ENOLCK else ""
        raise ConfigurationError(f"storage={shown!r} cannot be written: {error.strerror}{advice}") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"storage={shown!r} cannot be used: {error}") from None
    except Exception as error:
        message = str(error).splitlines()[0].replace(url, shown)
        raise ConfigurationError(f"storage={shown!r} cannot be opened: {message}") from error


def check_storage(storage: str | Path | BaseStorage | None) -> None:
    """Raise ConfigurationError if the folder of a storage does not exist, or if it is a folder. Nothing is created."""
    if storage is None or isinstance(storage, BaseStorage):
        return
    url = _url_of(storage)
    if not url.startswith(("journal:///", "sqlite:///")) or ":memory:" in url:
        return
    path, shown = Path(path_in(url).removeprefix("file:")), without_password(str(storage))
    if not path.parent.is_dir():
        raise ConfigurationError(f"storage={shown!r}: folder {str(path.parent)!r} does not exist; create it first")
    if path.is_dir():
        raise ConfigurationError(f"storage={shown!r} is a folder; name a file in it")


def open_study(
    storage: BaseStorage, name: str, directions: list[Literal["maximize", "minimize"]], about: dict[str, Any]
) -> optuna.Study:
    """Return the study with this name. Create it if it does not exist.

    ``about`` are the properties that must be equal for trials to be comparable. They are stored with the study.

    Raises:
        ConfigurationError: if the study exists and ``about`` differs.
    """
    study = optuna.create_study(
        storage=storage, study_name=name, directions=directions, load_if_exists=True, pruner=optuna.pruners.NopPruner()
    )
    if [direction.name.lower() for direction in study.directions] != directions and "about" not in study.user_attrs:
        raise ConfigurationError(
            f"study {name!r} was not made by a search: its directions are not {', '.join(directions)}; use another "
            "study_name or another storage"
        )
    known = study.user_attrs.get("about")
    if known is None:
        is_new = not study.get_trials(deepcopy=False)
        # Another process that made the study meanwhile has said what it is about before it made trials.
        known = study.user_attrs.get("about")
        if known is None and is_new:
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


@contextlib.contextmanager
def storage_failures() -> Iterator[None]:
    """Raise RunError with the cause in one line if a storage fails within the block, such as if the disk is full."""
    try:
        yield
    except (StorageInternalError, DBAPIError) as error:
        failure = error if isinstance(error, DBAPIError) else error.__cause__
        cause = str(failure.orig if isinstance(failure, DBAPIError) else failure or error).splitlines()[0]
        advice = "it is no storage of studies, so name another one"
        if not _NO_SUCH.search(cause):
            advice = "the trials in it are kept, so the same command continues once it can be written"
        raise RunError(f"the storage of the study failed ({cause}); {advice}") from error


def _refuse_other_tables(path: str) -> None:
    """Raise ConfigurationError if a SQLite database has tables of something else. Optuna would write into it."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        names -= {name for name in names if name.startswith("sqlite_")}
        keys = {name: {key.name for key in table.primary_key} for name, table in BaseModel.metadata.tables.items()}
        other = [] if "version_info" in names else sorted(names - keys.keys())
        for name in sorted(names & keys.keys()):
            columns = {row[1] for row in database.execute(f"PRAGMA table_info({name})")}
            other += [] if keys[name] <= columns else [name]
    if other:
        raise ConfigurationError(f"its table {other[0]!r} is not of a study; name another file")


def without_password(storage: str) -> str:
    """Return the address of a storage without user name and password."""
    return storage if storage.startswith(("sqlite:", "journal:")) else re.sub(r"://.*@", "://", storage)


def _database(url: str) -> RDBStorage:
    """Open a database, even if another process is creating Optuna's tables.

    SQLite and MySQL then raise an OperationalError, PostgreSQL a ProgrammingError or an IntegrityError.
    """
    is_sqlite = url.startswith("sqlite")
    patient: dict[str, Any] = {"connect_args": {"timeout": _SECONDS_FOR_A_LOCK, "isolation_level": None}}
    deadline = time.monotonic() + _SECONDS_FOR_TABLES
    while True:
        try:
            storage = RDBStorage(url, engine_kwargs=patient if is_sqlite else {"pool_pre_ping": True})
        except DBAPIError as error:
            created_meanwhile = isinstance(error, IntegrityError) or "already exists" in str(error.orig)
            if not created_meanwhile or time.monotonic() > deadline:
                raise
            time.sleep(_POLL)
        else:
            if is_sqlite:
                event.listen(storage.engine, "begin", _begin_alone)
            return storage


def _begin_alone(connection: Connection) -> None:
    """Begin a transaction of SQLite that no other process writes beside.

    SQLite has no ``SELECT ... FOR UPDATE``. Otherwise two processes may take the same trial from the queue: both read
    that it waits, and both write that it runs.
    """
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _url_of(storage: str | Path) -> str:
    name = str(storage)
    if "://" in name:
        return name
    url = URL.create("sqlite", database=name).render_as_string()
    if make_url(url).database != name:  # SQLAlchemy before 2.1 does not escape it
        raise ConfigurationError(f"storage={name!r} has a character that a database URL uses; give another name")
    return url


def path_in(url: str) -> str:
    """Return the file in a URL of SQLite or a journal."""
    if url.startswith("journal:///"):
        return url.removeprefix("journal:///")
    return make_url(url).database or ""
