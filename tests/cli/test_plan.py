"""``moa-dspy plan``, run in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moa_dspy import AttentionMoA, Budget
from moa_dspy.cli import main
from moa_dspy.testing import ScriptedLM

Run = Callable[..., tuple[int, str, str]]

AGENTS = ("-a", "openai/gpt-4.1", "-a", "openai/gpt-4.1-mini")


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run ``moa-dspy plan`` in an empty folder, without a key: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["plan", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def as_json(run: Run, *arguments: str) -> dict[str, Any]:
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    result: dict[str, Any] = json.loads(out)
    return result


def test_a_question_is_planned_without_a_key(plan: Run) -> None:
    code, out, err = plan("What is the capital of Peru?", *AGENTS)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["layer", "stage", "calls", "prompt", "completion", "cost"]
    assert any(line.startswith("full run: 19 calls, 9 of them in sequence") for line in lines)
    assert any(line.startswith("openai/gpt-4.1-mini") for line in lines)


def test_json_has_calls_tokens_dollars_and_assumptions(plan: Run) -> None:
    result = as_json(plan, "Why?", *AGENTS, "--layers", "3", "--times", "100")
    assert result["full"]["calls"] == 29
    assert result["minimum"]["calls"] == 19
    assert result["total"]["calls"] == 2900
    assert result["total"]["usd"] == pytest.approx(100 * result["full"]["usd"])
    assert result["lengths"] == {"answer": 450, "critique": 200, "reasoning": 150, "thinking": 0, "input": 100}


def test_the_architecture_is_that_of_the_options(plan: Run) -> None:
    result = as_json(plan, "Why?", *AGENTS, "--layers", "1", "--attention", "none", "--aggregator", "openai/gpt-4o")
    assert result["full"]["calls_per_stage"] == {"propose": 2, "aggregate": 1}
    assert [share["model"] for share in result["full"]["models"]] == [*AGENTS[1::2], "openai/gpt-4o"]


def test_a_saved_program_is_planned(plan: Run, tmp_path: Path) -> None:
    AttentionMoA("question -> answer", [ScriptedLM("a", model="openai/gpt-4.1")] * 2, layers=1).save(
        tmp_path / "p.json"
    )
    assert as_json(plan, "Why?", "--program", "p.json")["full"]["calls"] == 9


def test_a_budget_and_a_latency_are_kept_to(plan: Run) -> None:
    result = as_json(plan, "Why?", *AGENTS, "--max-calls", "12", "--max-usd", "1.5", "--seconds-per-call", "2")
    assert result["full"]["calls"] == 9
    assert result["full"]["seconds"] == 8
    assert result["budget"] == {"calls": 12, "tokens": None, "usd": 1.5, "seconds": None}
    assert result["left_out"]


def test_the_budget_of_the_configuration_is_kept_to_and_narrowed(plan: Run, tmp_path: Path) -> None:
    agents = '[[agents]]\nmodel = "openai/gpt-4.1"\n' * 2
    (tmp_path / "moa.toml").write_text(f"{agents}[budget]\ncalls = 12\nusd = 1.5\n")
    result = as_json(plan, "Why?", "--config", "moa.toml", "--max-usd", "0.5")
    assert result["budget"] == {"calls": 12, "tokens": None, "usd": 0.5, "seconds": None}
    assert result["full"]["calls"] <= 12


def test_a_saved_program_takes_the_limits_of_a_configuration_without_agents(plan: Run, tmp_path: Path) -> None:
    AttentionMoA("question -> answer", [ScriptedLM("a", model="openai/gpt-4.1")] * 2, budget=Budget(calls=99)).save(
        tmp_path / "p.json"
    )
    (tmp_path / "moa.toml").write_text("[budget]\ncalls = 12\n")
    assert as_json(plan, "Why?", "--program", "p.json")["budget"]["calls"] is None
    assert as_json(plan, "Why?", "--program", "p.json", "--config", "moa.toml")["budget"]["calls"] == 12
    (tmp_path / "moa.toml").write_text("[architecture]\nlayers = 2\n")
    code, _, err = plan("Why?", "--program", "p.json", "--config", "moa.toml")
    assert code == 2
    assert "has a connection for none of the agents" in err


def test_lengths_are_given_or_those_of_an_earlier_run(plan: Run, tmp_path: Path) -> None:
    trace = AttentionMoA("question -> answer", [ScriptedLM("the the the")] * 2, layers=1)(question="?").trace
    (tmp_path / "trace.json").write_text(trace.to_json(), encoding="utf-8")
    given = as_json(plan, "Why?", *AGENTS, "--answer-tokens", "900", "--critique-tokens", "50")
    like = as_json(plan, "Why?", *AGENTS, "--like", "trace.json", "--critique-tokens", "50")
    assert (given["lengths"]["answer"], given["lengths"]["critique"]) == (900, 50)
    assert (like["lengths"]["answer"], like["lengths"]["critique"]) == (3, 50)
    assert like["full"]["completion_tokens"] < given["full"]["completion_tokens"]


def test_without_a_question_its_length_is_assumed(plan: Run) -> None:
    result = as_json(plan, *AGENTS, "--signature", "context, question -> answer", "--input-tokens", "700")
    assert "no input was given: each input field is assumed to have 700 tokens" in result["notes"]


def test_a_question_may_come_from_standard_input(plan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Why? Wörum?".encode())))
    assert as_json(plan, "-", *AGENTS)["full"]["calls"] == 19


@pytest.mark.parametrize(
    "question",
    [
        "What is in a.json?",
        "Read a.json",
        "a.json?",
        "9.9",
        "TCP/IP",
        "3/4",
        "/help",
        "https://x.org/a.json",
        "法国/德国",
        "x" * 9999,
    ],
)
def test_text_that_only_resembles_a_file_is_a_question(plan: Run, question: str) -> None:
    assert as_json(plan, question, *AGENTS)["full"]["calls"] == 19


def test_a_name_in_a_folder_that_exists_is_a_file(plan: Run, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    code, _, err = plan("runs/program", *AGENTS)
    assert (code, "QUESTION runs/program looks like a file" in err) == (2, True)
    assert as_json(plan, "--input", "question=runs/program", *AGENTS)["full"]["calls"] == 19


def test_on_a_terminal_the_tables_are_styled(plan: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa_dspy.cli.commands.plan.is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = plan("Why?", *AGENTS)
    assert code == 0
    for piece in ("propose", "openai/gpt-4.1-mini", "full run:", "assumed tokens:"):
        assert piece in out


def test_the_embedded_model_is_free(plan: Run) -> None:
    pytest.importorskip("xllamacpp")
    code, out, err = plan("Why?", "--json")
    assert code == 0
    assert json.loads(out)["total"]["usd"] == 0
    assert err.startswith("no agent is named: planning for three on the embedded model")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Why?", "-a", "nosuch/model"), "names no provider"),
        (("Why?", *AGENTS, "--signature", "context, question -> answer"), "context is missing"),
        (("Why?", *AGENTS, "--input", "other=1"), "not an input of this task"),
        (("Why?", *AGENTS, "--attention", "9"), "--attention 9"),
        (("Why?", *AGENTS, "--max-calls", "few"), "--max-calls"),
        (("Why?", *AGENTS, "--max-usd", "0"), "--max-usd 0.0 is too small"),
        (("Why?", *AGENTS, "--times", "0"), "--times"),
        (("Why?", *AGENTS, "--seconds-per-call", "-1"), "above 0"),
        (("Why?", *AGENTS, "--like", "missing.json"), "cannot read the trace missing.json"),
        (("Why?", *AGENTS, "--like", "broken.json"), "broken.json is not a trace"),
        (("Why?", *AGENTS, "--program", "p.json"), "cannot go with a saved program"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    plan: Run, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    code, out, err = plan(*arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert said in line
