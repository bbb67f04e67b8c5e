"""Every measurement of docs/benchmarks.md runs, with tiny settings; times are not looked at."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import dspy
import numpy as np
import pytest
from dspy.lm15 import request_from_openai_chat

from benchmarks import (
    connections,
    cpu,
    dissent,
    eval_local,
    evaluate_overhead,
    file_switches,
    gates,
    imports,
    latency,
    mean_tests,
    memory,
    prefix,
    search_processes,
    serve,
    shared_prefix,
    suggestion,
)
from benchmarks.common import moa_at, provider
from benchmarks.schedules import Schedule
from moa_dspy import AttentionMoA, evaluate, single_model
from moa_dspy.runtime import concurrency
from moa_dspy.runtime.adapters import _as_request
from moa_dspy.testing import ScriptedLM

SMALL = ["--agents", "2", "--layers", "2"]
SCHEDULES = {"dataflow", "barriers", "authors'"}


@pytest.mark.slow
def test_on_the_virtual_clock_a_run_takes_its_sequential_calls_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    alone, wall = latency.main(["path", "--agents", "3", "--layers", "2", "--milliseconds", "10", "--repeats", "2"])
    assert alone["dataflow"] == pytest.approx([0.09])
    assert alone["barriers"] == pytest.approx([0.09])
    assert alone["authors'"] == pytest.approx([0.09 + 2 * 2 * 0.01])  # two further critiques in sequence, each layer
    assert {name: len(measured) for name, measured in wall.items()} == dict.fromkeys(SCHEDULES, 2)
    assert "load" in capsys.readouterr().out


@pytest.mark.slow
def test_with_unequal_latencies_dataflow_is_never_slower_than_barriers() -> None:
    command = ["tail", "--agents", "3", "--layers", "2", "--milliseconds", "5", "--questions", "4"]
    alone, wall = latency.main(command)
    pairs = list(zip(alone["dataflow"], alone["barriers"], strict=True))
    assert all(ours <= theirs + 1e-9 for ours, theirs in pairs)
    assert sum(ours for ours, _ in pairs) < sum(theirs for _, theirs in pairs)
    assert {name: len(measured) for name, measured in wall.items()} == dict.fromkeys(SCHEDULES, 4)


@pytest.mark.slow
def test_cpu_of_a_call_is_measured_on_both_clients() -> None:
    figures = cpu.main(["call", *SMALL, "--repeats", "1"])
    assert {name.split()[0] for name in figures} == {"HTTP", "scripted"}
    assert all(value > 0 for values in figures.values() for value in values)


@pytest.mark.slow
def test_throughput_is_measured_against_bare_calls() -> None:
    figures = cpu.main(["throughput", *SMALL, "--repeats", "1", "--questions", "2", "--milliseconds", "5"])
    assert len(figures) == 4
    assert all(len(rates) == 1 for rates in figures.values())


@pytest.mark.slow
def test_cpu_of_waiting_calls_is_measured() -> None:
    assert len(cpu.main(["waiting", "--most", "600", "--repeats", "1"])["500"]) == 1


def test_no_answer_is_lost_of_questions_at_once() -> None:
    figures = connections.main(["--questions", "4", "--agents", "2", "--seconds", "0.05", "--timeout", "30"])
    assert figures["steps"] == 4 * 9
    assert figures["steps lost"] == figures["calls unanswered"] == 0


def test_the_overhead_of_an_evaluation_is_measured_for_each_size() -> None:
    assert list(evaluate_overhead.main(["--largest", "500", "--out", "1"])) == [500]


def test_a_question_switches_between_files_about_a_third_as_often_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "limiters", {})  # other tests leave limits of their models
    files = file_switches.calls_of_a_question()
    # The target is 262; the order of tasks changes it by about ten.
    assert sum(one != other for one, other in pairwise(files)) < 275


@pytest.mark.slow
def test_memory_is_taken_ten_times() -> None:
    sizes = memory.main(["questions", "--questions", "10", "--agents", "2", "--concurrency", "2"])
    assert [done for done, _ in sizes] == list(range(1, 11))


@pytest.mark.slow
def test_memory_that_an_evaluation_holds_is_below_twice_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--examples", "6", "--agents", "2", "--layers", "1", "--words", "130", "--history", "9"]
    sizes = memory.main(["evaluate", *small])
    assert [count for count, _ in sizes] == [6, 12]
    assert "KiB of text" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_share_the_trials_of_a_search() -> None:
    small = ["--processes", "1", "2", "--trials", "3", "--examples", "4", "--milliseconds", "1", "--repeats", "1"]
    figures = search_processes.main(small)
    assert list(figures) == [1, 2]
    assert all(one["seconds"] > 0 and one["calls"] > 0 for runs in figures.values() for one in runs)


@pytest.mark.slow
def test_imports_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    two = {name: imports.STATEMENTS[name] for name in ("import dspy", "import moa_dspy")}
    monkeypatch.setattr(imports, "STATEMENTS", two)
    assert all(len(measured) == 1 for measured in imports.main(["--repeats", "1"]).values())


@pytest.mark.xdist_group("local")
@pytest.mark.slow
def test_prefix_cache_is_measured() -> None:
    pytest.importorskip("xllamacpp")
    (one, *_) = [contender.name for contender in prefix.CONTENDERS if "at once" in contender.name]
    results = prefix.main(["--tasks", "1", "--agents", "2", "--tokens", "4", "--only", one])
    assert set(results) == {one}
    assert all(0 <= measured.cached < measured.prompt for measured in results.values())


@pytest.mark.slow
def test_with_long_inputs_first_most_of_every_prompt_was_read_before() -> None:
    shares = shared_prefix.main(["--agents", "3", "--layers", "2"])
    moa = shares.pop("MoA, 3 models")
    assert min(shares.values()) > 0.8
    assert moa > 0.2  # two models are asked once, so nothing was read before


def test_the_search_proposes_a_design_whatever_the_number_of_trials() -> None:
    assert list(suggestion.main(["--most", "25", "--repeats", "1"])) == [25]


@pytest.mark.slow
@pytest.mark.parametrize("in_sequence", [False, True])
def test_the_schedules_compared_ask_the_same_as_the_program(in_sequence: bool) -> None:
    def asked(moa: AttentionMoA) -> list[str]:
        return sorted(json.dumps(entry["messages"]) for agent in moa.agents for entry in cast("Any", agent.lm).history)

    with provider(0.0) as url:
        ours, theirs = moa_at(url, 3, 2), moa_at(url, 3, 2)
        ours(question="?")
        asyncio.run(Schedule(theirs, in_sequence=in_sequence).acall(question="?"))
        assert asked(ours) == asked(theirs)
        assert len(asked(ours)) == ours.architecture.max_calls


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1},
        {"temperature": 1.0, "max_tokens": 5, "stop": ["end"], "logit_bias": {"1": 2}},
        {"seed": 3, "top_p": 0.5, "reasoning_effort": "low"},
        {"response_format": {"type": "json_object"}},
    ],
)
@pytest.mark.parametrize("content", ["text", [{"type": "text", "text": "a part"}]])
def test_the_short_way_to_a_request_leads_to_the_same_request(options: dict[str, Any], content: Any) -> None:
    messages = [
        {"role": "system", "content": "told"},
        {"role": "user", "content": "shown"},
        {"role": "assistant", "content": "said"},
        {"role": "user", "content": content},
    ]
    expected = request_from_openai_chat({**options, "model": "openai/m", "messages": messages})
    assert repr(_as_request("openai/m", options, messages)) == repr(expected)


def test_a_row_of_the_evaluation_on_the_embedded_model_is_read_from_the_json_of_eval() -> None:
    lm = ScriptedLM("four")
    devset = [dspy.Example(question="2 + 2?", answer="four").with_inputs("question")]
    result = evaluate(
        single_model("question -> answer", lm), devset, lambda example, pred: example.answer == pred.answer
    )
    row = eval_local._row("single", json.loads(result.to_json()))
    assert row.startswith("| single model | 100.0 % (")
    assert "n = 1 |  | 1 |" in row


@pytest.mark.slow
def test_gates_are_fitted_and_critiques_compared() -> None:
    fitted = gates.main(["fit", "--pool", "4", "--runs", "4", "--fits", "1", "--loss", "0.9"])
    assert set(fitted) == set(gates.WORLDS)
    assert all(figures["violated"] == 0 for figures in fitted.values())
    figures = gates.main(["attention", "--questions", "1"])
    assert {figures[world, "joint"][1] / figures[world, "full"][1] for world in gates.WORLDS} == {16 / 36}


@pytest.mark.slow
def test_the_test_of_gains_keeps_its_level_where_the_former_one_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mean_tests, "TRIALS", 100)
    monkeypatch.setattr(mean_tests, "SIZES", (20,))
    _, *rows = mean_tests.level(np.random.default_rng(0))
    levels = np.array([[float(level) for level in row[2].split(", ")] for row in rows])
    assert levels[:, 0].max() <= 0.08
    assert levels[:, 1].max() >= 0.3
    _, *saved = mean_tests.saved(np.random.default_rng(0))
    assert all(row[2].split("%")[0].isdigit() for row in saved)


@pytest.mark.slow
def test_the_server_is_measured_with_small_numbers() -> None:
    assert serve.main(["streams", "--streams", "3"])["left"] == 0
    assert serve.main(["delay", "--streams", "3", "--latency", "0.01", "--repeats", "1"])["ratio"] > 0
    assert serve.main(["same", "--runs", "3"])["different"] == []
    assert serve.main(["bills", "--requests", "30", "--kills", "0"])["wrong"] == 0
    assert serve.main(["hostile", "--requests", "20", "--leavers", "3"])["calls"] == 0
    assert serve.main(["killed", "--requests", "8", "--kills", "1"])["wrong"] == 0


@pytest.mark.slow
def test_agreement_is_measured_on_recorded_solutions_too(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"Question {number:02}?",
            "ground_truth": f"Some text\nA: 1,{number:03}",
            "one": {"solution": "A: 7" if number % 3 else f"Some text\nA: 1{number:03}"},
            "two": {"solution": "A: 7" if number % 3 else f"Some text\nA: 1{number:03}"},
        }
        for number in range(24)
    ]
    (tmp_path / "model_solutions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    figures = dissent.main(["--worlds", "1", "--questions", "20", "--recorded", str(tmp_path)])
    assert figures.reported == 1
    raw, fitted = figures.errors["recorded solutions of two real models"]
    assert fitted < raw
