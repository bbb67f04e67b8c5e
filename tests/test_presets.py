"""The baselines: which calls they make, and how they settle on an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import moa_dspy
from moa_dspy import Agent, AttentionMoA, ConfigurationError
from moa_dspy.testing import ScriptedLM


def stages(program: AttentionMoA) -> list[str]:
    return [step.stage for step in program(question="?").trace.steps if step.calls]


def model(reply: Any = "Paris", name: str = "a/model") -> ScriptedLM:
    return ScriptedLM(reply, name, temperature=1.0)


def counted(*values: str) -> ScriptedLM:
    return model([f"[[ ## reasoning ## ]]\nway {n}\n\n[[ ## count ## ]]\n{value}" for n, value in enumerate(values)])


def test_a_single_model_is_one_call_and_its_answer_stands():
    lm = model()
    program = moa_dspy.single_model("question -> answer", lm)
    assert stages(program) == ["propose"]
    assert program(question="?").answer == "Paris"
    assert program.architecture.max_calls == 1
    assert [name for name, _ in program.named_predictors()] == ["propose"]


def test_self_consistency_puts_typed_answers_to_the_vote():
    lm = counted("3", "4", "4", "5", "4")
    program = moa_dspy.self_consistency("question -> count: int", lm, samples=5)
    prediction = program(question="?")
    assert prediction.count == 4
    assert prediction.trace.calls == len(lm.requests) == 5
    assert prediction.trace.steps[-1].agent == "vote"


def test_a_vote_counts_an_answer_that_is_called_reasoning():
    lm = model([f"[[ ## reasoning ## ]]\n{value}" for value in (1, 2, 2)])
    assert moa_dspy.self_consistency("question -> reasoning: int", lm, samples=3)(question="?").reasoning == 2


def test_reasoning_of_the_tasks_own_keeps_nobody_from_voting():
    program = moa_dspy.self_consistency("question -> reasoning: str, count: int", counted("3", "4", "4"), samples=3)
    assert program.architecture.aggregation == "vote"
    assert program(question="?").count == 4


def test_a_tied_vote_goes_to_the_first():
    assert moa_dspy.self_consistency("question -> count: int", counted("7", "8"), samples=2)(question="?").count in (
        7,
        8,
    )
    lms = [counted("8"), counted("7")]
    program = AttentionMoA("question -> count: int", lms, layers=1, attention="none", aggregation="vote")
    assert program(question="?").count == 8


def test_self_consistency_votes_on_short_texts_whatever_their_case():
    program = moa_dspy.self_consistency("question -> answer", model(["Rome", "Paris", "paris"]), samples=3)
    assert stages(program) == ["propose"] * 3
    assert program(question="?").answer.casefold() == "paris"


def test_mixture_of_agents_is_that_of_the_paper():
    agents = [model(letter, f"{letter}/{letter}") for letter in "abcde"]
    program = moa_dspy.mixture_of_agents("question -> answer", agents)
    assert stages(program) == ["propose"] * 10 + ["aggregate"]
    assert (program.architecture.max_calls, program.architecture.depth) == (11, 3)
    assert {name for name, _ in program.named_predictors()} == {"propose", "improve", "aggregate"}
    with pytest.raises(ConfigurationError, match="2 layers or more"):
        program.replace(layers=1)


def test_self_moa_is_that_with_samples_of_one_model():
    lm = model([str(number) for number in range(20)])
    prediction = moa_dspy.self_moa("question -> answer", lm, samples=4)(question="?")
    assert len({step.text for step in prediction.trace.select(stage="propose")}) == 4
    assert prediction.trace.calls == 5


def test_self_moa_in_sequence_reads_a_window_at_a_time():
    program = moa_dspy.self_moa("question -> answer", model(), samples=12, window=6)
    assert stages(program) == ["propose"] * 12 + ["aggregate"] * 3  # 6, then 3 and 3 beside the answer so far
    assert (program.architecture.max_calls, program.architecture.depth) == (15, 4)


def test_samples_differ_with_the_cache_on_and_are_remembered():
    lm = ScriptedLM([str(number) for number in range(20)], temperature=1.0, cache=True)
    program = moa_dspy.self_moa("question -> answer", lm, samples=4)
    first = program(question="?")
    assert len({step.text for step in first.trace.select(stage="propose")}) == 4
    asked = len(lm.requests)
    assert program(question="?").answer == first.answer
    assert len(lm.requests) == asked


def test_attention_moa_is_everything_switched_on():
    agents = [model("x", "a/x"), model("y", "b/y")]
    ours = moa_dspy.attention_moa("question -> answer", agents)
    assert ours.architecture == AttentionMoA("question -> answer", agents).architecture
    assert (
        moa_dspy.attention_moa("question -> answer", agents, layers=3, attention="cross").architecture.max_calls == 23
    )


PRESETS: dict[str, Callable[..., AttentionMoA]] = {
    "self_consistency": moa_dspy.self_consistency,
    "self_moa": moa_dspy.self_moa,
}


@pytest.mark.parametrize("preset", PRESETS)
def test_named_agents_keep_their_name_with_a_number(preset: str):
    program = PRESETS[preset]("question -> answer", Agent(model(), name="poet"), samples=2)
    assert [agent.name for agent in program.architecture.agents] == ["poet-1", "poet-2"]
    program = PRESETS[preset]("question -> answer", model(), samples=3)
    assert [agent.name for agent in program.architecture.agents] == ["model", "model-2", "model-3"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("samples", [1, 0, -2])
def test_several_samples_are_at_least_two(preset: str, samples: int):
    with pytest.raises(ConfigurationError, match=f"samples={samples}"):
        PRESETS[preset]("question -> answer", model(), samples=samples)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("agent", [ScriptedLM("x", temperature=0), Agent(model(), temperature=0.0)])
def test_samples_at_temperature_0_are_refused(preset: str, agent: Any):
    with pytest.raises(ConfigurationError, match="temperature 0"):
        PRESETS[preset]("question -> answer", agent)


def test_further_options_are_passed_on():
    program = moa_dspy.single_model("question -> count: int", model(), reasoning=False)
    assert list(program.signature.output_fields) == ["count"]
    with pytest.raises(TypeError):
        moa_dspy.single_model("question -> answer", model(), attention="full")
