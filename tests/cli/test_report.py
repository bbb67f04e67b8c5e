"""``moa-dspy report`` from outside: what it reads, where it writes, and one line for whatever cannot be."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from moa_dspy import AttentionMoA, __version__
from moa_dspy.cli import main
from moa_dspy.cost.usage import Usage
from moa_dspy.evaluation.statistics import Score
from moa_dspy.files.provenance import Provenance, ScoreRecord
from moa_dspy.trace import Step, Trace


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record, a program with demos and two provenances, and a storage of two studies."""
    folder = tmp_path_factory.mktemp("template")
    score = Score.of([0.0, 1.0, 1.0, 1.0]).model_dump()
    record = {"kind": "acceptance", "accepted": True, "reason": "It is better.", "before": score, "after": score}
    (folder / "record.json").write_text(json.dumps({"runs": [{**record, "cost": Usage(calls=7).model_dump()}]}))
    program = AttentionMoA("question -> answer", ["openai/gpt-4.1-mini", "openai/gpt-4.1-nano"], layers=1)
    dict(program.named_predictors())["propose"].demos = [{"question": "a <b>", "answer": "c" * 500}]
    figure = ScoreRecord(what="after", value=0.5, examples=9)
    date = datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC)
    earlier = Provenance(method="gepa", date=date, scores=(figure,))
    program.provenance = Provenance(method="accept", date=date, earlier=earlier)
    program.save(folder / "program.json")
    for name in ("first", "second"):
        optuna.create_study(study_name=name, storage=f"sqlite:///{folder / 'studies.db'}")
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the template as the working directory."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error; standard output holds nothing."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1, captured.err
    return captured.err


def test_several_sources_become_one_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    sources = ["record.json", str(folder / "program.json"), "studies.db", "--study-name", "second"]
    assert main(["report", *sources, "--title", "All of it"]) == 0
    assert said(capsys) == "written to report.html: 3 records\n"
    page = Path("report.html").read_text(encoding="utf-8")
    for words in (
        "<title>All of it</title>",
        "It is better.",
        "0.750 [",
        "Program: program.json",
        "openai/gpt-4.1-nano",
        "Provenance, before that",
        "0.500 on 9 examples",
        "a &lt;b&gt;",
        "c" * 500,
        "Search: second",
        "There is no trial yet.",
        f"moa-dspy {__version__}",
    ):
        assert words in page, words
    assert str(folder) not in page, "files are named without their folders"
    assert "<nav" in page
    assert not list(folder.glob(".report*")), "nothing else is left behind"


def test_a_file_that_is_there_is_replaced_only_by_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("page.html").write_text("mine")
    assert main(["report", "record.json", "--out", "page.html"]) == 2
    assert "--out page.html exists already; name another file, or add --force" in capsys.readouterr().err
    assert Path("page.html").read_text() == "mine"
    assert main(["report", "record.json", "--out", "page.html", "--force"]) == 0
    assert "It is better." in Path("page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gone.json"], "cannot read gone.json: No such file"),
        (["."], "cannot read .: "),
        (["broken.json"], "broken.json is damaged or not JSON"),
        (["deep.json"], "deep.json is damaged or not JSON"),
        (["bytes.json"], "bytes.json is damaged or not JSON"),
        (["empty.json"], "empty.json has no record that a report can show"),
        (["foreign.json"], "foreign.json is not a moa-dspy program"),
        (["newer.json"], "newer.json has format 99"),
        (["record.json", "half.json"], "half.json is damaged"),
        (["gone.db"], "cannot read gone.db: there is no such file"),
        (["sqlite:///gone/gone.db"], "cannot read gone/gone.db: there is no such file"),
        (["journal:///gone.log"], "cannot read gone.log: there is no such file"),
        (["broken.db"], "broken.db is damaged or not a SQLite database"),
        (["nosuch://me:SECRET@host/x"], "nosuch://host/x"),
        (["studies.db"], "several studies, none named; name one of: first, second"),
        (["studies.db", "--study-name", "third"], "no study 'third'; name one of: first, second"),
        (["record.json", "--study-name", "first"], "--study-name first: no source is an Optuna storage"),
        (["record.json", "--out", "no/such/page.html"], "--out no/such/page.html"),
        (["record.json", "--out", "."], "it is a folder"),
        (["record.json", "--out", "record.json", "--force"], "is also a source"),
        ([], "FILE"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.json").write_text('{"kind": "search"')
    Path("deep.json").write_text("[" * 100_000)
    Path("bytes.json").write_bytes(b"\xff\xfe{}")
    Path("empty.json").write_text('{"kind": "other", "in": [1, null]}')
    Path("foreign.json").write_text('{"format": "pdf"}')
    Path("broken.db").write_text("SQLite, no")
    content = json.loads(Path("program.json").read_text())
    Path("newer.json").write_text(json.dumps({**content, "format_version": 99}))
    Path("half.json").write_text(json.dumps({**content, "predictors": {"propose": {}}}))
    capsys.readouterr()
    assert main(["report", *arguments]) == 2
    line = said(capsys)
    assert says in line
    assert "SECRET" not in line
    assert not Path("report.html").exists()
    assert not Path("gone.db").exists(), "nothing is created where there was nothing"
    assert not Path("gone.log").exists()


def test_a_damaged_record_is_named_and_the_others_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("search.json").write_text('{"kind": "search", "trials": [{"number": "first"}]}')
    capsys.readouterr()
    assert main(["report", "record.json", "search.json"]) == 1
    assert "report.html is written without 1 of 2 records; search.json: search record: trials.0.number: " in said(
        capsys
    )
    assert "It is better." in Path("report.html").read_text()
    assert main(["report", "record.json", "search.json", "--force", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert (content["page"], content["records"], len(content["damaged"])) == ("report.html", 2, 1)


def test_what_the_command_line_writes_can_be_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = {"format": "moa-dspy-evaluation", "format_version": 1, "run": {"benchmark": "mine", "seed": 0}}
    item = {"id": "one", "content": "x", "status": "scored", "score": 1.0, "outputs": {"answer": "a < b"}}
    Path("run.jsonl").write_text(f"{json.dumps(header)}\n{json.dumps(item)}\n")
    Path("trace.json").write_text(Trace(steps=(Step(layer=1, stage="propose", agent="a"),), outputs=()).to_json())
    assert main(["report", "run.jsonl", "trace.json"]) == 0
    assert said(capsys) == "written to report.html: 2 records\n"
    page = Path("report.html").read_text()
    for words in ("Evaluation: run.jsonl", "a &lt; b", "Trace: trace.json", "1 propose a"):
        assert words in page


def test_another_database_is_left_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sqlite3

    with sqlite3.connect("mine.db") as database:
        database.execute("CREATE TABLE mine (x INTEGER)")
    database.close()
    before = Path("mine.db").read_bytes()
    capsys.readouterr()
    assert main(["report", "mine.db"]) == 2
    assert "mine.db has no Optuna study" in said(capsys)
    assert Path("mine.db").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("locked").mkdir(mode=0o500)
    assert main(["report", "record.json", "--out", "locked/page.html"]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_a_disk_that_fails_is_failed_work(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    capsys.readouterr()
    assert main(["report", "record.json"]) == 1
    assert "No space left on device" in said(capsys)
    assert not list(folder.glob("*report*")) + list(folder.glob(".report*"))


@pytest.mark.slow
def test_its_help_loads_nothing_heavy_and_files_need_no_optuna() -> None:
    program = """
import sys
from moa_dspy.cli import main
main(["report", "--help"])
heavy = {"dspy", "litellm", "numpy", "optuna", "rich.live"} & set(sys.modules)
import moa_dspy.cli.commands.report
heavy |= {"optuna", "sqlalchemy", "scipy"} & set(sys.modules)
sys.exit(f"loaded: {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--force" in done.stdout
