"""A program among DSPy's other modules: everything that works with those works with it."""

from __future__ import annotations

import asyncio
import copy
import itertools
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import dspy
import pytest
from dspy.utils.callback import BaseCallback
from hypothesis import HealthCheck, given, settings, strategies as st

import moa_dspy
from moa_dspy import Agent, AttentionMoA, ConfigurationError
from moa_dspy.runtime.step_span import StepSpan
from moa_dspy.testing import ScriptedLM, SimulatedLM, prompt_of

SUMS = {f"What is {a} + {b}?": str(a + b) for a in range(6) for b in range(6)}
EXAMPLES = [dspy.Example(question=task, answer=right).with_inputs("question") for task, right in SUMS.items()]


def exact(example: Any, prediction: Any, trace: Any = None) -> bool:
    return example.answer == prediction.answer


def simulated(**options: Any) -> list[dspy.BaseLM]:
    """Three agents of different models."""
    return [SimulatedLM(SUMS, seed=seed, model=f"simulated/{'abc'[seed]}", **options) for seed in range(3)]


def program_of(lms: Any, **options: Any) -> AttentionMoA:
    return AttentionMoA("question -> answer", lms, **{"layers": 1, **options})


def numbered(model: str = "scripted/model", **options: Any) -> ScriptedLM:
    """A model that says something else each time that it is really asked."""
    count = itertools.count()
    return ScriptedLM(lambda _: f"text {next(count)}", model, **{"temperature": 1.0, "cache": True, **options})


def proposals(prediction: Any, layer: int = 1) -> list[str]:
    return [step.text for step in prediction.trace.select(stage="propose", layer=layer)]


# Evaluation and threads


@pytest.mark.parametrize("threads", [1, 6])
@pytest.mark.slow
def test_evaluate_scores_every_example_whatever_the_threads(threads: int):
    program = program_of(simulated())
    evaluate = dspy.Evaluate(devset=EXAMPLES, metric=exact, num_threads=threads, display_progress=False)
    alone = [program(**example.inputs()).answer for example in EXAMPLES]
    result = evaluate(program)
    assert [prediction.answer for _, prediction, _ in result.results] == alone
    assert {prediction.trace.calls for _, prediction, _ in result.results} == {16}


def test_threads_calls_from_a_loop_and_concurrent_async_calls_agree():
    program = program_of(simulated())
    questions = list(SUMS)[:12]
    expected = [program(question=question).answer for question in questions]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda question: program(question=question).answer, questions)) == expected

    async def notebook_cell() -> list[str]:
        return [program(question=question).answer for question in questions[:2]]

    async def concurrently() -> list[str]:
        return [p.answer for p in await asyncio.gather(*(program.acall(question=question) for question in questions))]

    assert asyncio.run(notebook_cell()) == expected[:2]
    assert asyncio.run(concurrently()) == expected


def test_several_programs_in_dspy_parallel():
    lms = simulated()
    programs = [moa_dspy.single_model("question -> answer", lms[0]), program_of(lms), program_of(lms, attention="none")]
    jobs = [(program, example.inputs()) for example in EXAMPLES[:4] for program in programs]
    results = dspy.Parallel(num_threads=4, disable_progress_bar=True)(cast("Any", jobs))
    assert [result.trace.calls for result in results] == [1, 16, 4] * 4


def test_batch_gives_the_predictions_in_order():
    program = program_of(simulated())
    results = program.batch(EXAMPLES[:5], num_threads=3, disable_progress_bar=True)
    assert [cast("Any", r).answer for r in results] == [program(**example.inputs()).answer for example in EXAMPLES[:5]]


# Ambient settings


def test_agents_without_a_model_use_the_one_of_the_context():
    program = program_of([Agent(name="x"), Agent(name="y", temperature=0.9)])
    for name in ("one", "two"):
        with dspy.context(lm=ScriptedLM(name, f"scripted/{name}")):
            prediction = program(question="?")
        assert prediction.answer == name
        assert {step.model for step in prediction.trace.steps} == {f"scripted/{name}"}


def test_without_any_model_it_says_what_to_do():
    with dspy.context(lm=None), pytest.raises(ConfigurationError, match=r"agent 'x' has no model.*dspy\.configure"):
        program_of([Agent(name="x"), ScriptedLM("a")])(question="?")


def test_an_adapter_of_the_user_wins_in_every_step():
    lm = ScriptedLM(lambda request: "{}" if "JSON" not in prompt_of(request) else '{"answer": "a", "critique": "c"}')
    with dspy.context(adapter=dspy.JSONAdapter()):
        prediction = program_of([lm, Agent(lm, name="b")])(question="?")
    assert {step.status for step in prediction.trace.steps} == {"ok"}
    assert all("JSON object" in prompt_of(request) for request in lm.requests)
    assert prediction.trace.calls == len(lm.requests) == 9


# Usage


def spent(*lms: Any) -> dict[str, tuple[int, int]]:
    """What models that reply in one word and are asked in so many must have been paid for."""
    return {lm.model: (sum(len(prompt_of(r).split()) for r in lm.requests), len(lm.requests)) for lm in lms}


def tracked(usage: dict[str, dict[str, Any]]) -> dict[str, tuple[int, int]]:
    return {model: (entry["prompt_tokens"], entry["completion_tokens"]) for model, entry in usage.items()}


def test_track_usage_is_right_to_the_token_over_programs_and_threads():
    lms = [ScriptedLM("word", f"scripted/{name}", latency=0.002) for name in "abc"]
    programs = [program_of(lms), program_of(lms[:2], layers=2, early_stop=False), program_of(lms, attention="none")]
    with dspy.track_usage() as tracker, ThreadPoolExecutor(6) as pool:
        from contextvars import copy_context

        jobs = [(program, example) for program in programs for example in EXAMPLES[:5]]
        done = [pool.submit(copy_context().run, program, **example.inputs()) for program, example in jobs]
        predictions = [job.result() for job in done]
    assert tracked(tracker.get_total_tokens()) == spent(*lms)
    assert sum(p.trace.tokens.prompt for p in predictions) == sum(prompt for prompt, _ in spent(*lms).values())


def test_each_prediction_knows_its_own_usage_when_many_run_at_once():
    lms = [ScriptedLM("word", f"scripted/{name}", latency=0.002) for name in "ab"]
    program = program_of(lms)
    with dspy.context(track_usage=True):
        results = cast("Any", dspy.Parallel(num_threads=4, disable_progress_bar=True))(
            [(program, example.inputs()) for example in EXAMPLES[:8]]
        )
    for prediction in results:
        usage = tracked(prediction.get_lm_usage())
        assert {model: calls for model, (_, calls) in usage.items()} == {"scripted/a": 5, "scripted/b": 4}
        assert sum(prompt for prompt, _ in usage.values()) == prediction.trace.tokens.prompt
    total = Counter[str]()
    for prediction in results:
        total.update({model: prompt for model, (prompt, _) in tracked(prediction.get_lm_usage()).items()})
    assert total == {model: prompt for model, (prompt, _) in spent(*lms).items()}


def test_usage_of_async_calls_and_of_nested_trackers():
    lm = ScriptedLM("word")
    program = program_of([lm, Agent(lm, name="b")])

    async def calls() -> list[Any]:
        with dspy.context(track_usage=True):
            return await asyncio.gather(*(program.acall(question=str(number)) for number in range(4)))

    assert [tracked(p.get_lm_usage())["scripted/model"][1] for p in asyncio.run(calls())] == [9] * 4
    with dspy.track_usage() as outer:
        program(question="first")
        with dspy.track_usage() as inner:
            program(question="second")
    assert tracked(inner.get_total_tokens())["scripted/model"][1] == 9
    assert tracked(outer.get_total_tokens())["scripted/model"][1] == 18


def test_what_the_cache_answers_is_not_paid():
    program = program_of([numbered()])
    program(question="?")
    with dspy.track_usage() as tracker:
        prediction = program(question="?")
    assert tracker.get_total_tokens() == {}
    assert (prediction.trace.tokens.total, prediction.trace.cached_calls) == (0, prediction.trace.calls)


# Callbacks and history


class Counting(BaseCallback):
    """Counts what begins and ends."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.open: set[str] = set()
        self._lock = threading.Lock()

    def _count(self, event: str, call_id: str) -> None:
        with self._lock:
            self.events[event] += 1
            (self.open.add if event.endswith("start") else self.open.discard)(call_id)

    def on_module_start(self, call_id: str, instance: Any, inputs: Any) -> None:
        name = "step" if isinstance(instance, StepSpan) else type(instance).__name__
        self._count(f"{name} start", call_id)

    def on_module_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        self._count("module end", call_id)

    def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
        self._count("lm start", call_id)

    def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        self._count("lm end", call_id)

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: Any) -> None:
        self._count("format start", call_id)

    def on_adapter_format_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        self._count("format end", call_id)

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: Any) -> None:
        self._count("parse start", call_id)

    def on_adapter_parse_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        self._count("parse end", call_id)


def test_callbacks_see_every_module_model_and_adapter_begin_and_end():
    seen = Counting()
    with dspy.context(callbacks=[seen]):
        program_of(simulated())(question="What is 1 + 2?")
    assert seen.open == set()
    assert seen.events == {
        "AttentionMoA start": 1, "step start": 16, "Predict start": 16, "module end": 33, "lm start": 16, "lm end": 16,
        "format start": 16, "format end": 16, "parse start": 16, "parse end": 16,
    }  # fmt: skip


def test_histories_hold_every_call(capsys: pytest.CaptureFixture[str]):
    lms = [ScriptedLM("Paris", "scripted/a"), ScriptedLM("Rome", "scripted/b")]
    program = program_of(lms)
    program(question="Where to?")
    assert len(program.history) == 9
    assert [len(lm.history) for lm in lms] == [5, 4]
    program.inspect_history(n=9)
    shown = capsys.readouterr().out
    assert shown.count("Where to?") == 9
    assert "Paris" in shown
    dspy.inspect_history(n=1)
    assert "Where to?" in capsys.readouterr().out


# Copies, predictors and state

NAMES: list[tuple[dict[str, Any], set[str]]] = [
    ({"layers": 2}, {"propose", "improve", "critique", "self_critique", "refine", "aggregate", "synthesize"}),
    ({"layers": 1}, {"propose", "critique", "self_critique", "refine", "aggregate"}),
    ({"layers": 2, "residual": "none"}, {"propose", "improve", "critique", "self_critique", "refine", "aggregate"}),
    ({"layers": 1, "attention": "cross"}, {"propose", "critique", "refine", "aggregate"}),
    ({"layers": 1, "attention": "self"}, {"propose", "self_critique", "refine", "aggregate"}),
    ({"layers": 1, "attention": 1}, {"propose", "critique", "self_critique", "refine", "aggregate"}),
    ({"layers": 1, "attention": "none"}, {"propose", "aggregate"}),
    ({"layers": 3, "attention": "none"}, {"propose", "improve", "aggregate", "synthesize"}),
    ({"layers": 1, "attention": "none", "aggregation": "vote"}, {"propose"}),
]
PER_AGENT = {"propose", "improve", "critique", "self_critique", "refine"}


@pytest.mark.parametrize(("options", "names"), NAMES)
def test_predictors_are_those_of_the_roles_that_are_played(options: dict[str, Any], names: set[str]):
    program = program_of(simulated(), **options)
    assert {name for name, _ in program.named_predictors()} == names
    own = program_of(simulated(), **options, shared_prompts=False)
    expected = {f"{name}[{i}]" for name in names & PER_AGENT for i in range(3)} | names - PER_AGENT
    assert {name for name, _ in own.named_predictors()} == expected


@pytest.mark.parametrize(("options", "names"), NAMES)
def test_the_roles_that_have_predictors_are_those_that_are_asked(options: dict[str, Any], names: set[str]):
    program = program_of(simulated(), **options, early_stop=False)
    entries = entries_of(program)
    assert {name for name, _ in entries} == names
    assert len(entries) == program.architecture.max_calls


def entries_of(program: AttentionMoA, question: str = "What is 1 + 2?") -> list[tuple[str, dict[str, Any]]]:
    """What one run leaves in DSPy's trace: the predictors' names and what they were given."""
    names = {id(predictor): name for name, predictor in program.named_predictors()}
    with dspy.context(trace=[]):
        program(question=question)
        return [(names[id(predictor)], inputs) for predictor, inputs, _ in cast("list[Any]", dspy.settings.trace)]


def test_a_copy_has_prompts_of_its_own_and_the_same_connections():
    program = program_of(simulated(), shared_prompts=False)
    for copied in (program.deepcopy(), copy.deepcopy(program)):
        for (_, theirs), (_, ours) in zip(copied.named_predictors(), program.named_predictors(), strict=True):
            assert theirs is not ours
            theirs.demos.append({"question": "q"})
            assert ours.demos == []
        assert [agent.lm for agent in copied.agents] == [agent.lm for agent in program.agents]
        assert copied.architecture == program.architecture
        assert copied(question="What is 1 + 2?").answer == program(question="What is 1 + 2?").answer
    assert program.reset_copy().dump_state() == program.dump_state()


def test_dspys_own_state_goes_out_and_in():
    tuned, other = program_of(simulated(), layers=2), program_of(simulated(), layers=2)
    for number, (_, predictor) in enumerate(tuned.named_predictors()):
        signature: Any = predictor.signature
        predictor.signature = signature.with_instructions(f"Tuned {number}.")
        predictor.demos = [dspy.Example(question="q", answer="a")]
    other.load_state(tuned.dump_state())
    assert other.dump_state() == tuned.dump_state()
    assert cast("Any", other.synthesize).signature.instructions == "Tuned 6."


def test_set_lm_leaves_each_agent_its_model():
    lms = [ScriptedLM("a", f"scripted/{name}") for name in "abc"]
    program, intruder = program_of(lms), ScriptedLM("no", "scripted/intruder")
    program.set_lm(intruder)
    assert program.get_lm() is intruder
    models = {step.agent: step.model for step in program(question="?").trace.steps}
    assert models == {"a": "scripted/a", "b": "scripted/b", "c": "scripted/c", "aggregator": "scripted/a"}
    assert intruder.requests == []


def test_get_lm_of_agents_on_different_models_is_one_of_theirs():
    lms = simulated()
    assert program_of(lms).get_lm() is lms[0]
    assert program_of(lms, aggregator=lms[2]).get_lm() is lms[2]


# The DSPy trace and predictions


class Jitter:
    """An engine whose calls take a time of their own each."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    async def complete(self, request: Any) -> Any:
        from dspy.lm15 import Message, Response, Usage

        await asyncio.sleep(self._random.random() * 0.004)
        text = f"{request.model} {len(prompt_of(request))}"
        if "`improved`" in prompt_of(request):
            text = f"[[ ## improved ## ]]\nTrue\n\n[[ ## answer ## ]]\n{text}\n\n[[ ## completed ## ]]"
        message = Message.assistant(text)
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=Usage())


class NeverBlocking:
    def complete(self, request: Any) -> Any:
        raise AssertionError("calls inside a layer are asynchronous")


def jittery(seed: int, attention: Any, shared: bool) -> AttentionMoA:
    engine = Jitter(seed)
    lms = [dspy.LM(f"jitter/{n}", engine=NeverBlocking(), async_engine=engine, cache=False) for n in "abc"]
    return program_of(lms, layers=2, attention=attention, shared_prompts=shared)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.sampled_from(["full", "cross", 1]), st.booleans())
@pytest.mark.slow
def test_traces_do_not_depend_on_who_finishes_first(seed: int, attention: Any, shared: bool):
    one, other = jittery(seed, attention, shared), jittery(seed + 1, attention, shared)
    assert entries_of(one) == entries_of(other)
    steps = [[(s.layer, s.stage, s.agent, s.target, s.text) for s in p(question="?").trace.steps] for p in (one, other)]
    assert steps[0] == steps[1]


def test_the_trace_is_in_order_of_layer_stage_agent_and_target():
    entries = entries_of(jittery(0, "full", shared=False))
    assert [name for name, _ in entries[:18]] == [
        "propose[0]", "propose[1]", "propose[2]",
        "self_critique[0]", "critique[0]", "critique[0]",
        "critique[1]", "self_critique[1]", "critique[1]",
        "critique[2]", "critique[2]", "self_critique[2]",
        "refine[0]", "refine[1]", "refine[2]",
        "aggregate", "improve[0]", "improve[1]",
    ]  # fmt: skip
    assert entries[-1][0] == "synthesize"


def test_what_was_in_the_trace_before_stays_in_front():
    program = program_of(simulated(), attention="none")
    with dspy.context(trace=["before"]):
        program(question="What is 1 + 2?")
        assert len(dspy.settings.trace) == 5
        assert dspy.settings.trace[0] == "before"
    with dspy.context(trace=[], max_trace_size=2):
        program(question="What is 1 + 2?")
        assert len(dspy.settings.trace) == 2
    with dspy.context(trace=None):
        assert program(question="What is 1 + 2?").trace.calls == 4


def test_the_record_of_a_run_is_not_one_of_its_outputs():
    prediction = program_of(simulated())(question="What is 1 + 2?")
    assert prediction.keys() == ["answer"]
    assert prediction.toDict() == {"answer": prediction.answer}
    assert "trace" not in prediction
    assert prediction == dspy.Prediction(answer=prediction.answer)
    assert copy.deepcopy(prediction).trace == prediction.trace


# The cache and fresh draws


def test_agents_on_one_model_draw_their_own_samples_and_a_repeated_call_costs_nothing():
    lm = numbered()
    program = program_of([lm, lm, lm], layers=2, attention="none", residual="none")
    first = program(question="?")
    assert len(set(proposals(first))) == 3
    asked = len(lm.requests)
    again = program(question="?")
    assert len(lm.requests) == asked
    assert (again.answer, again.trace.cached_calls) == (first.answer, first.trace.calls)


def test_three_simulated_agents_on_one_model_differ_with_the_cache_on():
    lm = SimulatedLM({"Pick one.": "0"}, knows=0, same_error=0, wrong=[str(n) for n in range(1, 1000)], cache=True)
    prediction = program_of([lm, lm, lm])(question="Pick one.")
    assert len(set(proposals(prediction))) == 3


def test_a_repeated_call_costs_nothing_where_agents_agree():
    count = itertools.count()

    def reply(request: Any) -> str:
        prompt = prompt_of(request)
        return f"remark {next(count)}" if "Own Answer:" in prompt and "Critiques:" not in prompt else "Paris"

    lm = ScriptedLM(reply, temperature=1.0, cache=True)
    program = program_of([lm, lm, lm])
    program(question="?")
    asked = len(lm.requests)
    program(question="?")
    assert len(lm.requests) == asked


def test_an_ambient_lm_with_a_new_rollout_draws_new_samples_of_every_agent():
    own = numbered("scripted/own")
    program, ambient = program_of([own, Agent(own, name="b")], attention="none"), ScriptedLM("x", "scripted/ambient")
    first = proposals(program(question="?"))
    with dspy.context(lm=ambient.copy(rollout_id=2)):
        second = proposals(program(question="?"))
        assert proposals(program(question="?")) == second
    program.set_lm(ambient.copy(rollout_id=3))
    third = proposals(program(question="?"))
    assert len({*first, *second, *third}) == 6
    assert ambient.requests == []
    program.set_lm(cast("Any", None))
    assert proposals(program(question="?")) == first


def test_agents_on_the_ambient_model_follow_its_rollout():
    ambient = numbered("scripted/ambient")
    program = program_of([Agent(name="x"), Agent(name="y")], attention="none")
    drawn = []
    for rollout in (None, 1, 2, 1):
        with dspy.context(lm=ambient if rollout is None else ambient.copy(rollout_id=rollout)):
            drawn.append(proposals(program(question="?")))
    assert drawn[3] == drawn[1]
    assert len({text for texts in drawn[:3] for text in texts}) == 6


def test_without_one_agent_the_others_draw_as_before():
    lms = [numbered(f"scripted/{name}") for name in "abc"]
    whole = program_of([lms[0], lms[1], lms[1], lms[2]], attention="none")(question="?")
    part = program_of([lms[1], lms[1], lms[2]], attention="none")(question="?")
    assert proposals(part) == proposals(whole)[1:]


def test_at_temperature_0_a_new_rollout_draws_nothing_new():
    lm = ScriptedLM("the same", temperature=0, cache=True)
    program = program_of([lm, Agent(lm, name="b")], attention="none")
    program(question="?")
    asked = len(lm.requests)
    with dspy.context(lm=lm.copy(temperature=1.0, rollout_id=2)):
        assert program(question="?").trace.cached_calls == 3
    assert len(lm.requests) == asked


# Optimizers and streaming


def test_bootstrap_few_shot_compiles_agents_of_different_models(capsys: pytest.CaptureFixture[str]):
    lms = simulated(knows=0.7, finds=0.7)
    student = program_of(lms, layers=2, early_stop=False)
    optimizer = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=2, max_labeled_demos=2, max_rounds=2)
    with dspy.context(lm=ScriptedLM("x", "scripted/ambient")):
        compiled = optimizer.compile(student, trainset=EXAMPLES[:6])
    outputs = {
        "propose": {"answer"}, "improve": {"answer"}, "critique": {"critique"}, "self_critique": {"critique"},
        "refine": {"answer"}, "aggregate": {"answer"}, "synthesize": {"improved", "answer"},
    }  # fmt: skip
    for name, predictor in compiled.named_predictors():
        signature: Any = predictor.signature
        augmented = [demo for demo in predictor.demos if demo.get("augmented")]
        assert len(augmented) == 2, name
        assert set(signature.output_fields) == outputs[name]
        for demo in augmented:
            assert set(demo.keys()) - {"augmented"} == set(signature.fields), name
    prediction = compiled(question="What is 5 + 5?")
    assert {step.status for step in prediction.trace.steps} == {"ok"}
    assert [agent.lm for agent in compiled.agents] == lms
    shown = prompt_of(cast("Any", lms[1]).requests[-1])
    assert "What is 5 + 5?" in shown


@pytest.mark.timeout(30)
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("listens", [False, True])
def test_streamify_gives_steps_the_answer_in_parts_and_the_prediction(is_async: bool, listens: bool):
    lm = ScriptedLM("The answer is 42, and nothing else.")
    program = AttentionMoA("question -> answer", [lm, lm], layers=1)
    listeners = [dspy.streaming.StreamListener("answer", predict=program)] if listens else []
    streaming: Any = dspy.streamify(
        program,
        stream_listeners=listeners,
        is_async_program=is_async,
        include_final_prediction_in_output_stream=not listens,
    )

    async def collect() -> list[Any]:
        return [item async for item in streaming(question="?")]

    items = asyncio.run(collect())
    said = [item.message for item in items if isinstance(item, dspy.streaming.StatusMessage)]
    assert len(said) == 9
    assert said[-1] == "layer 1: aggregate by aggregator"
    parts = [item for item in items if isinstance(item, dspy.streaming.StreamResponse)]
    assert len(parts) > 5
    assert "".join(part.chunk for part in parts) == "The answer is 42, and nothing else."
    assert [part.is_last_chunk for part in parts] == [False] * (len(parts) - 1) + [True]
    predictions = [item.answer for item in items if isinstance(item, dspy.Prediction)]
    assert predictions == ([] if listens else ["The answer is 42, and nothing else."])


def test_asyncify_runs_it_beside_the_loop():
    program = program_of(simulated())

    async def call() -> Any:
        return await cast("Any", dspy.asyncify(program))(question="What is 1 + 2?")

    assert asyncio.run(call()).answer == program(question="What is 1 + 2?").answer


def test_it_works_inside_a_module_of_the_users():
    class Pipeline(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rewrite = dspy.Predict("question -> better_question")
            self.moa = program_of(simulated())

        def forward(self, question: str) -> Any:
            return self.moa(question=question)

    pipeline = Pipeline()
    assert {name for name, _ in pipeline.named_predictors()} >= {"rewrite", "moa.propose", "moa.aggregate"}
    assert cast("Any", pipeline(question="What is 1 + 2?")).trace.calls == 16
    assert len(pipeline.history) == 16
