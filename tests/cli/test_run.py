"""``moa-dspy run`` from outside."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from support.batch_server import BatchServer
from support.loopback import Cut, Loopback

from moa_dspy.cli import main


def config_for(server: BatchServer, tmp_path: Path) -> Path:
    path = tmp_path / "moa.toml"
    path.write_text(
        f'[[agents]]\nmodel = "openai/gpt-4.1"\napi_base = "{server.url}/v1"\napi_key_env = "SOME_KEY"\n'
        '[architecture]\nlayers = 1\nattention = "none"\naggregation = "none"\n'
    )
    return path


def rows_in(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"question {number}"}) + "\n" for number in range(5)))
    return path


def test_rows_are_planned_answered_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "x")
    out = tmp_path / "answers.jsonl"
    with BatchServer(lambda prompt: "yes", delay=0.0) as server:
        words = ["run", "--config", str(config_for(server, tmp_path)), "--data", str(rows_in(tmp_path))]
        words += ["--fields", "question=text", "--out", str(out), "--no-cache"]
        assert main([*words, "--limit", "2", "--json"]) == 0
        printed = capsys.readouterr()
        single = json.loads(printed.out)
        assert (single["answered"], single["usage"]["calls"]) == (2, 2)
        assert "2 of 2 rows wait; estimated, if nothing stops early: 2 calls" in printed.err
        assert main([*words, "--batch"]) == 0
        printed = capsys.readouterr()
        assert "3 of 5 rows wait" in printed.err
        assert "batch-1: 3 requests sent" in printed.err
        assert len(server.singles) == 2
        assert "usage    3 calls" in printed.out
        assert "in all   5 calls" in printed.out
        assert main([*words, "--max-calls", "5"]) == 0  # nothing waits
        assert "usage    0 calls, 0 tokens, $0" in capsys.readouterr().out
        assert main([*words, "--estimate"]) == 0
        assert capsys.readouterr().out.splitlines()[1].split() == ["0", "of", "5", "rows", "0", "0", "$0"]
        costs = [json.loads(line)["cost_usd"] for line in out.read_text().splitlines()]
    assert costs[4] == pytest.approx(costs[0] / 2)


@pytest.mark.parametrize("command", ["ask", "run", "eval"])
def test_replies_that_were_cut_are_counted_with_what_to_change(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def reply(body: dict[str, Any]) -> str:
        return "42" if "Write only the answer" in body["messages"][-1]["content"] else Cut("First we look at")

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"question {n}", "answer": 42}) + "\n" for n in range(3)))
    with Loopback(reply) as server:
        config = tmp_path / "moa.toml"
        config.write_text(
            '[task]\nsignature = "question -> answer: int"\n'
            f'[[agents]]\nmodel = "openai/a"\napi_base = "{server.url}"\n'
            '[architecture]\nlayers = 1\nattention = "none"\naggregation = "none"\n'
        )
        words = {
            "ask": ["ask", "question 1"],
            "run": ["run", "--data", str(rows), "--out", str(tmp_path / "answers.jsonl")],
            "eval": ["eval", "--data", str(rows), "--metric", "exact"],
        }[command]
        assert main([*words, "--config", str(config), "--no-cache"]) == 0
    printed = capsys.readouterr()
    text = " ".join((printed.out + printed.err).split())
    were = "1 reply was" if command == "ask" else "3 replies were"
    assert f"{were} cut at max_tokens, and asked for again where no answer could be read; raise max_tokens" in text
    if command == "run":
        assert "3 calls (at most 6)" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--out", "answers.xml"], "--out answers.xml has an unknown format"),
        (["--out", "answers.csv", "--batch", "--batch-rest", "never"], "--batch-rest never is unknown"),
        (["--out", "answers.csv", "--fields", "question"], "lacks 'question'"),
        (["--out", "answers.csv.jsonl"], "answers.csv.jsonl is the journal of answers.csv; write --out answers.csv"),
        (["--out", "nowhere/answers.csv"], "cannot write nowhere/answers.csv"),
    ],
)
def test_wrong_usage_is_one_line_and_nothing_is_asked(
    tmp_path: Path, words: list[str], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("SOME_KEY", "x")
    monkeypatch.chdir(tmp_path)
    with BatchServer() as server:
        config, data = config_for(server, tmp_path), rows_in(tmp_path)
        assert main(["run", "--config", str(config), "--data", str(data), *words]) == 2
        assert not server.calls
    printed = capsys.readouterr()
    assert not printed.out
    assert expected in printed.err.splitlines()[-1]


def test_no_rows_on_standard_input_are_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "x")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with BatchServer() as server:
        words = [
            "run",
            "--config",
            str(config_for(server, tmp_path)),
            "--data",
            "-",
            "--out",
            str(tmp_path / "o.jsonl"),
        ]
        assert main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: standard input is empty; send an object a line"
