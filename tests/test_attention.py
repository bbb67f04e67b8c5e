"""Who criticises whom."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any, get_args

import pytest
from hypothesis import given, strategies as st

from moa_dspy import AttentionMoA
from moa_dspy.attention import PATTERN_NAMES, Attention, check_attention, critics_of
from moa_dspy.errors import ConfigurationError
from moa_dspy.testing import ScriptedLM


@given(agents=st.integers(1, 9), layer=st.integers(1, 12), data=st.data())
def test_patterns_are_what_their_names_say(agents: int, layer: int, data: st.DataObject) -> None:
    everyone = set(range(agents))
    target = data.draw(st.integers(0, agents - 1))
    peers = everyone - {target}

    assert set(critics_of(target, "full", agents, layer)) == everyone
    assert set(critics_of(target, "cross", agents, layer)) == peers
    assert critics_of(target, "self", agents, layer) == (target,)
    assert critics_of(target, "none", agents, layer) == ()


@given(agents=st.integers(2, 9), layer=st.integers(1, 30), data=st.data())
def test_k_peers_is_itself_and_k_others_and_the_work_is_shared_evenly(
    agents: int, layer: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, agents - 1))
    critics = [critics_of(target, k, agents, layer) for target in range(agents)]

    for target, of_target in enumerate(critics):
        assert target in of_target
        assert len(set(of_target)) == len(of_target) == k + 1
    written = [sum(agent in of_target for of_target in critics) for agent in range(agents)]
    assert written == [k + 1] * agents
    assert sum(len(critics_of(target, k, agents, 1)) for target in range(agents)) == agents * (k + 1)


@given(agents=st.integers(2, 9), data=st.data())
def test_with_k_peers_every_pair_meets_in_time(agents: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, agents - 1))
    rounds = -(-(agents - 1) // k)
    met = {
        (critic, target)
        for layer in range(1, rounds + 1)
        for target in range(agents)
        for critic in critics_of(target, k, agents, layer)
    }

    assert met >= set(permutations(range(agents), 2))


@given(agents=st.integers(2, 9), layer=st.integers(1, 9))
def test_full_is_k_with_all_peers(agents: int, layer: int) -> None:
    for target in range(agents):
        assert critics_of(target, "full", agents, layer) == critics_of(target, agents - 1, agents, layer)


def test_the_names_are_those_of_the_type() -> None:
    assert get_args(get_args(Attention)[0]) == PATTERN_NAMES


@pytest.mark.parametrize("wrong", ["most", "", "²", "1.5", None, True, 1.5, ["full"]])
def test_what_is_no_pattern_is_refused_with_the_patterns_there_are(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="full, cross, self, none"):
        check_attention(wrong, 3)


@pytest.mark.parametrize(("k", "agents"), [(0, 3), (3, 3), (-1, 3), (1, 1), ("7", 3)])
def test_more_peers_than_there_are_is_refused(k: object, agents: int) -> None:
    with pytest.raises(ConfigurationError, match="peers"):
        check_attention(k, agents)


def test_a_number_may_come_as_text() -> None:
    assert check_attention("2", 3) == check_attention(" 2 ", 3) == check_attention("٢", 3) == 2


class Everyone:
    def critics(self, target: int, agents: int, layer: int) -> Sequence[int]:
        return range(agents)


class First:
    async def aggregate(self, answers: Sequence[Any], context: Any) -> Any:
        return answers[0]


class Always:
    def stops(self, accepted: Any, newest: Any, improved: Any) -> bool:
        return True


@pytest.mark.parametrize("name", ["attention", "aggregation", "early_stop"])
def test_a_class_is_no_object_with_its_methods(name: str) -> None:
    kind: Any = {"attention": Everyone, "aggregation": First, "early_stop": Always}[name]
    agents = [ScriptedLM("yes")] * 2
    assert AttentionMoA("question -> answer", agents, **{name: kind()})(question="?").answer == "yes"
    with pytest.raises(ConfigurationError, match=rf"{name}.*an object with a method (critics|aggregate|stops)\(\)"):
        AttentionMoA("question -> answer", agents, **{name: kind})


def test_an_aggregation_rule_that_returns_no_answer_is_named() -> None:
    class Text:
        async def aggregate(self, answers: Sequence[Any], context: Any) -> Any:
            return answers[0].text

    moa = AttentionMoA("question -> answer", [ScriptedLM("yes")] * 2, layers=1, aggregation=Text())
    with pytest.raises(TypeError, match=r"Text.aggregate\(\) must return an Answer, not 'yes'"):
        moa(question="?")
