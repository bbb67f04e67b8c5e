"""Files of studies: any name, blank lines, and private."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage

from moa_dspy.cli import main
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.optimizers.report.studies import study_in
from moa_dspy.optimizers.search.storage import open_storage, open_study, storage_failures

NAMES = ["why?.db", "a#b.db", "a b.db", "a%20b.db", "100%.db", "a&b=c.db", "q?mode=memory.db", "ü.db", "a;b.db",
         "a:b@c.db", "[x].db", "+.db", "what??.db", "a'b.db", '"a".db', "a,b.db", "~x.db",
         "$x.db", "(x).db", "!.db"]  # fmt: skip


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "dspy-cache" not in path.name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["{}", "journal:///{}"])
def test_a_study_is_in_the_file_that_was_named(name: str, kind: str, tmp_path: Path):
    storage = open_storage(kind.format(tmp_path / name))
    optuna.create_study(storage=storage, study_name="s").add_trial(optuna.create_trial(value=1.0))
    assert files(tmp_path) == [name]
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    again = optuna.load_study(storage=open_storage(kind.format(tmp_path / name)), study_name="s")
    assert len(again.trials) == 1
    assert study_in(kind.format(tmp_path / name)).study_name == "s"


@pytest.mark.parametrize("blank", [b"\n", b"\n\n\n", b"  \n", b"\r\n", b"\t\n \n"])
@pytest.mark.parametrize("at", ["start", "middle", "end"])
def test_blank_lines_of_a_journal_are_skipped(blank: bytes, at: str, tmp_path: Path):
    path = tmp_path / "study.log"
    study = optuna.create_study(storage=open_storage(f"journal:///{path}"), study_name="s")
    study.add_trial(optuna.create_trial(value=1.0))
    content = path.read_bytes()
    middle = content.index(b"\n") + 1
    cut = {"start": 0, "middle": middle, "end": len(content)}[at]
    path.write_bytes(content[:cut] + blank + content[cut:])
    again = optuna.load_study(storage=open_storage(f"journal:///{path}"), study_name="s")
    again.add_trial(optuna.create_trial(value=2.0))
    with path.open("ab") as file:
        file.write(blank)
    assert [trial.value for trial in again.trials] == [1.0, 2.0]
    third = optuna.load_study(storage=open_storage(f"journal:///{path}"), study_name="s")
    third.add_trial(optuna.create_trial(value=3.0))
    assert [trial.value for trial in again.trials] == [1.0, 2.0, 3.0]


def test_a_damaged_line_is_told_with_its_place(tmp_path: Path):
    path = tmp_path / "study.log"
    optuna.create_study(storage=open_storage(f"journal:///{path}"), study_name="s")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, b"{half\n", *lines[-1:]]))
    with pytest.raises(ConfigurationError, match=r"damaged in entry \d+; remove that line"):
        open_storage(f"journal:///{path}").get_all_studies()


@pytest.mark.parametrize("content", ["notes\n", "[1, 2]\n", '{"question": "?"}\n', '{"question": "?"}\n{"half'])
def test_a_file_of_another_kind_is_no_journal(content: str, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="is no journal of a study; name another file"):
        open_storage(f"journal:///{path}")
    assert path.read_text() == content


def test_a_storage_that_cannot_be_written_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "study.db"
    optuna.create_study(storage=open_storage(path), study_name="s")
    path.chmod(0o400)
    assert study_in(str(path)).study_name == "s"
    assert main(["report", str(path), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().err


def test_a_database_in_a_folder_without_locks_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", no_locks)
    with pytest.raises(ConfigurationError, match=r"cannot be written: No locks available; a journal:///FILE needs no"):
        open_storage(tmp_path / "study.db")
    open_storage(f"journal:///{tmp_path / 'study.log'}")


@pytest.mark.parametrize("directions", [["maximize", "minimize"], ["minimize"]])
def test_an_empty_study_of_other_directions_is_refused(directions: Any):
    storage = open_storage(None)
    optuna.create_study(storage=storage, study_name="s", directions=directions)
    with pytest.raises(ConfigurationError, match="its directions are not maximize; use another study_name"):
        open_study(storage, "s", ["maximize"], {})


def test_a_storage_that_fails_in_the_middle_is_one_line(tmp_path: Path):
    path = tmp_path / "study.db"
    storage = open_storage(path)
    study = optuna.create_study(storage=storage, study_name="s")
    with storage_failures():
        study.ask()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON trials BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    told = r"storage of the study failed \(disk is full\); the trials in it are kept"
    with pytest.raises(RunError, match=told), storage_failures():
        study.ask()
    assert len(optuna.load_study(storage=open_storage(path), study_name="s").trials) == 1


class Raced(InMemoryStorage):
    """A storage in which another process makes the study's first trial as soon as this one has read its attributes."""

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        read = dict(super().get_study_user_attrs(study_id))
        if "about" not in read:
            self.set_study_user_attr(study_id, "about", {"task": "a -> b"})
            self.create_new_trial(study_id)
        return read


def test_a_study_that_another_process_makes_meanwhile_is_shared() -> None:
    storage = Raced()
    study = open_study(storage, "s", ["maximize"], {"task": "a -> b"})
    assert len(study.get_trials()) == 1
    with pytest.raises(ConfigurationError, match="begun with another task"):
        open_study(Raced(), "s", ["maximize"], {"task": "x -> y"})


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("CREATE TABLE mine (x)", "its table 'mine' is not of a study; name another file"),
        ("CREATE TABLE studies (id, title)", "its table 'studies' is not of a study"),
        ("CREATE TABLE trials (id)", "its table 'trials' is not of a study"),
        ("CREATE TABLE version_info (id)", "its table 'version_info' is not of a study"),
        ("CREATE TABLE alembic_version (version_num)", "its table 'alembic_version' is not of a study"),
    ],
)
def test_a_database_of_something_else_stays_as_it_is(made: str, told: str, tmp_path: Path):
    path = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(made)
        before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=told):
        open_storage(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ['{"a": 1}', "a text", "[1]\n", "a\nb\n", '{"op": 1}'])
@pytest.mark.parametrize("scheme", ["journal:///", "sqlite:///"])
def test_a_file_of_something_else_stays_as_it_is(scheme: str, content: str, tmp_path: Path):
    path = tmp_path / "other"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"name another file|is not a database"):
        open_storage(f"{scheme}{path}")
    assert path.read_text() == content


@pytest.mark.parametrize("scheme", ["journal:///", "sqlite:///", ""])
def test_a_folder_is_no_storage(scheme: str, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="is a folder; name a file in it"):
        open_storage(f"{scheme}{tmp_path}")


def test_tables_that_are_gone_are_no_full_disk(tmp_path: Path):
    path = tmp_path / "study.db"
    study = optuna.create_study(storage=open_storage(path), study_name="s")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE trials")
    with pytest.raises(RunError, match=r"no such table: trials\); it is no storage of studies"), storage_failures():
        study.ask()
