"""``moa-dspy eval`` from outside: a kill half way, presets, tables, and every way to get it wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.loopback import Body, Call, Loopback

from moa_dspy import single_model
from moa_dspy.cli import main
from moa_dspy.data import benchmark as registry
from moa_dspy.evaluation import read_records
from moa_dspy.testing import ScriptedLM

COUNT = 24


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "items.jsonl"
    rows = [{"id": f"q{n}", "prompt": f"item {n} of all", "label": str(n % 3)} for n in range(COUNT)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def number(body: Body) -> int:
    return int(str(body["messages"][-1]["content"]).rpartition("item ")[2].split()[0])


def reply(body: Body) -> str:
    return str(number(body) % 3 if number(body) % 4 else "none")


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback(reply) as served:
        yield served


@pytest.fixture
def config(tmp_path: Path, server: Loopback) -> Path:
    path = tmp_path / "moa.toml"
    agent = f'[[agents]]\nmodel = "openai/one"\napi_base = "{server.url}"\ntemperature = 0.7\n'
    path.write_text(agent * 2 + "[architecture]\nlayers = 1\n")
    return path


def command(items: Path, config: Path, *more: str) -> list[str]:
    return [
        "eval", "--data", str(items), "--config", str(config), "--fields", "id,question=prompt,answer=label",
        "--metric", "exact",
        "--preset", "single", *more,
    ]  # fmt: skip


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.csv"
    path.write_text("ticket,category,urgent\n" + "".join(f"item {n} of all,{n % 3},no\n" for n in range(4)))
    return path


def of_tickets(tickets: Path, config: Path, signature: str, metric: str) -> list[str]:
    return ["eval", "-d", str(tickets), "-c", str(config), "--signature", signature, "-m", metric, "--preset", "single"]


@pytest.mark.slow
def test_a_metric_by_name_compares_the_output_of_the_task(
    tickets: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = "ticket -> category: Literal['0', '1', '2']"
    assert main([*of_tickets(tickets, config, one, "exact"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["scored"], result["score"]["value"]) == (3, 1)  # the first reply is none of the three


def test_of_several_outputs_the_metric_names_one(
    tickets: Path, config: Path, server: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = of_tickets(tickets, config, "ticket -> category, urgent", "exact")
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "the outputs are category, urgent, and one of them is compared; say which one, such as --metric" in said
    assert "--metric exact:category" in said
    assert not server.calls
    wrong = of_tickets(tickets, config, "ticket -> category, urgent", "exact:kind")
    assert main(wrong) == 2
    assert "there is no output 'kind' to compare; the outputs are category, urgent" in capsys.readouterr().err
    assert not server.calls


def test_examples_without_the_reference_are_refused_before_anything_is_paid(
    tickets: Path, config: Path, server: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(of_tickets(tickets, config, "ticket -> kind", "exact")) == 2
    assert "map a column with --fields kind=COLUMN" in capsys.readouterr().err
    mapped = [*of_tickets(tickets, config, "ticket -> kind", "exact"), "--fields", "ticket,kind=category"]
    assert not server.calls
    assert main([*mapped, "--json"]) == 0


def test_a_metric_in_a_file_says_how_to_name_it(
    tickets: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(of_tickets(tickets, config, "ticket -> category", "mine.py:exact")) == 2
    assert "write mine:exact" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_half_way_it_goes_on_where_it_stopped(
    items: Path, config: Path, server: Loopback, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enough = threading.Event()

    async def hold(call: Call) -> None:
        import asyncio

        await asyncio.sleep(0.05)
        if len(server.calls) >= COUNT // 2:
            enough.set()

    server.hold = hold
    out = tmp_path / "run.jsonl"
    arguments = command(items, config, "--out", str(out), "--json", "--concurrency", "3")
    environment = {**os.environ, "DSPY_CACHEDIR": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "moa_dspy", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert enough.wait(120)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    finished = {record.id for record in read_records(out)[1]}
    assert 3 <= len(finished) < COUNT
    asked_before = len(server.calls)

    assert main(arguments) == 0
    resumed = json.loads(capsys.readouterr().out)
    again = {f"q{number(call.body)}" for call in server.calls[asked_before:]}
    assert not again & finished
    assert len(again | finished) == COUNT

    whole = tmp_path / "whole.jsonl"
    assert main(command(items, config, "--out", str(whole), "--json")) == 0
    uninterrupted = json.loads(capsys.readouterr().out)
    same = ("score", "scored", "errors", "unparsed", "categories", "program", "metric", "items")
    assert {key: resumed[key] for key in same} == {key: uninterrupted[key] for key in same}
    assert _answers(out) == _answers(whole)
    assert set(Counter(record.id for record in read_records(out)[1]).values()) == {1}


def _answers(path: Path) -> dict[str, Any]:
    return {record.id: (record.outputs, record.score, record.status) for record in read_records(path)[1]}


def test_the_table_and_a_comparison(
    items: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = tmp_path / "single.jsonl"
    assert main(command(items, config, "--out", str(single))) == 0
    said = capsys.readouterr()
    assert "items.jsonl: 24 items, scored by ExactMatch" in said.out
    assert "75.0" in said.out
    assert "24 of 24 items" in said.err
    arguments = command(items, config, "--against", str(single), "--quiet")
    arguments[arguments.index("single")] = "moa"
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "against single.jsonl: +0.0 points (95 % interval -14.2 to +14.2), p = 1.000" in said.out
    assert "24 items in both: 0 better, 0 worse, 24 equal" in said.out


@pytest.mark.parametrize(
    ("preset", "calls"),
    [("single", 1), ("moa", 3), ("attention-moa", 9), ("self-moa", 4), ("self-consistency", 3)],
)
def test_presets_are_the_same_agents_in_another_shape(
    preset: str, calls: int, items: Path, config: Path, server: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*command(items, config, "--limit", "2", "--json", "--quiet")]
    arguments[arguments.index("single")] = preset
    if preset.startswith("self"):
        arguments += ["--samples", "3"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 2 * calls == len(server.calls)


@pytest.mark.parametrize("preset", ["moa", "attention-moa"])
def test_each_item_keeps_to_the_budget_of_the_configuration(
    preset: str, items: Path, config: Path, server: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(f"{config.read_text()}\n[budget]\ncalls = 2\n")
    arguments = command(items, config, "--limit", "3", "--max-calls", "6", "--json", "--quiet")
    arguments[arguments.index("single")] = preset
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 6 == len(server.calls)


def test_a_saved_program_and_a_function_as_metric(
    items: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "program.json"
    single_model("prompt -> label", ScriptedLM("", model="openai/one")).save(saved)
    (tmp_path / "my_metric_module.py").write_text(
        "def close(example, prediction):\n    return 0.5 if prediction.label == 'none' else 1.0\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["eval", str(saved), "--data", str(items), "--config", str(config), "--metric"]
    assert main([*arguments, "my_metric_module:close", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["score"]["value"] == pytest.approx(0.875)


def test_failures_end_with_one_line_and_exit_code_1(
    items: Path, config: Path, server: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(
        config.read_text()
        .replace(server.url, "http://127.0.0.1:9/v1")
        .replace("0.7\n", "0.7\noptions = {num_retries = 0}\n")
    )
    assert main(command(items, config, "--quiet")) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: the program fails on the first 1")
    assert len(said.err.splitlines()) == 1


def test_a_budget_that_ends_it_is_said(
    items: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run.jsonl")
    assert main(command(items, config, "--max-calls", "4", "--out", out)) == 0
    said = capsys.readouterr()
    assert (
        "the budget ended the run: 20 of 24 items were not run; the same command with a larger budget resumes it"
        in said.err
    )
    assert main(command(items, config, "--max-calls", "100", "--out", out, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["scored"] == COUNT


WRONG = {
    "no examples are given": ["--config", "{config}"],
    "neither a benchmark": ["--data", "nosuch"],
    "no such file": ["--data", "nosuch.jsonl", "--metric", "exact"],
    "names no metric|brings no metric": ["--data", "{items}", "--fields", "question=prompt,answer=label"],
    "no metric 'best'": ["--data", "{items}", "--metric", "best"],
    "cannot import nosuch": ["--data", "{items}", "--metric", "nosuch:metric"],
    "module json has no 'nothing'": ["--data", "{items}", "--metric", "json:nothing"],
    "row 1 lacks 'nothing'": ["--data", "{items}", "--metric", "exact", "--fields", "question=nothing"],
    "row 1 has no input field 'question'": ["--data", "{items}", "--metric", "exact"],
    "is not FIELD=COLUMN": ["--data", "{items}", "--metric", "exact", "--fields", "a=b,,"],
    "no split 'train'": ["--benchmark", "starter", "--split", "train"],
    "judged by a model": ["--benchmark", "mt_bench", "--config", "{config}", "--path", "{folder}"],
    "needs no model here": ["--benchmark", "starter", "--config", "{config}", "--judge", "openai/judge"],
    "there is no such folder": ["--benchmark", "mt_bench", "--judge", "openai/judge", "--judge-prompts", "nosuch"],
    "has none of": ["--benchmark", "flask", "--judge", "openai/judge", "--config", "{config}", "--path", "{folder}"],
    "--preset 'best'": ["--benchmark", "starter", "--config", "{config}", "--preset", "best"],
    "--samples is for": ["--benchmark", "starter", "--config", "{config}", "--samples", "3"],
    "--signature is for --data": ["--benchmark", "starter", "--config", "{config}", "--signature", "a -> b"],
    "cannot go with --recipe": ["--benchmark", "starter", "--recipe", "flask-small"],
    "no recipe named": ["--recipe", "best"],
    "leave --outputs out": ["--benchmark", "starter", "--config", "{config}", "--outputs", "x.json"],
    "--fields is for your own data": ["--benchmark", "starter", "--config", "{config}", "--fields", "question=q"],
    "leave --split out": ["--data", "{items}", "--metric", "exact", "--split", "train"],
    "--path is for benchmarks": ["--data", "{items}", "--metric", "exact", "--path", "{folder}"],
    "--judge-prompts: the metric": ["--data", "{items}", "--metric", "exact", "--judge-prompts", "{folder}"],
    "--samples is for --preset": ["--data", "{items}", "--metric", "exact", "--preset", "moa", "--samples", "3"],
    "--gate agreement=0.2": ["--data", "{items}", "--metric", "exact", "--gate", "0.2"],
    "--gate 'x' cannot be read": ["--data", "{items}", "--metric", "exact", "--gate", "x"],
    "none, disagreeing or a number of peers\n": ["--benchmark", "starter", "--config", "{config}", "--attention", "x"],
    "--seed": ["--benchmark", "starter", "--seed", "-1"],
    "its folder does not exist": ["--benchmark", "starter", "--config", "{config}", "--out", "nosuch/x.jsonl"],
    "does not hold records": ["--benchmark", "starter", "--config", "{config}", "--out", "{items}"],
    "cannot read": ["--benchmark", "starter", "--config", "{config}", "--against", "nosuch.jsonl"],
    "--max-usd -1.0": ["--benchmark", "starter", "--config", "{config}", "--max-usd", "-1"],
    "no API key": ["--benchmark", "starter", "--agent", "openai/gpt-4.1"],
    "both the examples": ["--benchmark", "starter", "--data", "{items}"],
    "is not a benchmark": ["--benchmark", "{items}"],
    "--limit": ["--benchmark", "starter", "--limit", "0"],
    "--concurrency": ["--benchmark", "starter", "--concurrency", "0"],
}


@pytest.mark.parametrize("said", WRONG)
def test_wrong_usage_is_one_line_and_exit_code_2(
    said: str, items: Path, config: Path, server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"config": str(config), "items": str(items), "folder": str(tmp_path / "empty")}
    arguments = [part.format(**places) for part in WRONG[said]]
    if "--config" not in arguments and "--agent" not in arguments and "--recipe" not in arguments:
        arguments += ["--config", str(config)]
    assert main(["eval", *arguments, "--quiet"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("error: ")
    assert any(part in shown.err for part in said.split("|")), shown.err
    assert not server.calls


def test_the_file_of_another_run_is_refused(
    items: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run.jsonl")
    assert main(command(items, config, "--limit", "3", "--out", out, "--quiet")) == 0
    capsys.readouterr()
    assert main(command(items, config, "--limit", "3", "--seed", "1", "--out", out, "--quiet")) == 2
    said = capsys.readouterr().err
    assert "is of another run: its seed is 0, not 1" in said
    assert len(said.splitlines()) == 1


def test_a_trial_is_extended_to_all_items(
    items: Path, config: Path, server: Loopback, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run.jsonl")
    for limit, count in ((["--limit", "3"], 3), (["--limit", "5"], 5), ([], COUNT)):
        assert main(command(items, config, *limit, "--out", out, "--json", "--quiet")) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["scored"] == count == len(server.calls)
    assert main(command(items, config, "--limit", "5", "--out", out, "--quiet")) == 2
    assert "19 of its 24 items are not among these examples" in capsys.readouterr().err


def test_a_benchmark_of_ones_own(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_benchmark_module.py").write_text(
        "import dspy\n"
        "from moa_dspy.data import Benchmark, ExactMatch\n"
        "class Mine(Benchmark):\n"
        "    name, title, source, licence = 'mine_from_a_module', 'Mine', 'me', 'MIT'\n"
        "    signature = dspy.Signature('question -> answer')\n"
        "    def example(self, row, part, position):\n"
        "        return dspy.Example(id=str(position), **row).with_inputs('question')\n"
        "    def metric(self, lm=None, prompts=None):\n"
        "        return ExactMatch()\n"
    )
    (tmp_path / "test.jsonl").write_text('{"question": "item 1 of all", "answer": "1"}\n')
    monkeypatch.chdir(tmp_path)
    arguments = [
        "eval",
        "--benchmark",
        "my_benchmark_module:Mine",
        "--config",
        str(config),
        "--preset",
        "single",
        "--json",
        "--quiet",
    ]
    try:
        assert main([*arguments, "--path", str(tmp_path)]) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["benchmark"], result["score"]["value"]) == ("mine_from_a_module", 1.0)
        assert main(["eval", "--benchmark", "json:dumps", "--config", str(config)]) == 2
        assert "json:dumps is not a subclass of moa_dspy.data.Benchmark" in capsys.readouterr().err
    finally:
        registry._REGISTRY.pop("minefromamodule", None)


@pytest.mark.slow
def test_help_needs_none_of_it() -> None:
    code = "import sys; from moa_dspy.cli import main; main(['eval', '--help']); print([n for n in ('dspy', 'numpy', 'datasets') if n in sys.modules])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
