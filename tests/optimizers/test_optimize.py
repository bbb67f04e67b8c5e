"""From a program to a better one: what is found, what is kept, what it costs, how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from support import planted
from support.simulated_tasks import exact, examples, simulated

import moa_dspy
from moa_dspy import Agent, AttentionMoA, Budget, ConfigurationError, RunError
from moa_dspy.optimizers import OptimizeProgress, SearchSpace, fit_stop_rule, measure, optimize, search
from moa_dspy.optimizers.students import instructions_of
from moa_dspy.program_file import digest_of
from moa_dspy.testing import ScriptedLM, prompt_of

SPACE = SearchSpace(
    samples=1,
    temperatures=(0.7,),
    shared_temperature=True,
    attention=("none", "full"),
    residual=("synthesis",),
    layers=(1, 2),
)
SEARCH: dict[str, Any] = {"space": SPACE, "n_trials": 3}
PROMPTS: dict[str, Any] = {"method": "copro", "breadth": 5, "depth": 1}


def weak(**options: Any) -> AttentionMoA:
    """One round of proposals of agents that need the planted instruction, and each other."""
    return planted.program_of(planted.agents(planted.told, count=3, cache=True), **options)


def test_architecture_and_prompts_are_found_tested_and_on_record(tmp_path: Path) -> None:
    program, tasks = weak(), planted.examples(0, 72)
    before = digest_of(program)
    result = optimize(program, tasks, metric=planted.right, prompt_lm=planted.writer(), **SEARCH, **PROMPTS)
    assert result.accepted
    assert result.acceptance is not None
    assert result.acceptance.gain.value > 0.2
    assert result.score == result.acceptance.after
    assert digest_of(program) == before
    assert digest_of(result.program) == digest_of(result.candidate) != before
    assert result.ended_by == "done"

    record = result.program.provenance
    assert record is not None
    assert sum(entry.examples for entry in record.data) == 72
    assert [entry.use for entry in record.data] == ["tuning", "held-out"]
    assert (record.method, record.metric) == ("optimize: architecture+copro+stop", "support.planted:right")
    assert record.verdict == result.acceptance.reason == str(result).splitlines()[0]

    report = json.loads(json.dumps(result.report))
    assert report == result.report
    assert [entry["stage"] for entry in report["spent"]] == [
        "architecture", "prompts", "stop", "acceptance", "explanation",
    ]  # fmt: skip
    assert sum(entry["cost"]["calls"] for entry in report["spent"]) == result.cost.calls
    asked = sum(len(agent.lm.requests) for agent in program.agents if isinstance(agent.lm, ScriptedLM))
    assert result.cost.calls >= asked
    assert result.profile is not None
    assert result.profile.score == result.score
    assert (result.contributions is None) == (len(result.program.agents) == 1)

    result.program.save(tmp_path / "program.json")
    lms: Any = {
        spec.name: agent.lm
        for spec, agent in zip(result.program.architecture.agents, result.program.agents, strict=True)
    }
    lms["aggregator"] = result.program.aggregator.lm if result.program.aggregator else None
    loaded = moa_dspy.load(tmp_path / "program.json", lms={k: v for k, v in lms.items() if v is not None})
    again = measure(loaded, tasks, planted.right)
    assert again.score() == measure(result.program, tasks, planted.right).score()
    assert again.cost.calls == 0 or again.errors == 0


def test_where_nothing_is_better_the_program_is_kept() -> None:
    program = AttentionMoA("question -> answer", [simulated("perfect", knows=1.0)], 1, attention="none")
    result = optimize(program, examples(30), metric=exact, method="labeled", explain=False, **SEARCH)
    assert not result.accepted
    assert digest_of(result.program) == digest_of(program)
    assert "kept" in str(result)
    assert result.program.provenance is not None
    assert result.program.provenance.method.startswith("kept, against optimize")


def test_what_only_looks_better_on_the_examples_tuned_on_is_rejected() -> None:
    tune, held = examples(40)[:24], examples(40)[24:]
    known = {example.question for example in tune}

    def cram(request: Any) -> float:
        return 1.0 if any(question in prompt_of(request) for question in known) else 0.1

    lms = [simulated("steady", knows=0.8, seed=3), simulated("crammer", knows=cram, seed=4)]
    program = AttentionMoA("question -> answer", lms, 1, attention="none")
    result = optimize(program, tune, held, metric=exact, parts=["architecture"], explain=False, **SEARCH)
    assert [spec.model for spec in result.candidate.architecture.agents] == ["simulated/crammer"]
    assert result.searched[0].score.value == 1.0
    assert not result.accepted
    assert result.program.architecture == program.architecture


def test_the_stop_rule_is_fitted_on_recorded_probabilities() -> None:
    program, tasks = planted.cautious_program(count=60)
    result = optimize(program, tasks, metric=planted.right, parts=["stop"], explain=False)
    (fit,) = result.stop
    assert fit.graded
    assert fit.chosen.rule.threshold is not None
    assert 0.1 < fit.chosen.rule.threshold <= 0.4
    assert fit.chosen.score.value == 1.0
    assert result.accepted
    assert result.score is not None
    assert result.score.value == 1.0
    traces = [result.program(question=task.question).trace for task in tasks[:2]]
    assert [trace.improved for trace in traces] == [(False,), (True,)]
    assert program.synthesize.fields == {}


def test_fitting_reads_every_rule_off_two_passes_and_keeps_to_a_price() -> None:
    program, tasks = planted.cautious_program(count=20)
    lms: Any = [agent.lm for agent in program.agents]
    fit = fit_stop_rule(program, tasks, planted.right)
    asked = sum(len(lm.requests) for lm in lms)
    calls = sum(len(measure(program, tasks, planted.right).runs) for _ in range(1))
    assert calls == 20
    assert asked == 20 * (program.architecture.max_calls + 1), "the second pass asks only the synthesis anew"
    assert {str(depth.rule) for depth in fit.curve} >= {"1", "2", "2+stop", "2+stop@0.25"}
    cheap = fit_stop_rule(program, tasks, planted.right, affordable=lambda price: price.calls < 4)
    assert cheap.chosen.rule.layers == 1
    assert not cheap.program.architecture.synthesizes


def test_thresholds_are_searched_without_a_further_call() -> None:
    lms = [simulated("a", knows=0.4, finds=0.5), simulated("b", knows=0.5, finds=0.4)]
    options: dict[str, Any] = {"samples": 1, "temperatures": (1.0,), "attention": ("full",), "layers": (3,)}
    fixed: dict[str, Any] = {"residual": ("synthesis",), "aggregators": ("a",), "shared_temperature": True}
    space = SearchSpace(**options, **fixed, thresholds=(0.3, 0.7))
    found = search("question -> answer", lms, space, trainset=examples(24), metric=exact, n_trials=3)
    rules = {f"{row['layers']}{row['early_stop']}{row['threshold']}" for row in found.report["depth_curve"]}
    assert rules == {"3FalseNone", "3TrueNone", "3True0.3", "3True0.7"}
    by_rule = {row["threshold"]: row["price"]["calls"] for row in found.report["depth_curve"] if row["early_stop"]}
    assert by_rule[0.3] > by_rule[0.7], "a higher threshold stops earlier"
    calls = sum(len(lm.requests) for lm in lms)
    assert found.cost.calls == calls
    rule = found.program.architecture
    again = measure(found.program, examples(24), exact)
    assert again.score().value == found.score.value
    assert again.cost.calls == 0, "the program found is the one whose runs were read"
    assert rule.layers == 3


def test_a_further_round_searches_with_the_prompts_that_were_found() -> None:
    program = weak()
    result = optimize(
        program,
        planted.examples(0, 40),
        metric=planted.right,
        prompt_lm=planted.writer(),
        rounds=2,
        parts=["architecture", "prompts"],
        explain=False,
        **SEARCH,
        **PROMPTS,
    )
    assert [bool(each["search"] and each["prompts"]) for each in result.report["rounds"]] == [True, True]
    names = [found.study.study_name for found in result.searched]
    assert names[0] == "moa-dspy"
    assert names[1].startswith("moa-dspy-2-")
    assert result.compiled[0].gain.value > 0
    found, tuned = (instructions_of(one.program) for one in (result.searched[1], result.compiled[0]))
    assert planted.PHRASE in tuned.values()
    assert {role: found[role] for role in found if role in tuned} == {
        role: tuned[role] for role in tuned if role in found
    }
    assert result.searched[1].score.value > result.searched[0].score.value


def test_an_aggregator_of_its_own_stays_a_choice_and_proposes_nothing() -> None:
    boss = simulated("boss", knows=0.0)
    lms = [simulated("a", knows=0.6), simulated("b", knows=0.6)]
    program = AttentionMoA("question -> answer", lms, 1, aggregator=Agent(boss), attention="none")
    result = optimize(program, examples(20), metric=exact, parts=["architecture"], explain=False, **SEARCH)
    found = result.searched[0].report
    assert {spec["name"] for spec in found["agents"]} == {"a", "b"}
    assert [spec["name"] for spec in found["aggregators"]] == ["boss"]
    asked = [prompt_of(request) for request in boss.requests]
    assert all("Candidate Answers" in prompt or "Rounds" in prompt for prompt in asked)


class TestBudget:
    @pytest.mark.parametrize("calls", [60, 400])
    def test_it_is_kept_and_the_best_so_far_is_tested(self, calls: int) -> None:
        result = optimize(
            weak(),
            planted.examples(0, 45),
            metric=planted.right,
            prompt_lm=planted.writer(),
            budget=Budget(calls=calls),
            **SEARCH,
            **PROMPTS,
        )
        assert result.cost.calls <= calls + 8 * 30, "only calls under way exceed it"
        assert result.ended_by == "budget"
        assert result.report["notes"]
        if result.acceptance is None:
            assert "kept" in str(result)
            assert digest_of(result.program) == digest_of(weak())

    def test_the_same_call_with_more_of_it_pays_only_for_what_was_missing(self) -> None:
        def run(budget: Budget | None) -> Any:
            return optimize(
                weak(), planted.examples(0, 40), metric=planted.right, budget=budget, explain=False,
                parts=["architecture", "stop"], **SEARCH,
            )  # fmt: skip

        first = run(Budget(calls=150))
        rest = run(None)
        with dspy.context():
            whole = run(None)
        assert first.ended_by == "budget"
        assert rest.ended_by == "done"
        assert whole.cost.calls == 0
        assert first.cost.calls > 0 < rest.cost.calls

    def test_programs_that_fail_everywhere_are_an_error(self) -> None:
        def fail(request: Any) -> str:
            raise RuntimeError("out of order")

        program = AttentionMoA("question -> answer", [ScriptedLM(fail)], 1, attention="none")
        with pytest.raises(RunError, match="out of order"):
            optimize(program, examples(12), metric=exact, method="labeled", parts=["prompts"])


def test_progress_has_an_end_in_sight() -> None:
    seen: list[OptimizeProgress] = []
    optimize(weak(), planted.examples(0, 30), metric=planted.right, method="labeled", progress=seen.append, **SEARCH)
    parts = list(dict.fromkeys((at.number, at.part, at.of) for at in seen))
    names = ["architecture", "prompts", "stop", "acceptance", "explanation"]
    assert parts == [(number, name, 5) for number, name in enumerate(names, 1) if (number, name, 5) in parts]
    assert parts[-1][0] == 5
    assert all(0 <= at.done <= 1 for at in seen)
    costs = [at.cost.calls for at in seen]
    assert costs == sorted(costs)
    assert max(at.done for at in seen if at.part == "architecture") > 0.9
    assert seen[-1].best is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": None}, "there is no metric"),
        ({"trainset": []}, "0 examples to tune on"),
        ({"heldout": examples(30)[:4]}, "4 of 4 held-out examples are among those"),
        ({"parts": ["prompt"]}, "must be some of architecture, prompts, stop"),
        ({"parts": "prompts"}, "must be some of"),
        ({"rounds": 0}, "rounds=0"),
        ({"method": "magic"}, "no method 'magic'"),
        ({"breadth": 3}, "has no option breadth"),
        ({"objective": "speed"}, "objective='speed' is none"),
        ({"objective": "score_at_price"}, "price= goes with"),
        ({"program": dspy.Predict("a -> b")}, "program is an AttentionMoA"),
        ({"concurrency": 0}, "lets nothing run"),
        ({"alpha": 2}, "alpha"),
        ({"budget": Budget(usd=1.0)}, "the price of simulated/a is not known; limit calls"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_paid(change: dict[str, Any], message: str) -> None:
    lm = simulated("a", knows=0.5)
    program = AttentionMoA("question -> answer", [lm], 1, attention="none")
    given: dict[str, Any] = {"program": program, "trainset": examples(30), "metric": exact, **change}
    with pytest.raises(ConfigurationError, match=message):
        optimize(**given)
    assert lm.requests == []
