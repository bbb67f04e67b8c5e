"""Agents whose proposals a DSPy module writes: tools, settings, counting, budgets, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest

from moa_dspy import Agent, AttentionMoA, Budget, ConfigurationError, load
from moa_dspy.testing import ScriptedLM, prompt_of

MODULE = '''
import dspy

def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b

def adder():
    return dspy.ReAct("question -> answer: int", tools=[add], max_iters=4)

thinker = dspy.ChainOfThought("question -> answer: int")
'''


def in_format(**values: Any) -> str:
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in values.items())


def reply(request: Any) -> str:
    prompt = prompt_of(request)
    if "next_tool_name" in prompt:
        arguments = {"next_thought": "I add", "next_tool_name": "add", "next_tool_args": '{"a": 3, "b": 4}'}
        finish = {"next_thought": "It is known", "next_tool_name": "finish", "next_tool_args": "{}"}
        return in_format(**(finish if "observation_0" in prompt else arguments))
    if "trajectory" in prompt:
        assert "7" in prompt, "the tool was called"
        return in_format(reasoning="3 + 4", answer=7)
    if "`answer`" in prompt:
        return in_format(reasoning="a guess", answer=8)
    return "So it is.\n#### 7"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "agents_with_tools.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "agents_with_tools"


def program(place: str, lm: ScriptedLM, **options: Any) -> AttentionMoA:
    agents = [
        Agent(lm, name="tools", module=f"{place}:adder", temperature=0.3, max_tokens=99),
        Agent(lm, name="thinker", module=f"{place}:thinker"),
        Agent(lm, name="plain"),
    ]
    return AttentionMoA("question -> answer: int", agents, layers=1, attention="cross", **options)


def test_modules_write_proposals_that_are_counted_and_their_models_do_the_rest(place: str) -> None:
    lm = ScriptedLM(reply, "scripted/one")
    prediction = program(place, lm)(question="What is 3 + 4?")
    trace = prediction.trace
    assert [step.error for step in trace.steps if step.error] == []
    proposals = {step.agent: (step.calls, step.outputs["answer"]) for step in trace.select(stage="propose")}
    assert proposals == {"tools": (3, 7), "thinker": (1, 8), "plain": (1, 7)}
    assert prediction.answer == 7
    assert trace.calls == len(lm.requests) == 3 + 1 + 1 + 6 + 3 + 1
    own = [request.config for request in lm.requests if "next_tool_name" in prompt_of(request)]
    assert {(config.temperature, config.max_tokens) for config in own} == {(0.3, 99)}
    assert all(step.agent == "thinker" for step in trace.select(stage="critique", agent="thinker"))
    assert any("plans count them as one" in note for note in program(place, lm).plan(question="?").notes)


def test_a_budget_stops_a_module_and_the_others_answer(place: str) -> None:
    lm = ScriptedLM(reply, "scripted/one")
    trace = program(place, lm, budget=Budget(calls=4))(question="What is 3 + 4?").trace
    assert trace.calls == len(lm.requests) <= 4
    assert trace.stopped_by == "budget"
    assert trace.outputs


def test_a_program_file_holds_the_place_and_loads_only_what_is_allowed(place: str, tmp_path: Path) -> None:
    lm = ScriptedLM(reply, "scripted/one")
    program(place, lm).save(tmp_path / "program.json")
    lms, places = {"scripted/one": lm}, [f"{place}:adder", f"{place}:thinker"]
    with pytest.raises(ConfigurationError, match=r"whose code would be imported; give modules="):
        load(tmp_path / "program.json", lms=lms, modules=places[1:])
    loaded = load(tmp_path / "program.json", lms=lms, modules=places)
    assert loaded(question="What is 3 + 4?").trace.calls == 15
    content = (tmp_path / "program.json").read_text(encoding="utf-8")
    gone = f"{place}:gone"
    (tmp_path / "program.json").write_text(content.replace(places[0], gone), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="gone' is no DSPy module"):
        load(tmp_path / "program.json", lms=lms, modules=[gone, places[1]])
    objects = AttentionMoA(
        "question -> answer", [Agent(lm, module=dspy.ChainOfThought("question -> answer"))], layers=1
    )
    with pytest.raises(ConfigurationError, match="put it into a file of yours"):
        objects.save(tmp_path / "other.json")
    plain = AttentionMoA("question -> answer", [lm]).architecture.model_dump(mode="json")
    assert "module" not in json.dumps(plain)


class Sync(dspy.Module):
    def forward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=question)


class Other(dspy.Module):
    async def aforward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(reply=question)


def test_modules_that_cannot_be_used_are_refused() -> None:
    lm = ScriptedLM("Paris")
    owner = dspy.ChainOfThought("question -> answer")
    owner.set_lm(lm)
    for module, why in (
        ("nowhere:x", "ModuleNotFoundError"), ("os:getcwd", "no DSPy module"), ("os", "no DSPy module"),
        (7, "no DSPy module"), (Sync(), "has no aforward"), (owner, "has a model of its own"),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match=why):
            Agent(lm, module=module)  # type: ignore[arg-type]
    moa = AttentionMoA("question -> answer", [Agent(lm, module=Other(), name="other"), lm], layers=1, attention="none")
    with pytest.raises(ConfigurationError, match="module of agent 'other' returned no 'answer'"):
        moa(question="?")
