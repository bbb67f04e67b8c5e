"""From a program to a better one: what is found, what is kept, what it costs, how it ends."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import dspy
import pytest
from support import planted
from support.simulated_tasks import ANSWERS, exact, examples, simulated

import moa_dspy
from moa_dspy import Agent, AttentionMoA, Budget, ConfigurationError, RunError, Usage
from moa_dspy.files.program_file import digest_of
from moa_dspy.optimizers import (
    Copro,
    OptimizeProgress,
    PromptJob,
    SearchSpace,
    contributions,
    fit_stop_rule,
    forecast,
    measure,
    optimize,
    profile,
    render,
    search,
)
from moa_dspy.optimizers.prompts.student import instructions_of
from moa_dspy.testing import ScriptedLM, prompt_of

pytestmark = pytest.mark.slow

SPACE = SearchSpace(
    samples=1,
    temperatures=(0.7,),
    shared_temperature=True,
    attention=("none", "full"),
    residual=("synthesis",),
    layers=(1, 2),
)
SEARCH: dict[str, Any] = {"space": SPACE, "n_trials": 3}
PROMPTS: dict[str, Any] = {"method": Copro(breadth=5, depth=1)}


def weak(**options: Any) -> AttentionMoA:
    """One round of proposals of agents that need the planted instruction, and each other."""
    return planted.program_of(planted.agents(planted.told, count=3, cache=True), **options)


def test_architecture_and_prompts_are_found_tested_and_on_record(tmp_path: Path) -> None:
    program, tasks, writer = weak(), planted.examples(0, 72), planted.writer()
    before = digest_of(program)
    result = optimize(program, trainset=tasks, metric=planted.right, prompt_lm=writer, **SEARCH, **PROMPTS)
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
    assert record.method.startswith("optimize: ")
    assert set(record.method.removeprefix("optimize: ").split("+")) <= {"architecture", "copro", "stop", "gate"}
    assert "copro" in record.method
    assert record.metric == "support.planted:right"
    assert record.verdict == result.acceptance.reason == str(result).splitlines()[0]

    report = json.loads(json.dumps(result.report))
    assert report == result.report
    assert [entry["stage"] for entry in report["spent"]] == [
        "prompts", "architecture", "prompts again", "stop", "acceptance", "gate", "explanation",
    ]  # fmt: skip
    assert report["rounds"][0]["block"]["kind"] == "compile"
    assert (report["gate"] is None) == (len(result.program.agents) == 1), "one agent has nobody to agree with"
    assert report["gate"] is None or (report["gate"]["gate"] == "off" and report["gate"]["runs"] <= 72)
    assert sum(Usage.model_validate(entry["cost"]).paid_calls for entry in report["spent"]) == result.cost.paid_calls
    asked = sum(len(agent.lm.requests) for agent in program.agents if isinstance(agent.lm, ScriptedLM))
    assert 0 < result.cost.paid_calls - asked <= len(writer.requests), "COPRO asks for several completions in one call"
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
    assert again.cost.paid_calls == 0 or again.errors == 0


def test_where_nothing_is_better_the_program_is_kept() -> None:
    program = AttentionMoA("question -> answer", [simulated("perfect", knows=1.0)], layers=1, attention="none")
    result = optimize(program, trainset=examples(30), metric=exact, method="labeled", explain=False, **SEARCH)
    assert not result.accepted
    assert digest_of(result.program) == digest_of(program)
    assert "kept" in str(result)
    assert result.program.provenance is not None
    assert result.program.provenance.method.startswith("kept: optimize")


def test_what_only_looks_better_on_the_examples_tuned_on_is_rejected() -> None:
    tune, held = examples(40)[:24], examples(40)[24:]
    known = {example.question for example in tune}

    def cram(request: Any) -> float:
        return 1.0 if any(question in prompt_of(request) for question in known) else 0.1

    lms = [simulated("steady", knows=0.8, seed=3), simulated("crammer", knows=cram, seed=4)]
    program = AttentionMoA("question -> answer", lms, layers=1, attention="none")
    result = optimize(
        program, trainset=tune, valset=held, metric=exact, parts=["architecture"], explain=False, **SEARCH
    )
    assert [spec.model for spec in result.candidate.architecture.agents] == ["simulated/crammer"]
    assert result.searched[0].score.value == 1.0
    assert not result.accepted
    assert result.program.architecture == program.architecture


def test_the_stop_rule_is_fitted_on_recorded_probabilities() -> None:
    program, tasks = planted.cautious_program(count=60)
    result = optimize(program, trainset=tasks, metric=planted.right, parts=["stop"], explain=False)
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
    fit = fit_stop_rule(program, trainset=tasks, metric=planted.right)
    asked = sum(len(lm.requests) for lm in lms)
    assert asked == 20 * (program.architecture.max_calls + 1), "the second pass asks only the synthesis anew"
    assert {str(depth.rule) for depth in fit.curve} >= {"1", "2", "2+stop", "2+stop@0.25"}
    cheap = fit_stop_rule(program, trainset=tasks, metric=planted.right, affordable=lambda price: price.calls < 4)
    assert cheap.chosen.rule.layers == 1
    assert not cheap.program.architecture.synthesizes


def test_thresholds_are_searched_without_a_further_call() -> None:
    lms = [simulated("a", knows=0.4, finds=0.5), simulated("b", knows=0.5, finds=0.4)]
    options: dict[str, Any] = {"samples": 1, "temperatures": (1.0,), "attention": ("full",), "layers": (3,)}
    fixed: dict[str, Any] = {"residual": ("synthesis",), "aggregators": ("a",), "shared_temperature": True}
    space = SearchSpace(**options, **fixed, thresholds=(0.3, 0.7))
    found = search("question -> answer", lms, space=space, trainset=examples(24), metric=exact, n_trials=3)
    rules = {f"{row['layers']}{row['early_stop']}{row['threshold']}" for row in found.report["depth_curve"]}
    assert rules == {"3FalseNone", "3TrueNone", "3True0.3", "3True0.7"}
    by_rule = {row["threshold"]: row["price"]["calls"] for row in found.report["depth_curve"] if row["early_stop"]}
    assert by_rule[0.3] > by_rule[0.7], "a higher threshold stops earlier"
    calls = sum(len(lm.requests) for lm in lms)
    assert found.cost.paid_calls == calls
    rule = found.program.architecture
    again = measure(found.program, examples(24), exact)
    assert again.score().value == found.score.value
    assert again.cost.paid_calls == 0, "the program found is the one whose runs were read"
    assert rule.layers == 3


def test_a_further_round_searches_with_the_prompts_that_were_found() -> None:
    program = weak()
    result = optimize(
        program,
        trainset=planted.examples(0, 40),
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
    assert re.fullmatch(r"moa-dspy-(?:[0-9a-f]{8}-)?2-[0-9a-f]{8}", names[1])
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
    program = AttentionMoA("question -> answer", lms, layers=1, aggregator=Agent(boss), attention="none")
    result = optimize(program, trainset=examples(20), metric=exact, parts=["architecture"], explain=False, **SEARCH)
    found = result.searched[0].report
    assert {spec["name"] for spec in found["agents"]} == {"a", "b"}
    assert [spec["name"] for spec in found["aggregators"]] == ["boss"]
    asked = [prompt_of(request) for request in boss.requests]
    assert all("Candidate Answers" in prompt or "Rounds" in prompt for prompt in asked)


class TestBudget:
    @pytest.mark.parametrize("calls", [400, 600])
    def test_it_is_kept_and_the_best_so_far_is_tested(self, calls: int) -> None:
        result = optimize(
            weak(),
            trainset=planted.examples(0, 45),
            metric=planted.right,
            prompt_lm=planted.writer(),
            budget=Budget(calls=calls),
            **SEARCH,
            **PROMPTS,
        )
        assert result.cost.paid_calls <= calls + 40, "only calls under way exceed it"
        assert result.ended_by == "budget"
        assert result.report["notes"]
        if result.acceptance is None:
            assert "kept" in str(result)
            assert digest_of(result.program) == digest_of(weak())

    def test_the_same_call_with_more_of_it_pays_only_for_what_was_missing(self) -> None:
        def run(budget: Budget | None) -> Any:
            return optimize(
                weak(), trainset=planted.examples(0, 40), metric=planted.right, budget=budget, explain=False,
                parts=["architecture", "stop"], **SEARCH,
            )  # fmt: skip

        first = run(Budget(calls=450))
        rest = run(None)
        whole = run(None)
        assert first.ended_by == "budget"
        assert rest.ended_by == "done"
        assert whole.cost.paid_calls == 0
        assert first.cost.paid_calls > 0 < rest.cost.paid_calls

    def test_programs_that_fail_everywhere_are_an_error(self) -> None:
        def fail(request: Any) -> str:
            raise RuntimeError("out of order")

        program = AttentionMoA("question -> answer", [ScriptedLM(fail)], layers=1, attention="none")
        with pytest.raises(RunError, match="out of order"):
            optimize(program, trainset=examples(12), metric=exact, method="labeled", parts=["prompts"])


@pytest.mark.parametrize("count", [6, 12, 40])
def test_a_third_of_the_examples_is_held_out(count: int) -> None:
    program = AttentionMoA("question -> answer", [simulated("a", knows=1.0)], layers=1)
    cost = forecast(program, trainset=examples(count), metric=exact, parts=["prompts"], method="labeled")
    assert cost.notes[0].startswith(f"with {count // 3} examples that decide")


def test_a_budget_that_ends_in_the_explanation_is_not_said_to_cover_nothing() -> None:
    program = AttentionMoA("question -> answer", [simulated("x", knows=0.5), simulated("y", knows=0.5)], layers=1)
    asked = {"trainset": examples(12), "metric": exact, "parts": ["gate"]}
    result = optimize(program, budget=Budget(calls=12 * program.architecture.max_calls), **asked)
    assert result.gate is not None
    assert result.ended_by == "budget"
    assert result.report["verdict"] == "The program is kept: there was nothing to tune."


def test_progress_has_an_end_in_sight() -> None:
    seen: list[OptimizeProgress] = []
    optimize(
        weak(), trainset=planted.examples(0, 30), metric=planted.right, method="labeled", progress=seen.append, **SEARCH
    )
    parts = list(dict.fromkeys((at.number, at.part, at.of) for at in seen))
    names = ["prompts", "architecture", "prompts again", "stop", "acceptance", "gate", "explanation"]
    assert parts == [(number, name, 7) for number, name in enumerate(names, 1)]
    assert all(0 <= at.done <= 1 for at in seen)
    costs = [at.cost.paid_calls for at in seen]
    assert costs == sorted(costs)
    assert max(at.done for at in seen if at.part == "architecture") > 0.9
    assert seen[-1].best is not None


async def awaited(example: dspy.Example, prediction: Any) -> bool:
    return exact(example, prediction)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": None}, "metric=None is invalid"),
        ({"trainset": []}, "0 examples to tune on"),
        ({"valset": examples(30)[:4]}, "4 of 4 held-out examples are among those"),
        ({"parts": ["prompt"]}, "must be some of prompts, architecture, stop, gate"),
        ({"parts": "prompts"}, "must be some of"),
        ({"parts": ["stop", "stop"]}, "each once"),
        ({"rounds": 0}, "rounds=0"),
        ({"rounds": 1.5}, "rounds=1.5 must be a whole number"),
        ({"seed": None}, "seed=None is invalid"),
        ({"budget": 5}, "budget=5 is not a Budget"),
        ({"space": {"samples": 2}}, "is not a SearchSpace"),
        ({"trainset": iter(examples(9))}, "the examples are a list_iterator; pass a list"),
        ({"prompt_lm": "openai/x"}, "prompt_lm='openai/x' must be a model"),
        ({"metric": awaited}, "awaited is async; pass a function that returns the score"),
        ({"method": "magic"}, "method='magic' is unknown"),
        ({"method": print}, "neither a name nor an object with a method tune"),
        (
            {"trainset": [dspy.Example(question=str(n), answer="x") for n in range(9)]},
            "do not say what their inputs are",
        ),
        ({"n_trials": 0}, "n_trials=0 must be"),
        ({"objective": "speed"}, "objective='speed' is unknown"),
        ({"objective": "score_at_price"}, "needs price="),
        ({"program": dspy.Predict("a -> b")}, "program must be an AttentionMoA, not Predict"),
        ({"concurrency": 0}, "concurrency=0 is invalid"),
        ({"alpha": 2}, "alpha"),
        ({"budget": Budget(usd=1.0)}, "the price of simulated/a is not known; limit calls"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_paid(change: dict[str, Any], message: str) -> None:
    lm = simulated("a", knows=0.5)
    program = AttentionMoA("question -> answer", [lm], layers=1, attention="none")
    given: dict[str, Any] = {"program": program, "trainset": examples(30), "metric": exact, **change}
    with pytest.raises(ConfigurationError, match=message):
        optimize(**given)
    assert lm.requests == []


def test_an_unknown_argument_is_refused_like_any_functions() -> None:
    arguments: dict[str, Any] = {"trainset": examples(30), "metric": exact, "trials": 3}
    for function in (optimize, forecast):
        with pytest.raises(TypeError, match="unexpected keyword argument 'trials'"):
            function(weak(), **arguments)


class TestWhatIsGivenCounts:
    def test_a_program_that_no_trial_betters_goes_on_as_it_is(self) -> None:
        lms = [simulated(name, knows=0.5, finds=0.7, adopts=0.9, misled=0.05, seed=n) for n, name in enumerate("abc")]
        program = AttentionMoA("question -> answer", lms, layers=3, attention="full")
        poor = SearchSpace(samples=1, temperatures=(0.7,), layers=(1,), attention=("none",))
        result = optimize(
            program, trainset=examples(40), metric=exact, parts=["architecture"], space=poor, n_trials=3, explain=False
        )
        assert result.acceptance is None
        assert digest_of(result.candidate) == digest_of(program)
        assert any("no trial scores higher than the program itself" in note for note in result.report["notes"])

    def test_every_agent_keeps_the_prompts_that_are_its_own(self) -> None:
        lms = [simulated(name, knows=0.3, seed=n) for n, name in enumerate("abc")]
        program = AttentionMoA("question -> answer", lms, layers=1, attention="none", shared_prompts=False)
        predictors: Any = program.propose
        for predictor, word in zip(predictors, ("ALPHA", "BETA", "GAMMA"), strict=True):
            predictor.signature = predictor.signature.with_instructions(word)
        (found,) = optimize(
            program, trainset=examples(24), metric=exact, parts=["architecture"], n_trials=4, explain=False
        ).searched
        own = dict(zip("abc", ("ALPHA", "BETA", "GAMMA"), strict=True))
        names = [spec.name.partition("-")[0] for spec in found.program.architecture.agents]
        told = [text for name, text in instructions_of(found.program).items() if name.startswith("propose")]
        assert told == [own[name] for name in names]

    def test_prompts_of_an_agent_that_was_left_out_come_back_with_it(self) -> None:
        program = AttentionMoA(
            "question -> answer", [simulated(name) for name in "ab"], layers=1, attention="none", shared_prompts=False
        )
        predictors: Any = program.propose
        for predictor, word in zip(predictors, ("ALPHA", "BETA"), strict=True):
            predictor.signature = predictor.signature.with_instructions(word)
        tuned = AttentionMoA(
            "question -> answer", [Agent(simulated("b"), "b")], layers=1, attention="none", shared_prompts=False
        )
        alone: Any = tuned.propose
        alone[0].signature = alone[0].signature.with_instructions("better BETA")
        whole = SearchSpace(samples=1, temperatures=(0.7,), layers=(1,), attention=("none",), shared_prompts=(False,))
        found = search(
            program.task,
            program.agents,
            space=whole,
            trainset=examples(8),
            metric=exact,
            n_trials=4,
            prompts=[program, tuned],
        )
        texts = {
            tuple(instructions_of(found.program).values())[: len(found.program.agents)],
        }
        assert texts <= {("ALPHA",), ("better BETA",), ("ALPHA", "better BETA")}

    @pytest.mark.parametrize("parts", [["architecture"], ["prompts"]])
    def test_an_aggregator_may_be_one_of_the_agents(self, parts: Any) -> None:
        agents = [Agent(simulated(name, knows=0.5), name=name) for name in "ab"]
        program = AttentionMoA("question -> answer", agents, layers=1, aggregator=agents[0], attention="none")
        result = optimize(
            program,
            trainset=examples(20),
            metric=exact,
            parts=parts,
            method="labeled",
            n_trials=3,
            space=SPACE,
            explain=False,
        )
        if parts == ["architecture"]:
            assert result.searched[0].report["aggregators"] == []

    def test_questions_in_other_letters_are_not_held_out_from_themselves(self) -> None:
        plain = examples(30)
        twins = [dspy.Example(question=e.question.upper(), answer=e.answer).with_inputs("question") for e in plain[:8]]
        lms = [simulated("weak", knows=0.1), simulated("strong", knows=0.95)]
        program = AttentionMoA("question -> answer", lms, layers=1, attention="none")
        metric: Any = lambda example, prediction, trace=None: example.answer == prediction.answer  # noqa: E731
        known = {e.question.upper(): e.answer for e in plain[:8]}
        for lm in lms:
            mind: Any = lm.engine
            mind._reply.__self__.answers.update(known)
        result = optimize(
            program,
            trainset=plain + twins,
            metric=metric,
            parts=["architecture"],
            n_trials=3,
            space=SPACE,
            explain=False,
        )
        sizes = result.report["data"]
        assert sizes["tuning"]["examples"] + sizes["held-out"]["examples"] <= 38


def test_the_stop_rule_is_fitted_on_examples_whose_answers_no_prompt_holds() -> None:
    seen: list[str] = []

    def noted(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
        seen.append(example.question)
        return planted.right(example, prediction)

    program = planted.program_of(planted.agents(planted.shown, count=2, cache=True), layers=2)
    result = optimize(
        program,
        trainset=planted.examples(0, 40),
        metric=noted,
        parts=["prompts", "stop"],
        method="labeled",
        explain=False,
    )
    demos = {demo.question for demo in cast("Any", result.candidate.propose).demos}
    assert demos
    (fit,) = result.stop
    assert fit.chosen.score.examples < result.report["data"]["tuning"]["examples"]
    assert fit.chosen.score.examples == result.compiled[0].report["examples"]["valset"]


def test_an_architecture_that_can_only_be_one_ends_at_once() -> None:
    one = SearchSpace(samples=1, layers=(1,), attention=("none",), temperatures=(0.7,))
    lm = simulated("a", knows=0.6)
    found = search("question -> answer", [lm], space=one, trainset=examples(8), metric=exact, n_trials=5)
    assert found.report["ended_by"] == "space"
    assert len(found.report["trials"]) <= 3


class TestPrices:
    def test_prompts_that_cost_too_much_are_not_taken(self) -> None:
        program = planted.program_of(planted.agents(planted.shown, count=2, cache=True))
        single = SearchSpace(samples=1, temperatures=(0.7,), layers=(1,), attention=("none",), residual=("synthesis",))
        given: dict[str, Any] = {"objective": "score_at_price", "unit": "tokens", "space": single, "n_trials": 4}
        results = [
            optimize(
                program, trainset=planted.examples(0, 60), metric=planted.right, method="labeled", explain=False,
                price=price,
                parts=["architecture", "prompts"], **given,
            )
            for price in (5000, 100)
        ]  # fmt: skip
        assert results[0].accepted
        assert any("costs too much" in note for note in results[1].report["notes"])

    def test_where_no_rule_is_cheap_enough_the_cheapest_is_taken(self) -> None:
        program, tasks = planted.cautious_program(count=10)
        fit = fit_stop_rule(program, trainset=tasks, metric=planted.right, affordable=lambda price: False)
        assert fit.chosen.price.calls == min(depth.price.calls for depth in fit.curve)

    def test_a_program_that_always_fails_is_no_bargain(self) -> None:
        def fail(request: Any) -> str:
            raise RuntimeError("out of order")

        agents = [ScriptedLM(fail, "scripted/broken"), simulated("a", knows=0.9)]
        single = SearchSpace(samples=1, layers=(1,), attention=("none",), temperatures=(0.7,))
        given: dict[str, Any] = {"trainset": examples(16), "metric": exact, "n_trials": 3, "unit": "calls"}
        front = search("question -> answer", agents, space=single, objective=("score", "cost"), **given).pareto
        assert [[spec.name for spec in point.architecture.agents] for point in front] == [["a"]]
        cheap = search("question -> answer", agents, space=single, objective="score_at_price", price=0.5, **given)
        assert [spec.name for spec in cheap.program.architecture.agents] != ["broken"]

    def test_dollars_that_cannot_be_counted_are_refused(self) -> None:
        free = simulated("free")
        free.engine.free = True  # pyright: ignore[reportAttributeAccessIssue]
        program = AttentionMoA("question -> answer", [free], layers=1, attention="none")
        common: dict[str, Any] = {"metric": exact, "parts": ["prompts"], "budget": Budget(usd=1.0)}
        with pytest.raises(ConfigurationError, match="scripted/writer is not known"):
            optimize(program, trainset=examples(20), prompt_lm=planted.writer(), **common)
        with dspy.context(disable_history=True), pytest.raises(ConfigurationError, match="needs DSPy's history"):
            optimize(program, trainset=examples(20), **common)
        with pytest.raises(ConfigurationError, match="scripted/lm in dollars is not known"):
            optimize(
                AttentionMoA("question -> answer", [ScriptedLM("x", "scripted/lm")], layers=1), trainset=examples(20),
                metric=exact,
                objective="score_at_price", price=1.0,
            )  # fmt: skip

    @pytest.mark.parametrize("function", [measure, profile, contributions])
    def test_dollars_of_a_measurement_that_cannot_be_counted_are_refused(self, function: Any) -> None:
        lms = [ScriptedLM("x", "scripted/a"), ScriptedLM("x", "scripted/b")]
        program = AttentionMoA("question -> answer", lms, layers=2)
        refused = pytest.raises(
            ConfigurationError, match="the price of scripted/a, scripted/b is not known; limit calls"
        )
        with refused:
            function(program, examples(4), exact, budget=Budget(usd=1.0))
        with refused:
            fit_stop_rule(program, trainset=examples(4), metric=exact, budget=Budget(usd=1.0))
        assert not any(lm.requests for lm in lms)


class TestTheEnd:
    def test_the_explanation_keeps_to_the_budget(self) -> None:
        lms = [simulated(name, knows=0.9, seed=n) for n, name in enumerate("abcd")]
        program = AttentionMoA("question -> answer", lms, layers=2, attention="full", early_stop=False)
        result = optimize(program, trainset=examples(40), metric=exact, parts=["stop"], budget=Budget(tokens=30_000))
        assert result.cost.tokens.total < 30_000 + 8 * 8_000, "only runs under way exceed it"
        assert result.contributions is None
        assert any(note.startswith("explanation") for note in result.report["notes"])

    def test_what_was_found_stands_where_the_explanation_fails(self) -> None:
        def fail(request: Any) -> str:
            raise RuntimeError("out of order")

        program, tasks = planted.cautious_program(count=60)
        lms: Any = [program.agents[0].lm, ScriptedLM(fail, "scripted/broken")]
        result = optimize(planted.program_of(lms, layers=2), trainset=tasks, metric=planted.right, parts=["stop"])
        assert result.accepted
        assert result.contributions is None
        assert any("what was found before stands" in note for note in result.report["notes"])

    def test_nothing_is_said_to_be_tried_that_was_not(self) -> None:
        program = AttentionMoA("question -> answer", [simulated("a")], layers=1, attention="none")
        asked: dict[str, Any] = {"trainset": examples(20), "metric": exact, "parts": ["architecture"], **SEARCH}
        result = optimize(program, budget=Budget(tokens=1), explain=False, **asked)
        assert "the budget covers no part" in str(result)
        assert result.cost.paid_calls <= 8, "calls under way"

    def test_a_budget_with_which_nothing_can_run_is_refused_with_the_smallest_that_makes_sense(self) -> None:
        lm = simulated("a", cache=False)
        program = AttentionMoA("question -> answer", [lm, simulated("b", cache=False)], layers=1, attention="none")
        asked: dict[str, Any] = {"trainset": examples(15), "metric": exact, "method": "bootstrap", **SEARCH}
        with pytest.raises(ConfigurationError, match=r"5 calls covers no part .* nothing was paid") as error:
            optimize(program, budget=Budget(calls=5), **asked)
        assert not lm.requests
        smallest = int(re.search(r"is (\d+) calls; or", str(error.value)).group(1))  # type: ignore[union-attr]
        result = optimize(program, budget=Budget(calls=smallest), **asked)
        assert result.searched or result.compiled or result.stop
        assert result.cost.paid_calls <= smallest

    @pytest.mark.parametrize("parts", [["architecture", "stop"], ["stop"], ["prompts"], ["gate"]], ids=str)
    def test_a_second_call_that_the_cache_answers_needs_no_more_than_room_for_a_run(self, parts: Any) -> None:
        lms = [simulated("a", knows=0.4), simulated("b", knows=0.6)]
        program = AttentionMoA("question -> answer", lms, layers=2, attention="none")
        asked: dict[str, Any] = {"trainset": examples(30), "metric": exact, "method": "bootstrap", "parts": parts}
        asked |= SEARCH if "architecture" in parts else {}
        first = optimize(program, **asked)
        assert first.cost.paid_calls > 100
        again = optimize(program, budget=Budget(calls=100), **asked)
        assert again.cost.paid_calls == 0
        assert again.report["verdict"] == first.report["verdict"]
        assert digest_of(again.program) == digest_of(first.program)
        assert again.acceptance is None or again.acceptance.reason == getattr(first.acceptance, "reason", None)
        dspy.cache.reset_memory_cache()
        with pytest.raises(ConfigurationError, match="1 calls covers no part of the optimization"):
            optimize(program, budget=Budget(calls=1), **asked)

    def test_a_part_that_the_budget_does_not_cover_is_skipped_before_it_is_paid_for(self) -> None:
        lms = [simulated(name, cache=False) for name in "abc"]
        program = AttentionMoA("question -> answer", lms, layers=1, attention="full")
        asked: dict[str, Any] = {"trainset": examples(15), "metric": exact, "method": "bootstrap", **SEARCH}
        result = optimize(program, budget=Budget(calls=120), **asked)
        spent = {part["stage"]: part["cost"]["calls"] for part in result.report["spent"]}
        notes = result.report["notes"]
        for stage in ("prompts", "architecture", "stop"):
            if any(note.startswith(f"{stage}: the budget does not cover") for note in notes):
                assert spent[stage] == 0
        assert any("of 120 calls were used" in note for note in notes)
        assert (result.profile is None) == any(note.startswith("explanation: the budget does") for note in notes)
        if result.profile is not None and result.contributions is None:
            assert any(note.startswith("explanation: it shows the stages") for note in notes)

    def test_the_estimate_lists_the_parts_in_the_order_of_the_run(self) -> None:
        program = AttentionMoA("question -> answer", [simulated("a"), simulated("b")], layers=1)
        asked: dict[str, Any] = {"trainset": examples(15), "metric": exact, "method": "bootstrap", **SEARCH}
        seen: list[OptimizeProgress] = []
        cost = forecast(program, **asked)
        optimize(program, progress=seen.append, **asked)
        assert [part.part for part in cost.parts] == list(dict.fromkeys(at.part for at in seen))
        rounds = forecast(program, rounds=2, **asked).parts
        assert [part.part for part in rounds[4:7]] == ["architecture", "prompts", "stop"]


class TestOutages:
    def test_a_provider_that_is_down_is_no_result(self, tmp_path: Path) -> None:
        down = [True]

        def reply(request: Any) -> str:
            if down[0]:
                raise RuntimeError("out of order")
            return next(answer for task, answer in ANSWERS.items() if task in prompt_of(request))

        program = AttentionMoA("question -> answer", [ScriptedLM(reply)], layers=1, attention="none")
        given: dict[str, Any] = {"metric": exact, "storage": f"{tmp_path}/study.db", "method": "labeled", **SEARCH}
        with pytest.raises(RunError, match="out of order"):
            optimize(program, trainset=examples(30), **given)
        down[0] = False
        result = optimize(program, trainset=examples(30), **given)
        assert result.score is None or result.score.value == 1.0

    def test_a_bug_is_not_taken_for_a_part_that_failed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def buggy(*_: Any, **__: Any) -> Any:
            raise KeyError("a bug")

        monkeypatch.setattr("moa_dspy.optimizers.optimize_run.fit_stop_rule", buggy)
        program = planted.program_of(planted.agents(count=2, cache=True), layers=2)
        with pytest.raises(KeyError, match="a bug"):
            optimize(
                program,
                trainset=planted.examples(0, 30),
                metric=planted.right,
                method="labeled",
                parts=["prompts", "stop"],
            )


class Ring:
    """Each agent is criticised by the next one."""

    def critics(self, target: int, agents: int, layer: int) -> list[int]:
        return [(target + 1) % agents]


class TestCustomAttention:
    def program(self) -> AttentionMoA:
        lms = [simulated(name, knows=0.5, finds=0.7, adopts=0.9, seed=seed) for seed, name in enumerate("abc")]
        return AttentionMoA("question -> answer", lms, layers=2, attention=Ring())

    @pytest.mark.parametrize("parts", [["architecture"], ["prompts", "stop"]])
    def test_it_is_kept_and_its_record_says_why_it_has_no_architecture(self, parts: Any, tmp_path: Path) -> None:
        program = self.program()
        result = optimize(program, trainset=examples(24), metric=exact, parts=parts, method="labeled", **SEARCH)
        assert isinstance(program.architecture.attention, Ring)
        assert result.report["baseline"]["architecture"] is None
        assert any(note.startswith("attention of the program is a custom object") for note in result.report["notes"])
        assert "No architecture is on record" in render([result.report])
        if parts == ["architecture"]:
            assert result.searched[0].program.architecture.custom_parts == ()
        else:
            assert isinstance(result.candidate.architecture.attention, Ring)
            critiques = result.candidate(question="task 001").trace.select(layer=1, stage="critique")
            assert {(step.agent, step.target) for step in critiques} == {("b", "a"), ("c", "b"), ("a", "c")}
            with pytest.raises(ConfigurationError, match="attention is a custom object"):
                result.candidate.save(tmp_path / "program.json")

    def test_it_is_no_choice_of_a_search(self) -> None:
        with pytest.raises(ConfigurationError, match="cannot be searched; use built-in patterns"):
            SearchSpace(attention=("full", cast("Any", Ring())))


class TestWhatIsHeldOut:
    def test_what_the_program_shows_as_demos_is_tuned_on_or_refused(self) -> None:
        tasks = planted.examples(0, 90)
        program = planted.program_of(planted.agents(planted.shown, count=2, cache=True))
        given: dict[str, Any] = {"metric": planted.right, "parts": ["prompts"], "method": "labeled", "explain": False}
        first = optimize(program, trainset=tasks, **given)
        assert first.accepted
        shown = {demo.question for demo in cast("Any", first.program.propose).demos}
        checked: list[str] = []

        def noted(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
            checked.append(example.question)
            return planted.right(example, prediction)

        again = optimize(first.program, trainset=tasks, seed=1, **given | {"metric": noted, "method": "bootstrap"})
        assert again.report["data"]["held-out"]["examples"] >= 20
        assert any("was tuned on examples before" in note for note in again.report["notes"])
        held = [example for example in tasks if example.question in shown]
        with pytest.raises(ConfigurationError, match="that the program shows its models as demos"):
            optimize(first.program, trainset=[task for task in tasks if task not in held], valset=held, **given)

    def test_questions_asked_again_are_left_out_and_that_is_said(self) -> None:
        program = AttentionMoA("question -> answer", [simulated("a")], layers=1, attention="none")
        result = optimize(
            program, trainset=examples(20) * 2, metric=exact, parts=["architecture"], explain=False, **SEARCH
        )
        sizes = result.report["data"]
        assert sizes["tuning"]["examples"] + sizes["held-out"]["examples"] == 20
        assert "20 examples repeat the question of another one, and are left out" in result.report["notes"]


class TestTheStopRule:
    def test_it_keeps_to_the_space(self) -> None:
        lms = [simulated("a", knows=0.95, finds=0.0, adopts=0.0), simulated("b", knows=0.9, finds=0.0)]
        program = AttentionMoA("question -> answer", lms, layers=3, attention="none")
        deep = SearchSpace(samples=1, temperatures=(0.7,), layers=(3,), attention=("full",), early_stop=(False,))
        result = optimize(
            program,
            trainset=examples(40),
            metric=exact,
            parts=["architecture", "stop"],
            space=deep,
            n_trials=2,
            explain=False,
        )
        (fit,) = result.stop
        assert {(depth.rule.layers, depth.rule.early_stop) for depth in fit.curve} == {(3, False)}

    def test_one_that_stays_as_it_was_is_not_said_to_be_found(self) -> None:
        program = AttentionMoA("question -> answer", [simulated("a", knows=1.0), simulated("b", knows=1.0)], layers=2)
        only = SearchSpace(samples=1, layers=(2,), early_stop=(True,), thresholds=())
        fit = fit_stop_rule(program, trainset=examples(8), metric=exact, space=only)
        again = optimize(fit.program, trainset=examples(20), metric=exact, parts=["stop"], space=only, explain=False)
        assert again.program.provenance is not None
        assert "stop" not in again.program.provenance.method or again.stop[0].program is again.candidate


def test_what_the_method_was_told_is_on_record(tmp_path: Path) -> None:
    result = optimize(
        weak(), trainset=planted.examples(0, 16), metric=planted.right, prompt_lm=planted.writer(),
        objective="score_at_price",
        price=50.0, unit="calls", explain=False, budget=Budget(calls=5000), **SEARCH, **PROMPTS,
    )  # fmt: skip
    record = result.program.provenance
    assert record is not None
    assert record.settings["trials"] == 3
    assert record.settings["objective"] == {"wanted": "score_at_price", "price": 50.0, "unit": "calls"}
    assert record.settings["prompt model"] == "scripted/writer"
    assert record.settings["copro"] == {"breadth": 5, "depth": 1}
    assert record.settings["budget"] == {"calls": 5000}
    rows = dict(record.rows())
    assert "trials 3" in rows["settings"]
    assert "cost of the last call" in rows
    result.program.save(tmp_path / "p.json")
    assert "settings" in (tmp_path / "p.json").read_text()


def test_the_program_itself_is_measured_before_a_search_is_paid_for() -> None:
    weak_one = simulated("c1", knows=0.1, finds=0.0, adopts=0.0, misled=1.0, cache=False)
    program = AttentionMoA("question -> answer", [weak_one, simulated("c2", knows=0.98, cache=False)], layers=3)
    plain = SearchSpace(samples=1, temperatures=(0.7,), layers=(1,), attention=("none",), residual=("none",))
    given: dict[str, Any] = {"metric": exact, "parts": ["architecture"], "space": plain, "n_trials": 3}
    result = optimize(program, trainset=examples(60), budget=Budget(calls=800), explain=False, **given)
    assert result.ended_by == "budget"
    assert not result.searched
    assert "nothing better was found" not in result.report["verdict"]
    assert any("the budget does not cover the runs of the program itself" in note for note in result.report["notes"])
    enough = optimize(program, trainset=examples(60), budget=Budget(calls=6000), explain=False, **given)
    assert [spec.name for spec in enough.candidate.architecture.agents] == ["c2"]
    assert enough.accepted


def test_where_the_ceiling_leaves_no_room_it_stops_after_one_call_of_each_agent_for_an_example() -> None:
    hopeless = [simulated(name, knows=0.0) for name in "abc"]
    program = AttentionMoA("question -> answer", hopeless, layers=1)
    tasks = examples(30)
    options: dict[str, Any] = {"trainset": tasks[:20], "valset": tasks[20:], "metric": exact, **SEARCH}
    options |= {"parts": ["architecture"]}
    forecasted = forecast(program, least_gain=0.2, **options)
    assert next((part.part, part.most.calls) for part in forecasted.parts) == ("ceiling", 60)
    result = optimize(program, least_gain=0.2, **options)
    assert sum(len(lm.requests) for lm in hopeless) == 3 * 20 == result.cost.paid_calls
    assert result.program.provenance is not None
    assert (result.acceptance, result.searched, result.profile) == (None, (), None)
    assert result.ceiling is not None
    assert result.ceiling.all_wrong == 20
    assert "its agents' ceiling leaves room for a gain of 18.5%, less than 20.0%" in str(result)
    assert "Ceiling of the agents" in render([result.report])


def test_where_there_is_room_the_search_goes_on_and_pays_the_first_calls_once() -> None:
    lms = [simulated(name, knows=0.5) for name in "ab"]
    program = AttentionMoA("question -> answer", lms, layers=1)
    options: dict[str, Any] = {"trainset": examples(24), "metric": exact, "parts": ["architecture"], "explain": False}
    result = optimize(program, least_gain=0.02, **options, **SEARCH)
    assert result.searched
    assert result.ceiling is not None
    assert result.ceiling.found is not None  # of the whole program, which was run as well
    for lm in lms:
        asked = [(request.config.temperature, prompt_of(request)) for request in lm.requests]
        assert [asked.count(one) for one in asked[:16]] == [1] * 16


class TestTheGate:
    def program(self, **skill: Any) -> AttentionMoA:
        lms = [simulated(name, seed=seed, **skill) for seed, name in enumerate("abc")]
        return AttentionMoA("question -> answer", lms, layers=1)

    def test_alone_it_is_fitted_on_runs_of_the_program_and_kept_with_its_bound(self) -> None:
        program = self.program(knows=1.0)
        options: dict[str, Any] = {"trainset": examples(30), "metric": exact, "parts": ["gate"], "explain": False}
        cost = forecast(program, **options)
        assert [part.part for part in cost.parts] == ["gate"]
        result = optimize(program, max_loss=0.2, **options)
        assert result.gate is not None
        assert result.gate.runs == 30
        assert result.gate.trials[0].level == pytest.approx(0.05)
        assert str(result.program.architecture.gate) == "first=2"
        assert result.program(question="task 001").trace.calls == 2
        assert result.cost.paid_calls <= cost.most.calls
        assert result.program.provenance is not None
        assert result.program.provenance.method == "optimize: gate"
        assert "The program is kept, with a gate" in str(result)
        assert "Loss against savings" in render([result.report])
        assert optimize(program, **options).program.architecture.gate == "off"  # 30 runs cannot show 0.01

    def test_after_a_search_it_takes_no_further_call(self) -> None:
        paid = []
        for parts in (["architecture"], ["architecture", "gate"]):
            cast("Any", dspy).cache.reset_memory_cache()
            program = self.program(knows=0.97, finds=0.0)
            options: dict[str, Any] = {"trainset": examples(36), "metric": exact, "explain": False, **SEARCH}
            result = optimize(program, parts=cast("Any", parts), max_loss=0.3, **options)
            paid.append(sum(len(agent.lm.requests) for agent in program.agents if isinstance(agent.lm, ScriptedLM)))
        assert result.gate is not None
        assert paid[0] == paid[1]
        # The scores chose among the runs of the program with and without those of the test, and of the candidate.
        assert result.gate.confidence == 0.95
        assert result.gate.trials[0].level == pytest.approx(0.05 / 3)

    def test_one_that_the_program_has_stays(self) -> None:
        program = self.program(knows=1.0).replace(gate="unanimous")
        result = optimize(program, trainset=examples(12), metric=exact, parts=["gate"], explain=False)
        assert result.gate is None
        assert any(note.startswith("gate: the program has one") for note in result.report["notes"])


class Tell:
    """Tell every role the planted sentence."""

    def tune(self, job: PromptJob) -> dspy.Module:
        for _, predictor in job.student.named_predictors():
            predictor.signature = cast("Any", predictor.signature).with_instructions(planted.PHRASE)
        return job.student


def test_prompts_of_roles_that_the_program_lacks_are_tuned_before_the_search() -> None:
    lean = planted.program_of(planted.critics(count=2, cache=True))
    options: dict[str, Any] = {"space": replace(SPACE, layers=(1,), critiques=("single",)), "n_trials": 12}
    result = optimize(
        lean, trainset=planted.examples(0, 30), metric=planted.right, method=Tell(), explain=False, **options
    )
    assert len(result.compiled) == 1, "the prompts were tuned to their end, and the search took them"
    assert result.compiled[0].report["predictors"]["critique"]["instructions"]["after"] == planted.PHRASE
    rounds = result.report["rounds"]
    assert rounds[0]["block"] is not None
    assert {trial["params"]["tuned"] for trial in rounds[0]["search"]["trials"]} == {True, False}
    assert result.candidate.architecture.critique_count
    assert instructions_of(result.candidate)["critique"] == planted.PHRASE


def test_an_agent_that_deceives_is_left_out_of_the_search() -> None:
    lms = [simulated(name, knows=0.7, deceives=float(name == "a"), seed=seed) for seed, name in enumerate("abcd")]
    program = AttentionMoA("question -> answer", lms, layers=1, attention="none")
    result = optimize(
        program, trainset=examples(50), metric=exact, parts=["architecture"], explain=False,
        space=SearchSpace(samples=1, temperatures={"a": (0.7,)}, layers=(1,), attention=("none",)), n_trials=2,
    )  # fmt: skip
    assert result.quarantine is not None
    assert result.quarantine.agents == ("a",)
    assert [spec["name"] for spec in result.searched[0].report["agents"]] == ["b", "c", "d"]
    assert any("left out, since they score less than half" in note for note in result.report["notes"])
