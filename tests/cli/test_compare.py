"""``moa-dspy compare`` and ``moa-dspy profile`` from outside."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.loopback import Body, Loopback
from support.runs import loaded

from moa_dspy import AttentionMoA
from moa_dspy.cli import main

COUNT = 14


def reply(body: Body) -> str:
    """Model one is always right, model two never."""
    number = int(str(body["messages"][-1]["content"]).partition("item ")[2].split()[0])
    return str(number % 3) if body["model"] == "one" else "none"


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback(reply) as served:
        yield served


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Loopback) -> Path:
    """Data and a configuration of two agents on loopback, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"item {n} of all", "answer": str(n % 3)} for n in range(COUNT)]
    Path("items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("turns.jsonl").write_text(json.dumps({"question": "a", "turns": ["a", "b"], "answer": "c"}) + "\n")
    Path("own_metric.py").write_text(
        "def right(example, prediction, trace=None):\n    return example.answer == prediction.answer\n"
    )
    agent = '[[agents]]\nmodel = "openai/{}"\napi_base = "' + server.url + '"\n'
    Path("moa.toml").write_text(agent.format("one") + agent.format("two") + "[architecture]\nlayers = 1\n")
    return tmp_path


COMMON = ("--config", "moa.toml", "--data", "items.jsonl")


def test_the_winner_is_named_and_kept_whatever_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--metric",
        "own_metric:right",
        "--baseline",
        "single",
        "--baseline",
        "moa",
        "--out",
        "best.json",
    ]
    assert main(["compare", *COMMON, *arguments]) == 0
    said = capsys.readouterr()
    assert "verdict: " in said.out
    assert "use the single model one: it is the cheapest of those" in said.out
    assert "pilot of two alone: 4 examples" in said.err
    assert "saved in best.json: the single model one" in said.err
    kept = loaded("best.json")
    assert len(kept.agents) == 1
    assert kept.provenance is not None
    assert (kept.provenance.method, kept.provenance.metric) == ("compare", "own_metric:right")
    assert kept.provenance.data[0].name == "items.jsonl"
    assert str(folder) not in Path("best.json").read_text()
    assert main(["show", "best.json"]) == 0
    assert "not shown to be worse" in capsys.readouterr().out

    assert main(["compare", "best.json", *COMMON, "--metric", "exact", "-b", "single", "--json", "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert json.loads(said.out)["contenders"][0]["score"]["value"] == 1


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["eval"], ["program"]),
        pytest.param(
            ["compare"],
            ["program", "pilot", "single", "self-consistency", "self-moa", "moa", "all"],
            marks=pytest.mark.slow,
        ),
        (["compare", "--baseline", "single", "--match", "tokens"], ["program", "pilot", "single", "all"]),
        (["profile"], ["the whole program"]),
        (["profile", "--contributions"], ["the whole program", "without one", "without two", "all"]),
    ],
)
def test_the_cost_is_shown_before_anything_is_paid(
    command: list[str], parts: list[str], folder: Path, server: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*command, *COMMON, "--metric", "exact"]
    assert main([*arguments, "--estimate"]) == 0
    said = capsys.readouterr()
    assert [line.partition("  ")[0] for line in said.out.splitlines()[1 : len(parts) + 1]] == parts
    assert main([*arguments, "--estimate", "--json", "--quiet"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [part["part"] for part in shown["parts"]][: len(parts)] == [*parts, *([] if "all" in parts else ["all"])][
        : len(parts)
    ]
    assert not server.calls


@pytest.mark.parametrize("command", [["eval"], ["compare", "--baseline", "single"], ["profile"]])
def test_on_a_terminal_it_asks(
    command: list[str],
    folder: Path,
    server: Loopback,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("moa_dspy.cli.output.is_terminal", lambda stream: stream is not sys.stdout)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main([*command, *COMMON, "--metric", "exact", "--limit", "10"]) == 2
    said = capsys.readouterr()
    assert "calls" in said.err
    assert "run it? [y/N]" in said.err
    assert "not confirmed; nothing was paid" in said.err
    assert not server.calls


def test_calls_are_counted_as_planned_and_shown_as_they_are_paid(
    folder: Path, server: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", *COMMON, "--metric", "exact", "--baseline", "single"]
    assert main([*arguments, "--estimate", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--yes", "--no-cache"]) == 0
    assert shown["parts"][-1]["most"]["calls"] == len(server.calls)
    assert re.search(r"the single model one: 10 examples; so far \d+ calls, cost unknown", capsys.readouterr().err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_on_a_full_disk_the_result_is_shown_and_the_work_has_failed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", *COMMON, "--metric", "exact", "-b", "single", "--out", "/dev/full", "--force"]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert said.out
    assert "cannot write /dev/full: No space left on device" in said.err


def test_no_file_is_replaced_without_being_told_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("best.json").write_text("mine")
    arguments = ["compare", *COMMON, "--metric", "exact", "-b", "single", "--out", "best.json"]
    assert main(arguments) == 2
    assert "--out best.json exists already; name another file, or add --force" in capsys.readouterr().err
    assert Path("best.json").read_text() == "mine"
    assert main([*arguments, "--force"]) == 0
    assert loaded("best.json").agents


@pytest.mark.parametrize("command", ["compare", "profile"])
@pytest.mark.parametrize("limit", [("--max-calls", "9"), ("--max-tokens", "20"), ("--max-seconds", "0.0006")])
@pytest.mark.slow
def test_a_budget_ends_it_and_says_how_to_go_on(
    command: str, limit: tuple[str, str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *COMMON, "--metric", "exact", *limit]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(r"with a larger one the same (call|command) continues", said.err)
    assert main([command, *COMMON, "--metric", "exact", "--max-calls", "500"]) == 0


def test_dollars_that_cannot_be_counted_are_no_budget(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("compare", "profile"):
        refused(command, [*COMMON, "--metric", "exact", "--max-usd", "1"], "is not known; limit calls", capsys)


def test_profile_counts_what_has_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *COMMON, "--metric", "exact"]) == 0
    assert f"{COUNT} of {COUNT} examples" in capsys.readouterr().err


def test_the_same_seed_and_limit_give_the_same_result(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results: list[dict[str, Any]] = []
    for _ in range(2):
        arguments = ["--metric", "exact", "--limit", "10", "--seed", "4", "-b", "single", "--match", "tokens"]
        assert main(["compare", *COMMON, *arguments, "--json", "-q"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0]["examples"] + results[0]["pilot"] == 10
    assert results[0]["match"] == "tokens"
    assert all(result.pop("cost") for result in results)
    assert results[0] == results[1]


def test_profile_shows_stages_and_agents(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *COMMON, "--metric", "exact", "--limit", "4", "--contributions"]) == 0
    said = capsys.readouterr()
    assert "propose" in said.out
    assert "adds to the score" in said.out
    assert main(["profile", *COMMON, "--metric", "exact", "--limit", "4", "--json", "-q"]) == 0
    said = capsys.readouterr()
    whole = json.loads(said.out)
    assert whole["contributions"] is None
    assert whole["stages"]["examples"] == 4
    assert said.err == ""


@pytest.mark.parametrize("command", ["compare", "profile"])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "items.jsonl"], "there is no program"),
        (["--config", "moa.toml"], "no examples are given"),
        ([*COMMON], "brings no metric"),
        ([*COMMON, "--metric", "best"], "no metric 'best'"),
        ([*COMMON, "--metric", "own_metric:wrong"], "has no 'wrong'"),
        (["gone.json", *COMMON, "--metric", "exact"], "cannot read gone.json"),
        (["--config", "moa.toml", "--data", "gone.jsonl", "--metric", "exact"], "gone.jsonl"),
        (["--config", "moa.toml", "--data", "turns.jsonl", "--metric", "exact"], "several turns"),
        ([*COMMON, "--metric", "exact", "--limit", "0"], "--limit"),
    ],
)
def test_wrong_usage_is_one_line(
    command: str, arguments: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(command, arguments, says, capsys)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--match", "euros"], "--match euros is unknown; use 'calls', 'tokens' or 'usd'"),
        (["--match", "usd"], "use --match tokens or --match calls"),
        (["--baseline", "best"], "--baseline best is unknown"),
        (["--tolerance", "-1"], "--tolerance -1.0"),
        (["--alpha", "0"], "--alpha 0.0"),
        (["--limit", "3"], "too few"),
        (["--out", "no/such/folder.json"], "--out no/such/folder.json"),
    ],
)
def test_wrong_options_of_compare_are_one_line(
    arguments: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("compare", [*COMMON, "--metric", "exact", *arguments], says, capsys)


def refused(command: str, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert says in said.err


def test_a_program_without_a_connection_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    AttentionMoA("question -> answer", ["openai/gpt-4.1-mini"], layers=1).save("p.json")
    refused("compare", ["p.json", "--data", "items.jsonl", "--metric", "exact"], "OPENAI_API_KEY", capsys)
