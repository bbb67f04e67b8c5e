"""Agreement, dissent and the call that reports them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest

from benchmarks.dissent import is_reported
from moa_dspy import Agent, AttentionMoA, Budget, Trace, load
from moa_dspy.optimizers.analysis.stages import attribute
from moa_dspy.testing import ScriptedLM

REPORT = {
    "consensus": [{"point": "It is warm", "answers": [1, 2]}],
    "contradictions": [{"point": "It snows", "answers": [3, 9]}],
    "unique_points": [],
    "blind_spots": [{"point": "The wind", "answers": []}],
}


def reply(request: Any) -> str:
    if "give the numbers with" in str(request.system):
        return "\n\n".join(f"[[ ## {name} ## ]]\n{json.dumps(value)}" for name, value in REPORT.items())
    return f"In the city it is warm, says {request.model}. " * 9


def program(**options: Any) -> AttentionMoA:
    agents = [Agent(ScriptedLM(reply, f"scripted/{name}"), name=name) for name in ("ada", "bob", "eve")]
    return AttentionMoA("question -> answer", agents, layers=1, attention="none", **options)


@pytest.mark.parametrize("seed", range(4))
def test_planted_minorities_are_reported(seed: int) -> None:
    assert is_reported(seed)


def test_dissent_names_critiques_and_who_was_convinced() -> None:
    def answers(own: str) -> Any:
        def write(request: Any) -> str:
            system = str(request.system)
            if "reviewers have made suggestions" in system:
                return "Paris"
            return f"why {own}" if "Suggest how" in system else own

        return write

    agents = [
        Agent(ScriptedLM(answers(own), f"s/{n}"), name=n)
        for n, own in (("a", "Paris"), ("b", "“paris”"), ("c", "Lyon"))
    ]
    trace = AttentionMoA("question -> answer", agents, layers=1)(question="?").trace
    (dissent,) = trace.dissent
    assert (trace.agreement, dissent.agents, dissent.convinced) == (2 / 3, ("c",), ("c",))
    assert (dissent.text, dissent.outputs, dissent.critiques) == ("Lyon", {"answer": "Lyon"}, ("why Lyon", "why Lyon"))
    assert [position.changed for position in trace.positions] == [False, False, True]
    assert Trace.from_json(trace.to_json()) == trace


def test_long_texts_are_compared_by_one_more_call_only_if_that_is_asked_for(tmp_path: Path) -> None:
    without = program()(question="weather?").trace
    assert (without.agreement, without.dissent, without.dissent_report, without.calls) == (None, (), None, 4)
    asking = program(dissent=True)
    trace = asking(question="weather?").trace
    report = trace.dissent_report
    assert report is not None
    assert [(point.point, point.agents) for point in report.consensus] == [("It is warm", ("ada", "bob"))]
    assert [(dissent.text, dissent.agents) for dissent in trace.dissent] == [("It snows", ("eve",))]
    assert (trace.steps[-1].stage, trace.steps[-1].agent, trace.calls) == ("dissent", "aggregator", 5)
    plan = asking.plan(question="weather?")
    assert (plan.full.calls, plan.full.depth) == (5, 3) == (asking.architecture.max_calls, asking.architecture.depth)
    asking.save(tmp_path / "program.json")
    lms: Any = {agent.name: agent.lm for agent in asking.agents}
    loaded = load(tmp_path / "program.json", lms=lms)
    assert loaded.replace(layers=2).architecture.dissent
    assert "dissent" in dict(loaded.named_predictors())
    assert "dissent" not in json.dumps(program().architecture.model_dump(mode="json"))


def test_the_report_is_left_out_by_a_budget_and_where_all_agree() -> None:
    trace = program(dissent=True, budget=Budget(calls=4))(question="weather?").trace
    assert (trace.calls, trace.dissent_report, trace.stopped_by) == (4, None, "layers")
    assert trace.steps[-1].status == "skipped"
    same = [ScriptedLM("Paris", f"scripted/{number}") for number in range(3)]
    agreed = AttentionMoA("question -> answer", same, layers=1, dissent=True)(question="?").trace
    assert (agreed.agreement, agreed.calls, agreed.dissent) == (1.0, 16, ())


def test_the_report_is_no_answer_to_be_scored() -> None:
    asking = program(dissent=True)
    example = dspy.Example(question="weather?", answer="warm").with_inputs("question")
    scores = attribute(asking(question="weather?").trace, example, lambda example, prediction: True, asking)
    assert {scored.step.stage for scored in scores.steps} == {"propose", "aggregate"}
    assert scores.unjudged == ()
