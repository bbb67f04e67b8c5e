"""Answers and judgments in the official layout, as the authors' scripts read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pandas as pd
import pytest

from moa_dspy import ConfigurationError, evaluate, single_model
from moa_dspy.data import get_benchmark, load
from moa_dspy.evaluation import Devset
from moa_dspy.testing import ScriptedLM, prompt_of


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(name: str, folder: Path, judge: dspy.BaseLM, outputs: Path, prompts: Path | None) -> Any:
    benchmark = get_benchmark(name)
    program = single_model(benchmark.signature, ScriptedLM("fine"), reasoning=False)
    data = Devset(benchmark, load(name, path=folder))
    return evaluate(program, data, judge=judge, judge_prompts=prompts, outputs=outputs, name="my/program")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "official"
    folder.mkdir()
    return folder


def test_show_result_reads_our_mt_bench_judgments(tmp_path: Path, outputs: Path) -> None:
    names = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
    template = {name: "turn 2 {question_2}" if name.endswith("turn") else "turn 1 {question}" for name in names}
    write(
        tmp_path / "judge_prompts.jsonl",
        [{"name": name, "system_prompt": "s", "prompt_template": text} for name, text in template.items()],
    )
    write(
        tmp_path / "question.jsonl",
        [{"question_id": n, "category": "writing", "turns": [f"first {n}", f"second {n}"]} for n in (81, 82, 83)],
    )

    def reply(request: Any) -> str:
        prompt = prompt_of(request)
        return "[[100]]" if "second 83" in prompt else "Rating: [[9]]" if "turn 1" in prompt else "Rating: [[5]]"

    judge = ScriptedLM(reply, model="openai/gpt-4")
    result = run("mt_bench", tmp_path, judge, outputs, tmp_path)
    answers = read(outputs / "model_answer" / "my_program.jsonl")
    assert [len(row["choices"][0]["turns"]) for row in answers] == [2, 2, 2]
    file = outputs / "model_judgment" / "gpt-4_single.jsonl"
    assert [(row["question_id"], row["turn"], row["score"]) for row in read(file)][-2:] == [(83, 1, 9.0), (83, 2, -1)]
    assert read(file)[0]["judge"] == ["gpt-4", "single-v1"]
    assert read(file)[0]["judgment"] == "Rating: [[9]]"
    frame: Any = pd.read_json(file, lines=True)[["model", "score", "turn"]]  # from here on as in show_result.py
    frame = frame[frame["score"] != -1]
    by_turn = [frame[frame["turn"] == turn].groupby(["model", "turn"]).mean()["score"].item() for turn in (1, 2)]
    average = frame[["model", "score"]].groupby(["model"]).mean()["score"]
    assert by_turn == result.figures["turns"] == [9.0, 5.0]
    assert average.to_dict() == {"my/program": pytest.approx(result.figures["average"])}


def test_flask_reviews_have_what_the_authors_aggregate(tmp_path: Path, outputs: Path) -> None:
    rows = [
        {"idx": n, "instruction": f"do {n}", "answer": "ref", "skill": ["Factuality", "Logical Correctness"],
         "domain": ["Coding"], "difficulty": "expert"}
        for n in (1, 2)
    ]  # fmt: skip
    write(tmp_path / "evaluation.jsonl", rows)
    scores = '{"Factuality": 4, "Logical_Correctness": "N/A"}'
    judge = ScriptedLM(f"[[ ## reasons ## ]]\nok\n\n[[ ## scores ## ]]\n{scores}\n\n[[ ## completed ## ]]")
    run("flask", tmp_path, judge, outputs, None)
    assert read(outputs / "model_output" / "outputs" / "my_program.jsonl")[0] == {"question_id": 1, "text": "fine"}
    reviews = read(outputs / "gpt_review" / "outputs" / "my_program_review.jsonl")
    assert [row["score"] for row in reviews] == [{"factuality": 4, "logical correctness": "N/A"}] * 2
    assert reviews[0]["domain_labeled"] == ["Coding"]
    assert reviews[0]["difficulty_labeled"] == "expert"


def test_alpaca_annotations_have_what_the_authors_aggregate(tmp_path: Path, outputs: Path) -> None:
    rows = [{"instruction": f"do {n}", "output": "baseline", "dataset": "koala"} for n in range(3)]
    (tmp_path / "gpt4_baseline.json").write_text(json.dumps(rows))

    def reply(request: Any) -> str:
        return "[[ ## verdict ## ]]\ntie\n\n[[ ## completed ## ]]"

    run("alpaca_eval", tmp_path, ScriptedLM(reply, model="openai/gpt-4.1"), outputs, None)
    annotations = json.loads((outputs / "annotations.json").read_text())
    assert [(row["index"], row["preference"], row["output_2"]) for row in annotations] == [
        (n, 1.5, "fine") for n in range(3)
    ]
    assert {row["annotator"] for row in annotations} == {"gpt-4.1"}
    assert len(json.loads((outputs / "model_outputs.json").read_text())) == 3


def test_a_folder_that_does_not_exist_is_refused_before_the_first_call(tmp_path: Path) -> None:
    rows = [{"instruction": "do", "output": "baseline", "dataset": "koala"}]
    (tmp_path / "gpt4_baseline.json").write_text(json.dumps(rows))
    judge = ScriptedLM("none")
    with pytest.raises(ConfigurationError, match="its folder does not exist"):
        run("alpaca_eval", tmp_path, judge, tmp_path / "none" / "outputs.json", None)
    assert not judge.requests
