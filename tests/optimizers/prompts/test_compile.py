"""Every prompt optimizer on programs of several models: what it does to the score, and what it leaves alone."""

from __future__ import annotations

import gc
import itertools
import logging
import random
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import dspy
import numpy as np
import optuna
import pytest
from dspy.clients.cache import Cache
from support import planted

import moa_dspy
from moa_dspy import Agent, AttentionMoA, Budget, ConfigurationError, RunError
from moa_dspy.optimizers import Gain, Labeled, PromptJob, compile, measure  # noqa: A004 (DSPy's word)
from moa_dspy.optimizers.prompts.compile import split_off
from moa_dspy.testing import ScriptedLM, prompt_of

pytestmark = pytest.mark.slow

# Options that keep each method small; knowledge that depends on what each method can plant.
SMALL: dict[str, dict[str, Any]] = {
    "labeled": {"demos": 2},
    "bootstrap": {"bootstrapped_demos": 2, "labeled_demos": 2, "rounds": 2},
    "bootstrap_random": {"candidates": 1, "bootstrapped_demos": 2, "labeled_demos": 2},
    "knn": {"k": 2},
    "copro": {"breadth": 2, "depth": 1},
    "mipro": {"candidates": 3, "trials": 3, "bootstrapped_demos": 1, "labeled_demos": 1},
    "simba": {"batch": 3, "steps": 1, "candidates": 2},
    "gepa": {"runs": 16, "minibatch": 2},
}
ENOUGH: dict[str, tuple[Any, dict[str, Any]]] = {
    "labeled": (planted.shown, {}),
    "bootstrap": (planted.shown, {}),
    "bootstrap_random": (planted.shown, {"candidates": 1}),
    "knn": (planted.shown, {}),
    "copro": (planted.told, {"breadth": 5}),
    "mipro": (planted.either, {"candidates": 5, "trials": 8}),
    "simba": (planted.either, {"batch": 10, "steps": 2, "candidates": 3}),
    "gepa": (planted.told, {"runs": 150}),
}
METHODS = list(SMALL)
TRAIN, VAL, TEST = planted.examples(0, 6), planted.examples(6, 10), planted.examples(60, 120)


def compiled(program: AttentionMoA, method: Any, **options: Any) -> Any:
    given: dict[str, Any] = {"metric": planted.right, "prompt_lm": planted.writer(), **SMALL[method], **options}
    return compile(program, trainset=TRAIN, valset=VAL, method=method, **given)


def prompts(program: AttentionMoA) -> dict[str, Any]:
    """The instructions and demos of a program, as data."""
    state = program.dump_state()
    return {name: {key: state[name].get(key) for key in ("signature", "demos", "fields")} for name in state}


def models(program: AttentionMoA, question: str) -> list[tuple[str, str | None]]:
    return [(step.agent, step.model) for step in program(question=question).trace.steps]


# What every method does


@pytest.mark.parametrize("method", METHODS)
def test_each_method_raises_the_score_on_questions_that_it_never_saw(method: Any):
    knows, options = ENOUGH[method]
    program = planted.program_of(planted.agents(knows, cache=True))
    result = compile(
        program, trainset=planted.examples(0, 24), valset=planted.examples(24, 48), metric=planted.right, method=method,
        prompt_lm=planted.writer(), **options,
    )  # fmt: skip
    before, after = measure(program, TEST, planted.right), measure(result.program, TEST, planted.right)
    gain = Gain.of(before.scores, after.scores)
    assert gain.low > 0.1
    assert gain.p < 0.01
    assert result.gain.value > 0


@dataclass
class Tuning:
    """One compilation, which several tests look at."""

    method: str
    lms: list[Any]
    writer: Any
    program: AttentionMoA
    before: Any
    result: Any
    again: Any
    asked: int
    paid: list[int]
    usage: Mapping[str, Mapping[str, int]]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in METHODS])
def tuning(request: pytest.FixtureRequest) -> Tuning:
    lms = planted.agents(planted.either, count=2, cache=True)
    lms[1].kwargs["temperature"] = 0.0
    program, writer, paid = planted.program_of(lms, attention="cross"), planted.writer(), list[int]()
    before = program.dump_state()
    with pytest.MonkeyPatch.context() as patch, dspy.track_usage() as tracker:
        patch.setattr(dspy, "cache", Cache(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None))
        result = compiled(
            program, request.param, prompt_lm=writer, progress=lambda so_far: paid.append(so_far.cost.paid_calls)
        )
        asked = sum(len(cast("Any", lm).requests) for lm in (*lms, writer))
        again = compiled(program, request.param, prompt_lm=writer)
    usage = tracker.get_total_tokens()
    return Tuning(request.param, list(lms), writer, program, before, result, again, asked, paid, usage)


def test_each_method_changes_prompts_alone(tuning: Tuning):
    assert tuning.program.dump_state() == tuning.before
    assert [lm.kwargs["temperature"] for lm in tuning.lms] == [0.7, 0.0]
    assert_only_prompts_changed(tuning.program, tuning.result.program)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_prints_nothing_and_leaves_nothing_behind_but_prompts_of_every_agent(
    method: Any, capfd: pytest.CaptureFixture[str]
):
    loggers = [logging.getLogger(name) for name in ("dspy", "dspy.teleprompt", "dspy.predict", "optuna")]
    program = planted.program_of(planted.agents(planted.either, count=2), attention="full", shared_prompts=False)
    state = ambient_state()
    levels = [(logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    with dspy.context(trace=["mine"]):
        result = compiled(program, method)
        assert dspy.settings.trace == ["mine"]
        assert dspy.settings.lm is None
    assert capfd.readouterr() == ("", "")
    assert [(logger.level, logger.propagate, logger.handlers[:]) for logger in loggers] == levels
    assert ambient_state() == state
    assert_only_prompts_changed(program, result.program)


def assert_only_prompts_changed(program: AttentionMoA, tuned: AttentionMoA) -> None:
    assert models(tuned, "What is 2 times 3?") == models(program, "What is 2 times 3?")
    assert [agent.lm for agent in tuned.agents] == [agent.lm for agent in program.agents]
    assert all(predictor.lm is None for _, predictor in tuned.named_predictors())
    assert type(tuned) is AttentionMoA
    assert vars(tuned).keys() == vars(program).keys()
    assert tuned._slots == program._slots
    for name, predictor in tuned.named_predictors():
        signature = cast("Any", predictor.signature)
        needed = {*signature.input_fields, *signature.output_fields}
        assert all(needed <= set(demo.keys()) for demo in predictor.demos), name
        assert all(set(demo.keys()) <= {*needed, "augmented"} for demo in predictor.demos)


def test_the_cost_counts_every_call_that_was_paid_for(tuning: Tuning):
    cost = tuning.result.cost
    assert cost.paid_calls == tuning.asked == max(tuning.paid) == len(tuning.paid) > 0
    assert cost.tokens.total == sum(one["prompt_tokens"] + one["completion_tokens"] for one in tuning.usage.values())
    assert cost.cost_usd is None
    if tuning.method in ("copro", "mipro", "gepa"):
        assert tuning.writer.requests


def test_a_result_that_was_saved_and_loaded_asks_the_same(tuning: Tuning, tmp_path: Path):
    tuning.result.program.save(tmp_path / "program.json")
    lms = [lm.copy(cache=False) for lm in tuning.lms]
    loaded = moa_dspy.load(tmp_path / "program.json", lms={lm.model: lm for lm in lms})

    def asked(program: AttentionMoA) -> list[str]:
        start = [len(lm.requests) for lm in lms]
        program(question="What is 9 times 9?")
        requests = [r for lm, n in zip(lms, start, strict=True) for r in lm.requests[n:]]
        return sorted(prompt_of(request) for request in requests)

    same = tuning.result.program.replace(agents=lms)
    assert asked(loaded) == asked(same) != []


def test_the_same_seed_and_cache_give_the_same_result_without_paying_again(tuning: Tuning):
    first, again = tuning.result, tuning.again
    assert prompts(again.program) == prompts(first.program)
    assert (again.score, again.before) == (first.score, first.before)
    assert again.cost.paid_calls == 0 < first.cost.paid_calls


def ambient_state() -> tuple[Any, ...]:
    numpy = cast("Any", np.random.get_state())[1].tolist()
    return random.getstate(), numpy, optuna.logging.get_verbosity(), warnings.filters[:]


def test_what_a_metric_prints_is_seen(capfd: pytest.CaptureFixture[str]):
    def loud(example: Any, prediction: Any, trace: Any = None) -> bool:
        print("measured")
        return planted.right(example, prediction)

    compiled(planted.program_of(planted.agents(count=1)), "bootstrap", metric=loud)
    printed = capfd.readouterr().out
    assert printed.count("measured") > 2 * len(VAL)
    assert not printed.replace("measured", "").strip()


# Resampling


def numbered(model: str, temperature: float | None) -> ScriptedLM:
    count = itertools.count()
    return ScriptedLM(lambda _: f"text {next(count)}", model, temperature=temperature, cache=True)


@pytest.mark.parametrize("temperature", [None, 0.7, 0.0])
def test_rounds_of_bootstrapping_draw_new_samples_from_every_agent(temperature: float | None):
    lms = [numbered(f"scripted/{name}", temperature) for name in "ab"]
    program = planted.program_of([*lms, Agent(lms[0], name="third", temperature=temperature)])
    compile(
        program,
        trainset=TRAIN[:1],
        valset=VAL[:1],
        metric=lambda *_: False,
        method="bootstrap",
        rounds=3,
        labeled_demos=0,
    )
    # before (one validation question), three rounds on one training question, and after (cached)
    assert [len(lm.requests) for lm in lms] == [2 * 4 + 4, 4]
    temperatures = [request.config.temperature for request in lms[1].requests]
    assert temperatures == [temperature] * 2 + ([1.0] * 2 if temperature == 0 else [temperature] * 2)


def test_simba_samples_each_question_anew_from_every_agent():
    lms = [numbered(f"scripted/{name}", temperature) for name, temperature in (("a", 0.0), ("b", 0.7))]
    program = planted.program_of(lms)
    result = compile(
        program, trainset=TRAIN[:3], valset=VAL[:1], metric=lambda *_: 0.5, method="simba", batch=3, steps=1,
        candidates=4,
        prompt_lm=planted.writer(),
    )  # fmt: skip
    sampled = 3 * 4
    assert len(lms[1].requests) >= sampled
    assert len(lms[0].requests) >= sampled
    assert result.program.get_lm() is lms[0]


def test_the_students_rollouts_do_not_change_the_programs_own_draws():
    lms = [ScriptedLM("text", "scripted/a", temperature=0.7, rollout_id=5, cache=True), numbered("scripted/b", 0.7)]
    program = planted.program_of(lms)
    measure(program, VAL, planted.right)
    result = compiled(program, "labeled", demos=0)
    assert result.cost.paid_calls == 0


def test_an_example_without_the_reasoning_that_a_prompt_asks_for_is_no_demo():
    lm = ScriptedLM("Two and two are four.\n\n#### 4", "scripted/a")
    train = [dspy.Example(question=f"What is {n}?", answer=n).with_inputs("question") for n in (3, 4, 5)]
    held = [dspy.Example(question="What is 6?", answer=6).with_inputs("question")]
    task: Any = {"trainset": train, "valset": held, "metric": lambda example, one, *_: example.answer == one.answer}
    program = AttentionMoA("question -> answer: int", [lm], layers=1, attention="none", aggregation="none")
    ((_, predictor),) = compile(program, method="bootstrap", **task).program.named_predictors()
    assert [(demo.answer, demo.reasoning) for demo in predictor.demos] == [(4, "Two and two are four.")]
    with pytest.raises(ConfigurationError, match=r"none has reasoning, .* use 'bootstrap'"):
        compile(program, method="labeled", **task)
    plain = program.replace(reasoning=False)
    ((_, predictor),) = compile(plain, method="labeled", **task).program.named_predictors()
    assert len(predictor.demos) == 3


# What reflection sees


def test_gepa_shows_each_predictor_the_calls_of_its_own_agent_alone():
    lms = [ScriptedLM(f"{name} speaks", f"scripted/{name}") for name in ("anna", "bert")]
    program, writer = planted.program_of(lms, shared_prompts=False), planted.writer()
    compile(program, trainset=TRAIN, valset=VAL, metric=lambda *_: False, method="gepa", runs=40, prompt_lm=writer)
    reflections = [prompt_of(request) for request in writer.requests]
    assert all("none of the two proposals was right" in text for text in reflections)
    proposing = [text for text in reflections if "candidate_answers" not in text]
    shown = {tuple(name for name in ("anna", "bert") if f"{name} speaks" in text) for text in proposing}
    assert shown == {("anna",), ("bert",)}


# Demos


def test_demos_stand_where_they_fit():
    program = planted.program_of(planted.agents(0.9, count=2), layers=2, attention="full", early_stop=False)
    labeled = compiled(program, "labeled").program
    counts = {name: len(predictor.demos) for name, predictor in labeled.named_predictors()}
    assert counts == dict.fromkeys(counts, 0) | {"propose": 2}
    own = compiled(program, "bootstrap", labeled_demos=0).program
    for name, predictor in own.named_predictors():
        assert predictor.demos, name
        assert all(demo.augmented for demo in predictor.demos)
    assert "Own Answer" not in str(own.propose)


def test_per_agent_prompts_get_the_demos_of_their_own_agent():
    def saying(name: str) -> Any:
        return ScriptedLM(lambda request: f"{name} says", f"scripted/{name}")

    program = planted.program_of([saying("a"), saying("b")], shared_prompts=False)
    tuned = compiled(program, "bootstrap", metric=lambda *_: True, labeled_demos=0).program
    predictors = cast("list[Any]", tuned.propose)
    assert [{demo.answer for demo in predictor.demos} for predictor in predictors] == [{"a says"}, {"b says"}]


def test_knn_shows_the_examples_nearest_to_the_question(tmp_path: Path):
    lm = ScriptedLM("four", "scripted/a")
    tasks = ["capital of France", "capital of Spain", "two plus two", "three plus five"]
    train = [dspy.Example(question=task, answer="four", source="book").with_inputs("question") for task in tasks]
    tuned = compile(
        planted.program_of([lm]), trainset=train, valset=TRAIN, metric=lambda *_: True, method="knn", k=1
    ).program
    tuned.save(tmp_path / "program.json")
    assert "book" not in (tmp_path / "program.json").read_text()
    for program in (tuned, moa_dspy.load(tmp_path / "program.json", lms={"scripted/a": lm})):
        start = len(lm.requests)
        program(question="What is the capital of Italy, or of France")
        program(question="What is two plus nine")
        asked = [prompt_of(request) for request in lm.requests[start:]]
        proposals = [text for text in asked if "Candidate" not in text]
        assert [[task for task in tasks if task in text] for text in proposals] == [[tasks[0]], [tasks[2]]]
    retuned = compile(tuned, trainset=train, valset=TRAIN, metric=lambda *_: True, method="labeled").program
    assert len(cast("Any", retuned.propose).demos) == 4
    retuned(question="capital")
    assert all(task in prompt_of(lm.requests[-2]) for task in tasks)


def test_a_vectorizer_that_is_code_works_but_cannot_be_saved(tmp_path: Path):
    def lengths(texts: list[str]) -> np.ndarray:
        return np.array([[1.0, -abs(len(text) - 20.0)] for text in texts], dtype=np.float32)

    program = planted.program_of(planted.agents(0.9, count=1))
    tuned = compiled(program, "knn", vectorizer=lengths).program
    assert tuned(question=TEST[0].question).answer
    with pytest.raises(ConfigurationError, match="vectorizer that is a function cannot be saved"):
        tuned.save(tmp_path / "program.json")


# The stop decision


@pytest.mark.parametrize("shared", [True, False])
def test_reanchor_fits_the_stop_decision_and_the_program_uses_it(shared: bool, tmp_path: Path):
    program, tasks = planted.cautious_program(shared_prompts=shared)
    assert measure(program, tasks[20:], planted.right).score().value == 0.5
    result = compile(program, trainset=tasks[:20], valset=tasks[20:30], metric=planted.right, method="reanchor")
    decision = cast("Any", result.program.synthesize).fields["improved"]
    assert 0.1 < decision["threshold"] <= 0.4
    assert (result.before.value, result.score.value) == (0.5, 1.0)
    before, after = measure(program, tasks[30:], planted.right), measure(result.program, tasks[30:], planted.right)
    assert Gain.of(before.scores, after.scores).p < 0.001
    assert after.score().value == 1.0
    assert result.report["predictors"]["synthesize"]["decisions"] == {"improved": decision}
    assert program.synthesize.fields == {}
    runs = [result.program(question=task.question).trace for task in tasks[30:32]]
    assert [run.improved for run in runs] == [(False,), (True,)]
    assert [run.stopped_by for run in runs] == ["no_improvement", "layers"]

    result.program.save(tmp_path / "program.json")
    lms = {lm.model: lm for lm in (cast("Any", agent.lm) for agent in program.agents)}
    loaded = moa_dspy.load(tmp_path / "program.json", lms=lms)
    assert cast("Any", loaded.synthesize).fields["improved"] == decision
    assert measure(loaded, tasks[30:], planted.right).score().value == 1.0


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter()])
def test_a_threshold_works_with_an_adapter_of_the_users(adapter: Any):
    program, tasks = planted.cautious_program(shared_prompts=False)
    program.synthesize.fields["improved"] = {"threshold": 0.3}
    with dspy.context(adapter=adapter):
        assert [program(question=task.question).trace.improved for task in tasks[:2]] == [(False,), (True,)]


def test_reanchor_refuses_what_has_no_stop_decision_or_no_cache():
    program, tasks = planted.cautious_program(early_stop=False)
    with pytest.raises(ConfigurationError, match=r"this program has none; it needs layers=2"):
        compile(program, trainset=tasks[:4], valset=tasks[4:8], metric=planted.right, method="reanchor")
    lms = planted.agents(count=1)
    with pytest.raises(ConfigurationError, match="simulated/a are not cached"):
        compile(planted.program_of(lms, layers=2), trainset=TRAIN, valset=VAL, metric=planted.right, method="reanchor")


# Methods of one's own


class Phrase:
    """A method that adds a sentence to the proposals' instructions."""

    def tune(self, job: PromptJob) -> dspy.Module:
        print("tuning")
        propose: Any = job.student.propose
        propose.signature = propose.signature.with_instructions(planted.PHRASE)
        return job.student


def test_any_object_that_tunes_is_a_method(capfd: pytest.CaptureFixture[str]):
    program = planted.program_of(planted.agents(planted.told, cache=True))
    result = compile(program, trainset=TRAIN, valset=VAL, metric=planted.right, method=Phrase())
    assert result.report["method"] == "Phrase"
    assert result.report["options"] == {}
    assert cast("Any", result.program.propose).signature.instructions == planted.PHRASE
    assert result.gain.value > 0
    assert capfd.readouterr().out == ""


def test_a_built_in_method_may_be_given_as_an_object():
    program = planted.program_of(planted.agents(0.9, count=1, cache=True))
    named = compile(program, trainset=TRAIN, valset=VAL, metric=planted.right, method="labeled", demos=2)
    given = compile(program, trainset=TRAIN, valset=VAL, metric=planted.right, method=Labeled(demos=2))
    assert prompts(given.program) == prompts(named.program)
    assert (given.report["method"], given.report["options"]) == ("labeled", {"demos": 2})


# The result and the arguments


def test_the_report_says_what_was_done():
    result = compiled(planted.program_of(planted.agents(planted.told, cache=True)), "gepa", runs=60, seed=3)
    report = result.report
    assert (report["method"], report["seed"], report["effort"]) == ("gepa", 3, "light")
    assert report["options"]["runs"] == 60
    assert report["prompt_lm"] == "scripted/writer"
    assert report["examples"] == {"trainset": 6, "valset": 4}
    assert report["score"]["before"] == result.before.model_dump()
    assert report["errors"] == {"count": 0, "first": []}
    changed = [p["instructions"] for p in report["predictors"].values() if len(set(p["instructions"].values())) > 1]
    assert changed
    import json

    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize("method", [name for name in METHODS if name != "labeled"])
def test_a_budget_ends_it_with_the_program_as_it_was_and_nothing_is_lost(
    method: Any, capfd: pytest.CaptureFixture[str]
):
    lms = planted.agents(planted.either, count=2, cache=True)
    program, writer = planted.program_of(lms), planted.writer()
    calls = len(VAL) * program.architecture.max_calls + 6
    result = compiled(program, method, prompt_lm=writer, budget=Budget(calls=calls))
    gc.collect()
    assert capfd.readouterr() == ("", "")
    assert result.report["ended_by"] == "budget"
    assert prompts(result.program) == prompts(program)
    assert (result.score, result.gain.value) == (result.before, 0.0)
    assert calls - 24 <= result.cost.paid_calls <= calls
    assert measure(program, VAL, planted.right).cost.paid_calls == 0, "what was answered is in the cache"
    again = compiled(program, method, prompt_lm=planted.writer())
    assert again.report["ended_by"] == "done"


def test_a_budget_holds_for_agents_without_a_model_of_their_own():
    lm = planted.agents(planted.either, count=1, cache=False)[0]
    with dspy.context(lm=lm):
        program = planted.program_of([Agent(name="x"), Agent(name="y")])
        calls = len(VAL) * program.architecture.max_calls + 6
        result = compiled(program, "bootstrap_random", budget=Budget(calls=calls))
    assert result.report["ended_by"] == "budget"
    assert result.cost.paid_calls <= calls + 24


@pytest.mark.parametrize("method", ["copro", "gepa"])
def test_the_model_that_writes_prompts_is_under_the_budget_and_in_the_cost(method: Any):
    lms: Any = planted.agents(planted.either, 2, cache=False)
    writer = planted.writer(cache=False)
    program = planted.program_of(lms, shared_prompts=False)
    calls = len(VAL) * program.architecture.max_calls + 12
    result = compiled(program, method, prompt_lm=writer, budget=Budget(calls=calls), concurrency=1)
    asked = sum(len(lm.requests) for lm in lms) + len(writer.requests)
    assert result.report["ended_by"] == "budget"
    assert result.cost.paid_calls - result.cost.unanswered == asked <= calls + 1


def test_several_completions_of_one_call_count_as_the_requests_that_they_are():
    lms: Any = planted.agents(planted.either, 2, cache=False)
    writer = planted.writer(cache=False)
    result = compiled(planted.program_of(lms), "copro", prompt_lm=writer, breadth=6, depth=1)
    assert result.cost.paid_calls == sum(len(lm.requests) for lm in lms) + len(writer.requests)


def test_calls_under_way_when_a_budget_ends_are_in_the_cost():
    lms: Any = planted.agents(planted.shown, 2, cache=False, latency=0.05)
    program = planted.program_of(lms)
    calls = len(VAL) * program.architecture.max_calls + 5
    result = compiled(program, "bootstrap_random", budget=Budget(calls=calls), concurrency=6)
    assert result.report["ended_by"] == "budget"
    assert result.cost.paid_calls - result.cost.unanswered == sum(len(lm.requests) for lm in lms)


def test_examples_that_ask_the_same_are_learnt_from_or_judge():
    twice = [example for example in TRAIN for _ in range(2)]
    learn, hold = split_off(twice, 0)
    assert len(learn) + len(hold) == len(twice)
    assert not {example.question for example in learn} & {example.question for example in hold}
    with pytest.raises(ConfigurationError, match="all 4 examples have equal inputs"):
        split_off(TRAIN[:1] * 4, 0)


def test_a_budget_that_does_not_cover_the_first_measurement_is_refused():
    with pytest.raises(RunError, match="budget does not cover the runs of the original program"):
        compiled(planted.program_of(planted.agents(count=2)), "bootstrap", budget=Budget(calls=3))


def test_progress_knows_the_price_so_far_and_that_a_budget_ends_it():
    seen: list[Any] = []
    agents = [Agent(lm, price={"prompt": 1.0, "completion": 1.0}) for lm in planted.agents(planted.told, count=1)]
    compiled(planted.program_of(agents), "gepa", runs=60, progress=seen.append, budget=Budget(calls=60))
    assert all(at.cost.cost_usd for at in seen[:8])  # the scripted model that writes prompts has no price
    assert {at.of for at in seen} == {60}


def test_progress_knows_about_how_far_it_is():
    seen: list[Any] = []
    compiled(planted.program_of(planted.agents(planted.either, count=2)), "gepa", runs=40, progress=seen.append)
    assert seen[0].done < seen[len(seen) // 2].done <= seen[-1].done < 1
    assert seen[-1].cost.paid_calls <= seen[-1].of * 1.5


def test_runs_that_fail_meanwhile_are_in_the_report():
    def failing(request: Any) -> str:
        if TRAIN[0].question in prompt_of(request):
            raise RuntimeError("overloaded")
        return "12"

    result = compiled(planted.program_of([ScriptedLM(failing)]), "bootstrap", rounds=1, labeled_demos=0)
    assert result.report["errors"]["count"] == 1
    assert "overloaded" in result.report["errors"]["first"][0]


def test_without_a_validation_set_a_third_is_held_back():
    program = planted.program_of(planted.agents(0.9, count=1))
    results = [
        compile(program, trainset=planted.examples(0, 9), metric=planted.right, method="labeled", seed=s)
        for s in (0, 1)
    ]
    assert [result.report["examples"] for result in results] == [{"trainset": 6, "valset": 3}] * 2
    demos = [{demo.question for demo in cast("Any", result.program.propose).demos} for result in results]
    assert [len(found) for found in demos] == [6, 6]
    assert demos[0] != demos[1]


def test_agents_without_a_model_of_their_own_use_the_configured_one():
    program = planted.program_of([Agent(name="x"), Agent(name="y")])
    with dspy.context(lm=planted.agents(planted.shown, count=1)[0]):
        result = compiled(program, "bootstrap")
        assert result.score.value >= result.before.value
    with pytest.raises(ConfigurationError, match="has no model"):
        compiled(program, "bootstrap")


def test_metrics_of_any_usual_kind_will_do():
    program = planted.program_of(planted.agents(0.9, count=1))

    def judged(example: Any, prediction: Any, trace: Any = None) -> Any:
        return dspy.Prediction(score=0.5 + planted.right(example, prediction) / 2, feedback="see above")

    def short(example: Any, prediction: Any) -> Any:
        return np.float32(planted.right(example, prediction))

    for metric in (judged, short):
        assert compiled(program, "simba", metric=metric).report["errors"]["count"] == 0
        assert cast("Any", compiled(program, "bootstrap", metric=metric, threshold=0.9).program.propose).demos


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "method='magic' is unknown; use one of labeled, bootstrap"),
        ({"method": print}, "neither a name nor an object with a method tune"),
        ({"method": Labeled}, "neither a name nor an object with a method tune"),
        ({"method": Labeled(2), "k": 3}, "options k go with a method's name"),
        ({"k": 3}, "method 'bootstrap' has no option k; it has bootstrapped_demos, labeled_demos, rounds, threshold"),
        ({"method": "copro", "breadth": 1}, "breadth=1 is too small"),
        ({"method": "mipro", "candidates": 2}, "candidates=2 is too small"),
        ({"method": "labeled", "demos": -1}, "demos=-1 is too small; it must be at least 0"),
        ({"method": "knn", "k": 0}, "k=0 is too small"),
        ({"method": "bootstrap_random", "bootstrapped_demos": 0}, "bootstrapped_demos=0 is too small"),
        ({"method": "gepa", "runs": "9"}, "runs='9' must be a whole number"),
        ({"prompt_lm": "openai/x"}, "prompt_lm='openai/x' must be a model, such as dspy.LM"),
        ({"effort": "much"}, "effort='much'"),
        ({"metric": None}, "metric=None is invalid"),
        ({"trainset": []}, "0 training examples and 4 for validation are too few"),
        ({"valset": []}, "6 training examples and 0 for validation are too few"),
        ({"valset": None, "trainset": TRAIN[:2]}, "2 training examples are too few; give at least 3"),
        ({"trainset": [dspy.Example(question="?")]}, "use example.with_inputs"),
        ({"valset": TRAIN[:2]}, "2 of 2 validation examples are among those that are learnt from"),
        ({"method": "reanchor"}, "fits the stop decision, and this program has none"),
        ({"program": dspy.Predict("question -> answer")}, "program is of type Predict; it must be an AttentionMoA"),
        ({"concurrency": 0}, "concurrency=0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_paid(change: dict[str, Any], message: str):
    lms = planted.agents(count=1)
    arguments: dict[str, Any] = {
        "program": planted.program_of(lms), "trainset": TRAIN, "valset": VAL, "metric": planted.right,
        "method": "bootstrap", **change,
    }  # fmt: skip
    with pytest.raises(ConfigurationError, match=message):
        compile(**arguments)
    assert cast("Any", lms[0]).requests == []


def test_a_program_that_fails_on_everything_is_not_tuned():
    def broken(request: Any) -> str:
        raise RuntimeError("down")

    with pytest.raises(RunError, match="fails on every example"):
        compiled(planted.program_of([ScriptedLM(broken)]), "bootstrap")
