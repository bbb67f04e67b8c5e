"""Where a program comes from: on record in its file, through saving and loading, and shown to a reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.simulated_tasks import exact, examples, simulated

from moa_dspy import Agent, AttentionMoA, ProgramFileError, Tokens, Usage, load
from moa_dspy.cli import main
from moa_dspy.data.metrics.text import ExactMatch
from moa_dspy.optimizers import Provenance, Score, accept, compare, provenance_of, stamp
from moa_dspy.optimizers.measuring import metric_name

TASKS = examples(30)


def program() -> AttentionMoA:
    return AttentionMoA("question -> answer", [Agent(simulated("a"), "a"), Agent(simulated("b"), "b")], layers=1)


def record(of: AttentionMoA, **options: Any) -> Provenance:
    return provenance_of(
        of,
        "gepa",
        **{
            "metric": exact,
            "data": {"train": TASKS[:20], "held-out": TASKS[20:]},
            "names": {"train": "/Users/me/secret project/tasks.jsonl"},
            "seeds": {"gepa": 3},
            "scores": {"held-out": Score.of([1.0, 0.0, 1.0])},
            "cost": Usage(calls=120, tokens=Tokens(prompt=4500), cost_usd=0.25, seconds=60),
            **options,
        },
    )


def lms() -> dict[str, dspy.BaseLM]:
    return {"a": simulated("a"), "b": simulated("b")}


def test_it_stays_with_a_program_through_saving_and_loading(tmp_path: Path) -> None:
    plain = program()
    stamped = stamp(plain, record(plain))
    assert plain.provenance is None
    stamped.save(tmp_path / "p.json")
    loaded = load(tmp_path / "p.json", lms())
    assert loaded.provenance == stamped.provenance
    loaded.save(tmp_path / "q.json")
    assert load(tmp_path / "q.json", lms()).provenance == stamped.provenance
    assert json.loads((tmp_path / "p.json").read_text())["format_version"] == 1
    assert loaded.deepcopy().provenance == loaded.provenance


def test_files_without_it_load_and_stay_without(tmp_path: Path) -> None:
    program().save(tmp_path / "p.json")
    assert "provenance" not in json.loads((tmp_path / "p.json").read_text())
    assert load(tmp_path / "p.json", lms()).provenance is None


def test_what_is_on_record() -> None:
    made = record(program())
    assert made.method == "gepa"
    assert made.metric == "support.simulated_tasks:exact"
    assert [(data.use, data.examples) for data in made.data] == [("train", 20), ("held-out", 10)]
    assert made.data[0].digest != made.data[1].digest
    assert made.data[0].digest == record(program()).data[0].digest
    assert made.seeds == {"gepa": 3}
    assert (made.scores[0].what, made.scores[0].examples) == ("held-out", 3)
    assert made.cost is not None
    assert made.cost.calls == 120
    assert {"moa-dspy", "dspy"} <= made.versions.keys()
    assert made.date.tzinfo is not None


def test_no_path_of_the_machine_is_in_it() -> None:
    text = record(program()).model_dump_json()
    assert "tasks.jsonl" in text
    assert "secret project" not in text
    assert str(Path.cwd()) not in text


def test_the_outcome_of_a_held_out_acceptance_is_taken_over() -> None:
    before = program()
    outcome = accept(before, program(), valset=TASKS[20:], metric=exact, tuned_on=TASKS[:20])
    made = provenance_of(outcome.program, "gepa", metric=exact, outcome=outcome)
    assert made.verdict == outcome.reason
    assert [figure.what for figure in made.scores] == ["baseline, held-out", "candidate, held-out", "their difference"]
    assert made.scores[-1].p == outcome.p
    assert made.cost is not None
    assert made.cost.calls == outcome.cost.paid_calls


def test_the_outcome_of_a_comparison_is_taken_over() -> None:
    result = compare(program(), baselines=["single"], devset=TASKS[:10], metric=exact)
    made = provenance_of(result.winner, "compare", outcome=result)
    assert made.verdict == result.verdict
    assert any(figure.what.startswith("the single model") for figure in made.scores)


def test_a_later_record_keeps_the_earlier_one(tmp_path: Path) -> None:
    tuned = stamp(program(), record(program()))
    compared = stamp(tuned, record(tuned, scores={}).model_copy(update={"method": "compare"}))
    compared.save(tmp_path / "p.json")
    loaded = load(tmp_path / "p.json", lms()).provenance
    assert loaded is not None
    assert loaded.earlier is not None
    assert (loaded.method, loaded.earlier.method) == ("compare", "gepa")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("x", "provenance"),
        ({"method": "gepa"}, "provenance.date"),
        ({"method": "gepa", "date": "2026-01-01T00:00:00Z", "scores": [{"what": "x"}]}, "provenance.scores.0.value"),
    ],
)
def test_a_damaged_record_is_refused_in_one_line(damage: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    program().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "provenance": damage}))
    with pytest.raises(ProgramFileError, match=says) as caught:
        load(path, lms())
    assert "\n" not in str(caught.value)
    assert main(["show", str(path)]) == 2


def test_a_record_with_more_than_is_known_here_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    stamp(program(), record(program())).save(path)
    content = json.loads(path.read_text())
    content["provenance"]["of_tomorrow"] = 1
    path.write_text(json.dumps(content))
    assert load(path, lms()).provenance is not None


def test_show_prints_it_for_a_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.json"
    stamp(program(), record(program())).save(path)
    assert main(["show", str(path)]) == 0
    text = capsys.readouterr().out
    section = text[text.index("Provenance") : text.index("Task")]
    for said in ("gepa", "support.simulated_tasks:exact", "20 examples of tasks.jsonl", "0.667 [", "$0.2500", "UTC"):
        assert said in section
    assert "changed since" not in text
    assert main(["show", str(path), "--json"]) == 0
    view = json.loads(capsys.readouterr().out)
    assert view["provenance"]["method"] == "gepa"
    assert view["changed"] is False


def test_show_says_where_the_program_is_no_longer_the_one_that_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.json"
    stamped = stamp(program(), record(program()))
    stamped.aggregate.signature = stamped.roles.aggregate.with_instructions("Guess.")
    stamped.save(path)
    assert main(["show", str(path)]) == 0
    assert "The program has been changed since" in capsys.readouterr().out


def test_metrics_have_names() -> None:
    assert metric_name(exact) == "support.simulated_tasks:exact"
    assert metric_name(ExactMatch()) == "ExactMatch"
