"""``moa-dspy optimize`` from outside."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.loopback import Body, Loopback
from support.runs import loaded

from moa_dspy.cli import main
from moa_dspy.cli.views.progress import time_left
from moa_dspy.cost.usage import Usage

COUNT = 48


def reply(body: Body) -> str:
    """Model one is always right, model two never."""
    number = int(str(body["messages"][-1]["content"]).partition("item ")[2].split()[0])
    return str(number % 3) if body["model"] == "one" else "none"


CONFIG = """
[[agents]]
model = "openai/two"
api_base = "{url}"

[[agents]]
model = "openai/one"
api_base = "{url}"

[architecture]
layers = 1
attention = "none"

[space]
samples = 1
layers = [1]
attention = ["none"]
temperatures = [0.7]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Data and a configuration of two agents on loopback, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"item {n} of all", "answer": str(n % 3)} for n in range(COUNT)]
    Path("items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = [{"question": f"item {n} of all", "answer": str(n % 3)} for n in range(100, 112)]
    Path("held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    with Loopback(reply) as served:
        Path("moa.toml").write_text(CONFIG.format(url=served.url))
        yield tmp_path


SEARCH = ("optimize", "--only", "architecture", "--no-explain")
COMMON = ("--config", "moa.toml", "--data", "items.jsonl", "--metric", "exact")


@pytest.mark.parametrize(
    ("options", "expected", "never"),
    [
        ([], "answered calls are in the response cache", "--storage"),
        (
            ["--storage", "st.db"],
            "answered calls are in the response cache, finished trials are in st.db",
            "--no-cache",
        ),
        (["--no-cache", "--storage", "st.db"], "finished trials are in st.db", "in the response cache"),
        (["--no-cache"], "nothing is kept", "the same command"),
    ],
)
def test_an_interrupt_says_what_is_kept(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    expected: str,
    never: str,
) -> None:
    def interrupted(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("moa_dspy.cli.commands.optimize.optimize", interrupted)
    assert main([*SEARCH, *COMMON, "--yes", *options]) == 130
    said = capsys.readouterr().err
    assert expected in said
    assert never not in said


@pytest.mark.slow
def test_search_finds_saves_and_shows_the_better_agent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--n-trials", "4", "--storage", "study.db", "--record", "found.json", "--report", "found.html"]
    assert main([*SEARCH, *COMMON, *arguments]) == 0
    said = capsys.readouterr()
    assert "The candidate is accepted" in said.out
    assert "program: 1 layer of one@0.7; attention none; 1 call a question, without repeated ones" in said.out
    assert "saved in program.json: the candidate" in said.err
    assert "1 of 2: architecture" in said.err
    kept = loaded("program.json")
    assert [spec.model for spec in kept.architecture.agents] == ["openai/one"]
    assert kept.provenance is not None
    assert {entry.name for entry in kept.provenance.data} == {"items.jsonl"}
    assert str(folder) not in Path("program.json").read_text()
    record = json.loads(Path("found.json").read_text())
    assert record["kind"] == "optimize"
    assert record["acceptance"]["after"]["value"] == 1.0
    assert record["verdict"] in Path("found.html").read_text()

    assert main(["show", "program.json"]) == 0
    assert "accepted" in capsys.readouterr().out
    assert main(["report", "found.json", "study.db", "program.json", "--out", "page.html"]) == 0
    assert "openai/one" in Path("page.html").read_text()

    again = [*COMMON, "--n-trials", "4", "--storage", "study.db", "--json", "--quiet", "--force"]
    capsys.readouterr()
    assert main([*SEARCH, *again]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    repeated: dict[str, Any] = json.loads(said.out)
    assert repeated["rounds"][0]["search"]["best"] == record["rounds"][0]["search"]["best"]
    assert repeated["cost"]["calls"] == repeated["cost"]["cached_calls"], (
        "the study is there, and the answers are in the cache"
    )


def test_optimize_tunes_what_it_is_told_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--only", "prompts", "--method", "labeled", "--valset", "held.jsonl", "--no-explain"]
    assert main(["optimize", *COMMON, *arguments, "--out", "tuned.json"]) == 0
    said = capsys.readouterr()
    assert "score on 12 held-out examples" in said.out or "nothing better" in said.out
    assert "saved in tuned.json: the original program" in said.err
    record = loaded("tuned.json").provenance
    assert record is not None
    assert [(entry.use, entry.name) for entry in record.data] == [("tuning", "items.jsonl"), ("held-out", "held.jsonl")]


def test_a_budget_ends_it_and_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEARCH, *COMMON, "--max-calls", "150", "--n-trials", "4"]) == 0
    said = capsys.readouterr()
    assert "budget" in said.out
    assert loaded("program.json").architecture.max_calls == 3


@pytest.mark.slow
def test_columns_of_other_names_are_mapped_by_an_option_that_the_message_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in Path("items.jsonl").read_text().splitlines()]
    Path("other.jsonl").write_text(
        "".join(json.dumps({"query": r["question"], "answer": r["answer"]}) + "\n" for r in rows)
    )
    arguments = [*SEARCH, "--config", "moa.toml", "--data", "other.jsonl", "--metric", "exact", "--n-trials", "2"]
    assert main(arguments) == 2
    assert "--fields question=COLUMN" in capsys.readouterr().err
    assert main([*arguments, "--fields", "question=query,answer"]) == 0


@pytest.mark.slow
def test_what_it_takes_is_told_before_and_can_be_asked_for_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["optimize", *COMMON, "--n-trials", "4", "--method", "labeled", "--estimate"]) == 0
    said = capsys.readouterr()
    assert "at most: calls" in said.out
    assert "a guess: calls" in said.out
    assert "unknown" in said.out
    assert not Path("program.json").exists()
    arguments = [*SEARCH, *COMMON, "--n-trials", "4", "--max-calls", "240", "--estimate", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert [part["part"] for part in found["parts"]] == ["architecture", "acceptance", "all"]
    assert found["parts"][-1]["most"]["calls"] >= found["parts"][-1]["expected"]["calls"] > 0
    assert "the budget ends it at 240 calls" in found["notes"]

    assert main([*SEARCH, *COMMON, "--n-trials", "4", "--json"]) == 0
    said = capsys.readouterr()
    assert "at most: calls" in said.err
    assert Usage.model_validate(json.loads(said.out)["cost"]).paid_calls <= found["parts"][-1]["most"]["calls"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "code"), [("n\n", 2), ("", 2), ("y\n", 0)])
@pytest.mark.slow
def test_on_a_terminal_it_asks_before_it_pays(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdin", _Terminal(answer))
    monkeypatch.setattr("sys.stderr", _Terminal())
    assert main([*SEARCH, *COMMON, "--n-trials", "2"]) == code
    assert Path("program.json").exists() == (code == 0)
    if code:
        monkeypatch.setattr("sys.stdin", _Terminal(""))
        assert main([*SEARCH, *COMMON, "--n-trials", "2", "--yes"]) == 0


def test_the_candidate_is_saved_whether_it_is_accepted_or_not(folder: Path) -> None:
    arguments = ["--only", "prompts", "--method", "labeled", "--no-explain", "--candidate", "found.json"]
    assert main(["optimize", *COMMON, *arguments]) == 0
    assert loaded("found.json").architecture == loaded("program.json").architecture
    assert main(["optimize", *COMMON, *arguments, "--out", "other.json"]) == 2


def test_progress_without_a_terminal_says_how_long_it_takes() -> None:
    assert time_left(30.0, 0.25) == ", about 90 s left"
    assert time_left(300.0, 0.25) == ", about 15 min left"
    assert time_left(0.0, 0.0) == time_left(9.0, 1.0) == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidate", "./program.json"], "is named by another option too"),
        (["--only", "prompt"], "must be some of prompts, architecture, stop, gate"),
        (["--only", ""], "must be some of"),
        (["--only", "stop,stop"], "each once"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--method", "magic"], "--method magic is unknown; use one of labeled"),
        (["--effort", "huge"], "--effort huge"),
        (["--objective", "speed"], "--objective speed is unknown; use one of score score_at_price score,cost"),
        (["--objective", "score_at_price"], "needs --price"),
        (["--unit", "euro"], "--unit euro"),
        (["--out", "moa.toml"], "--out moa.toml exists already; name another file, or add --force"),
        (["--out", "no/where.json"], "--out no/where.json cannot be written: its folder does not exist"),
        (["--record", "no/where.json"], "--record no/where.json"),
        (["--record", "./program.json"], "is named by another option too"),
        (["--storage", "no/where.db"], "folder 'no' does not exist"),
        (["--max-usd", "0"], "--max-usd 0.0 is too small"),
        (["--valset", "items.jsonl"], "48 of 48 held-out examples are among those"),
        (["--valset", "absent.jsonl"], "absent.jsonl"),
        (["--limit", "3"], "held-out ones are too few"),
        (["--prompt-lm", "x"], "model 'x' names no provider"),
    ],
)
def test_bad_arguments_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["optimize", *COMMON, *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not Path("program.json").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sample = 1", "moa.toml: space: a search space has no 'sample'"),
        ("layers = 3", "layers=3 must be a list of choices"),
        ('attention = ["most"]', "moa.toml: space"),
        ("thresholds = [2.0]", "expected a number from 0 to 1"),
    ],
)
def test_a_wrong_space_is_one_line_that_names_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    text = Path("moa.toml").read_text().partition("[space]")[0]
    Path("moa.toml").write_text(f"{text}[space]\n{line}\n")
    assert main([*SEARCH, *COMMON]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_what_cannot_be_judged_is_refused_or_counted_and_no_key_is_missed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in Path("items.jsonl").read_text().splitlines()]
    del rows[3]["answer"]
    Path("holes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([*SEARCH, "--config", "moa.toml", "--data", "holes.jsonl", "--metric", "exact"]) == 2
    assert "1 of 48 examples have no 'answer' to compare with; the first is number" in capsys.readouterr().err

    Path("touchy.py").write_text(
        "def touchy(example, prediction, trace=None):\n"
        "    return {'1': 1, '2': 1}[example.answer] and example.answer == prediction.answer\n"
    )
    command = [*SEARCH, "--config", "moa.toml", "--data", "items.jsonl", "--metric", "touchy:touchy", "--n-trials", "2"]
    assert main(command) == 0
    assert "held-out examples" in capsys.readouterr().out

    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    assert main(["optimize", *COMMON, "--prompt-lm", "anthropic/claude-sonnet-4-5", "--out", "other.json"]) == 2
    said = capsys.readouterr().err
    assert "ANTHROPIC_API_KEY (for anthropic/claude-sonnet-4-5), or name another --prompt-lm" in said
