"""Critiques only where answers differ, and several critiques in one call."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from support.runs import in_format, role_of, stages, transient

from moa_dspy import AllProposalsFailedError, AttentionMoA, Budget, Gate, Tolerance
from moa_dspy.attention import critics_among
from moa_dspy.optimizers import profile
from moa_dspy.signatures import split_critiques
from moa_dspy.testing import ScriptedLM, SimulatedLM, prompt_of

TEXT = "question -> answer"


def joint(request: Any, numbers: Any, what: str = "a critique") -> str:
    return "\n\n".join(f"Answer {number}:\n{what} of {number}" for number in numbers)


def is_joint(request: Any) -> bool:
    return "For each answer that has a number" in prompt_of(request)


def agents(texts: str, written: Any = None) -> list[ScriptedLM]:
    """Agents that propose these letters. Joint critiques are about the numbers that ``written`` gives; default: all."""

    def replies(text: str) -> Any:
        def reply(request: Any) -> str:
            if is_joint(request):
                asked = range(1, prompt_of(request).count("<answer number=") + 1)
                return joint(request, asked if written is None else written)
            return in_format(request, text if role_of(request) == "propose" else "x")

        return reply

    return [ScriptedLM(replies(text), model=f"scripted/{number}") for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("keys", "critics"),
    [
        ("abc", [(1, 2), (0, 2), (0, 1)]),
        ("aab", [(2,), (2,), (0,)]),
        ("aaa", [(), (), ()]),
        ("abab", [(1,), (0,), (1,), (0,)]),
        ("a-ba", [(2,), (), (0,), (2,)]),  # the second agent has no answer
    ],
)
def test_one_critic_for_each_other_answer(keys: str, critics: list[tuple[int, ...]]) -> None:
    everyone = [[i for i in range(len(keys)) if i != j] for j in range(len(keys))]
    known = [None if key == "-" else key for key in keys]
    assert critics_among("disagreeing", everyone, known) == critics


@pytest.mark.parametrize(
    ("attention", "critiques", "texts", "calls"),
    [
        ("full", "joint", "abcde", 16),
        ("full", "joint", "aaaaa", 16),
        ("cross", "joint", "abcde", 16),
        ("self", "joint", "abc", 10),  # one critique of each critic needs no joint call
        (2, "joint", "abcde", 16),
        ("disagreeing", "single", "aaaaa", 6),
        ("disagreeing", "single", "aaaab", 16),
        ("disagreeing", "single", "abcde", 31),
        ("disagreeing", "joint", "aaaab", 13),
        ("disagreeing", "joint", "abcde", 16),
    ],
)
def test_calls_of_a_layer(attention: Any, critiques: Any, texts: str, calls: int) -> None:
    lms = agents(texts)
    moa = AttentionMoA(TEXT, lms, layers=1, attention=attention, critiques=critiques)
    trace = moa(question="?").trace
    most, plan = moa.architecture.max_calls, moa.plan(question="?")
    assert trace.calls == sum(len(lm.requests) for lm in lms) == calls <= most == plan.full.calls
    assert plan.full.depth == moa.architecture.depth
    assert (plan.expected is None) == (attention != "disagreeing")
    if plan.expected is not None:
        assert plan.expected.calls <= most
        assert "two different answers" in plan.to_table()
    assert all(step.status == "ok" for step in trace.steps)
    again = moa.replace(layers=1)
    assert again.architecture == moa.architecture
    assert ("critiques" in moa.architecture.model_dump(mode="json")) == (critiques == "joint")


def test_joint_critiques_reach_the_refinements_they_are_about() -> None:
    lms = agents("abc")
    moa = AttentionMoA(TEXT, lms, layers=1, critiques="joint")
    trace = moa(question="?").trace
    written = list(trace.select(stage="critique"))
    assert Counter(step.calls for step in written) == {1: 3, 0: 9}
    for step in written:
        if step.target is not None:  # the critic's own answer is the first, then its peers in order
            order = [step.agent, *(name for name in "012" if name != step.agent)]
            assert step.text == f"a critique of {order.index(step.target) + 1}"
    refined = next(prompt_of(r) for r in lms[1].requests if role_of(r) == "refine")
    assert refined.count("<critique number=") == 3
    shown = next(prompt_of(r) for r in lms[1].requests if is_joint(r))
    assert '<answer number="1">\nb\n</answer>' in shown
    assert shown.index('number="2">\na') < shown.index('number="3">\nc')


@pytest.mark.parametrize(
    ("written", "calls"),
    [([1, 2, 3], 10), ([1, 3], 13), ([], 19), ([1, 1, 2], 13), ([3, 2, 1], 16), ([7, 8], 19)],
)
def test_missing_critiques_are_asked_for_singly(written: list[int], calls: int) -> None:
    trace = AttentionMoA(TEXT, agents("abc", written), layers=1, critiques="joint")(question="?").trace
    assert trace.calls == calls
    assert {(step.agent, step.target) for step in trace.select(stage="critique") if step.target} == {
        (i, j) for i in "012" for j in "012"
    }


@pytest.mark.parametrize(
    ("text", "critiques"),
    [
        ("Answer 1:\nGood.\n\nAnswer 2:\nBad.", {1: "Good.", 2: "Bad."}),
        ("**Answer 1**\nGood.\n## Answer #2\nBad.", {1: "Good.", 2: "Bad."}),
        ("Here it is.\nCritique of Answer 1 - Good.\nThe answer 2: Bad.", {1: "Good.", 2: "Bad."}),
        (
            '<critique number="1">\nGood.\n</critique>\n<critique number="2">\nBad.\n</critique>',
            {1: "Good.", 2: "Bad."},
        ),
        ("Answer 1 (your own):\nGood.\nCritique 2 (a peer):\nBad.", {1: "Good.", 2: "Bad."}),
        ('<critique number="1">Good.</critique><critique number="2">Bad.</critique>', {1: "Good.", 2: "Bad."}),
        ("Answer 2 is better than the others.\nAnswer 1: Good.", {1: "Good."}),
        ("Answer 2:\nSee answer 1:\nAnswer 1: no\nAnswer 3: x", {2: "See answer 1:\nAnswer 1: no", 3: "x"}),
        ("Answer 1:\nAnswer 2:\nBad.", {2: "Bad."}),
        ("Answer 4: x\nAnswer 0: y\nAnswer 99999: z", {}),
        ("no numbers", {}),
        ("Answer 1:" * 100_000, {1: ("Answer 1:" * 99_999)}),
    ],
)
def test_a_reply_with_several_critiques_is_divided_safely(text: str, critiques: dict[int, str]) -> None:
    assert split_critiques(text, 3) == critiques


def test_spaces_without_end_are_read_in_linear_time() -> None:
    began = time.process_time()
    assert split_critiques("Critique" + " " * 50_000, 3) == {}
    assert time.process_time() - began < 1.0  # quadratic: 20 s


def test_a_critic_that_fails_writes_no_single_critiques_but_one_that_cannot_be_read_does() -> None:
    def failing(request: Any) -> str:
        if is_joint(request):
            raise transient()
        return in_format(request, "a")

    lms = [*agents("b"), ScriptedLM(failing, "scripted/failing", num_retries=0)]
    moa = AttentionMoA(TEXT, lms, layers=1, critiques="joint")
    trace = moa(question="?").trace
    assert [step.status for step in trace.select(stage="critique", agent="failing")] == ["failed"]
    assert stages(trace)["refine"] == 2
    empty = ScriptedLM(lambda r: "" if is_joint(r) else in_format(r, "a"), "scripted/empty")
    trace = AttentionMoA(TEXT, [*agents("b"), empty], layers=1, critiques="joint")(question="?").trace
    assert len([step for step in trace.select(stage="critique", agent="empty") if step.status == "ok"]) == 2


def test_joint_critiques_are_profiled_and_their_prompts_are_optimizable() -> None:
    import dspy

    answers = {f"task {number}": str(number) for number in range(4)}
    lms = [SimulatedLM(answers, knows=0.6, seed=seed, model=f"s/{seed}") for seed in range(3)]
    moa = AttentionMoA(TEXT, lms, layers=1, critiques="joint", attention="disagreeing", shared_prompts=False)
    assert [name for name, _ in moa.named_predictors() if name.startswith("joint")] == [
        f"joint_critique[{number}]" for number in range(3)
    ]
    examples = [dspy.Example(question=task, answer=answer).with_inputs("question") for task, answer in answers.items()]
    table = profile(moa, examples, lambda example, prediction, trace=None: example.answer == prediction.answer)
    assert table.row(1, "critique").calls > 0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    number=st.integers(1, 5),
    attention=st.sampled_from(["full", "cross", "disagreeing"]),
    critiques=st.sampled_from(["single", "joint"]),
    gate=st.sampled_from(["off", Gate(agreement=0.8)]),
    layers=st.integers(1, 2),
    calls=st.none() | st.integers(1, 40),
    quorum=st.none() | st.integers(1, 4),
)
def test_sparse_attention_under_faults(
    seed: int,
    number: int,
    attention: Any,
    critiques: Any,
    gate: Any,
    layers: int,
    calls: int | None,
    quorum: int | None,
) -> None:
    draw, lock = random.Random(seed), threading.Lock()
    faults = draw.choice([0.0, 0.1, 0.5])

    def reply(request: Any) -> str:
        with lock:
            failing, text, some = draw.random() < faults, draw.choice("aab"), draw.sample(range(1, 6), 3)
        if failing:
            raise transient()
        return joint(request, sorted(some)) if is_joint(request) else in_format(request, text, improved=text == "a")

    lms = [ScriptedLM(reply, model=f"scripted/{i}", num_retries=0) for i in range(number)]
    tolerance = Tolerance(quorum=quorum, retries=0)
    moa = AttentionMoA(
        TEXT, lms, layers=layers, attention=attention, critiques=critiques, gate=gate, tolerance=tolerance
    )
    try:
        trace = moa(question="?", budget=Budget(calls=calls)).trace
    except AllProposalsFailedError:
        return
    singly = layers * number * number if critiques == "joint" else 0
    asked = sum(len(lm.requests) for lm in lms)
    assert asked <= trace.calls <= (calls or moa.architecture.max_calls + singly + layers * number)
    assert quorum or asked == trace.calls
    assert trace.outputs
    critics = {(step.layer, step.agent, step.target) for step in trace.select(stage="critique") if step.text}
    for step in trace.select(stage="critique"):
        if step.calls == 0 and step.status == "ok":
            assert (step.layer, step.agent, None) in critics  # it comes from a joint reply
