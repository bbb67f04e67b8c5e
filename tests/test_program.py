"""Constructing and calling the program: what is accepted, what is refused and how."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import dspy
import pytest
from pydantic import ValidationError

import moa_dspy.testing
from moa_dspy import Agent, Architecture, AttentionMoA, Budget, ConfigurationError, InputError
from moa_dspy.testing import ScriptedLM

ONE = ScriptedLM("yes", model="scripted/one")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"agents": []}, "agents is empty"),
        ({"agents": "openai/gpt-4.1"}, r"agents=\[...\]"),
        ({"agents": [5]}, "a model string, a dspy.LM or an Agent"),
        ({"agents": ["gpt"]}, "provider/model"),
        ({"agents": ["nobody/nothing"]}, "no provider"),
        ({"agents": ["openai/"]}, "provider/model"),
        ({"agents": [""]}, "provider/model"),
        ({"layers": 0}, "layers=0"),
        ({"layers": 10**9}, "layers=1000000000: input should be less than or equal to 100"),
        ({"layers": 1.5}, "layers"),
        ({"layers": "two"}, "layers"),
        ({"attention": 3}, "peers"),
        ({"attention": "most"}, "full, cross, self, none"),
        ({"residual": "sum"}, "residual"),
        ({"aggregation": "best"}, "aggregation"),
        ({"aggregation": "none"}, "one agent"),
        ({"signature": "question"}, "no output"),
        ({"signature": "question -> trace"}, "trace"),
        ({"agents": [Agent(ONE, "a"), Agent(ONE, "a")]}, "names must differ"),
        ({"agents": [Agent(ONE, temperature=3.0)]}, "temperature"),
        ({"agents": [Agent(ONE, max_tokens=0)]}, "max_tokens"),
        ({"early_stop": "maybe"}, "early_stop"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_that_says_what_to_do(arguments: dict[str, Any], says: str) -> None:
    settings: dict[str, Any] = {"signature": "question -> answer", "agents": [ONE, ONE, ONE], **arguments}
    with pytest.raises(ConfigurationError, match=says) as refused:
        AttentionMoA(**settings)
    assert "\n" not in str(refused.value)


def test_a_missing_input_is_named_with_the_inputs_there_are() -> None:
    moa = AttentionMoA("context, question -> answer", [ONE])
    with pytest.raises(InputError, match=r"question is missing.*context, question"):
        moa(context="c")
    with pytest.raises(InputError, match=r"unknown input query.*context, question"):
        moa(context="c", query="q")


def test_inputs_with_a_default_or_optional_ones_may_be_left_out() -> None:
    class Task(dspy.Signature):
        """Answer."""

        question: str = dspy.InputField()
        language: str = dspy.InputField(default="en")
        hint: str | None = dspy.InputField()
        answer: str = dspy.OutputField()

    assert AttentionMoA(Task, [ONE], layers=1)(question="?").answer == "yes"


def test_an_agent_without_a_model_says_so() -> None:
    moa = AttentionMoA("question -> answer", [Agent(name="nobody")], layers=1)
    with pytest.raises(ConfigurationError, match=r"nobody.*dspy\.configure"):
        moa(question="?")


def test_names_are_made_from_models_and_numbered_where_they_repeat() -> None:
    lm = ScriptedLM("x", model="org/family/small-1b")
    names = [agent.name for agent in AttentionMoA("q -> a", [lm, lm, Agent(lm, "critic"), ONE]).architecture.agents]
    assert names == ["small-1b", "small-1b-2", "critic", "one"]


@pytest.mark.parametrize("name", ["aggregator", "vote"])
def test_no_agent_is_called_as_a_trace_calls_another_step(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot be called '{name}'"):
        AttentionMoA("q -> a", [Agent(ONE, name)])
    with pytest.raises(ConfigurationError, match=f"cannot be called '{name}'"):
        AttentionMoA("q -> a", [ONE]).replace(agents=[Agent(ONE, name)])
    lm = ScriptedLM("x", model=f"org/{name}")
    moa = AttentionMoA("q -> a", [lm, lm], aggregator=Agent(ONE, name))
    assert [agent.name for agent in moa.architecture.agents] == [f"{name}-2", f"{name}-3"]
    assert moa.architecture.aggregator is not None
    assert moa.architecture.aggregator.name == name


def test_the_architecture_is_frozen_equal_by_value_and_the_same_in_json() -> None:
    first = AttentionMoA("q -> a", [ONE, Agent(ONE, "b", temperature=0.3)], layers=3, attention=1).architecture
    second = AttentionMoA("q -> a", [ONE, Agent(ONE, "b", temperature=0.3)], layers=3, attention=1).architecture
    assert first == second
    assert Architecture.model_validate_json(first.model_dump_json()) == first
    with pytest.raises(ValidationError, match="frozen"):
        first.layers = 9  # type: ignore[misc]


def test_the_longest_contract_example_works() -> None:
    moa = AttentionMoA(
        "question -> answer",
        agents=["openai/gpt-4.1", dspy.LM("openai/x"), Agent(lm=ONE, name="critic", temperature=0.9, persona="strict")],
        layers=3,
        aggregator=None,
        attention="full",
        residual="synthesis",
        early_stop=True,
        shared_prompts=True,
    )
    assert [agent.name for agent in moa.architecture.agents] == ["gpt-4.1", "x", "critic"]
    assert moa.architecture.max_calls == 3 * (9 + 6 + 1) + 2
    assert moa.architecture.depth == 4 + 5 + 5


@pytest.mark.parametrize(("agents", "layers", "calls"), [(5, 1, 36), (5, 3, 110)])
def test_published_call_counts(agents: int, layers: int, calls: int) -> None:
    assert AttentionMoA("q -> a", [ONE] * agents, layers=layers).architecture.max_calls == calls


def test_events_tell_of_every_step_as_it_starts_and_ends() -> None:
    seen: list[Any] = []
    with moa_dspy.watch(seen.append):
        prediction = AttentionMoA("question -> answer", [ONE, ONE], layers=1)(question="?")
    started = [event for event in seen if isinstance(event, moa_dspy.StepStarted)]
    ended = [event for event in seen if isinstance(event, moa_dspy.Step)]
    assert len(started) == len(ended) == prediction.trace.calls
    assert {step.stage for step in ended} == {"propose", "critique", "refine", "aggregate"}
    before = len(seen)
    AttentionMoA("question -> answer", [ONE], layers=1)(question="?")
    assert len(seen) == before


def test_agents_can_be_exchanged_with_prompts_and_demos_kept() -> None:
    moa = AttentionMoA("question -> answer", [ONE, ONE], layers=1)
    moa.propose.signature = moa.propose.signature.with_instructions("tuned")  # type: ignore[union-attr]
    two = ScriptedLM("two", model="scripted/two")
    other = moa.replace(agents=[two, two])
    assert other(question="?").answer == "two"
    assert moa(question="?").answer == "yes"
    assert "tuned" in (two.requests[0].system or "")
    assert len(moa.replace(agents=[two]).agents) == 1


def test_a_program_is_derived_from_another_with_changes_and_keeps_the_rest() -> None:
    moa = AttentionMoA(
        "question -> answer",
        [Agent(ONE, "a"), Agent(ONE, "b")],
        layers=3,
        shared_prompts=False,
        budget=Budget(calls=50),
    )
    for predictors in (moa.propose, moa.critique):
        for name, predictor in zip("ab", predictors, strict=True):  # type: ignore[arg-type]
            predictor.signature = predictor.signature.with_instructions(f"tuned for {name}")
    moa.aggregate.demos = [dspy.Example(question="q", candidate_answers="c", answer="a")]
    one = moa.replace(layers=1)
    assert (one.architecture.layers, one.budget, moa.architecture.layers) == (1, Budget(calls=50), 3)
    assert not hasattr(one, "improve")
    assert not hasattr(one, "synthesize")
    assert one.aggregate.demos == moa.aggregate.demos
    assert one.aggregate is not moa.aggregate
    swapped = moa.replace(agents=[Agent(ONE, "b"), Agent(ONE, "c")], attention="cross")
    instructions = [predictor.signature.instructions for predictor in swapped.propose]  # type: ignore[union-attr]
    assert instructions == ["tuned for b", "tuned for b"]  # the second is new, and in the place of b
    assert not hasattr(swapped, "self_critique")
    alone = moa.replace(agents=[moa.named_agents[1]])
    assert alone.propose[0].signature.instructions == "tuned for b"  # type: ignore[index]
    fresh = moa.replace(signature="question -> answer: int")
    assert "tuned" not in fresh.propose[0].signature.instructions  # type: ignore[index]
    with pytest.raises(ConfigurationError, match="layers=0"):
        moa.replace(layers=0)


class Ring:
    """An attention pattern of one's own: the next agent criticises."""

    def critics(self, target: int, agents: int, layer: int) -> list[int]:
        return [(target + layer) % agents]


def test_an_attention_pattern_of_ones_own(tmp_path: Any) -> None:
    lms = [ScriptedLM("yes", model=f"scripted/{number}") for number in range(3)]
    moa = AttentionMoA("question -> answer", lms, layers=2, attention=Ring(), residual="none")
    trace = moa(question="?").trace
    assert [(s.agent, s.target) for s in trace.select(layer=1, stage="critique")] == [
        ("0", "2"),
        ("1", "0"),
        ("2", "1"),
    ]
    assert [(s.agent, s.target) for s in trace.select(layer=2, stage="critique")] == [
        ("0", "1"),
        ("1", "2"),
        ("2", "0"),
    ]
    assert trace.calls == moa.architecture.max_calls == moa.plan(question="?").full.calls == 20
    assert not hasattr(moa, "self_critique")
    with pytest.raises(ConfigurationError, match=r"program files contain no code.*attention"):
        moa.save(tmp_path / "program.json")
    assert moa.replace(layers=1).architecture.attention is moa.architecture.attention
    assert "Ring" in moa.architecture.model_dump_json()

    class Outside(Ring):
        def critics(self, target: int, agents: int, layer: int) -> list[int]:
            return [agents]

    with pytest.raises(ConfigurationError, match="names the critics"):
        AttentionMoA("question -> answer", lms, attention=Outside())


@pytest.mark.filterwarnings("ignore:Field name")  # pydantic's, of names that are refused then
@pytest.mark.parametrize("name", ["budget", "config", "demos", "instance", "lm", "new_signature", "self", "signature"])
def test_an_input_that_dspy_takes_for_something_else_is_refused_at_once(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.*rename the field"):
        AttentionMoA(f"question, {name} -> answer", [ONE])


@pytest.mark.filterwarnings("ignore:Field name")  # pydantic's, of names that are refused then
@pytest.mark.parametrize("name", ["base", "fields", "instructions", "self", "signature", "trace"])
def test_so_is_such_an_output(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.*rename the field"):
        AttentionMoA(f"question -> answer, {name}", [ONE])


def test_names_that_only_look_taken_are_fields_like_others() -> None:
    inputs = {"base": "b", "inputs": "i", "trace": "t", "example": "e", "times": "2"}
    assert AttentionMoA(f"{', '.join(inputs)} -> answer", [ONE], layers=1)(**inputs).answer == "yes"
    assert AttentionMoA("question -> config", [ONE], layers=1)(question="?").config == "yes"


def test_none_is_no_value_where_the_type_has_no_room_for_it() -> None:
    moa = AttentionMoA("question, note: str | None -> answer", [ONE], layers=1)
    with pytest.raises(InputError, match="input question is missing or None"):
        moa(question=None)
    assert moa(question="?", note=None).answer == "yes"


@pytest.mark.parametrize("wrong", [[], [{"question": "a"}], 5, "hello", {"turns": []}])
def test_what_is_no_conversation_is_refused_before_any_call(wrong: Any) -> None:
    lm = ScriptedLM("yes")
    with pytest.raises(InputError, match=r"input history is no conversation .*dspy\.History\(messages="):
        AttentionMoA("question, history: dspy.History -> answer", [lm], layers=1)(question="?", history=wrong)
    assert lm.requests == []


def test_a_conversation_may_be_data_or_not_have_begun() -> None:
    lm = ScriptedLM("yes")
    moa = AttentionMoA("question, history: dspy.History -> answer", [lm], layers=1)
    assert moa(question="?", history=None).answer == "yes"
    moa(question="?", history={"messages": [{"question": "Earlier?", "answer": "Then."}]})
    assert "Earlier?" in moa_dspy.testing.prompt_of(lm.requests[-1])


@pytest.mark.slow
def test_a_name_that_nobody_knows_is_told_without_asking_the_network() -> None:
    script = """
import os, socket

def asked(host, *rest, **options):
    print("asked for", host)
    raise OSError("there is no network")

socket.getaddrinfo = asked
import moa_dspy

try:
    moa_dspy.AttentionMoA("q -> a", ["opnai/gpt-4.1"])
except moa_dspy.ConfigurationError as error:
    print(error)
print(os.environ.get("LITELLM_LOCAL_MODEL_COST_MAP"))
"""
    env = {name: value for name, value in os.environ.items() if name != "LITELLM_LOCAL_MODEL_COST_MAP"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    message, variable = done.stdout.splitlines()
    assert "names no provider" in message
    assert variable == "None", "the process's own environment is as it was"
    assert done.stderr == ""


class Longest:
    async def aggregate(self, answers: Any, context: Any) -> Any:
        assert (context.layer, context.inputs) in ((1, {"question": "?"}), (2, {"question": "?"}))
        return max(answers, key=lambda answer: len(answer.text))


class OnAgreement:
    def stops(self, accepted: Any, newest: Any, improved: bool | None) -> bool:
        assert improved is None
        return bool(newest.text == accepted[-1].text)


def test_an_aggregation_rule_and_a_stop_condition_of_ones_own(tmp_path: Any) -> None:
    lms = [ScriptedLM("no", model="scripted/short"), ScriptedLM("certainly", model="scripted/long")]
    moa = AttentionMoA(
        "question -> answer",
        lms,
        layers=5,
        attention="none",
        residual="none",
        aggregation=Longest(),
        early_stop=OnAgreement(),
    )
    prediction = moa(question="?")
    assert prediction.answer == "certainly"
    assert (prediction.trace.layers, prediction.trace.stopped_by, prediction.trace.calls) == (2, "no_improvement", 4)
    assert [step.agent for step in prediction.trace.select(stage="aggregate")] == ["Longest", "Longest"]
    with pytest.raises(ConfigurationError, match=r"no code, but aggregation, early_stop"):
        moa.save(tmp_path / "program.json")
    with pytest.raises(ConfigurationError, match=r"aggregation='best'.*aggregate\(\)"):
        AttentionMoA("question -> answer", lms, aggregation="best")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"early_stop='never'.*stops\(\)"):
        AttentionMoA("question -> answer", lms, early_stop="never")  # type: ignore[arg-type]


class Asking:
    async def aggregate(self, answers: Any, context: Any) -> Any:
        return await context.synthesize(answers[:1]) or answers[0]


def test_an_aggregation_rule_can_ask_the_aggregator() -> None:
    lms = [ScriptedLM("a", model="scripted/a"), ScriptedLM("b", model="scripted/b")]
    moa = AttentionMoA("question -> answer", lms, layers=1, attention="none", aggregation=Asking())
    trace = moa(question="?").trace
    assert trace.calls == moa.architecture.max_calls == 3
    assert [step.agent for step in trace.select(stage="aggregate")] == ["aggregator", "Asking"]
