"""Long inputs stand first in every role's prompt, and providers are told to keep them where that saves money."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy.lm15 import CacheConfig, Message, Request

from benchmarks.shared_prefix import Ask, Extract, Judge
from moa_dspy import AttentionMoA, mixture_of_agents, self_consistency, single_model
from moa_dspy.runtime.shared_prefix import PREAMBLE, SHARED_FROM, marked, rereading
from moa_dspy.testing import ScriptedLM, prompt_of

DOCUMENT = " ".join(["A sentence about nothing."] * 200)
assert len(DOCUMENT) > SHARED_FROM


def reply(request: Request) -> str:
    prompt = prompt_of(request)
    fields = {"improved": "True", "answer": "text", "verdict": "yes", "people": "['Ada']", "title": "A title"}
    named = [f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items() if f"[[ ## {name} ## ]]" in prompt]
    return "\n\n".join([*named, "#### yes"] if "####" in prompt else named) or "text"


def model(name: str = "m/a", **options: Any) -> ScriptedLM:
    return ScriptedLM(reply, name, temperature=1.0, **options)


INPUTS: list[tuple[Any, dict[str, str]]] = [
    (Ask, {"document": DOCUMENT, "question": "What is it about?"}),
    (Judge, {"document": DOCUMENT, "claim": "It is about nothing."}),
    (Extract, {"document": DOCUMENT}),
]


@pytest.mark.parametrize(("task", "inputs"), INPUTS)
def test_the_prompts_of_all_roles_and_formats_begin_with_the_inputs(task: Any, inputs: dict[str, str]) -> None:
    lm = model()
    trace = AttentionMoA(task, [lm, model("m/b")], layers=2)(**inputs).trace
    assert all(step.status == "ok" for step in trace.steps)
    shared = "\n\n".join(f"[[ ## {name} ## ]]\n{value}".strip() for name, value in inputs.items())
    for request in lm.requests:
        assert request.system == PREAMBLE
        text = request.messages[-1].text or ""
        assert text.startswith(shared)
        assert text[len(shared) :].startswith("\n\nInstructions:\n")
        assert text.count(DOCUMENT.strip()) == 1
    assert {step.stage for step in trace.steps} == {"propose", "critique", "refine", "aggregate", "synthesize"}


def test_tuned_instructions_and_personas_stand_behind_the_inputs() -> None:
    lm = model()
    program = AttentionMoA(Ask, [lm], layers=1)
    predictor: Any = program.propose
    predictor.signature = predictor.signature.with_instructions("Answer like a sailor.")
    program(document=DOCUMENT, question="?")
    assert (lm.requests[0].messages[-1].text or "").endswith("Instructions:\nAnswer like a sailor.")


def test_short_inputs_demos_and_the_users_own_adapter_keep_the_usual_order() -> None:
    lm = model()
    program = single_model(Ask, lm)
    program(document="short", question="?")
    usual = lm.requests[-1].system
    assert isinstance(usual, str)
    assert usual.startswith("Answer from the document.")
    predictor: Any = program.propose
    predictor.demos = [dspy.Example(document="d", question="q", answer="a").with_inputs("document", "question")]
    program(document=DOCUMENT, question="?")
    assert lm.requests[-1].system == usual
    predictor.demos = []
    with dspy.context(adapter=dspy.ChatAdapter()):
        program(document=DOCUMENT, question="?")
    assert "Your input fields are" in str(lm.requests[-1].system)


def test_earlier_turns_stay_in_front_of_the_inputs() -> None:
    class Chat(dspy.Signature):
        history: dspy.History = dspy.InputField()
        document: str = dspy.InputField()
        answer: str = dspy.OutputField()

    lm = model()
    turns = [{"document": "d", "answer": "a"}]
    single_model(Chat, lm)(history=dspy.History(messages=turns), document=DOCUMENT)
    (request,) = lm.requests
    assert [message.role for message in request.messages] == ["user", "assistant", "user"]
    assert (request.messages[-1].text or "").startswith("[[ ## document ## ]]\nA sentence")


@pytest.mark.parametrize(("task", "inputs"), INPUTS)
def test_a_user_asks_for_marks_on_any_server(task: Any, inputs: dict[str, str]) -> None:
    lm = model("anthropic/claude", prompt_cache=CacheConfig())
    single_model(task, lm)(**inputs)
    cache = lm.requests[0].config.cache
    assert cache is not None
    assert cache.prefix_until_index == 0
    shared, rest = (message.text or "" for message in lm.requests[0].messages)
    assert shared.endswith(list(inputs.values())[-1].strip())
    assert rest.startswith("Instructions:\n")


SHARED = "[[ ## document ## ]]\n" + DOCUMENT.strip()
OPENAI, CLAUDE = dspy.LM("openai/gpt-4.1", api_key="k"), dspy.LM("anthropic/claude-sonnet-4-5", api_key="k")


@pytest.mark.parametrize(
    ("lm", "reread", "expected"),
    [
        (OPENAI, False, "key"),
        (CLAUDE, True, "mark"),
        (CLAUDE, False, None),  # nothing would read what was written for a quarter more
        (dspy.LM("openai/own", api_key="k", api_base="http://127.0.0.1:1/v1"), True, None),  # may refuse the key
        (dspy.LM("anthropic/claude-sonnet-4-5", prompt_cache=CacheConfig(mode="off")), True, None),
        (dspy.LM("anthropic/claude-sonnet-4-5", prompt_cache=CacheConfig(prefix="stable")), True, None),
        (dspy.LM("openai/gpt-4.1", api_key="k", headers={"x": "y"}), True, None),  # sent by LiteLLM
        (dspy.LM("openai/gpt-4.1", api_key="k", engine="litellm"), True, None),
        (dspy.LM("gemini/gemini-2.5-pro", api_key="k"), True, None),
        (model("openai/gpt-4.1"), True, None),  # an engine of its own
    ],
)
def test_providers_are_told_what_to_keep_where_it_cannot_hurt(lm: dspy.LM, reread: bool, expected: str | None) -> None:
    text = f"{SHARED}\n\nInstructions:\nSay it."
    request = Request(model=lm.model, system=PREAMBLE, messages=(Message.user(text),))
    messages = [{"role": "system", "content": PREAMBLE}, {"role": "user", "content": text}]
    (sent,), _ = marked(lm, SHARED, (request,), {}, reread=reread)
    _, options = marked(lm, SHARED, (), {"messages": messages}, reread=reread)
    if expected is None:
        assert sent == request
        assert "prompt_cache" not in options
        return
    assert sent.config.cache == options["prompt_cache"]
    assert (sent.config.cache.key is not None, sent.config.cache.prefix_until_index) == (
        (True, None) if expected == "key" else (False, 0)
    )
    texts = [text] if expected == "key" else [SHARED, "Instructions:\nSay it."]
    assert [message.text for message in sent.messages] == texts
    assert options["messages"] is messages
    assert [message["content"] for message in messages[1:]] == texts


def test_a_mark_pays_off_only_where_calls_follow_one_another() -> None:
    a, b = model("m/a"), model("m/b")

    def of(program: AttentionMoA) -> frozenset[str]:
        models = [spec.model or "" for spec in program.architecture.agents]
        return rereading(program.architecture, models, models[0])

    assert of(AttentionMoA(Ask, [a, b], layers=1)) == {"m/a", "m/b"}
    assert of(single_model(Ask, a)) == of(self_consistency(Ask, a, samples=3)) == frozenset()
    assert of(mixture_of_agents(Ask, [a, b], layers=2)) == {"m/a"}  # the aggregator's
    assert of(mixture_of_agents(Ask, [a, b], layers=3)) == {"m/a", "m/b"}


def test_a_plan_says_what_providers_can_read_from_their_caches() -> None:
    lms = [dspy.LM("openai/gpt-4.1", api_key="k"), dspy.LM("openai/gpt-4.1-mini", api_key="k")]
    plan = AttentionMoA(Ask, lms, layers=2).plan(document=DOCUMENT * 8, question="?")
    assert 0.8 < plan.full.cached_tokens / plan.full.prompt_tokens < 0.95
    assert any("from their own cache" in note for note in plan.notes)
    assert AttentionMoA(Ask, lms, layers=2).plan(document="short", question="?").full.cached_tokens == 0
