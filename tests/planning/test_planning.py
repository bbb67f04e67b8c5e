"""Plans, held against what the same programs then really do."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import dspy
import litellm
import pytest
from dspy.lm15 import Request
from hypothesis import given, settings, strategies as st
from support.loopback import Body, LockStep, Loopback

from moa_dspy import Agent, AttentionMoA, Budget, ConfigurationError, InputError, Lengths, Plan
from moa_dspy.presets import self_consistency, single_model
from moa_dspy.runtime.knn_demos import Nearest
from moa_dspy.testing import ScriptedLM, prompt_of
from moa_dspy.trace import Failure, Step, Tokens, Trace, watch

MARKED = "[[ ## improved ## ]]\n{improved}\n\n[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]"


def words(tokens: int) -> str:
    return " ".join(["the"] * tokens)


def writer(improved: bool = True, answer: int = 20, critique: int = 10) -> Any:
    """Replies of given lengths, in the format that each role asks for."""

    def reply(request: Request) -> str:
        prompt = prompt_of(request)
        if "improved" in prompt:
            return MARKED.format(improved=improved, answer=words(answer))
        return words(critique if "Do not write a new answer" in prompt else answer)

    return reply


def program(agents: int = 3, layers: int = 2, improved: bool = True, **options: Any) -> AttentionMoA:
    lms = [ScriptedLM(writer(improved), model=f"scripted/{number}") for number in range(agents)]
    return AttentionMoA("question -> answer", lms, layers=layers, **options)


def requests(moa: AttentionMoA) -> int:
    return sum(len(agent.lm.requests) for agent in moa.agents if isinstance(agent.lm, ScriptedLM))


def per_stage(trace: Trace) -> Counter[tuple[int, str]]:
    counts: Counter[tuple[int, str]] = Counter()
    for step in trace.steps:
        counts[step.layer, step.stage] += step.calls
    return +counts


# --------------------------------------------------------------------------------------------------------------------
# Calls and depth, exactly
# --------------------------------------------------------------------------------------------------------------------

shapes = (
    st.integers(1, 4)
    .flatmap(
        lambda agents: st.fixed_dictionaries(
            {
                "agents": st.just(agents),
                "layers": st.integers(1, 3),
                "attention": st.sampled_from(["full", "cross", "self", "none", *range(1, agents)]),
                "residual": st.sampled_from(["synthesis", "none", "answers"]),
                "aggregation": st.sampled_from(["synthesis", "vote", 2, 3, *(["none"] if agents == 1 else [])]),
                "shared_prompts": st.booleans(),
                "early_stop": st.booleans(),
            }
        )
    )
    .filter(lambda shape: shape["layers"] != 1 or shape["residual"] != "answers")
)


@settings(max_examples=40)
@given(shape=shapes, calls=st.none() | st.integers(1, 60))
@pytest.mark.slow
def test_a_run_makes_exactly_the_planned_calls_stage_by_stage(shape: dict[str, Any], calls: int | None) -> None:
    moa = program(**shape, budget=Budget(calls=calls))

    plan = moa.plan(question="?")
    assert requests(moa) == 0
    trace = moa(question="?").trace

    assert plan.full.calls == requests(moa) == trace.calls
    assert {(share.layer, share.stage): share.calls for share in plan.full.stages} == per_stage(trace)
    assert {share.model: share.calls for share in plan.full.models} == Counter(
        step.model for step in trace.steps if step.calls
    )
    assert plan.full.stopped_by == trace.stopped_by
    assert plan.full.layers == trace.layers
    if calls is None:
        assert plan.full.calls == moa.architecture.max_calls
        assert plan.full.depth == moa.architecture.depth
        assert not plan.left_out
    else:
        left_out = sum(share.calls for share in plan.left_out)
        assert plan.full.calls <= calls
        assert plan.full.calls + left_out == moa.architecture.max_calls


@pytest.mark.slow
@settings(max_examples=25)
@given(shape=shapes)
def test_a_run_that_stops_at_the_first_chance_makes_the_calls_of_the_minimum(shape: dict[str, Any]) -> None:
    moa = program(**shape, improved=False)

    plan = moa.plan(question="?")
    trace = moa(question="?").trace

    assert plan.minimum.calls == trace.calls
    assert plan.minimum.stopped_by == trace.stopped_by
    assert plan.minimum.layers == trace.layers


def test_sums_over_stages_layers_and_models_agree() -> None:
    plan = program(agents=3, layers=3).plan(question="?")
    full = plan.full
    assert sum(full.calls_per_stage.values()) == full.calls
    assert sum(full.calls_per_layer.values()) == full.calls
    for parts in (full.stages, full.models):
        assert sum(part.calls for part in parts) == full.calls
        assert sum(part.prompt_tokens for part in parts) == full.prompt_tokens
        assert sum(part.completion_tokens for part in parts) == full.completion_tokens
    assert full.calls_per_stage == {"propose": 9, "critique": 27, "refine": 9, "aggregate": 3, "synthesize": 2}
    assert full.calls_per_layer == {1: 16, 2: 17, 3: 17}


def test_the_depth_is_the_number_of_rounds_that_a_server_sees() -> None:
    lockstep = LockStep()

    def reply(body: Body) -> str:
        return MARKED.format(improved=True, answer="a") if "improved" in str(body) else "a"

    with Loopback(reply=reply, hold=lockstep) as server:
        moa = AttentionMoA("question -> answer", [server.lm("a"), server.lm("b")], layers=2)
        plan = moa.plan(question="?", budget=Budget(calls=12), seconds_per_call=0.5)
        moa(question="?", budget=Budget(calls=12))
    assert plan.full.depth == len(lockstep.rounds)
    assert plan.full.calls == sum(lockstep.rounds)
    assert plan.full.seconds == plan.full.depth * 0.5


def test_what_a_budget_leaves_out_is_said() -> None:
    plan = program(agents=2, layers=2).plan(question="?", budget=Budget(calls=7))
    assert plan.full.stopped_by == "budget"
    left_out = {(share.layer, share.stage): share.calls for share in plan.left_out}
    assert left_out == {
        (1, "critique"): 2,
        (1, "refine"): 1,
        (2, "propose"): 2,
        (2, "critique"): 4,
        (2, "refine"): 2,
        (2, "aggregate"): 1,
        (2, "synthesize"): 1,
    }
    assert "left out for the budget: 2 to critique in layer 1, 1 to refine in layer 1, layer 2 (10 calls)" in (
        plan.to_table().splitlines()
    )


def test_a_budget_of_tokens_or_dollars_is_spent_in_the_order_of_a_run() -> None:
    moa = AttentionMoA("question -> answer", [ScriptedLM("a", model="openai/gpt-4.1") for _ in range(3)], layers=2)
    whole = moa.plan(question="?")
    assert whole.full.usd is not None
    for budget in (Budget(tokens=whole.full.prompt_tokens // 2), Budget(usd=whole.full.usd / 2)):
        plan = moa.plan(question="?", budget=budget)
        assert plan.full.stopped_by == "budget"
        assert 3 < plan.full.calls < whole.full.calls
        assert any("depends on the lengths" in note for note in plan.notes)
    # A plan refuses what a run would refuse.
    with pytest.raises(ConfigurationError, match="too small for a single proposal"):
        moa.plan(question="?", budget=Budget(tokens=1))


# --------------------------------------------------------------------------------------------------------------------
# Tokens
# --------------------------------------------------------------------------------------------------------------------


def counted(lengths: Lengths) -> Any:
    def reply(body: Body) -> str:
        prompt = str(body["messages"])
        if "improved" in prompt:
            return MARKED.format(improved=True, answer=words(lengths.answer))
        return words(lengths.critique if "Do not write a new answer" in prompt else lengths.answer)

    return reply


def tokens_of(server: Loopback) -> list[int]:
    return [litellm.token_counter(model=call.body["model"], messages=call.body["messages"]) for call in server.calls]


def demo(**values: Any) -> dspy.Example:
    return dspy.Example(**values)


@pytest.mark.parametrize("case", ["plain", "typed", "chat", "json", "history"])
def test_the_first_prompts_are_the_ones_that_a_server_gets_to_the_token(case: str) -> None:
    signature: Any = "question -> answer"
    inputs: dict[str, Any] = {"question": "What is the capital of Peru? Ünïcödé, 你好."}
    adapter: dspy.Adapter | None = None
    text = "Lima"
    if case == "typed":
        signature = "question -> city: Literal['Lima', 'Quito'], inhabitants: int"
        text = "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in
                           {"reasoning": "r", "city": "Lima", "inhabitants": 3}.items())  # fmt: skip
    elif case == "chat":
        adapter, text = dspy.ChatAdapter(use_json_adapter_fallback=False), "[[ ## answer ## ]]\nLima"
    elif case == "json":
        adapter, text = dspy.JSONAdapter(), json.dumps({"answer": "Lima"})
    elif case == "history":
        signature = "question, history: dspy.History -> answer"
        inputs["history"] = dspy.History(messages=[{"question": "Hello?", "answer": "Yes?"}])

    with Loopback(reply=lambda body: text) as server, dspy.context(adapter=adapter):
        agents = [Agent(server.lm("a"), persona="You are brief."), Agent(server.lm("b"), max_tokens=50)]
        moa = AttentionMoA(signature, agents, layers=1, attention="none", aggregation="vote")
        predictor = moa.propose
        assert isinstance(predictor, dspy.Predict)
        predictor.demos = [demo(question="Capital of Ecuador?", answer="Quito", city="Quito", inhabitants=2)]
        plan = moa.plan(**inputs)
        moa(**inputs)
        sent = tokens_of(server)
    assert plan.full.prompt_tokens == sum(sent)
    assert sorted(share.prompt_tokens for share in plan.full.models) == sorted(sent)


CITIES = {
    "What is the capital of Peru, a country on the Pacific Ocean?": "Lima",
    "Two plus two": "four",
    "Three plus five, written as a word": "eight",
    "Who wrote the novel about a whale, and in which year was it printed first?": "Herman Melville, in 1851",
    "Nine": "9",
}


def choosing(k: int, vectorizer: Any = "words", agents: Any = None) -> AttentionMoA:
    """A program of which every prompt shows the k demos nearest to the question."""
    moa = AttentionMoA(
        "question -> answer", agents or [ScriptedLM("a"), ScriptedLM("b")], layers=1, shared_prompts=False
    )
    for predictor in moa.predictors():
        predictor.demos = [demo(question=question, answer=answer) for question, answer in CITIES.items()]
        Nearest.set_on(predictor, Nearest(k, ("question",), vectorizer))
    return moa


def showing(questions: list[str]) -> AttentionMoA:
    moa = choosing(len(questions))
    for predictor in moa.predictors():
        predictor.demos = [demo(question=question, answer=CITIES[question]) for question in questions]
    return moa


def test_of_demos_chosen_by_likeness_the_nearest_to_the_given_input_are_counted() -> None:
    question = "What is the capital of Ecuador, a country on the Pacific?"
    with Loopback(reply=lambda body: "Quito") as server:
        moa = choosing(1, agents=[server.lm("a")])
        plan = moa.plan(question=question)
        moa(question=question)
        first, *_ = tokens_of(server)
    assert plan.full.stages[0].prompt_tokens == first
    assert "Lima" in str(server.calls[0].body)
    assert not any("nearest" in note for note in plan.notes)
    assert plan.full.prompt_tokens < choosing(2, agents=list(moa.agents)).plan(question=question).full.prompt_tokens


@pytest.mark.parametrize(
    ("vectorizer", "inputs"),
    [("words", {}), ("openai/text-embedding-3-small", {}), ("openai/text-embedding-3-small", {"question": "Ten?"})],
)
def test_where_the_choice_of_demos_is_not_known_those_of_median_length_are_counted(
    vectorizer: str, inputs: dict[str, Any], forbidden_network: list[str]
) -> None:
    by_length = sorted(CITIES, key=lambda question: len(question + CITIES[question]))
    moa = choosing(3, vectorizer)
    plan = moa.plan(**inputs)
    known = showing(by_length[1:4]).plan(**inputs).full
    (first, *others), (first_known, *others_known) = plan.full.stages, known.stages
    assert others == others_known
    chosen = first - first_known  # one call of the embedding model, for the demos and the question
    assert (chosen.calls, chosen.completion_tokens) == ((0, 0) if vectorizer == "words" else (1, 0))
    assert (chosen.prompt_tokens > 50) == (vectorizer != "words")
    assert any("the 3 of median length are assumed" in note for note in plan.notes)
    assert forbidden_network == []
    assert all(Nearest.of(predictor) and len(predictor.demos) == 5 for predictor in moa.predictors())


def test_with_answers_of_the_assumed_lengths_all_prompts_come_out_as_planned() -> None:
    lengths = Lengths(answer=120, critique=60)
    question = "Name three rivers of Peru and say where each of them ends."
    with Loopback(reply=counted(lengths)) as server:
        moa = AttentionMoA("question -> answer", [server.lm(name) for name in "abc"], layers=3)
        plan = moa.plan(question=question, lengths=lengths)
        moa(question=question)
        sent = tokens_of(server)
        written = [litellm.token_counter(model="a", text=counted(lengths)(call.body)) for call in server.calls]
    assert plan.full.calls == len(sent)
    assert plan.full.prompt_tokens == pytest.approx(sum(sent), rel=0.02)
    assert plan.full.completion_tokens == pytest.approx(sum(written), rel=0.02)


def test_tokens_are_counted_with_the_models_own_tokenizer_where_litellm_has_it() -> None:
    question = "Ünïcödé and 你好 make tokenizers differ: Грузовик, καλημέρα."
    lms = [ScriptedLM("a", model=model) for model in ("openai/gpt-4o", "anthropic/claude-sonnet-4-5", "scripted/model")]
    moa = AttentionMoA("question -> answer", lms, layers=1, attention="none", aggregation="vote")
    plan = moa.plan(question=question)
    moa(question=question)

    shares = {share.model: share for share in plan.full.models}
    for lm, name in zip(lms, ("gpt-4o", "claude-sonnet-4-5", "scripted/model"), strict=True):
        (request,) = lm.requests
        messages = [{"role": "system", "content": request.system}]
        messages += [{"role": message.role, "content": message.text} for message in request.messages]
        assert shares[lm.model].prompt_tokens == litellm.token_counter(model=name, messages=messages)
    assert [share.counter for share in plan.full.models] == ["tiktoken", "anthropic", "stand-in"]
    assert len({share.prompt_tokens for share in plan.full.models}) == 3


def test_max_tokens_shorten_what_is_written_and_what_others_read() -> None:
    def plan(limit: int | None) -> Plan:
        agents = [Agent(ScriptedLM("a"), name=name, max_tokens=limit) for name in "ab"]
        return AttentionMoA("question -> answer", agents, layers=1).plan(question="?")

    short, long = plan(50), plan(None)
    assert short.full.completion_tokens == 50 * short.full.calls
    assert short.full.prompt_tokens < long.full.prompt_tokens
    assert any("cut off at its max_tokens, 50" in note for note in short.notes)
    assert not any("max_tokens" in note for note in long.notes)


def test_hidden_thinking_is_paid_for_and_read_by_nobody() -> None:
    moa = program(agents=2, layers=1)
    without, thinking = moa.plan(question="?"), moa.plan(question="?", lengths=Lengths(thinking=1000))
    assert thinking.full.completion_tokens == without.full.completion_tokens + 1000 * without.full.calls
    assert thinking.full.prompt_tokens == without.full.prompt_tokens


def test_without_inputs_a_length_is_assumed_and_said() -> None:
    moa = AttentionMoA("question, context, hint: str | None -> answer", [ScriptedLM("a")], layers=1)
    small, large = moa.plan(), moa.plan(lengths=Lengths(input=1100))
    assert "no input was given: each input field is assumed to have 100 tokens" in small.notes
    assert not any("no input" in note for note in moa.plan(question="?", context="!").notes)
    calls = large.full.calls
    assert large.full.prompt_tokens - small.full.prompt_tokens == pytest.approx(2 * 1000 * calls, rel=0.02)


class Colour(dspy.Signature):
    """Say something about a number."""

    number: int = dspy.InputField()
    image: dspy.Image = dspy.InputField()
    tone: Literal["warm", "cold"] = dspy.OutputField()
    sure: bool = dspy.OutputField()
    share: float | None = dspy.OutputField()
    names: list[str] = dspy.OutputField()


def test_typed_fields_of_all_kinds_can_be_planned() -> None:
    moa = AttentionMoA(Colour, [ScriptedLM("a", model="scripted/a"), ScriptedLM("b", model="scripted/b")], layers=2)
    plan = moa.plan(lengths=Lengths(answer=40, reasoning=70))
    (proposals, *_) = plan.full.stages
    assert 2 * (40 + 70) < proposals.completion_tokens < 2 * (40 + 70 + 60)
    assert plan.full.calls == moa.architecture.max_calls


def test_an_image_is_counted_without_being_fetched(forbidden_network: list[str]) -> None:
    moa = AttentionMoA("image: dspy.Image, question -> answer", [ScriptedLM("a", model="openai/gpt-4o")], layers=1)
    picture = moa.plan(image=dspy.Image("https://example.invalid/a.png"), question="What is this?")
    assert picture.full.prompt_tokens > 0
    assert forbidden_network == []


# --------------------------------------------------------------------------------------------------------------------
# Dollars
# --------------------------------------------------------------------------------------------------------------------


def test_dollars_are_tokens_times_the_rates_of_litellms_table() -> None:
    lms = [ScriptedLM("a", model="openai/gpt-4.1"), ScriptedLM("b", model="anthropic/claude-sonnet-4-5")]
    plan = AttentionMoA("question -> answer", lms).plan(question="?", times=1000)
    for share, name in zip(plan.full.models, ("gpt-4.1", "claude-sonnet-4-5"), strict=True):
        rates = litellm.model_cost[name]
        expected = share.prompt_tokens * rates["input_cost_per_token"]
        expected += share.completion_tokens * rates["output_cost_per_token"]
        assert share.usd == pytest.approx(expected)
        assert share.price is not None
        assert share.price.input == pytest.approx(1e6 * rates["input_cost_per_token"])
    assert plan.full.usd == pytest.approx(sum(share.usd or 0 for share in plan.full.models))
    assert plan.total.usd == pytest.approx(1000 * (plan.full.usd or 0))
    assert plan.total.calls == 1000 * plan.full.calls


def test_dollars_are_those_that_the_run_then_records() -> None:
    lengths = Lengths(answer=30, critique=20)
    with Loopback(reply=counted(lengths)) as server:
        moa = AttentionMoA("question -> answer", [server.lm("gpt-4.1"), server.lm("gpt-4.1-mini")], layers=2)
        plan = moa.plan(question="?", lengths=lengths)
        trace = moa(question="?").trace
    rates = {share.model: share.price for share in plan.full.models}
    for step in trace.steps:
        price = rates[step.model or ""]
        assert price is not None
        recorded = (step.tokens.prompt * price.input + step.tokens.completion * price.output) / 1e6
        assert step.cost_usd == pytest.approx(recorded)


@pytest.mark.parametrize("model", ["vertex_ai/gemini-2.5-pro", "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0"])
def test_what_only_litellm_can_route_is_priced_from_its_table(model: str) -> None:
    (share,) = single_model("question -> answer", ScriptedLM("a", model=model)).plan(question="?").full.models
    assert share.price is not None
    assert share.price.source == "litellm"
    assert (share.usd or 0) > 0


def test_an_unknown_price_is_said_and_never_a_zero() -> None:
    lms = [ScriptedLM("a", model="openai/gpt-4.1"), ScriptedLM("b", model="openai/nobody-knows-this")]
    plan = AttentionMoA("question -> answer", lms, layers=1).plan(question="?")
    known, unknown = plan.full.models
    assert unknown.usd is None
    assert unknown.price is None
    assert unknown.dollars == "unknown"
    assert plan.full.usd is None
    assert plan.full.usd_at_least == known.usd
    assert plan.full.dollars.startswith("at least $0.0")
    assert "the price of openai/nobody-knows-this is unknown, and in no sum of dollars" in plan.notes

    nothing = single_model("question -> answer", lms[1]).plan(question="?")
    assert nothing.full.dollars == "unknown"


def test_the_embedded_model_is_free_and_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xllamacpp")
    from moa_dspy.local import lm

    monkeypatch.setattr(lm, "connections", lm.Connections())  # the process may have started it before
    plan = AttentionMoA("question -> answer: int", ["local", "local"], layers=2).plan(question="1+1?")
    (share,) = plan.full.models
    assert plan.full.usd == 0
    assert plan.full.dollars == "$0"
    assert share.price is not None
    assert share.price.source == "free"
    assert lm.connections.running("local") is None


# --------------------------------------------------------------------------------------------------------------------
# Without a network
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def forbidden_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every attempt to look up a name or to connect fails, and is on this list."""
    attempts: list[str] = []

    def refuse(*arguments: Any, **options: Any) -> Any:
        attempts.append(repr(arguments))
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


def test_models_whose_tokenizer_would_have_to_be_fetched_are_counted_at_once(forbidden_network: list[str]) -> None:
    models = ["together_ai/meta-llama/Llama-3-70b-chat-hf", "replicate/meta/llama-2-70b-chat", "cohere_chat/command-r"]
    moa = AttentionMoA("question -> answer", [ScriptedLM("a", model=model) for model in models], layers=1)
    began = time.monotonic()
    plan = moa.plan(question="?")
    assert time.monotonic() - began < 10
    assert {share.counter for share in plan.full.models} == {"stand-in"}
    assert any("stand-in" in note for note in plan.notes)
    assert forbidden_network == []


FRESH = """
    import json, os, socket, sys
    attempts = []
    def refuse(*arguments, **options):
        attempts.append(repr(arguments))
        raise OSError("no network in this test")
    socket.getaddrinfo = refuse
    socket.socket.connect = refuse
    import dspy
    from moa_dspy import AttentionMoA
    lms = [dspy.LM("openai/gpt-4.1"), dspy.LM("together_ai/meta-llama/Llama-3-70b-chat-hf")]
    plan = AttentionMoA("question -> answer", lms).plan(question="?")
    same = os.environ.get("LITELLM_LOCAL_MODEL_COST_MAP")
    print(json.dumps({"plan": plan.model_dump(mode="json"), "attempts": attempts, "environment": same}))
"""


def in_a_fresh_process(**environment: str) -> dict[str, Any]:
    inherited = {name: value for name, value in os.environ.items() if name != "LITELLM_LOCAL_MODEL_COST_MAP"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FRESH)],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
def test_no_price_list_is_fetched_whatever_the_environment_says() -> None:
    said = in_a_fresh_process(LITELLM_LOCAL_MODEL_COST_MAP="False")
    assert said["attempts"] == []
    assert said["environment"] == "False"
    assert [model["price"] is not None for model in said["plan"]["full"]["models"]] == [True, False]


@pytest.mark.slow
def test_where_litellm_has_no_tokenizer_a_rule_of_thumb_is_used_and_said(tmp_path: Path) -> None:
    said = in_a_fresh_process(CUSTOM_TIKTOKEN_CACHE_DIR=str(tmp_path))
    models = said["plan"]["full"]["models"]
    assert {model["counter"] for model in models} == {"characters"}
    assert all(model["prompt_tokens"] > 0 for model in models)
    assert any("rule of thumb" in note for note in said["plan"]["notes"])


# --------------------------------------------------------------------------------------------------------------------
# Lengths of an earlier run
# --------------------------------------------------------------------------------------------------------------------


def test_lengths_of_an_earlier_run_make_a_plan_of_it() -> None:
    lms = [ScriptedLM(writer(answer=90, critique=35), model=f"scripted/{name}") for name in "ab"]
    moa = AttentionMoA("question -> answer", lms, layers=2)
    trace = moa(question="?").trace
    lengths = Lengths.from_trace(trace)
    assert (lengths.answer, lengths.critique, lengths.thinking) == (90, 35, 0)
    assert lengths.reasoning == Lengths().reasoning
    assert Lengths.from_trace(Trace.from_json(trace.to_json())) == lengths


def test_hidden_thinking_is_found_in_what_was_billed() -> None:
    steps = [
        Step(layer=1, stage="critique", agent="a", model="openai/gpt-5", text=words(50), calls=1,
             outputs={"critique": words(50)}, tokens=Tokens(prompt=9, completion=850))
    ]  # fmt: skip
    assert Lengths.from_trace(Trace(steps=tuple(steps), outputs=())).thinking == 800
    noisy = steps[0].model_copy(update={"tokens": Tokens(prompt=9, completion=55)})
    assert Lengths.from_trace(Trace(steps=(noisy,), outputs=())).thinking == 0


def test_a_trace_without_text_has_no_lengths() -> None:
    failed = Step(layer=1, stage="propose", agent="a", model="m", status="failed", error=Failure(kind="k", message="m"))
    with pytest.raises(ConfigurationError, match="no text"):
        Lengths.from_trace(Trace(steps=(failed,), outputs=()))


# --------------------------------------------------------------------------------------------------------------------
# Inputs, and what a plan leaves alone
# --------------------------------------------------------------------------------------------------------------------


def test_inputs_come_as_an_example_a_mapping_or_by_name() -> None:
    moa = program(agents=2, layers=1)
    question = "What is the longest river of Peru?"
    by_name = moa.plan(question=question)
    assert moa.plan({"question": question}) == by_name
    assert moa.plan(dspy.Example(question=question, answer="Amazon").with_inputs("question")) == by_name
    assert moa.plan(dspy.Example(question=question)) == by_name


@pytest.mark.parametrize(
    ("arguments", "inputs", "message"),
    [
        ((), {"context": "c"}, "question is missing"),
        ((), {"question": "q", "context": "c", "other": 1}, "unknown input other"),
        (({"question": "q"},), {"question": "q", "context": "c"}, "given twice"),
        ((["q"],), {}, "not list"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(arguments: tuple[Any, ...], inputs: Any, message: str) -> None:
    moa = AttentionMoA("question, context -> answer", [ScriptedLM("a")])
    with pytest.raises(InputError, match=message):
        moa.plan(*arguments, **inputs)


@pytest.mark.parametrize(
    "options", [{"times": 0}, {"times": True}, {"seconds_per_call": 0.0}, {"seconds_per_call": float("nan")}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        program().plan(question="?", **options)


@pytest.mark.parametrize("lengths", [{"answer": 0}, {"critique": -1}, {"thinking": -1}, {"input": 1.5}])
def test_lengths_out_of_range_are_refused(lengths: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"length {next(iter(lengths))}="):
        Lengths(**lengths)


def test_an_agent_without_a_model_is_refused_unless_dspy_has_one() -> None:
    moa = AttentionMoA("question -> answer", [Agent(name="nobody")])
    with dspy.context(lm=None), pytest.raises(ConfigurationError, match="nobody"):
        moa.plan(question="?")
    with dspy.context(lm=ScriptedLM("a", model="scripted/ambient")):
        assert [share.model for share in moa.plan(question="?").full.models] == ["scripted/ambient"]


class _Broken(dspy.ChatAdapter):
    def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
        raise KeyError("a field")


def test_a_prompt_that_cannot_be_written_is_an_error_in_one_line() -> None:
    with dspy.context(adapter=_Broken()), pytest.raises(ConfigurationError, match="cannot be made") as caught:
        program().plan(question="?")
    assert "\n" not in str(caught.value)


def test_nobody_sees_a_rehearsal() -> None:
    class Listener(dspy.utils.callback.BaseCallback):  # type: ignore[misc]
        def on_module_start(self, *arguments: Any, **options: Any) -> None:
            seen.append(arguments)

    seen: list[Any] = []
    moa = program()
    before = moa.dump_state()
    with (
        watch(seen.append),
        dspy.context(trace=[], callbacks=[Listener()]),
        dspy.track_usage() as tracker,
    ):
        moa.plan(question="?")
        assert dspy.settings.trace == []
    assert seen == []
    assert requests(moa) == 0
    assert tracker.get_total_tokens() == {}
    assert all(isinstance(agent.lm, dspy.BaseLM) and agent.lm.history == [] for agent in moa.agents)
    assert moa.history == []
    assert all(predictor.history == [] for predictor in moa.predictors())
    assert moa.dump_state() == before
    moa(question="?")
    assert requests(moa) == moa.architecture.max_calls


def test_a_plan_can_be_made_inside_a_running_loop_and_for_a_strict_hurried_program() -> None:
    from moa_dspy import Tolerance

    moa = program(agents=3, tolerance=Tolerance(quorum=1, grace=0.0, layer_deadline=1e-9, strict=True))

    async def inside() -> Plan:
        return moa.plan(question="?")

    assert asyncio.run(inside()).full.calls == moa.architecture.max_calls


# --------------------------------------------------------------------------------------------------------------------
# As text and as JSON
# --------------------------------------------------------------------------------------------------------------------


def test_a_plan_survives_json() -> None:
    plan = program().plan(question="?", times=7, budget=Budget(calls=20))
    assert Plan.model_validate_json(plan.to_json()) == plan
    data = json.loads(plan.to_json())
    assert data["total"]["calls"] == 7 * data["full"]["calls"]
    assert data["full"]["calls_per_stage"]["propose"] == 3
    assert data["lengths"]["answer"] == 450
    assert data["budget"]["calls"] == 20


def test_the_table_says_what_is_planned_assumed_and_unknown() -> None:
    moa = AttentionMoA(
        "question -> answer", [ScriptedLM("a", model="openai/gpt-4.1"), ScriptedLM("b", model="odd/one")], layers=3
    )
    plan = moa.plan(question="?", times=1000, seconds_per_call=2.0, budget=Budget(seconds=5))
    text = plan.to_table()
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "stage", "calls", "prompt", "completion", "cost"]
    assert any(line.startswith("full run: 29 calls, 14 of them in sequence, about 28 s") for line in lines)
    assert any(line.startswith("early stop after layer 2: 19 calls, 9 of them in sequence") for line in lines)
    assert any(line.startswith("1,000 times: 19,000 to 29,000 calls (at most 31,000), cost at least") for line in lines)
    assert any("450 in an answer, 200 in a critique" in line for line in lines)
    assert any("more than the budget's 5 s: it is cut short" in line for line in lines)
    assert "odd/one" in text
    assert "unknown" in text


def test_a_single_call_and_a_vote_are_plans_too() -> None:
    one = single_model("question -> answer", ScriptedLM("a")).plan(question="?")
    assert (one.full.calls, one.full.depth) == (1, 1)
    vote = self_consistency("question -> answer: int", ScriptedLM("a", temperature=1.0), samples=4).plan(question="?")
    assert (vote.full.calls, vote.full.depth) == (4, 1)
    assert vote.full.calls_per_stage == {"propose": 4}
