"""Conversations and demos, as the models get them."""

from __future__ import annotations

import itertools
from typing import Any, cast

import dspy
import pytest
from hypothesis import given, settings, strategies as st

import moa_dspy
from moa_dspy import InputError
from moa_dspy.runtime.formats import adapters_for
from moa_dspy.testing import ScriptedLM, prompt_of

TASK = "history: dspy.History, question -> answer"
TYPED = "history: dspy.History, question -> answer: int"


def turns_of(history: list[dict[str, Any]], task: str = TASK, demos: list[Any] | None = None) -> list[tuple[str, str]]:
    """Return the roles and contents of the first request."""
    lm = ScriptedLM("[[ ## answer ## ]]\n42")
    program = moa_dspy.single_model(task, lm)
    if demos:
        predictor: Any = program.propose
        predictor.demos = demos
    program(history=dspy.History(messages=history), question="And then?")
    return [(message.role, message.text or "") for message in lm.requests[0].messages]


def test_messages_with_role_and_content_are_sent() -> None:
    """S1."""
    history = [{"role": "user", "content": "My name is Zebra."}, {"role": "assistant", "content": "Hello Zebra."}]
    assert turns_of(history) == [
        ("user", "My name is Zebra."),
        ("assistant", "Hello Zebra."),
        ("user", "Question: And then?"),
    ]
    assert [role for role, _ in turns_of(history, TYPED)] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("turn", "named"),
    [
        ({"speaker": "user", "text": "Hi"}, "speaker, text"),
        ({"role": "user", "text": "Hi"}, "role, text"),
        ({"role": "user", "content": "Hi", "note": 1}, "role, content, note"),
        ({"role": "narrator", "content": "Hi"}, "narrator"),
        ({"role": "user", "content": 5}, "int"),
        ({"content": "Hi"}, "content"),
        ({}, "none"),
    ],
)
def test_turns_that_cannot_be_sent_are_refused_by_their_keys(turn: dict[str, Any], named: str) -> None:
    """S1."""
    with pytest.raises(InputError, match=named) as refused:
        turns_of([{"question": "1 + 1?", "answer": "2"}, turn])
    assert "turn 2" in str(refused.value)
    assert "question, answer" in str(refused.value)


@pytest.mark.parametrize("empty", ["", None, " "])
@pytest.mark.parametrize("task", [TASK, TYPED])
def test_an_empty_answer_leaves_no_empty_turn_and_no_two_of_one_role(empty: Any, task: str) -> None:
    """S2."""
    turns = turns_of([{"question": "1 + 1?", "answer": empty}], task)
    assert [role for role, _ in turns] == ["user"]
    assert "1 + 1?" in turns[0][1]
    assert "And then?" in turns[0][1]
    assert "None" not in turns[0][1]


def test_earlier_turns_have_no_added_field_and_no_none() -> None:
    history = [{"question": "1 + 1?", "answer": 2}, {"question": "2 + 2?", "answer": 4, "reasoning": "HELPER"}]
    text = "\n".join(content for _, content in turns_of(history, TYPED))
    assert "None" not in text
    assert "HELPER" not in text
    assert "#### 2" in text


def test_a_system_turn_joins_the_instructions() -> None:
    lm = ScriptedLM("x")
    history = dspy.History(
        messages=[{"role": "system", "content": "Answer in French."}, {"question": "1?", "answer": "2"}]
    )
    moa_dspy.single_model(TASK, lm)(history=history, question="?")
    assert "Answer in French." in str(lm.requests[0].system)
    assert [message.role for message in lm.requests[0].messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize("task", [TASK, TYPED])
def test_a_demo_shows_no_conversation(task: str) -> None:
    """S3."""
    history = dspy.History(messages=[{"question": "MARK?", "answer": "1"}])
    demo = dspy.Example(history=history, question="1 + 1?", answer=2, reasoning="r")
    turns = turns_of([], task, [demo])
    assert len(turns) == 3
    assert "MARK" not in "".join(content for _, content in turns)
    assert "istory" not in turns[0][1]


def test_other_roles_read_the_conversation_without_empty_parts() -> None:
    lm = ScriptedLM("Paris")
    program = moa_dspy.AttentionMoA(TASK, [lm, moa_dspy.Agent(lm, name="b")], layers=1)
    history = [{"role": "user", "content": "My name is Zebra."}, {"question": "1 + 1?", "answer": None}]
    program(history=dspy.History(messages=history), question="?")
    later = [prompt_of(request) for request in lm.requests if "conversation" in prompt_of(request)]
    assert later
    for prompt in later:
        assert "user: My name is Zebra." in prompt
        assert "None" not in prompt


FIELDS = st.sampled_from(["1 + 1?", "", None, " ", "why"])
TURN = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": FIELDS}),
    st.fixed_dictionaries({"question": FIELDS, "answer": FIELDS}),
    st.fixed_dictionaries({"question": FIELDS}),
    st.fixed_dictionaries({"answer": FIELDS}),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(TURN, max_size=6), st.sampled_from([TASK, TYPED]))
def test_any_conversation_alternates_and_has_no_empty_turn(history: list[dict[str, Any]], task: str) -> None:
    signature = cast("Any", dspy.Signature)(task)
    for adapter in adapters_for(signature, ScriptedLM("x"), None):
        messages = adapter.format(signature, [], {"history": dspy.History(messages=history), "question": "Q?"})
        roles = [message["role"] for message in messages]
        assert roles[0] == "system"
        assert roles[-1] == "user"
        assert all(a != b for a, b in itertools.pairwise(roles))
        assert all(message["content"].strip() for message in messages)


def test_a_lone_surrogate_in_a_question_is_repaired() -> None:
    """R16."""
    lm = ScriptedLM("Paris")
    prediction = moa_dspy.single_model("question -> answer", lm)(question="Wh\ud83dy?")
    assert prediction.answer == "Paris"
    prediction.trace.to_json().encode()
    assert "Wh?y?" in prompt_of(lm.requests[0])
