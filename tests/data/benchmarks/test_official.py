"""Published numbers, reproduced from the real data beside the project."""

import csv
import json
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from moa_dspy.data import alpaca_eval, bbh, flask, gsm8k, load, mt_bench
from moa_dspy.data.benchmarks import win_rate
from moa_dspy.errors import ConfigurationError


@pytest.fixture(autouse=True)
def dspy_sandbox():
    """No language model is called in this file: the shared fixture's response cache on disk is not needed."""


MODELS = [
    "alpaca-7b",
    "alpaca-7b_verbose",
    "claude-2",
    "claude-2.1",
    "gemma-7b-it",
    "gpt-3.5-turbo-1106",
    "gpt4_0613_concise",
    "gpt4_gamed",
    "phi-2",
    "text_davinci_001",
    "vicuna-13b",
    "wizardlm-13b",
]


def lines(file: Path):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_gsm8k_verdicts(shared_data):
    rows = lines(shared_data / "gsm8k" / "model_solutions_6b.jsonl")
    correct = Counter()
    for row in rows:
        for model in ("6b_finetuning", "6b_verification"):
            verdict = gsm8k.is_correct(row[model]["solution"], row["ground_truth"])
            assert verdict is row[model]["is_correct"], row[model]["solution"]
            correct[model] += verdict
    assert len(rows) == 1319
    assert correct == {"6b_finetuning": 286, "6b_verification": 515}


def test_gsm8k_references_are_right_themselves(shared_data):
    metric = gsm8k.Gsm8k().metric()
    examples = load("gsm8k", path=shared_data)
    assert len(examples) == 1319
    assert all(metric(example, f"so it is\n#### {example.answer}") is True for example in examples)


def test_bbh_accuracies(shared_data):
    tasks = lines(shared_data / "bbh" / "codex_direct.jsonl")
    for task in tasks:
        right = sum(bbh.is_correct(prediction, target) for prediction, target in task["rows"])
        assert 100 * right / len(task["rows"]) == pytest.approx(task["accuracy"]), task["file"]
    names = [re.sub(r".*/(\w+?)_few_shot.*", r"\1", task["file"]) for task in tasks]
    assert tuple(names) == bbh.TASKS


@pytest.fixture(scope="session")
def judgments(shared_data):
    return lines(shared_data / "mt_bench" / "judgments.jsonl")


def test_mt_bench_scores(judgments):
    assert len(judgments) == 320
    assert [mt_bench.parse_score(row["judgment"]) for row in judgments] == [row["score"] for row in judgments]


@pytest.mark.parametrize(
    ("model", "turns", "expected"),
    [
        ("llama2_chat_7b", (1, 2), 6.190625),
        ("llama2_chat_7b", (1,), 6.70625),
        ("llama2_chat_7b", (2,), 5.675),
        ("llama2_7b", (1, 2), 3.96875),
    ],
)
def test_mt_bench_averages(judgments, model, turns, expected):
    scores = [mt_bench.parse_score(r["judgment"]) for r in judgments if r["model"] == model and r["turn"] in turns]
    assert mt_bench.average(scores) == pytest.approx(expected, abs=5e-7)


def recorded_answers(row, question):
    """The answers inside a recorded judge prompt, by what stands around them."""
    text = row["user_prompt"]
    if row["turn"] == 1:
        start, end = "[The Start of Assistant's Answer]\n", "\n[The End of Assistant's Answer]"
        return [text[text.rindex(start) + len(start) : text.rindex(end)]]
    tail = text[text.index("<|The Start of Assistant A's Conversation with User|>") :]
    first_mark = f"### User:\n{question['turns'][0]}\n\n### Assistant A:\n"
    second_mark = f"\n\n### User:\n{question['turns'][1]}\n\n### Assistant A:\n"
    first = tail.index(first_mark) + len(first_mark)
    second = tail.index(second_mark, first)
    end = tail.rindex("\n\n<|The End of Assistant A's Conversation with User|>")
    return [tail[first:second], tail[second + len(second_mark) : end]]


def test_mt_bench_prompts_to_the_byte(shared_data, judgments):
    folder = shared_data / "mt_bench"
    templates = lines(folder / "judge_prompts.jsonl")
    questions = {row["question_id"]: row for row in lines(folder / "question.jsonl")}
    references = {row["question_id"]: row for row in lines(folder / "reference_answer_gpt-4.jsonl")}
    systems = {row["name"]: row["system_prompt"] for row in templates}
    for row in judgments:
        question = questions[row["question_id"]]
        answers = recorded_answers(row, question)
        prompt = mt_bench.judge_prompt(templates, question, answers, row["turn"], references.get(row["question_id"]))
        assert prompt == row["user_prompt"]
        assert prompt.name == row["judge"][1]
        assert prompt.system == systems[prompt.name]


def test_mt_bench_examples_have_their_references(shared_data):
    examples = load("mt_bench", path=shared_data)
    with_reference = [example for example in examples if example.official_reference]
    assert len(examples) == 80
    assert {example.category for example in with_reference} == set(mt_bench.WITH_REFERENCE)
    assert all(len(example.reference) == 2 for example in with_reference)
    assert len(with_reference) == 30


@pytest.fixture(scope="session")
def annotations(shared_data):
    columns = defaultdict(lambda: {"preferences": [], "len_baseline": [], "len_model": [], "index": []})
    with (shared_data / "alpaca_eval" / "annotations.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            model = columns[row["model"]]
            model["preferences"].append(float(row["preference"]))
            model["len_baseline"].append(int(row["len_baseline"]))
            model["len_model"].append(int(row["len_model"]))
            model["index"].append(int(row["row"]))
    return columns


@pytest.fixture(scope="session")
def leaderboard(shared_data):
    with (shared_data / "alpaca_eval" / "leaderboard.csv").open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("model", MODELS)
def test_alpaca_raw_win_rate(annotations, leaderboard, model):
    value, error = alpaca_eval.raw_win_rate(annotations[model]["preferences"])
    assert value == pytest.approx(float(leaderboard[model]["win_rate"]), abs=5e-7)
    wins = np.array(annotations[model]["preferences"]) - 1
    assert error == pytest.approx(100 * wins.std(ddof=1) / len(wins) ** 0.5)


@pytest.mark.parametrize("model", MODELS)
def test_alpaca_length_controlled_win_rate(shared_data, annotations, leaderboard, model):
    published = float(leaderboard[model]["length_controlled_winrate"])
    arguments = annotations[model] | {"auxiliary": shared_data / "alpaca_eval"}
    value, error = alpaca_eval.length_controlled_win_rate(**arguments)
    assert abs(value - published) < 0.2
    assert 0 < error < 5
    grid = np.logspace(-4, 4, 10)
    by_strength = [alpaca_eval.length_controlled_win_rate(**arguments, C=float(c)).value for c in grid]
    assert min(abs(one - published) for one in by_strength) < 0.003


def test_alpaca_all_models_are_here(annotations, leaderboard):
    assert sorted(annotations) == sorted(leaderboard) == MODELS
    assert {model for model in MODELS if len(annotations[model]["index"]) < 805} == {
        "alpaca-7b_verbose",
        "phi-2",
        "text_davinci_001",
    }


def test_alpaca_standard_error_agrees_with_the_bootstrap(shared_data, annotations):
    columns = annotations["gpt-3.5-turbo-1106"]
    auxiliary = alpaca_eval.Auxiliary.of(shared_data / "alpaca_eval")
    claimed = alpaca_eval.length_controlled_win_rate(**columns, auxiliary=auxiliary, C=1.0).standard_error
    draw = np.random.default_rng(0)
    values = []
    for _ in range(120):
        rows = draw.integers(0, 805, 805)
        resampled = {name: [column[row] for row in rows] for name, column in columns.items()}
        values.append(win_rate.controlled_win_rate(**resampled, auxiliary=auxiliary, c=1.0).value)
    assert claimed == pytest.approx(np.std(values, ddof=1), rel=0.25)


@pytest.mark.parametrize(("model", "error"), [("claude-2", 0.877908), ("gpt-3.5-turbo-1106", 0.768291)])
def test_alpaca_leaderboard_error(shared_data, annotations, model, error):
    """The expected values follow from the coefficients that tatsu-lab/alpaca_eval publishes in its weights."""
    rate = alpaca_eval.length_controlled_win_rate(**annotations[model], auxiliary=shared_data / "alpaca_eval")
    assert rate.leaderboard_error == pytest.approx(error, rel=0.01)
    assert rate.standard_error > rate.leaderboard_error


def spoiled(columns, **changes):
    rows = [
        {"preference": p, "len_baseline": b, "len_model": m, "index": i}
        for p, b, m, i in zip(*(columns[n] for n in ("preferences", "len_baseline", "len_model", "index")), strict=True)
    ]
    rows[5] |= changes
    return rows


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"len_model": math.nan}, "row 5 .*length nan"),
        ({"len_model": None}, "row 5 .*len_model=None"),
        ({"len_baseline": math.inf}, "row 5 .*length inf"),
        ({"len_baseline": -1}, "row 5 .*length -1"),
        ({"len_model": "long"}, "row 5 .*'long'"),
        ({"index": 3}, "rows 3 and 5 are both of instruction 3"),
        ({"index": math.nan}, "row 5 .*index nan"),
        ({"index": 1.5}, "row 5 .*index 1.5"),
        ({"preference": "m"}, "row 5 .*preference='m'"),
        ({"preference": 3}, "row 5 .*preference=3"),
    ],
)
def test_alpaca_rows_that_would_spoil_the_others_are_refused(shared_data, annotations, changes, said):
    rows = spoiled(annotations["claude-2"], **changes)
    for auxiliary in (None, shared_data / "alpaca_eval"):
        with pytest.raises(ConfigurationError, match=said):
            win_rate.score_annotations(rows, auxiliary)


def test_alpaca_figures_have_both_errors(shared_data, annotations):
    figures = win_rate.score_annotations(spoiled(annotations["claude-2"]), shared_data / "alpaca_eval")
    assert figures["length_controlled_win_rate"] == pytest.approx(28.155, abs=0.2)
    assert figures["lc_standard_error"] < figures["length_controlled_standard_error"]
    with pytest.raises(ConfigurationError, match="rows 0 and 1"):
        alpaca_eval.length_controlled_win_rate([1, 2], [1, 1], [1, 1], [4, 4], shared_data / "alpaca_eval")


def test_alpaca_missing_preferences_do_not_train(shared_data, annotations):
    columns = annotations["claude-2"]
    some = columns | {"preferences": [None if row % 7 == 0 else p for row, p in enumerate(columns["preferences"])]}
    with_gaps = alpaca_eval.length_controlled_win_rate(**some, auxiliary=shared_data / "alpaca_eval", C=1.0)
    whole = alpaca_eval.length_controlled_win_rate(**columns, auxiliary=shared_data / "alpaca_eval", C=1.0)
    assert abs(with_gaps.value - whole.value) < 2
    assert with_gaps.standard_error > whole.standard_error


def test_alpaca_auxiliary_in_every_form(shared_data, annotations):
    file = shared_data / "alpaca_eval" / "df_gamed.csv"
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    results = {
        alpaca_eval.length_controlled_win_rate(**annotations["phi-2"], auxiliary=form, C=1.0)
        for form in (file, str(file), file.parent, rows, columns, alpaca_eval.Auxiliary.of(rows))
    }
    assert len(results) == 1


def test_alpaca_difficulty_of_the_two_files_agrees(shared_data):
    folder = shared_data / "alpaca_eval"
    with (folder / "instruction_difficulty.csv").open(newline="") as handle:
        published = {int(row["index"]): float(row["instruction_difficulty"]) for row in csv.DictReader(handle)}
    ours = alpaca_eval.Auxiliary.of(folder).difficulty()
    assert ours.keys() == published.keys()
    assert all(ours[row] == pytest.approx(published[row]) for row in published)


def test_flask_skill_counts(shared_data):
    examples = load("flask", path=shared_data)
    counts = Counter(flask.skill_name(skill) for example in examples for skill in example.skills)
    assert len(examples) == 1740
    assert counts == {
        "comprehension": 1168,
        "commonsense understanding": 711,
        "factuality": 617,
        "logical correctness": 488,
        "completeness": 460,
        "readability": 450,
        "conciseness": 326,
        "insightfulness": 298,
        "logical robustness": 224,
        "logical efficiency": 182,
        "metacognition": 150,
        "harmlessness": 145,
    }
    assert sum(len(example.skills) != 3 for example in examples) == 1
    assert len(load("flask", "hard", path=shared_data)) == 89


def test_flask_official_prompt(shared_data):
    templates = lines(shared_data / "flask" / "judge_prompts.jsonl")
    item = lines(shared_data / "flask" / "hard.jsonl")[0]
    levels = {str(level): f"level {level} {{x}}" for level in range(1, 6)}
    rubric = [{"Skill": skill, "Criteria": f"about {skill}", "Scoring": levels} for skill in item["skill"]]
    system, prompt = flask.judge_prompt(templates, item, "a {response} with {braces}", rubric)
    template = next(row for row in templates if row["prompt_id"] == 2)
    skills = "".join(
        f"\n{skill}: about {skill}" + "".join(f"\nScore {n}: level {n} {{x}}" for n in range(1, 6)) + "\n\n"
        for skill in item["skill"]
    )
    assert system == template["system_prompt"]
    assert prompt == template["prompt_template"].format(
        skills=skills,
        question=item["instruction"],
        response="a {response} with {braces}",
        sample_answer=item["answer"],
        num=3,
        **template["defaults"],
    )


def test_alpaca_examples(shared_data):
    examples = load("alpaca_eval", path=shared_data)
    assert [example.index for example in examples] == list(range(805))
    assert examples[0].inputs().keys() == ["instruction"]
