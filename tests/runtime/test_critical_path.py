"""How many calls must follow one another, counted by a real HTTP server that answers in lock-step."""

from __future__ import annotations

import pytest
from support.loopback import Body, LockStep, Loopback

from moa_dspy import AttentionMoA, mixture_of_agents
from moa_dspy.attention import Attention

DECISION = "[[ ## improved ## ]]\ntrue\n\n[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"


def reply(body: Body) -> str:
    return DECISION if "improved" in str(body["messages"][0]["content"]) else "an answer"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agents", "layers", "attention", "depth"),
    [
        (3, 1, "full", 4),
        (3, 2, "full", 4 + 5),
        (5, 3, "full", 4 + 5 * 2),
        (4, 2, 1, 4 + 5),
        (2, 2, "cross", 4 + 5),
        (3, 2, "none", 2 + 3),
    ],
)
def test_sequential_depth_is_four_calls_and_five_for_each_further_layer(
    agents: int, layers: int, attention: Attention, depth: int
) -> None:
    steps = LockStep()
    with Loopback(reply, steps) as server:
        lms = [server.lm(f"model-{i}") for i in range(agents)]
        moa = AttentionMoA("question -> answer", lms, layers=layers, attention=attention)
        trace = moa(question="?").trace
        assert moa.architecture.depth == depth
        assert len(steps.rounds) == depth
        assert sum(steps.rounds) == len(server.calls) == trace.calls == moa.architecture.max_calls


def test_all_critiques_of_a_layer_are_under_way_at_once() -> None:
    steps = LockStep()
    with Loopback(reply, steps) as server:
        AttentionMoA("question -> answer", [server.lm(f"model-{i}") for i in range(4)], layers=1)(question="?")
    assert steps.rounds == [4, 16, 4, 1]


def test_moa_has_one_call_in_sequence_for_each_layer() -> None:
    steps = LockStep()
    with Loopback(reply, steps) as server:
        mixture_of_agents("question -> answer", [server.lm(f"model-{i}") for i in range(3)], layers=3)(question="?")
    assert steps.rounds == [3, 3, 1]


def test_the_trace_adds_up_to_what_the_server_counted() -> None:
    with Loopback(reply) as server:
        trace = AttentionMoA("question -> answer", [server.lm(f"model-{i}") for i in range(3)], layers=2)(
            question="?"
        ).trace
        prompt = sum(len(str(m["content"]).split()) for call in server.calls for m in call.body["messages"])
    assert trace.tokens.prompt == prompt
    assert trace.calls == len(server.calls)
