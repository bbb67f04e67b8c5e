"""AlpacaEval, MT-Bench and FLASK from end to end: the command line, agents and judge behind one server on loopback.

The data is written by the tests in the official file formats; official prompts are those of the shared data.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.loopback import Body, Call, Loopback, refusal

from moa_dspy.cli import main
from moa_dspy.data import flask
from moa_dspy.evaluation.recipes import RECIPES, recipe

SKILLS = ["Logical Correctness", "Readability", "Conciseness"]


def text_of(body: Body) -> str:
    return "\n\n".join(str(message["content"]) for message in body["messages"])


def reply(body: Body) -> str:
    """Agents answer by name; the judge likes long answers."""
    asked = text_of(body)
    if body["model"] != "judge":
        return f"an answer of {body['model']}"
    if "[[ ## verdict ## ]]" in asked:
        shown = str(body["messages"][-1]["content"]).partition("[[ ## answer_a ## ]]")[2]
        return fields(verdict="A" if "an answer of" in shown.partition("[[ ## answer_b ## ]]")[0] else "B")
    if "[[ ## scores ## ]]" in asked:
        return fields(reasons="so", scores=json.dumps(dict.fromkeys(SKILLS, 4)))
    if "double square brackets" in asked or "[[rating]]" in asked:
        return "Rating: [[8]]" if "and then" not in asked else "Rating: [[6]]"
    if "[[ ## score ## ]]" in asked:
        return fields(reasons="so", score="7")
    return "so be it {'Logical_Correctness': 5, 'Readability': 'N/A', 'Conciseness': 3}"


def fields(**values: str) -> str:
    blocks = [f"[[ ## {name} ## ]]\n{value}" for name, value in values.items()]
    return "\n\n".join([*blocks, "[[ ## completed ## ]]"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Loopback]:
    with Loopback(reply) as served:
        monkeypatch.setenv("HOSTED_VLLM_API_BASE", served.url)
        monkeypatch.chdir(tmp_path)
        yield served


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three benchmarks in the formats of their authors."""
    folder = tmp_path / "data"
    for name in ("alpaca_eval", "mt_bench", "flask"):
        (folder / name).mkdir(parents=True)
    baseline = [
        {"dataset": "made", "instruction": f"Do thing {n}.", "output": "done", "generator": "other"} for n in range(6)
    ]
    (folder / "alpaca_eval" / "alpaca_eval_gpt4_baseline.json").write_text(json.dumps(baseline))
    questions = [
        {"question_id": 80 + n, "category": category, "turns": [f"Ask {n}.", "and then?"]}
        for n, category in enumerate(("writing", "math", "stem"))
    ]
    reference = [{"question_id": 81, "choices": [{"turns": ["one", "two"]}]}]
    _lines(folder / "mt_bench" / "question.jsonl", questions)
    _lines(folder / "mt_bench" / "reference_answer_gpt-4.jsonl", reference)
    instances = [
        {"idx": n, "instruction": f"Explain {n}.", "answer": "so", "task": "t", "skill": SKILLS, "domain": [],
         "difficulty": "expert-level knowledge" if n else "simple lifestyle knowledge"}
        for n in range(3)
    ]  # fmt: skip
    _lines(folder / "flask" / "flask_hard_evaluation.jsonl", instances)
    rubric = [
        {"Skill": skill, "Criteria": "how good?", "Scoring": {str(n): "so" for n in range(1, 6)}} for skill in SKILLS
    ]
    (folder / "flask" / "skillset.json").write_text(json.dumps(rubric))
    return folder


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = main(["eval", *arguments, "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    result: dict[str, Any] = json.loads(said.out)
    return result


JUDGE = ("--judge", "hosted_vllm/judge")
AGENTS = ("--agent", "hosted_vllm/one@0.7", "--agent", "hosted_vllm/two@0.7", "--layers", "1")


def test_alpaca_eval(server: Loopback, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shutil.copy(_gamed(data), data / "alpaca_eval" / "df_gamed.csv")
    outputs = tmp_path / "model_outputs.json"
    result = evaluated(
        capsys,
        "--benchmark",
        "alpaca_eval",
        *AGENTS,
        *JUDGE,
        "--path",
        str(data),
        "--outputs",
        str(outputs),
        "--name",
        "ours",
    )
    assert result["score"]["value"] == 1.0
    assert result["figures"]["win_rate"] == 100.0
    assert result["figures"]["protocols"] == ["own"]
    assert result["judge"]["calls"] == 12
    rows = json.loads(outputs.read_text())
    assert [row["instruction"] for row in rows] == [f"Do thing {n}." for n in range(6)]
    assert set(rows[0]) == {"dataset", "instruction", "output", "generator"}
    assert rows[0]["generator"] == "ours"
    assert rows[0]["output"] == "an answer of one"


def _gamed(data: Path) -> Path:
    """Auxiliary rows in the official format, for the six instructions."""
    path = data / "gamed.csv"
    rows = [f"0.{n + 2},{n % 6},{n / 10 - 0.5},{n % 3 - 1},False,gamed" for n in range(12)]
    head = "preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline,model"
    path.write_text(
        "\n".join([head, *rows])
        .replace("0.10,", "0.9,")
        .replace("0.11,", "0.9,")
        .replace("0.12,", "0.9,")
        .replace("0.13,", "0.9,")
        + "\n"
    )
    return path


def test_mt_bench_asks_two_turns_at_its_own_temperatures(
    server: Loopback, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    outputs = tmp_path / "answers.jsonl"
    result = evaluated(
        capsys,
        "--benchmark",
        "mt_bench",
        *AGENTS,
        *JUDGE,
        "--path",
        str(data),
        "--outputs",
        str(outputs),
        "--name",
        "ours",
    )
    assert result["figures"]["turns"] == [7.0, 7.0]
    assert result["score"]["value"] == pytest.approx(0.7)
    assert set(result["categories"]) == {"writing", "math", "stem"}
    temperatures = {_asked(call): call.body.get("temperature") for call in _agents(server)}
    assert temperatures == {"Ask 0.": 0.7, "Ask 1.": 0.0, "Ask 2.": 0.1}
    second = [call.prompt for call in _agents(server) if "and then?" in call.prompt]
    assert second
    assert all("an answer of" in prompt for prompt in second)
    rows = [json.loads(line) for line in outputs.read_text().splitlines()]
    assert [row["question_id"] for row in rows] == [80, 81, 82]
    assert set(rows[0]) == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    assert rows[0]["choices"] == [{"index": 0, "turns": ["an answer of one", "an answer of one"]}]
    assert len({row["answer_id"] for row in rows}) == 3


def _agents(server: Loopback) -> list[Call]:
    return [call for call in server.calls if call.body["model"] != "judge"]


def _asked(call: Call) -> str:
    return next(f"Ask {n}." for n in range(3) if f"Ask {n}." in call.prompt)


def test_mt_bench_with_the_official_prompts(
    server: Loopback, data: Path, capsys: pytest.CaptureFixture[str], shared_data: Path
) -> None:
    prompts = str(shared_data / "mt_bench")
    result = evaluated(
        capsys, "--benchmark", "mt_bench", *AGENTS, *JUDGE, "--path", str(data), "--judge-prompts", prompts
    )
    assert result["figures"]["turns"] == [8.0, 6.0]
    assert result["figures"]["average"] == 7.0
    assert result["figures"]["protocols"] == ["official"]
    judged = [call.body for call in server.calls if call.body["model"] == "judge"]
    assert {body["temperature"] for body in judged} == {0.0}


def test_mt_bench_with_official_prompts_and_no_references_says_so_and_is_judged(
    server: Loopback, data: Path, capsys: pytest.CaptureFixture[str], shared_data: Path
) -> None:
    (data / "mt_bench" / "reference_answer_gpt-4.jsonl").unlink()
    shutil.copy(shared_data / "mt_bench" / "judge_prompts.jsonl", data / "mt_bench")
    arguments = [
        "--benchmark",
        "mt_bench",
        *AGENTS,
        *JUDGE,
        "--path",
        str(data),
        "--judge-prompts",
        str(data / "mt_bench"),
        "--json",
    ]
    assert main(["eval", *arguments]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["scored"] == 3
    assert result["figures"]["protocols"] == ["official", "official prompts, no reference"]
    assert "warning: official prompts, no reference: 1 of 3 questions (ids 81)" in said.err.splitlines()[0]
    assert said.err.count("no reference") == 1
    assert result["remarks"][0].startswith("official prompts, no reference")


def test_a_file_of_official_outputs_with_gaps_is_said_to_have_them(
    server: Loopback, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.reply = lambda body: refusal(400, "no") if "Ask 2." in text_of(body) else reply(body)
    outputs = tmp_path / "answers.jsonl"
    arguments = ["--benchmark", "mt_bench", *AGENTS, *JUDGE, "--path", str(data), "--outputs", str(outputs), "--json"]
    assert main(["eval", *arguments]) == 0
    said = capsys.readouterr()
    assert "answers.jsonl holds 2 of 3 answers" in said.err
    assert any("holds 2 of 3 answers" in remark for remark in json.loads(said.out)["remarks"])


def test_a_sample_is_not_taken_for_the_whole_set(
    server: Loopback, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluated(capsys, "--benchmark", "mt_bench", *AGENTS, *JUDGE, "--path", str(data))
    assert result["figures"]["sample"] == "3 of 80 items: not to be compared with figures of all"


def test_figures_that_are_not_there_are_null(server: Loopback, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.reply = lambda body: "I would rather not." if body["model"] == "judge" else reply(body)
    assert main(["eval", "--benchmark", "mt_bench", *AGENTS, *JUDGE, "--path", str(data), "--json", "--quiet"]) == 1
    said = capsys.readouterr()
    assert "NaN" not in said.out
    assert json.loads(said.out)["figures"]["average"] is None


def test_our_own_judge_is_asked_at_temperature_0_unless_told_otherwise(
    server: Loopback, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for judge in ("hosted_vllm/judge", "hosted_vllm/judge@0.5"):
        evaluated(
            capsys,
            "--benchmark",
            "flask",
            "--split",
            "hard",
            *AGENTS,
            "--judge",
            judge,
            "--path",
            str(data),
            "--limit",
            "1",
        )
    judged = [call.body["temperature"] for call in server.calls if call.body["model"] == "judge"]
    assert judged == [0.0, 0.5]


def test_a_recipe_says_why_official_prompts_are_not_used(
    server: Loopback, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _lines(data / "flask" / "judge_prompts.jsonl", [{"prompt_id": 2}])
    (data / "flask" / "skillset.json").unlink()
    assert main(["eval", "--recipe", "flask-small", *JUDGE, "--path", str(data)]) == 2
    assert "has none of skillset.json" in capsys.readouterr().err


def test_flask_with_the_official_prompts(
    server: Loopback, data: Path, capsys: pytest.CaptureFixture[str], shared_data: Path, tmp_path: Path
) -> None:
    shutil.copy(shared_data / "flask" / "judge_prompts.jsonl", data / "flask")
    outputs = tmp_path / "flask.jsonl"
    result = evaluated(
        capsys, "--benchmark", "flask", "--split", "hard", *AGENTS, *JUDGE, "--path", str(data),
        "--judge-prompts", str(data / "flask"), "--outputs", str(outputs),
    )  # fmt: skip
    assert result["figures"]["skills"] == {"logical correctness": 5.0, "conciseness": 3.0}
    assert result["figures"]["not_applicable"] == {"readability": 3}
    assert result["figures"]["protocols"] == ["official"]
    rows = [json.loads(line) for line in outputs.read_text().splitlines()]
    assert rows == [{"question_id": n, "text": "an answer of one"} for n in range(3)]


def test_flask_with_our_own_judge(server: Loopback, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluated(capsys, "--benchmark", "flask", "--split", "hard", *AGENTS, *JUDGE, "--path", str(data))
    assert result["figures"]["skills"] == {skill.lower(): 4.0 for skill in sorted(SKILLS, key=_order)}
    assert result["score"]["value"] == pytest.approx(0.8)


def _order(skill: str) -> int:
    return flask.SKILLS.index(skill.lower())


def test_verdicts_that_cannot_be_read_are_counted_apart(
    server: Loopback, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = lambda body: (
        "I would rather not." if body["model"] == "judge" and "thing 2" in text_of(body) else reply(body)
    )
    result = evaluated(capsys, "--benchmark", "alpaca_eval", *AGENTS, *JUDGE, "--path", str(data))
    assert (result["scored"], result["unparsed"], result["errors"]) == (5, 1, 0)
    assert result["score"]["value"] == 1.0
    assert "not_length_controlled" in result["figures"]


# --------------------------------------------------------------------------------------------------------------------
# Recipes
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alpaca_eval-small", "mt_bench-small", "flask-small"])
def test_a_recipe_goes_from_nothing_to_the_table(
    name: str, server: Loopback, data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = main(["eval", "--recipe", name, "--yes", "--limit", "2", *JUDGE, "--path", str(data)])
    said = capsys.readouterr()
    assert code == 0, said.err
    turns = 2 if name.startswith("mt_bench") else 1
    assert f"{2 * turns * 36:,} calls" in said.err
    assert "our own judge is used, not the official prompts: " in said.err
    assert "unknown" in said.err
    assert "official figures" in said.out
    if recipe(name).published:
        assert next(iter(recipe(name).published.values())) in (77.36, 8.83)
    asked = _agents(server)
    assert len(asked) == 2 * turns * 36
    assert {call.body["model"] for call in asked} == {
        agent.model.removeprefix("hosted_vllm/") for agent in recipe(name).config().agents
    }
    assert {call.body.get("max_tokens", call.body.get("max_completion_tokens")) for call in asked} == {4096}
    assert (tmp_path / f"{name}.jsonl").is_file()
    before = len(server.calls)
    assert main(["eval", "--recipe", name, "--limit", "2", *JUDGE, "--path", str(data), "--quiet"]) == 0
    assert len(server.calls) == before  # all of it has been run: nothing to confirm, nothing to pay


def test_a_recipe_is_not_run_unasked(server: Loopback, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--recipe", "flask-small", *JUDGE, "--path", str(data)]) == 2
    said = capsys.readouterr()
    assert "108 calls" in said.err
    assert said.err.splitlines()[-1] == "error: nobody is there to confirm this; add --yes to run it"
    assert not server.calls


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("said", "code"), [("y\n", 0), ("n\n", 2), ("", 2)])
def test_a_person_is_asked(said: str, code: int, server: Loopback, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdin", Terminal(said))
    monkeypatch.setattr("sys.stderr", shown)
    assert main(["eval", "--recipe", "flask-small", "--limit", "1", *JUDGE, "--path", str(data)]) == code
    assert "run it? [y/N]" in shown.getvalue()
    assert bool(server.calls) == (code == 0)


def test_without_address_or_keys_a_recipe_says_what_to_set(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOSTED_VLLM_API_BASE", raising=False)
    assert main(["eval", "--recipe", "flask-small", "--yes", *JUDGE, "--path", str(data)]) == 2
    assert "set HOSTED_VLLM_API_BASE" in capsys.readouterr().err
    assert main(["eval", "--recipe", "flask-large", "--yes", *JUDGE, "--path", str(data)]) == 2
    said = capsys.readouterr().err
    assert "ANTHROPIC_API_KEY" in said
    assert "FIREWORKS_AI_API_KEY" in said
    assert "$" in said


def test_recipes_are_the_papers_and_marked_where_they_are_not() -> None:
    assert len(RECIPES) == 12
    for each in RECIPES.values():
        config = each.config()
        settings = [*config.agents, config.aggregator]
        assert {(agent.temperature, agent.max_tokens) for agent in settings if agent is not None} == {(0.7, 4096)}
        assert config.architecture["layers"] == each.layers
        assert ("ours" in each.origin) == (each.layers > 1 or each.ensemble == "small")
    one, three = recipe("alpaca_eval-large").config(), recipe("alpaca_eval-large-3-layers").config()
    assert one.agents == three.agents
    assert one.aggregator == three.aggregator
    aggregators = {name: recipe(f"{name}-large").aggregator for name in ("alpaca_eval", "mt_bench", "flask")}
    assert aggregators == {"alpaca_eval": "claude", "mt_bench": "qwen", "flask": "gpt"}


def test_every_large_model_and_judge_has_a_price() -> None:
    import litellm

    models = [agent.model for agent in recipe("flask-large").config().agents] + [
        each.judge for each in RECIPES.values()
    ]
    for model in models:
        name = model if model in litellm.model_cost else model.partition("/")[2]
        assert litellm.model_cost[name]["input_cost_per_token"] > 0, model


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in RECIPES)
    assert main(["eval", "--recipes", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == set(RECIPES)
