"""Values as models write them: clear ones are read whatever their form, others are refused."""

from __future__ import annotations

import contextlib
import datetime
import enum
import sys
import time
import typing
import warnings
from decimal import Decimal
from typing import Any, Literal, Optional, Union

import pydantic
import pytest
import typing_extensions
from hypothesis import given, settings, strategies as st
from support.values import UNREADABLE, assert_read

from moa_dspy.errors import ConfigurationError
from moa_dspy.parsing import UnreadableError, parse_value

Mood = Literal["positive", "negative"]
Letter = Literal["A", "B", "C"]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Count(enum.IntEnum):
    ONE = 1
    TWO = 2


class Named(pydantic.BaseModel):
    first: str = pydantic.Field(alias="firstName")
    born: Optional[datetime.date] = None


class Box(pydantic.BaseModel):
    items: list[Count]


class Item(pydantic.BaseModel):
    name: str
    n: int
    tags: list[str] = []


# A type, what a model wrote, and the value.
CASES: list[tuple[Any, Any, Any]] = [
    (Mood, "Positive", "positive"),
    (Mood, "**positive**", "positive"),
    (Mood, "positive.", "positive"),
    (Mood, "`positive`", "positive"),
    (Mood, '"Positive"', "positive"),
    (Mood, "Answer: positive", "positive"),
    (Mood, "Sentiment: **Positive**", "positive"),
    (Mood, "The sentiment is positive.", "positive"),
    (Mood, "It is positive, since it praises.", "positive"),
    (Mood, "not positive", UNREADABLE),
    (Mood, "It is not negative but positive", "positive"),
    (Mood, "positive or negative", UNREADABLE),
    (Mood, "positive, not negative", "positive"),
    (Mood, "", UNREADABLE),
    (Mood, "neutral", UNREADABLE),
    (Mood, "non-positive", UNREADABLE),
    (Mood, "<think>negative?</think>positive", "positive"),
    (Mood, "POSITIVE!!!", "positive"),
    (Mood, "Literal['positive']", "positive"),
    (Mood, "(positive)", "positive"),
    (Mood, "\\boxed{positive}", "positive"),
    (Mood, "$\\text{positive}$", "positive"),
    (Mood, "There are positive words and negative ones. Final answer: negative", "negative"),
    (Mood, "positively good", UNREADABLE),
    (Mood, "The answer is positive or negative.", UNREADABLE),
    (Mood, None, UNREADABLE),
    (Mood, "“positive”", "positive"),
    (Mood, "positive\n\nExplanation: it praises.", "positive"),
    (Mood, "1. positive", "positive"),
    (Mood, "- positive", "positive"),
    (Letter, "B", "B"),
    (Letter, "(b)", "B"),
    (Letter, "B. Paris", "B"),
    (Letter, "The answer is B.", "B"),
    (Letter, "A cat sat.", UNREADABLE),
    (Letter, "I think it is (C).", "C"),
    (Letter, "Answer: B) Paris", "B"),
    (Literal["C", "C++", "C#"], "C++", "C++"),
    (Literal["C", "C++", "C#"], "C++.", "C++"),
    (Literal["C", "C++", "C#"], "**C#**", "C#"),
    (Literal["agree", "disagree"], "I disagree", "disagree"),
    (Literal["yes", "no"], "Yes.", "yes"),
    (Literal["very good", "good"], "It is very good", "very good"),
    (Literal["in_progress", "done"], "In progress", "in_progress"),
    (Literal[1, 2, 3], "2", 2),
    (Literal[1, 2, 3], "two", 2),
    (Literal[1, 2, 3], 2, 2),
    (Literal[1, 2, 3], "2 or 3", UNREADABLE),
    (Literal["1", "2"], 2, "2"),
    (Literal["a", "A"], "A", "A"),
    (int, "1,234", 1234),
    (int, "42 apples", 42),
    (int, "**42**", 42),
    (float, "$29.00", 29.0),
    (int, "$29.00", 29),
    (int, "42.5", UNREADABLE),
    (int, "-5", -5),
    (int, "−5", -5),
    (int, "Answer: 42", 42),
    (int, "The answer is 42.", 42),
    (int, "There are 42 apples in total.", 42),
    (int, "42 apples and 3 pears", UNREADABLE),
    (int, "5-7", UNREADABLE),
    (int, "5 to 7", UNREADABLE),
    (int, "1 234 567", 1234567),
    (int, "12,34,567", 1234567),
    (float, "1.234,56", 1234.56),
    (float, "3,14", 3.14),
    (int, "1,2", UNREADABLE),
    (int, "1'234", 1234),
    (int, "1_000", 1000),
    (float, "1e3", 1000.0),
    (float, "1.5 million", 1.5e6),
    (float, "$5M", 5e6),
    (float, "3k", 3000.0),
    (int, "\\boxed{18}. (This took 3 steps.)", 18),
    (int, "#### 18", 18),
    (int, "x = 5", 5),
    (int, "3 * 6 = 18", 18),
    (int, "2024-05-01", UNREADABLE),
    (int, "3:30", UNREADABLE),
    (int, "1.2.3", UNREADABLE),
    (int, "H2O", UNREADABLE),
    (int, "forty-two", 42),
    (int, "one hundred and five", 105),
    (int, "5th", 5),
    (int, "#5", 5),
    (int, "8/10", 8),
    (int, "8 out of 10", 8),
    (float, "1/2", 0.5),
    (float, "8/10", UNREADABLE),
    (float, "50%", 50.0),
    (int, "not 42", UNREADABLE),
    (int, "It is 42 or 43", UNREADABLE),
    (int, "٤٢", 42),
    (int, "４２", 42),
    (float, "10²", UNREADABLE),
    (float, "2^10", UNREADABLE),
    (float, "3 × 10^8", 3e8),
    (int, "", UNREADABLE),
    (int, "-" * 16000, UNREADABLE),
    (int, "9" * 16000, UNREADABLE),
    (float, "inf", float("inf")),
    (int, "nan", UNREADABLE),
    (int, "inf", UNREADABLE),
    (int, True, UNREADABLE),
    (int, 42.0, 42),
    (int, "42.0", 42),
    (int, "€ 1.234", UNREADABLE),
    (int, "$1,234.50", UNREADABLE),
    (float, "$1,234.50", 1234.5),
    (int, "about 42", 42),
    (int, "~42", 42),
    (int, "42km", 42),
    (float, "42 km/h", 42.0),
    (float, "-$5", -5.0),
    (float, "$-5", -5.0),
    (int, "[42]", 42),
    (int, "{42}", 42),
    (int, "0x1F", UNREADABLE),
    (int, "None", UNREADABLE),
    (float, ".5", 0.5),
    (float, "5.", 5.0),
    (int, "1. Step one", UNREADABLE),
    (int, "Step 1: add. Step 2: 42", 42),
    (int, "1,234,567.00", 1234567),
    (float, "20°C", 20.0),
    (int, "$\\boxed{42}$", 42),
    (int, "\\(42\\)", 42),
    (int, "```\n42\n```", 42),
    (int, "The total is **42** apples.", 42),
    (int, "£3 million", 3000000),
    (int, "5,000 m", 5000),
    (float, "1,000.5", 1000.5),
    (float, "0,123", 0.123),
    (int, "twenty", 20),
    (int, "one", 1),
    (int, "a hundred", UNREADABLE),
    (int, "minus 5", -5),
    (int, "- 5", UNREADABLE),
    (int, "- 5 apples\n- 7 pears", UNREADABLE),
    (Mood, "positive is negative", UNREADABLE),
    (int, "the answer is 42, not 43", 42),
    (bool, "Yes", True),
    (bool, "no.", False),
    (bool, "**True**", True),
    (bool, "Yes, it improves.", True),
    (bool, "No, it does not.", False),
    (bool, "not true", UNREADABLE),
    (bool, "It is true.", True),
    (bool, "It isn't true", UNREADABLE),
    (bool, "yes and no", UNREADABLE),
    (bool, "true or false", UNREADABLE),
    (bool, "Answer: yes", True),
    (bool, 1, True),
    (bool, "maybe", UNREADABLE),
    (bool, "The answer is no.", False),
    (bool, "false\n", False),
    (bool, "Yes. Actually no.", UNREADABLE),
    (bool, "improved: true", True),
    (Optional[int], "None", None),
    (Optional[int], None, None),
    (Optional[int], "42 apples", 42),
    (Optional[str], None, None),
    (Optional[str], "None", None),
    (Optional[str], "Paris", "Paris"),
    (str, None, UNREADABLE),
    (str, 5, "5"),
    (str, ["é"], '["é"]'),
    (str, {"a": None}, '{"a": null}'),
    (Optional[Mood], "N/A", None),
    (Optional[Mood], "Positive.", "positive"),
    (Color, "RED", Color.RED),
    (Color, "red", Color.RED),
    (Color, "Color.RED", Color.RED),
    (Color, "It is red.", Color.RED),
    (Color, "<Color.RED: 'red'>", Color.RED),
    (Color, "red or blue", UNREADABLE),
    (Count, "2", Count.TWO),
    (Count, 2, Count.TWO),
    (Count, "two", Count.TWO),
    (list[int], "[1, 2, 3]", [1, 2, 3]),
    (list[int], "1, 2, 3", [1, 2, 3]),
    (list[int], "- 1\n- 2", [1, 2]),
    (list[int], "1,234", UNREADABLE),
    (list[str], "1. a\n2. b", ["a", "b"]),
    (list[str], '```json\n["a", "b"]\n```', ["a", "b"]),
    (list[str], "['a', 'b']", ["a", "b"]),
    (list[str], 'Here: ["a"]', ["a"]),
    (list[Mood], "Positive, negative", ["positive", "negative"]),
    (list[int], '["1,234", "$5"]', [1234, 5]),
    (list[str], "Paris, France", UNREADABLE),
    (list[int], "[]", []),
    (tuple[int, str], '[1, "a"]', (1, "a")),
    (set[int], "[1,1]", {1}),
    (dict[str, int], '{"a": "1,234"}', {"a": 1234}),
    (Item, '{"Name": "x", "n": "1,234"}', Item(name="x", n=1234)),
    (Item, '```json\n{"name": "x", "n": 5, "tags": null}\n```', UNREADABLE),
    (Item, "{'name': 'x', 'n': 5,}", Item(name="x", n=5)),
    (Item, 'The object: {"name": "x", "n": 5} done.', Item(name="x", n=5)),
    (Item, '{"name": null, "n": 5}', UNREADABLE),
    (list[Item], '[{"name":"x","n":"$5"}]', [Item(name="x", n=5)]),
    (Item, '{"name":"a","n":1} or {"name":"b","n":2}', UNREADABLE),
    (list[int], "[" * 50000, UNREADABLE),
    (Item, "{" * 50000, UNREADABLE),
    (Item, '{"a":' * 20000, UNREADABLE),
    (Union[int, str], "42", 42),
    (Union[int, str], "42 apples", "42 apples"),
    (Literal[True, False], "Yes", True),
    # One value in a list or an object.
    (Mood, ["positive"], "positive"),
    (Mood, {"answer": "Positive."}, "positive"),
    (Mood, ["positive", "negative"], UNREADABLE),
    (Mood, {"positive": 0.9}, UNREADABLE),
    (int, [5], 5),
    (int, {"value": "1,234"}, 1234),
    (int, {"a": 1, "b": 2}, UNREADABLE),
    (float, [[0.5]], 0.5),
    (bool, {"improved": True}, True),
    (Color, ["RED"], Color.RED),
    # Members that are numbers.
    (Count, 2.0, Count.TWO),
    (Count, "2.0", Count.TWO),
    (Count, 2.5, UNREADABLE),
    (Literal[0.5, 1.0], "1", 1.0),
    (Literal[0.5, 1.0], 1, 1.0),
    (Literal[0.5, 1.0], "0.7", UNREADABLE),
    # Composed and invisible characters.
    (Literal["café", "thé"], "cafe\u0301", "café"),
    (Literal["cafe\u0301", "thé"], "café", "cafe\u0301"),
    (Mood, "posi\u200btive", "positive"),
    (Mood, "\ufeffpositive", "positive"),
    (bool, "s\u0069\u0301", True),
    # Yes and no in other languages, as whole answer.
    (bool, "Ja", True),
    (bool, "nein.", False),
    (bool, "Oui", True),
    (bool, "**Non**", False),
    (bool, "да", True),
    (bool, "нет", False),
    (bool, "是", True),
    (bool, "否", False),
    (bool, "はい", True),
    (bool, "아니요", False),
    (bool, "on", True),
    (bool, "off", False),
    (bool, "Ja oder nein", UNREADABLE),
    # No value.
    (Optional[int], "-", None),
    (Optional[int], "—", None),
    (Optional[int], "unknown", None),
    (Optional[int], "Not specified.", None),
    (Optional[int], "None (not mentioned)", None),
    (Optional[float], "not available", None),
    (Optional[bool], "Unknown", None),
    (Optional[datetime.date], "unknown", None),
    (Optional[list[int]], "not found", None),
    (Optional[str], "unknown", "unknown"),
    (Optional[str], "Not specified", "Not specified"),
    (Optional[Literal["none", "some"]], "None", "none"),
    (Optional[Literal["yes", "unknown"]], "unknown", "unknown"),
    (Optional[Literal["yes", "no"]], "unknown", None),
    (Optional[int], "not 5", UNREADABLE),
    (int, "unknown", UNREADABLE),
    # Lists.
    (list[str], '"a", "b"', ["a", "b"]),
    (list[str], "“a”, “b, c”", ["a", "b, c"]),
    (list[str], '["a" "b"]', ["a", "b"]),
    (list[str], "1. Use arr[0] first\n2. Then stop", ["Use arr[0] first", "Then stop"]),
    (list[str], "- [ ] a\n- [x] b", ["[ ] a", "[x] b"]),
    (list[str], "- [a](http://x)\n- [b](http://y)", ["[a](http://x)", "[b](http://y)"]),
    (list[str], 'First:\n- x\n- y\nSo: ["a", "b"]', ["a", "b"]),
    (list[int], 5, [5]),
    (list[int], "{1, 2}", [1, 2]),
    (set[str], "{'a', 'b'}", {"a", "b"}),
    (list[Item], '{"name": "x", "n": 5}', [Item(name="x", n=5)]),
    (list[Item], {"name": "x", "n": 5}, [Item(name="x", n=5)]),
    (list[Item], '{"name":"a","n":1}\n{"name":"b","n":2}', [Item(name="a", n=1), Item(name="b", n=2)]),
    (list[Item], '{"name":"a","n":1},\n{"name":"a","n":1}', [Item(name="a", n=1)] * 2),
    (list[str], {"a": "b"}, UNREADABLE),
    # Objects.
    (Item, "name: x\nn: 5", Item(name="x", n=5)) if False else (dict[str, int], "a: 1\nb: 2", {"a": 1, "b": 2}),
    (dict[str, float], "- **a**: 0.5\n- **b**: 1", {"a": 0.5, "b": 1.0}),
    (dict[str, str], "a: x\nb: y", UNREADABLE),
    (Item, '{"Item": {"name": "x", "n": 5}}', Item(name="x", n=5)),
    (Item, '{"type": "object", "properties": {"name": "x", "n": 5}}', Item(name="x", n=5)),
    (Item, '{"properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}', UNREADABLE),
    (Item, '{"a": {"name": "x", "n": 5}, "b": {"name": "y", "n": 6}}', UNREADABLE),
    (Named, '{"firstName": "x"}', Named(firstName="x")),
    (Named, '{"first": "x", "born": "May 1, 2024"}', Named(firstName="x", born=datetime.date(2024, 5, 1))),
    (Named, '{"first_name": "x", "born": "unknown"}', Named(firstName="x")),
    (Named, "firstName: x\nBorn: 2024-05-01", Named(firstName="x", born=datetime.date(2024, 5, 1))),
    (Box, "[1, 2]", Box(items=[Count.ONE, Count.TWO])),
    (Box, [1], Box(items=[Count.ONE])),
    (Box, '{"items": 2}', Box(items=[Count.TWO])),
    # Dates and decimals.
    (datetime.date, "2024/05/01", datetime.date(2024, 5, 1)),
    (datetime.date, "**May 1st, 2024**", datetime.date(2024, 5, 1)),
    (datetime.date, "Answer: Wednesday, 1 May 2024.", datetime.date(2024, 5, 1)),
    (datetime.date, "1 Sept 2024", datetime.date(2024, 9, 1)),
    (datetime.date, "01.05.2024", datetime.date(2024, 5, 1)),
    (datetime.date, "5/13/2024", datetime.date(2024, 5, 13)),
    (datetime.date, "13/5/2024", datetime.date(2024, 5, 13)),
    (datetime.date, "05/01/2024", UNREADABLE),
    (datetime.date, "20240501", datetime.date(2024, 5, 1)),
    (datetime.date, 20240501, datetime.date(2024, 5, 1)),
    (datetime.date, "2024年5月1日", datetime.date(2024, 5, 1)),
    (datetime.date, "Maybe 1, 2024", UNREADABLE),
    (datetime.date, "31.02.2024", UNREADABLE),
    (datetime.date, "May 2024", UNREADABLE),
    (datetime.date, "1714521600", UNREADABLE),
    (datetime.datetime, "42", UNREADABLE),
    (datetime.datetime, 42, UNREADABLE),
    (datetime.datetime, "2024-05-01 12:30", datetime.datetime(2024, 5, 1, 12, 30)),  # noqa: DTZ001
    (datetime.datetime, "2024/05/01", datetime.datetime(2024, 5, 1)),  # noqa: DTZ001
    (Decimal, "1,234.50", Decimal("1234.50")),
    (Decimal, "$0.10", Decimal("0.1")),
    (Decimal, "1/3", UNREADABLE),
    (Literal["one", None], "None", None),
]


@pytest.mark.parametrize(
    ("kind", "written", "value"), CASES, ids=lambda part: repr(sorted(part) if isinstance(part, set) else part)[:40]
)
def test_a_value_is_read_or_refused(kind: Any, written: Any, value: Any) -> None:
    assert_read(kind, written, value)


MARKUP = [
    "{}",
    "**{}**",
    "`{}`",
    '"{}"',
    "'{}'",
    "{}.",
    " {} ",
    "({})",
    "Answer: {}",
    "**Answer:** {}",
    "The answer is {}.",
]
MARKUP += ["__{}__", "“{}”", "*{}*", "\\boxed{{{}}}", "Final answer: **{}**", "```\n{}\n```", "- {}", "{}\n", "${}$"]


@settings(deadline=None, max_examples=300)
@given(st.integers(-(10**12), 10**12), st.sampled_from(MARKUP), st.sampled_from(["", ",", "_"]))
def test_any_integer_in_any_markup(number: int, markup: str, separator: str) -> None:
    if markup.startswith("-"):
        return  # a bullet may be a sign
    written = markup.format(f"{number:{separator}}" if separator else number)
    assert parse_value(written, int) == number
    assert parse_value(written, float) == float(number)


@settings(deadline=None, max_examples=300)
@given(
    st.decimals(-(10**9), 10**9, places=2),
    st.sampled_from(MARKUP),
    st.sampled_from(["{}", "${}", "{} kg", "€{}", "{} %"]),
)
def test_any_amount_in_any_markup(number: Any, markup: str, unit: str) -> None:
    if markup.startswith("-") or ("$" in markup and "$" in unit):
        return  # a bullet may be a sign
    for written in (f"{abs(number)}", f"{abs(number):,}"):
        assert parse_value(markup.format(unit.format(written)), float) == float(abs(number))


@pytest.mark.parametrize("markup", MARKUP)
@pytest.mark.parametrize("member", ["positive", "negative", "Positive", "NEGATIVE"])
def test_a_member_in_any_markup(markup: str, member: str) -> None:
    assert parse_value(markup.format(member), Mood) == member.lower()


@pytest.mark.parametrize("markup", MARKUP)
@pytest.mark.parametrize(("word", "value"), [("yes", True), ("No", False), ("TRUE", True), ("False", False)])
def test_a_boolean_in_any_markup(markup: str, word: str, value: bool) -> None:
    assert parse_value(markup.format(word), bool) is value


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(["positive", "negative", "not", "neither", "or", "and", "is", ",", "."]), max_size=8))
def test_two_members_without_negation_are_unreadable(words: list[str]) -> None:
    text = " ".join(words)
    if {"positive", "negative"} <= set(words) and not {"not", "neither"} & set(words):
        with pytest.raises(UnreadableError):
            parse_value(text, Mood)


KINDS: list[Any] = [
    int,
    float,
    bool,
    str,
    Mood,
    Letter,
    Color,
    list[int],
    list[str],
    dict[str, int],
    Item,
    Optional[int],
]
KINDS += [Union[int, str], tuple[int, str], list[Item], Any]
HOSTILE = [
    "-",
    "9",
    "[",
    "{",
    '{"a":',
    "(",
    "'",
    '"',
    "\\",
    "1,",
    "1 ",
    "a ",
    "\n",
    "1.",
    "- 1\n",
    "**",
    "$",
    "=",
    "not ",
    "is ",
    "0x",
]


@pytest.mark.slow
@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_hostile_texts_are_read_or_refused_at_once(kind: Any, unit: str) -> None:
    text = unit * (64_000 // len(unit))
    began = time.process_time()
    with contextlib.suppress(UnreadableError):
        parse_value(text, kind)
    assert time.process_time() - began < 0.3  # 0.1 s on a machine that does nothing else


@pytest.mark.parametrize(
    ("begin", "unit", "end"), [("9", "\t", "The answer is ["), ("1", "\n", "2"), ("1", " ", "and 2")]
)
@pytest.mark.parametrize("kind", [list[int], tuple[int, str]], ids=str)
def test_a_long_gap_in_a_list_is_read_or_refused_at_once(kind: Any, begin: str, unit: str, end: str) -> None:
    began = time.process_time()
    with contextlib.suppress(UnreadableError):
        parse_value(begin + unit * 64_000 + end, kind)
    assert time.process_time() - began < 0.3


def test_a_number_that_runs_into_a_word_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in ("[1.or 2]", "[1.if", "{5.0and 3}", "[0x1for x"):
            with contextlib.suppress(UnreadableError):
                parse_value(text, list[int])


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=60), st.sampled_from(range(len(KINDS))))
def test_any_text_is_a_value_or_unreadable(text: str, kind: int) -> None:
    try:
        parse_value(text, KINDS[kind])
    except UnreadableError:
        return


class Person(typing_extensions.TypedDict):
    name: str
    age: typing_extensions.NotRequired[int]


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (Person, '{"name": "Ada", "age": "36"}', {"name": "Ada", "age": 36}),
        (Person, "name: Ada\nage: 36", {"name": "Ada", "age": 36}),
        (Person, '{"Name": "Ada"}', {"name": "Ada"}),
        (list[Person], '[{"name": "Ada"}]', [{"name": "Ada"}]),
        (Optional[Person], "none", None),
    ],
)
def test_a_typed_dict_is_read(annotation: Any, text: str, value: Any) -> None:
    assert parse_value(text, annotation) == value


class Unknown:
    """Pydantic has no schema for it."""


class Plain(typing.TypedDict):
    name: str


UNSUPPORTED = [Unknown] if sys.version_info >= (3, 12) else [Unknown, Plain]


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_a_type_that_pydantic_does_not_know_is_an_error_of_the_task(kind: Any) -> None:
    forms = {kind: '{"a": 1}', list[kind]: '[{"a": 1}]', Optional[kind]: '{"a": 1}', dict[str, kind]: '{"a": {"b": 1}}'}
    for annotation, text in forms.items():
        with pytest.raises(ConfigurationError, match=r"the type .+ cannot be read from text: .+"):
            parse_value(text, annotation)
