"""Output fields as models write them, through whole programs."""

from __future__ import annotations

import contextlib
import datetime
import time
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import dspy
import pydantic
import pytest
from dspy.utils.exceptions import AdapterParseError

import moa_dspy
from moa_dspy.runtime.adapters import lenient
from moa_dspy.runtime.answer_line import AnswerLineAdapter
from moa_dspy.signatures import derive_roles
from moa_dspy.testing import ScriptedLM

SENTIMENT = "question -> answer: Literal['positive', 'negative']"


def outcome(task: Any, *replies: str, adapter: dspy.Adapter | None = None) -> Any:
    """Return the prediction and the number of calls."""
    lm = ScriptedLM(replies)
    with dspy.context(adapter=adapter):
        prediction = moa_dspy.single_model(task, lm)(question="?")
    assert prediction.trace.calls == len(lm.requests)
    return prediction


POSITIVE = [
    "[[ ## reasoning ## ]] nice [[ ## answer ## ]] positive [[ ## completed ## ]]",
    "**[[ ## answer ## ]]**\npositive",
    "[[##answer##]]\npositive",
    "[[ ## answer ## ]] positive",
    "[[ ## Answer ## ]]\nPositive",
    "`[[ ## answer ## ]]`\n`positive`",
    "\\[\\[ ## answer ## \\]\\]\npositive",
    "[[ ## answer ## ]]: **positive**.",
    "## [[ ## answer ## ]]\npositive",
    "> [[ ## answer ## ]]\npositive",
    "[[ # answer # ]]\npositive",
    "[[ ## answer ]]\npositive",
    "It praises.\n\n[[ ## answer ## ]]\npositive\n\n[[ ## completed ## ]]",
    "<think>It praises.</think>\n[[ ## answer ## ]]\npositive",
    "[[ ## answer ## ]]\n<think>negative?</think>positive",
    "[[ ## reasoning ## ]]\nWe write [[ ## answer ## ]] as positive or negative.\n\n[[ ## answer ## ]]\npositive",
    "[[ ## answer ## ]]\npositive\n\n[[ ## completed ## ]]\n\n[[ ## answer ## ]]\nnegative",
    '{"reasoning": "r", "answer": "Positive"}',
    '```json\n{"answer": "positive"}\n```',
    "{'answer': 'positive',}",
    "<reasoning>r</reasoning>\n<answer>positive</answer>",
    "**Reasoning:** It praises.\n**Answer:** Positive",
    "Answer: positive",
    "positive",
    "The answer is **positive**.",
    "positive\n\n[[ ## completed ## ]]",
    "## Answer\npositive",
    "Answer: positive.\nConfidence: 90%",
    "1. **Answer:** positive",
]


@pytest.mark.parametrize("reply", POSITIVE)
def test_a_field_is_read_in_any_notation_with_one_call(reply: str) -> None:
    """R1, R2, R10, R11."""
    prediction = outcome(SENTIMENT, reply, "never asked")
    assert prediction.answer == "positive"
    assert prediction.trace.calls == 1
    assert "negative" not in prediction.trace.steps[0].text.replace("as positive or negative", "")


@pytest.mark.parametrize("reply", POSITIVE)
@pytest.mark.parametrize("kind", [dspy.ChatAdapter, dspy.JSONAdapter])
def test_dspys_adapters_read_the_same_if_the_user_configures_them(kind: type[dspy.Adapter], reply: str) -> None:
    assert outcome(SENTIMENT, reply, adapter=kind()).answer == "positive"


@pytest.mark.parametrize(
    "reply",
    [
        "[[ ## answer ## ]]\nneutral",
        "[[ ## answer ## ]]\npositive or negative",
        "[[ ## answer ## ]]\nnot positive",
        "[[ ## answer ## ]]\npositive\n\n[[ ## answer ## ]]\nnegative",
        '{"answer": null}',
        '{"answer": "positive"} or {"answer": "negative"}',
        "This one is positive, I guess, in a way.",
        "<think>[[ ## answer ## ]]\npositive",
        "[[ ## answer ## ]]\n" + "-" * 16_000,
    ],
)
def test_an_unclear_value_is_unreadable_and_the_next_format_is_tried(reply: str) -> None:
    """R14 and ambiguous values."""
    prediction = outcome(SENTIMENT, reply, '{"answer": "negative"}')
    assert (prediction.answer, prediction.trace.calls) == ("negative", 2)
    (step,) = prediction.trace.steps
    assert [failure.kind for failure in step.failures] == ["adapter_parse_error"]


@pytest.mark.parametrize(
    "reply",
    [
        '{"json": "{\\"title\\": \\"T\\", \\"body\\": \\"B\\"}"}',
        '{"type": "function", "name": "answer", "parameters": {"title": "T", "body": "B"}}',
        '<tool_call>\n{"name": "answer", "arguments": {"title": "T", "body": "B"}}\n</tool_call>',
        '{"output": {"title": "T", "body": "B"}, "confidence": 0.9}',
        '{"title": "T", "body": "B"}\n</invoke>',
        "# Title\nT\n\n# Body\nB",
        "## Title:\nT\n\n## Body:\nB",
        "**Title**\nT\n\n**Body**\nB",
        "1. Title: T\n2. Body: B",
        "- **Title:** T\n- **Body:** B",
        "## title ##\nT\n## body ##\nB",
        "[[title]]\nT\n[[body]]\nB",
        "[title]\nT\n[body]\nB",
        "[[ ## title ## ]]\nT\n\n[[ ## body ## ]]\nB\n\n[[ ## end ## ]]",
        "title: T, body: B",
        "Title = T; Body = B",
    ],
)
def test_two_texts_are_found_in_any_notation(reply: str) -> None:
    prediction = outcome("question -> title, body", reply, "never asked")
    assert (prediction.title, prediction.body) == ("T", "B")
    assert prediction.trace.calls == 1


@pytest.mark.parametrize(
    "reply", ["a: 1, b: 2", "a=1; b=2", "1. a: 1\n2. b: 2", "| a: 1 | b: 2", "The title and the body"]
)
def test_fields_in_one_line_are_read_if_the_line_has_nothing_else(reply: str) -> None:
    prediction = outcome("question -> a: int, b: int", reply, '{"a": 1, "b": 2}')
    assert (prediction.a, prediction.b) == (1, 2)
    assert prediction.trace.calls == 1 + reply.startswith("The")


@pytest.mark.parametrize(
    ("kind", "reply", "value"),
    [
        ("list[str]", '["a", "b"]', ["a", "b"]),
        ("list[int]", "```json\n[1, 2]\n```", [1, 2]),
        ("dict[str, int]", '{"a": 1}', {"a": 1}),
        ("dict[str, int]", '{"answer": {"a": 1}}', {"a": 1}),
    ],
)
def test_json_without_the_name_of_the_only_field_is_its_value(kind: str, reply: str, value: Any) -> None:
    prediction = outcome(f"question -> answer: {kind}", reply)
    assert (prediction.answer, prediction.trace.calls) == (value, 1)


def test_bullets_of_reasoning_are_no_list() -> None:
    prediction = outcome("question -> answer: list[str]", "- First I think.\n- Then I write.", '{"answer": ["a"]}')
    assert (prediction.answer, prediction.trace.calls) == (["a"], 2)


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        ("int", "1,234", 1234),
        ("int", "42 apples", 42),
        ("int", "**42**", 42),
        ("float", "$29.00", 29.0),
        ("bool", "Yes.", True),
        ("list[int]", "1, 2 and 3", [1, 2, 3]),
        ("int | None", "None", None),
    ],
)
def test_typed_values_are_read_leniently(kind: str, written: str, value: Any) -> None:
    """R12."""
    for reply in (f"[[ ## answer ## ]]\n{written}", f'{{"answer": "{written}"}}'):
        prediction = outcome(f"question -> answer: {kind}", reply)
        assert prediction.answer == value
        assert prediction.trace.calls == 1


def test_null_is_no_text() -> None:
    """R13."""

    class Article(dspy.Signature):
        question: str = dspy.InputField()
        title: Optional[str] = dspy.OutputField()  # noqa: UP045
        body: str = dspy.OutputField()

    reply = '{"title": null, "body": "B"}'
    assert outcome(Article, reply).title is None
    prediction = outcome("question -> title, body", reply, '{"title": "T", "body": "B"}')
    assert (prediction.title, prediction.trace.calls) == ("T", 2)
    with pytest.raises(moa_dspy.AllProposalsFailedError):
        outcome("question -> title, body", reply)


def test_a_field_that_the_user_declared_must_be_there() -> None:
    class Judged(dspy.Signature):
        question: str = dspy.InputField()
        reasoning: str = dspy.OutputField()
        answer: Literal["positive", "negative"] = dspy.OutputField()

    prediction = outcome(Judged, "[[ ## answer ## ]]\npositive", '{"reasoning": "r", "answer": "negative"}')
    assert (prediction.answer, prediction.trace.calls) == ("negative", 2)


def test_a_missing_added_field_is_no_none_in_any_prompt() -> None:
    """R2: the program goes on without the field that it added."""
    from moa_dspy.testing import prompt_of

    lm = ScriptedLM("[[ ## answer ## ]]\npositive\n[[ ## improved ## ]]\nno\n[[ ## critique ## ]]\nGood.")
    program = moa_dspy.AttentionMoA(SENTIMENT, [lm, moa_dspy.Agent(lm, name="b")], layers=2)
    assert program(question="?").answer == "positive"
    assert not any("None" in prompt_of(request) for request in lm.requests)


def test_a_draft_in_a_decision_does_not_stop_the_run() -> None:
    def reply(request: Any) -> str:
        if "improved" in str(request.system):
            return "<think>[[ ## improved ## ]]\nfalse</think>[[ ## improved ## ]]\ntrue\n[[ ## answer ## ]]\nParis"
        return "<think>Rome</think>Paris"

    program = moa_dspy.AttentionMoA("question -> answer", [ScriptedLM(reply)], layers=2)
    prediction = program(question="?")
    assert prediction.trace.improved == (True,)
    assert prediction.answer == "Paris"


def answering(kind: Any, **limits: Any) -> Any:
    signature: Any = dspy.Signature  # typed as a class without arguments
    return signature({"question": (str, dspy.InputField()), "answer": (kind, dspy.OutputField(**limits))}, "Answer.")


@pytest.mark.parametrize(
    ("kind", "reply", "value"),
    [
        (datetime.date, "2024-05-01", datetime.date(2024, 5, 1)),
        (datetime.date, "May 1, 2024", datetime.date(2024, 5, 1)),
        (datetime.date | None, "May 1, 2024", datetime.date(2024, 5, 1)),
        (datetime.date | None, "unknown", None),
        (datetime.time, "10:30", datetime.time(10, 30)),
        (Decimal, "1,234.50", Decimal("1234.5")),
        (Decimal | None, "12.5", Decimal("12.5")),
        (tuple[int, ...], "1, 2, 3", (1, 2, 3)),
        (list[Literal["a", "b"]], "a, b", ["a", "b"]),
        (UUID, "12345678-1234-5678-1234-567812345678", UUID("12345678-1234-5678-1234-567812345678")),
    ],
)
def test_a_reply_without_a_field_is_the_value_of_the_only_one(kind: Any, reply: str, value: Any) -> None:
    prediction = outcome(answering(kind), reply)
    assert prediction.answer == value
    assert prediction.trace.calls == 1


@pytest.mark.parametrize("kind", [str | int, list[str], Any, list[str | int]])
def test_a_reply_without_a_field_is_no_value_of_a_type_with_free_text(kind: Any) -> None:
    prediction = outcome(answering(kind), "- First I think.\n- Then I write.", '{"answer": ["a"]}')
    assert prediction.trace.calls == 2


@pytest.mark.parametrize(
    ("kind", "limits", "good", "bad"),
    [
        (int, {"ge": 0, "le": 10}, "7", "70"),
        (Annotated[int, pydantic.Field(gt=0)], {}, "7", "-7"),
        (float, {"ge": 0, "le": 1}, "0.7", "7"),
        (int | None, {"le": 10}, "7", "70"),
        (list[int], {"max_length": 2}, "[1, 2]", "[1, 2, 3]"),
        (list[str], {"min_length": 1}, '["a"]', "[]"),
    ],
)
def test_a_value_outside_of_its_limits_is_none(kind: Any, limits: Any, good: str, bad: str) -> None:
    signature = answering(kind, **limits)
    assert outcome(signature, f"[[ ## answer ## ]]\n{good}").answer is not None
    with pytest.raises(moa_dspy.AllProposalsFailedError):
        outcome(signature, *[f"[[ ## answer ## ]]\n{bad}"] * 9)


def test_a_text_that_is_longer_than_declared_is_an_answer() -> None:
    assert outcome(answering(str, max_length=3), "Paris").answer == "Paris"


# A model that runs into a loop repeats a piece until max_tokens.
LOOPS = [
    *(("- 1\n-", " "), ("1. ", "\t"), ("=", "\n"), ("answer", " \n")),
    *(("{", "\n["), ("1. ", "\u00a0```\n"), ("$1,", "$1,")),
]


@pytest.mark.parametrize(("head", "unit"), LOOPS)
@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), None], ids=["chat", "json", "line"])
def test_a_loop_is_read_in_linear_time(head: str, unit: str, adapter: dspy.Adapter | None) -> None:
    task = derive_roles("question -> answer: float").task
    reader = AnswerLineAdapter() if adapter is None else lenient(adapter)
    text = head + unit * (200_000 // len(unit)) + "x"
    began = time.process_time()
    with contextlib.suppress(AdapterParseError):
        reader.parse(task, text)
    assert time.process_time() - began < 1.0  # 0.1 s on a machine that does nothing else; quadratic: 10 s and more
