"""``moa_dspy.run``: rows in, answers out, and what is kept when a run ends early."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import dspy
import pyarrow.parquet as pq
import pytest
from support.loopback import Loopback

from moa_dspy import Budget, ConfigurationError, RunError, attention_moa, run, single_model
from moa_dspy.cli import main
from moa_dspy.testing import ScriptedLM, prompt_of

ROWS = [
    {"id": number, "question": f"what is {number}?", "answer": "gold", "tags": ["a", number]} for number in range(7)
]


def program(fails: str = "never") -> Any:
    def reply(request: Any) -> str:
        if fails in prompt_of(request):
            raise ValueError("no reply")
        return f"reply to {request.messages[-1].text}"

    return single_model("question -> answer", ScriptedLM(reply))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    return pq.read_table(path).to_pylist() if path.suffix == ".parquet" else lines(path)


def numbers(model: Any) -> int:
    return len(model.agents[0].lm.requests)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_every_row_is_answered_in_order_with_its_columns(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"answers{suffix}"
    result = run(program(), ROWS, out=out, concurrency=3)
    rows = written(out)
    assert (result.answered, result.errors, result.pending, result.ended_by) == (7, 0, 0, "rows")
    assert [int(row["id"]) for row in rows] == list(range(7))
    assert [int(row["row"]) for row in rows] == list(range(1, 8))
    assert all(row["input_answer"] == "gold" for row in rows)  # the program's own output keeps its name
    assert all(f"what is {row['id']}?" in row["answer"] for row in rows)
    assert all(int(row["calls"]) == 1 and row["stopped_by"] == "layers" and not row["error"] for row in rows)
    tags = rows[3]["tags"]
    assert (tags if suffix == ".jsonl" else json.loads(tags)) == ["a", 3]


def test_files_streams_and_mappings_of_columns_give_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"text": row["question"]}) + "\n" for row in ROWS))
    fields = {"question": "text"}
    expected = [answer["answer"] for answer in run(program(), source, fields=fields).answers or ()]
    assert len(expected) == len(ROWS)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    streamed = run(program(), "-", fields=fields)
    assert streamed.pending is None
    assert [answer["answer"] for answer in streamed.answers or ()] == expected
    iterated = run(program(), ({"text": row["question"]} for row in ROWS), fields=fields, limit=4)
    assert [answer["answer"] for answer in iterated.answers or ()] == expected[:4]


def test_a_second_start_asks_only_new_and_failed_rows(tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    first = run(program(fails="what is 2"), ROWS, out=out)
    assert (first.answered, first.errors) == (6, 1)
    assert [row["error"] != "" for row in written(out)] == [False, False, True, False, False, False, False]
    model = program()
    again = [ROWS[2], {"id": 9, "question": "new", "answer": "", "tags": []}, *ROWS]  # one row twice
    second = run(model, again, out=out)
    assert numbers(model) == 3
    assert (second.answered, second.errors) == (9, 0)
    assert second.usage.calls == 9 + 1  # with the failed call
    assert second.own_usage.calls == 3
    rows = written(out)
    assert len(rows) == 9
    assert not any(row["error"] for row in rows)
    assert sorted(int(row["id"]) for row in rows) == [0, 1, 2, 2, 3, 4, 5, 6, 9]
    assert sorted(int(row["calls"]) for row in rows if row["id"] == "2") == [1, 2]


def test_a_budget_in_dollars_needs_prices() -> None:
    model = program()
    with pytest.raises(ConfigurationError, match="a budget in dollars cannot be kept: the price of scripted"):
        run(model, ROWS, budget=Budget(usd=1))
    assert not numbers(model)


def test_a_budget_ends_the_run_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "answers.parquet"
    result = run(program(), ROWS, out=out, budget=Budget(calls=4))
    assert (result.answered, result.pending, result.ended_by) == (4, 3, "budget")
    assert len(written(out)) == 4
    result = run(program(), ROWS, out=out, budget=Budget(calls=7))
    assert (result.answered, result.pending, result.usage.calls) == (7, 0, 7)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_no_usage_is_forgotten_between_starts(tmp_path: Path, suffix: str) -> None:
    """Equal rows that fail, failures that no later start tries again, and rows that the budget cuts short all count."""
    out = tmp_path / f"answers{suffix}"
    rows = [{"question": "good"}, *[{"question": "bad"}] * 3]
    first = run(program(fails="bad"), rows, out=out, concurrency=1)
    assert (first.answered, first.errors, first.usage.calls) == (1, 3, 4)
    stopped = run(program(), rows, out=out, budget=Budget(calls=5), concurrency=1)
    assert (stopped.answered, stopped.pending, stopped.usage.calls) == (2, 2, 5)
    assert [row["error"] != "" and row["error"] is not None for row in written(out)] == [False, False, True, True]
    last = run(program(), rows, out=out)
    assert (last.answered, last.errors, last.usage.calls) == (4, 0, 7)
    assert [int(row["calls"]) for row in written(out)] == [1, 2, 2, 2]


class Twice(dspy.Module):
    """Asks a question about 1 twice."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> dspy.Prediction:
        if "1" in question:
            await self.predict.acall(question=question)
        return await self.predict.acall(question=question)


def test_calls_of_a_row_that_the_budget_cuts_short_count_later(tmp_path: Path) -> None:
    out, model = tmp_path / "answers.jsonl", ScriptedLM("[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]")
    rows = [{"question": row["question"]} for row in ROWS[:2]]
    with dspy.context(lm=model):
        cut = run(Twice(), rows, out=out, budget=Budget(calls=2), concurrency=1)
        assert (cut.answered, cut.errors, cut.pending, cut.usage.calls) == (1, 0, 1, 2)
        assert run(Twice(), rows, out=out, budget=Budget(calls=2)).usage.calls == 2
        last = run(Twice(), rows, out=out)
    assert (last.answered, last.usage.calls, len(model.requests)) == (2, 4, 4)
    assert [row["calls"] for row in lines(out)] == [1, 3]


def test_rows_that_are_no_longer_in_the_input_are_not_counted(tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    run(program(), ROWS, out=out)
    fewer = run(program(), ROWS[:2], out=out)
    assert (fewer.answered, fewer.pending, len(lines(out))) == (2, 0, 7)


@pytest.mark.parametrize("change", [{"row_id": "zz"}, {"row_id": 3}, {"calls": "x"}, {"row": None}])
def test_a_damaged_answer_is_named_by_its_line(tmp_path: Path, change: dict[str, Any]) -> None:
    out = tmp_path / "answers.jsonl"
    run(program(), ROWS[:2], out=out)
    good, bad = lines(out)
    out.write_text("".join(json.dumps(answer) + "\n" for answer in (good, bad | change)))
    with pytest.raises(ConfigurationError, match="line 2: not an answer"):
        run(program(), ROWS, out=out)


@pytest.mark.parametrize("name", ["answers.jsonl", "answers.csv"])
def test_a_run_does_not_read_what_it_writes(tmp_path: Path, name: str) -> None:
    (tmp_path / "answers.csv.jsonl").write_text('{"question": "a"}\n')
    (tmp_path / "answers.jsonl").write_text('{"question": "a"}\n')
    source = tmp_path / (name if name.endswith("l") else "answers.csv.jsonl")
    with pytest.raises(ConfigurationError, match="own input"):
        run(program(), source, out=tmp_path / name)


def test_bytes_are_a_column_and_unnamed_columns_are_refused() -> None:
    answers = run(program(), [{"question": "a", "image": b"\xff\xd8"}]).answers or ()
    assert [answer["image"] for answer in answers] == ["_9g="]
    row: Any = {"question": "a", 3: "b"}
    with pytest.raises(ConfigurationError, match="column names must be text"):
        run(program(), [row])


def test_the_trace_is_written_on_request(tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    run(attention_moa("question -> answer", [ScriptedLM("yes")] * 2, layers=1), ROWS[:1], out=out, trace=True)
    assert len(lines(out)[0]["trace"]["steps"]) == lines(out)[0]["calls"]


@pytest.mark.parametrize("content", ['{"row": 1}\n', "id,question\n1,2\n"])
def test_foreign_files_are_refused(tmp_path: Path, content: str) -> None:
    for name in ("answers.jsonl", "answers.csv"):
        out = tmp_path / name
        out.write_text(content)
        with pytest.raises(ConfigurationError):
            run(program(), ROWS, out=out)
        assert out.read_text() == content


@pytest.mark.parametrize("name", ["out.csv.jsonl", "out.parquet.JSONL"])
def test_the_journal_of_a_table_is_no_file_of_answers(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is the journal of out\.(csv|parquet); write out="):
        run(program(), ROWS[:1], out=tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_answers_of_another_program_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    run(program(), ROWS[:1], out=out)
    with pytest.raises(ConfigurationError, match="another program"):
        run(single_model("question -> answer", ScriptedLM("x", model="scripted/other")), ROWS, out=out)


def test_bad_input_is_found_before_anything_is_asked(tmp_path: Path) -> None:
    source, model = tmp_path / "rows.jsonl", program()
    source.write_text('{"question": "a"}\n' * 3 + "broken\n")
    cases: list[tuple[Any, str]] = [
        (source, "line 4"),
        ([], "is empty"),
        ([{"text": "a"}], "map columns"),
        ({"question": "a"}, "one row"),
        ([*ROWS, {"question": None}], "row 8 has no value for 'question'"),
        ([*ROWS, {"id": 8}], "row 8 has no value for 'question'"),
    ]
    for rows, words in cases:
        with pytest.raises(ConfigurationError, match=words):
            run(model, rows, out=tmp_path / "answers.csv")
        assert not list(tmp_path.glob("answers*")), "a refused run leaves no file"
    with pytest.raises(ConfigurationError, match="unknown format"):
        run(model, ROWS, out=tmp_path / "answers.xml")
    assert not numbers(model)


def test_a_program_that_always_fails_ends_the_run() -> None:
    with pytest.raises(RunError, match="first 10"):
        run(program(fails="what"), [{"question": f"what {number}"} for number in range(100)])


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"

    def second(state: Any) -> None:
        if state.done == 1:
            with pytest.raises(ConfigurationError, match="another run"):
                run(program(), ROWS, out=out)

    assert run(program(), ROWS, out=out, progress=second, concurrency=1).answered == 7


def test_any_module_can_be_run() -> None:
    class Echo(dspy.Module):
        def forward(self, text: str) -> dspy.Prediction:
            return dspy.Prediction(reply=text.upper(), calls="own")

    answers = run(Echo(), [{"text": "a"}, {"text": "b"}]).answers or ()
    assert [(answer["reply"], answer["output_calls"], answer["calls"]) for answer in answers] == [
        ("A", "own", 0), ("B", "own", 0)
    ]  # fmt: skip


@pytest.mark.slow
def test_a_killed_command_goes_on_without_paying_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "x")
    source, out = tmp_path / "rows.jsonl", tmp_path / "answers.csv"
    source.write_text("".join(json.dumps({"question": f"question {number:02}"}) + "\n" for number in range(20)))
    victims: list[int] = []

    def reply(_: dict[str, Any]) -> str:
        if len(server.calls) == 9:
            os.kill(victims[0], signal.SIGKILL)
        return "yes"

    with Loopback(reply=reply) as server:
        config = tmp_path / "moa.toml"
        config.write_text(
            f'[[agents]]\nmodel = "openai/one"\napi_base = "{server.url}"\napi_key_env = "SOME_KEY"\n'
            '[architecture]\nlayers = 1\nattention = "none"\naggregation = "none"\n'
        )
        words = ["run", "--config", str(config), "--data", str(source), "--out", str(out), "--concurrency", "2", "-q"]
        environment = {**os.environ, "DSPY_CACHEDIR": str(tmp_path / "cache")}
        with subprocess.Popen([sys.executable, "-m", "moa_dspy", *words], env=environment) as command:
            victims.append(command.pid)
        assert command.returncode == -signal.SIGKILL
        assert not out.exists()
        kept = lines(tmp_path / "answers.csv.jsonl")
        assert main(words) == 0  # in this process, whose response cache is empty
        assert [int(row["row"]) for row in written(out)] == list(range(1, 21))
        assert len(kept) >= 6  # two or three were in flight
        asked = Counter(question for call in server.calls for question in re.findall(r"question \d\d", call.prompt))
        assert len(asked) == 20
        assert all(asked[answer["question"]] == 1 for answer in kept)
        assert asked.total() <= 22


@pytest.mark.parametrize("content", ["my notes", '{"a": 1}', "[1, 2]", '{"rows": ', b"\x00\xff"])
def test_a_foreign_file_without_a_last_line_end_stays_as_it_is(tmp_path: Path, content: Any) -> None:
    out = tmp_path / "answers.jsonl"
    before = content if isinstance(content, bytes) else content.encode()
    out.write_bytes(before)
    with pytest.raises(ConfigurationError, match="line 1: not an answer of a run; give another file"):
        run(program(), ROWS, out=out)
    assert out.read_bytes() == before


@pytest.mark.parametrize(("cut", "asked"), [(0, 0), (1, 0), (2, 1), (200, 1)])
def test_a_last_answer_is_kept_if_only_its_line_end_is_missing(tmp_path: Path, cut: int, asked: int) -> None:
    out = tmp_path / "answers.jsonl"
    run(program(), ROWS, out=out)
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) - cut])
    again = program()
    assert run(again, ROWS, out=out).answered == len(ROWS)
    assert numbers(again) == asked
    assert [answer["answer"] for answer in lines(out)] == [json.loads(line)["answer"] for line in whole.splitlines()]


@pytest.mark.parametrize("out", ["", ".", "folder.jsonl", "pipe.jsonl"])
def test_what_is_no_file_is_refused(tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.jsonl").mkdir()
    os.mkfifo("pipe.jsonl")
    with pytest.raises(ConfigurationError):
        run(program(), ROWS, out=out)
