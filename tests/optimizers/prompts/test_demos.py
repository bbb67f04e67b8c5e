"""Demos are steps that are right themselves, and not all steps of a run that was right in the end."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy.teleprompt import simba_utils
from support import planted

from moa_dspy import AttentionMoA
from moa_dspy.optimizers import compile  # noqa: A004 (DSPy's word)
from moa_dspy.optimizers.prompts.demos import keep_right_steps, right_demos_only, steps_of
from moa_dspy.testing import ScriptedLM, prompt_of

EXAMPLE = dspy.Example(question="What is 2 + 2?", answer="4").with_inputs("question")
ANSWERING = ("propose", "improve", "refine", "aggregate", "synthesize")


def exact(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    return bool(example.answer == prediction.answer)


def said(proposals: dict[str, str], refined: dict[str, str], **options: Any) -> AttentionMoA:
    """A program whose agents propose and refine to the given answers, and whose aggregate is 4."""

    def lm(name: str) -> ScriptedLM:
        def reply(request: Any) -> str:
            prompt = prompt_of(request)
            if "Candidate Answers:" in prompt:
                return "4"
            if "Critiques:" in prompt:
                return refined[name]
            if "<answer number=" in prompt:
                return "Answer 1:\nlook again\n\nAnswer 2:\nlook again"
            return "look again" if "Own Answer:" in prompt else proposals[name]

        return ScriptedLM(reply, f"scripted/{name}")

    return AttentionMoA("question -> answer", [lm(name) for name in proposals], **{"layers": 1, **options})


def kept(program: AttentionMoA, **options: Any) -> list[tuple[str, str, str | None]]:
    """Return the steps that may become demos: stage, agent and target."""
    with dspy.context(trace=[]):
        prediction = program(question=EXAMPLE.question)
        captured: Any = dspy.settings.trace
        whole = list(captured)
        keep_right_steps(captured, prediction, EXAMPLE, options.pop("metric", exact), program, **options)
    left = {id(entry) for entry in captured}
    steps = steps_of(prediction.trace, whole)
    return [
        (step.stage, step.agent, step.target)
        for entry, step in zip(whole, steps, strict=True)
        if id(entry) in left and step is not None
    ]


def test_wrong_proposals_and_refinements_of_a_right_run_become_no_demos():
    program = said({"a": "4", "b": "5", "c": "6"}, {"a": "4", "b": "4", "c": "6"}, attention="full")
    steps = kept(program)
    assert [step[:2] for step in steps if step[0] == "propose"] == [("propose", "a")]
    assert [step[:2] for step in steps if step[0] == "refine"] == [("refine", "a"), ("refine", "b")]
    assert {step[2] for step in steps if step[0] == "critique"} == {"a", "b"}  # those of c led to a wrong answer
    assert [step[0] for step in steps if step[0] == "aggregate"] == ["aggregate"]


def test_a_joint_critique_is_kept_if_all_its_answers_became_right():
    right = said({"a": "4", "b": "5"}, {"a": "4", "b": "4"}, attention="full", critiques="joint")
    assert [step[0] for step in kept(right)].count("critique") == 2
    wrong = said({"a": "4", "b": "5"}, {"a": "4", "b": "6"}, attention="full", critiques="joint")
    assert "critique" not in [step[0] for step in kept(wrong)]


def test_a_step_must_reach_the_threshold_of_a_run():
    def graded(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        return {"4": 1.0, "5": 0.5}.get(prediction.answer, 0.0)

    program = said({"a": "4", "b": "5", "c": "6"}, {}, attention="none")
    proposals = [name for stage, name, _ in kept(program, metric=graded) if stage == "propose"]
    assert proposals == ["a", "b"]
    strict = [name for stage, name, _ in kept(program, metric=graded, threshold=0.9) if stage == "propose"]
    assert strict == ["a"]


def test_the_metric_is_as_strict_with_a_step_as_with_the_run():
    def strict_in_tuning(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        return float(prediction.answer == "4") if trace is not None else 0.5

    program = said({"a": "4", "b": "5"}, {}, attention="none")
    assert [name for stage, name, _ in kept(program, metric=strict_in_tuning) if stage == "propose"] == ["a"]


def test_a_synthesis_that_decided_wrongly_becomes_no_demo():
    def lm(request: Any) -> str:
        prompt = prompt_of(request)
        if "improved" in prompt:
            return "[[ ## improved ## ]]\nFalse\n\n[[ ## answer ## ]]\n4\n\n[[ ## completed ## ]]"
        return "4" if "Previous Answer:" in prompt or '<answer number="1">\n4' in prompt else "5"

    program = AttentionMoA("question -> answer", [ScriptedLM(lm, "scripted/a")], layers=2, attention="none")
    assert "synthesize" not in [stage for stage, *_ in kept(program)]


def test_simba_gets_the_right_steps_of_its_best_run_and_keeps_the_run():
    program = said({"a": "4", "b": "5"}, {}, attention="none")
    with dspy.context(trace=[]):
        prediction = program(question=EXAMPLE.question)
        run = {"trace": list(dspy.settings.trace), "prediction": prediction, "example": EXAMPLE, "score": 1.0}
    shown: list[Any] = []

    def append_a_demo_(bucket: Any, system: Any, **options: Any) -> bool:
        shown.extend(outputs["answer"] for _, _, outputs in bucket[0]["trace"])
        return True

    assert right_demos_only(append_a_demo_, exact, program)([run], program)
    assert shown == ["4", "4"]
    assert len(run["trace"]) == 3
    assert simba_utils.append_a_demo(10).__name__ == "append_a_demo_"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("bootstrap", {"bootstrapped_demos": 4, "labeled_demos": 4}),
        ("bootstrap_random", {"candidates": 1, "labeled_demos": 4}),
        ("knn", {}),
        ("mipro", {"candidates": 3, "trials": 3}),
        ("simba", {"batch": 8, "steps": 3, "candidates": 3}),
    ],
)
@pytest.mark.parametrize("shared_prompts", [True, False])
def test_no_method_shows_a_wrong_answer_as_a_demo(method: Any, options: dict[str, Any], shared_prompts: bool):
    agents = planted.agents(0.5, finds=0.6)
    program = planted.program_of(agents, layers=2, attention="full", shared_prompts=shared_prompts)
    train, val = planted.examples(0, 20), planted.examples(20, 26)
    tuned = compile(
        program, trainset=train, valset=val, metric=planted.right, method=method, prompt_lm=planted.writer(), **options
    ).program
    answers = [
        (name, demo.question, demo.answer)
        for name, predictor in tuned.named_predictors()
        for demo in predictor.demos
        if name.partition("[")[0] in ANSWERING
    ]
    assert [one for one in answers if planted.PRODUCTS[one[1]] != one[2]] == []
    assert answers or method in ("mipro", "simba")  # which may choose none
