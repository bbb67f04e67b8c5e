"""Answers and verdicts that cannot be read: counted, shown, and asked for again on resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest

from moa_dspy import AttentionMoA, evaluate, single_model
from moa_dspy.cli.views.evaluation import _scores
from moa_dspy.data import ChoiceLetter, Metric, Numeric, VoteMatch, get_benchmark, load
from moa_dspy.data.metrics.metric import Checked
from moa_dspy.evaluation import Devset, EvaluateResult, compare_files, read_records
from moa_dspy.evaluation.suite import OwnData
from moa_dspy.testing import ScriptedLM, prompt_of


def choices(count: int) -> list[dspy.Example]:
    return [
        dspy.Example(id=f"q{n}", question=f"item {n}.", choices=["x", "y"], answer="B").with_inputs("question")
        for n in range(count)
    ]


def run(lm: dspy.BaseLM, metric: Metric, out: Path | None = None) -> EvaluateResult:
    program = single_model("question -> answer", lm, reasoning=False)
    return evaluate(program, Devset(OwnData("mine.jsonl"), choices(4)), metric, out=out)


@pytest.mark.parametrize("cache", [False, True])
def test_answers_that_cannot_be_read_count_as_wrong_and_are_asked_for_again(tmp_path: Path, cache: bool) -> None:
    state = {"unsure": True}

    def reply(request: Any) -> str:
        return "I am not sure." if "item 2." in prompt_of(request) and state["unsure"] else "The answer is likely B."

    lm, out = ScriptedLM(reply, cache=cache), tmp_path / "run.jsonl"
    first = run(lm, ChoiceLetter(), out)
    assert first.score is not None
    assert (first.scored, first.unread, first.unparsed, first.score.value) == (4, 1, 0, 0.75)
    assert first.to_dict()["unread"] == 1
    assert [row[6] for row in _scores(first)][:2] == ["unread", "1"]
    asked = len(lm.requests)
    assert run(lm, ChoiceLetter(), out).unread == 1
    state["unsure"] = False
    last = run(lm, ChoiceLetter(), out)
    assert last.score is not None
    assert (last.scored, last.unread, last.score.value) == (4, 0, 1.0)
    assert len(lm.requests) == asked + 2
    run(lm, ChoiceLetter(), out)
    assert len(lm.requests) == asked + 2


@pytest.mark.parametrize(
    ("metric", "unread", "read"),
    [
        (ChoiceLetter(), "I cannot say.", "A"),
        (ChoiceLetter(), "The answer is A. The answer is B.", "(A)"),
        (Numeric(target="number"), "I cannot say.", "7"),
        (Numeric(target="number"), "#### 3 or 4", "#### 4"),
        (Checked(check=lambda output, accepted: output == accepted, reading=lambda output: None), "x", ""),
        (VoteMatch(ChoiceLetter()), "I cannot say.", "A"),
    ],
)
def test_only_an_answer_that_cannot_be_read_is_marked_as_unread(metric: Metric, unread: str, read: str) -> None:
    example = dspy.Example(question="?", choices=["x", "y"], answer="B", number="5")
    assert metric.assess(example, dspy.Prediction(answer=unread)).details["unread"] is True
    assert metric.assess(example, dspy.Prediction(answer=unread)).score == 0
    if read:
        assert "unread" not in metric.assess(example, dspy.Prediction(answer=read)).details


def test_hard_tasks_and_word_problems_mark_what_they_cannot_read() -> None:
    for name, answer, unread in (("bbh", "(B)", "I cannot say."), ("gsm8k", "18", "#### 3 * 6")):
        verdict = get_benchmark(name).metric().assess(dspy.Example(question="?", answer=answer), unread)
        assert (verdict.score, verdict.details) == (False, {"unread": True})


PROMPTS = [
    {"name": name, "type": "single", "system_prompt": "judge", "prompt_template": "{question_1} turn 2 {answer_2}"}
    if name.endswith("turn")
    else {"name": name, "type": "single", "system_prompt": "judge", "prompt_template": "{question} turn 1 {answer}"}
    for name in ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    questions = [{"question_id": n, "category": "writing", "turns": [f"q{n}", "and then"]} for n in (81, 82)]
    for name, rows in (("question.jsonl", questions), ("judge_prompts.jsonl", PROMPTS)):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.mark.parametrize("cache", [False, True])
def test_a_half_judged_item_is_shown_asked_again_and_never_paired(folder: Path, cache: bool) -> None:
    state = {"broken": True}

    def verdict(request: Any) -> str:
        broken = state["broken"] and "q82" in prompt_of(request) and "turn 2" in prompt_of(request)
        return "Rating: [[100]]" if broken else "Rating: [[8]]"

    judge = ScriptedLM(verdict, cache=cache)
    lm = ScriptedLM("fine")
    program = AttentionMoA(get_benchmark("mt_bench").signature, [lm], layers=1, attention="none")

    def judged(out: str) -> EvaluateResult:
        data = Devset(get_benchmark("mt_bench"), load("mt_bench", path=folder))
        return evaluate(program, data, judge=judge, judge_prompts=folder, out=folder / out)

    whole_file = folder / "whole.jsonl"
    half = judged("half.jsonl")
    assert (half.scored, half.unparsed, half.figures["unparsed"]) == (1, 1, 1)
    assert [record.details["scores"] for record in half.records] == [[8.0, 8.0], [8.0, -1.0]]
    before = len(lm.requests)
    state["broken"] = False
    judged("whole.jsonl")  # with a cache, the unreadable reply is in it
    judged("whole.jsonl")
    assert compare_files(folder / "half.jsonl", whole_file).matched == 1
    answers = len(lm.requests)
    again = judged("half.jsonl")
    assert (again.scored, again.unparsed, again.figures["average"]) == (2, 0, 8.0)
    assert len(lm.requests) == answers >= before
    assert compare_files(folder / "half.jsonl", whole_file).matched == 2
    assert sorted(record.complete for record in read_records(folder / "half.jsonl")[1]) == [False, True, True]
