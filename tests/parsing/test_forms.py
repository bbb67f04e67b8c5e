"""Forms of values that were lost or read as another value: bounds, similar members, other scripts, lists, objects."""

from __future__ import annotations

import datetime
import enum
from fractions import Fraction
from typing import Annotated, Any, Literal, Optional

import pydantic
import pytest
from support.values import UNREADABLE, assert_read

from moa_dspy.parsing import read_bool, read_choice, read_number
from moa_dspy.parsing.choices import choice_letter

CITIES = ["London", "Paris", "Rome", "Oslo"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # A bound or a part of an expression is no value.
        (">100", None),
        ("≥ 5", None),
        ("<3", None),
        ("x > 42", None),
        ("±42", None),
        ("+/- 42", None),
        (r"\geq 5", None),
        ("less than 5", None),
        ("The answer is more than 18.", None),
        ("5+", None),
        ("18+.", None),
        (r"\sqrt{2}", None),
        ("√2", None),
        (r"2\pi", None),
        ("5π", None),
        ("5‰", None),
        ("2M", None),
        ("7B", None),
        ("0xFF", None),
        ("√9 = 3", 3),
        ("-> 42", 42),
        ("=> 42", 42),
        ("> 42", 42),
        ("<b>42</b>", 42),
        ("<<6*7=42>>42", 42),
        ("5 m", 5),
        ("$2M", 2_000_000),
        ("n != 5", None),
        ("5 < n", None),
        (r"5 \le n", None),
        ("05/2024", None),
        ("5</answer>", 5),
        # Corrections.
        ("The answer is 9... no, 18.", 18),
        ("Answer: 9. Sorry, it should be 18.", 18),
        ("The answer is 9. Actually, I used 3 steps.", 9),
        ("5, no 6", None),
        # What follows a value changes nothing: asides, units, comparisons.
        ("The answer is 5, actually 2 more than expected", 5),
        ("The answer is 12, actually 3 less than 15.", 12),
        ("Answer: 5. Sorry, 3 steps were needed.", 5),
        ("The answer is 5. No, 4 are left", 5),
        ("The answer is 5 (no, 4 is too low)", 5),
        ("The answer is 9 cats. Wait, 18 cats.", 18),
        ("The answer is 9, no, 18, because 9 is half.", 18),
        ("The answer is 9. No, 18 - 3 = 15.", 15),
        ("Answer: 9. Sorry, it should be 18 cats.", 18),
        ("The answer is 5 units, 3 of which are red", 5),
        ("Answer: 6 people, 2 of whom are tall", 6),
        ("Answer: 4 stars, 5 being best", 4),
        ("The answer is 12 eggs, 3 per box", 12),
        ("The answer is 20 apples, 5 more than before.", 20),
        ("Answer: 60 minutes, 1 hour", 60),
        ("Answer: 5 miles, 8 km", 5),
        ("Answer: 5 miles, 3 in total", 5),
        ("Answer: 5 hours, 3 minutes of which are lost", 5),
        ("Answer: 2 Stunden und 30 Minuten", None),
        ("Answer: 3 dollars and 50 cents", None),
        ("The answer is <5>", 5),
        ("Answer: 7 > 6", 7),
        ("Answer: 7 >= 6", 7),
        ("<a href='https://example.org/" + "path/" * 40 + "'>5</a>", 5),
        ("<a class='a-name-of-more-than-forty-characters-in-a-tag'>5", 5),
        # A number between brackets is a citation only right after another one.
        ("The answer is [5]", 5),
        ("The final answer is [42]", 42),
        ("Final answer [7]", 7),
        ("so we get [15]", 15),
        ("The result is [12]", 12),
        ("Problem 12 [5]", 5),
        ("1. [5]", 5),
        ("It is 42. [3]", 42),
        # Fractions are no months.
        ("#### 1/2000", Fraction(1, 2000)),
        (r"\boxed{\frac{1}{2000}}", Fraction(1, 2000)),
        ("The answer is 3/2010.", Fraction(3, 2010)),
        ("Answer: 7/1950", Fraction(7, 1950)),
        ("P = 1/2024", Fraction(1, 2024)),
        # Quantities of two units.
        ("The answer is 2 hours and 30 minutes.", None),
        ("Answer: 6 ft 2 in", None),
        ("The answer is 18 dollars per day for 3 days.", 18),
        # Scales and citations.
        ("Rating (1-5): 4", 4),
        ("**Confidence (0 to 100):** 85", 85),
        ("On a scale of 1 to 10, 8.", 8),
        ("I rate this 4 out of 5.", 4),
        ("42 [1]", 42),
        ("It is 42 [3][4].", 42),
        ("[42]", 42),
        # Results in words.
        ("10% of 180 is 18.", 18),
        ("3 times 6 is 18", 18),
        ("Half of 36 is 18.", 18),
        ("On day 3 it is 18", None),
        ("5 + 13 = 18, not 19", 18),
        # Words.
        ("two thousand", 2000),
        ("one thousand two hundred and five", 1205),
        ("thousand", None),
        ("one and", None),
        # Other scripts.
        ("一共有42个。", 42),
        ("因此她每天赚18美元。", 18),
        ("٣٫٥", Fraction(7, 2)),
        ("٤٢٬٠٠٠", 42000),
        ("５，０００", 5000),
        ("＄１８", 18),
    ],
)
def test_a_number_is_read_or_refused(text: str, value: Fraction | None) -> None:
    assert read_number(text, integer=True) == value


@pytest.mark.parametrize("text", ["twenty-five", "Twenty-five.", "**twenty-five**"])
def test_a_number_in_words_is_read_without_a_sentence(text: str) -> None:
    assert read_number(text, prose=False) == 25


@pytest.mark.parametrize(
    "text",
    [
        "（B）",
        "Ｂ",
        "答案：Ｂ",
        "答案是（B）。",
        "答案应为B",
        "因此，答案选 B。",
        "故选B。",
        "选择B。",
        "选项B",
        "B选项正确",
        "B、巴黎",
        "【答案】B",
        "正解はBです。",
        "정답은 B입니다.",
        "Die richtige Antwort lautet: B",
        "La respuesta correcta es la B.",
        "La bonne réponse est la B.",
        "Opción B",
        "B (Paris)",
        "B [Paris]",
        "B (because it is the capital)",
        "B, obviously.",
        "B, by a small margin",
        "That's B.",
        "I prefer B.",
        "I'm going with B.",
        "B is slightly better",
        "B is much better than A",
        "B fits best.",
        "B makes the most sense.",
        "Winner: Assistant B",
        "The winner is assistant_b.",
        "Model B",
        "model_b",
        "A. No wait, B.",
        "The answer is (A)... no, (B).",
        "Answer: A. Sorry, B.",
    ],
)
def test_a_letter_is_read_in_more_forms(text: str) -> None:
    assert choice_letter(text, CITIES) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "不选B",
        "答案不是B",
        "B是错的",
        "A (no), B (yes)",
        "A (10%), B (90%)",
        "A: 10%, B: 90%",
        '{"A": 0.1, "B": 0.9}',
        "Answer: (B)(D)",
        "Answer: B; D",
        "B-",
        "B−",
        "I wonder whether B is right.",
    ],
)
def test_no_letter_is_read_if_none_or_several_are_named(text: str) -> None:
    assert choice_letter(text, CITIES) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is B. Sorry for the confusion, A is wrong.", "B"),
        ("The answer is B. No, A is not right.", "B"),
        ("The answer is B. No other city fits; A is in England.", "B"),
    ],
)
def test_words_that_take_something_else_back_change_nothing(text: str, letter: str) -> None:
    assert choice_letter(text, CITIES) == letter


@pytest.mark.parametrize(
    ("text", "letter"), [("13", "B"), ("3 or 13", None), ("1.3", None), ("10 + 3 = 13", "B"), ("It is 13 now.", "B")]
)
def test_choices_that_are_numbers_are_compared_as_numbers(text: str, letter: str | None) -> None:
    assert choice_letter(text, ["3", "13", "30", "3.5"]) == letter


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It is unclear whether this is true.", None),
        ("true or not", None),
        ("It might be true", None),
        ("Could be true.", None),
        ("There is no yes", None),
        ("Yes or no? No", False),
        ("Answer (yes/no): no", False),
        ("True/False: False", False),
        ("It is true.", True),
    ],
)
def test_a_question_is_no_answer(text: str, value: bool | None) -> None:
    assert read_bool(text) is value


@pytest.mark.parametrize(
    ("members", "text", "value"),
    [
        (("entailment", "contradiction"), "There is no contradiction.", None),
        (("entailment", "contradiction"), "no entailment", None),
        (("positive", "negative"), "The answer is positive — no, negative.", "negative"),
        (("A+", "A", "A-", "B"), "I'd give it an A-.", "A-"),
        (("A+", "A", "A-", "B"), "A−", "A-"),
        (("A+", "A", "A-", "B"), "A plus", None),
        (("O+", "O-"), "The blood type is O–.", "O-"),
        (("0-17", "18-24", "65+"), "18–24", "18-24"),
        (("0-17", "18-24", "65+"), "65+", "65+"),
        (("neutral", "good"), "Ｎｅｕｔｒａｌ", "neutral"),
        (("好（很）", "坏"), "好（很）", "好（很）"),
        (("positive", "negative"), "less positive", None),
        (("positive", "neutral"), "could be positive or neutral", None),
        (("positive", "negative"), "It lacks positive words", None),
        (("positive", "negative"), "A negative review? No.", None),
    ],
)
def test_similar_members_are_told_apart(members: tuple[str, ...], text: str, value: str | None) -> None:
    assert read_choice(text, members) == value


class Priority(enum.IntEnum):
    LOW = 1
    HIGH = 2


class User(pydantic.BaseModel):
    name: str
    age: int | None = None


class Person(pydantic.BaseModel):
    name: str
    age: int = 0


Color = Literal["red", "green", "blue"]
Short = Annotated[list[str], pydantic.Field(max_length=3)]
Stars = Literal["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("kind", "written", "value"),
    [
        (Literal[1, 2, 3, 4, 5], "4 out of 5", 4),
        (Literal[-1, 0, 1], "−1", -1),
        (Literal[0, 1], "true", UNREADABLE),
        (Literal[0, 1], "1", 1),
        (Stars, "4 out of 5", "4"),
        (Stars, "4/5", "4"),
        (Stars, "four", "4"),
        (Stars, "3.5", UNREADABLE),
        (Stars, "1 or 2", UNREADABLE),
        (Stars, "4: good", "4"),
        (Priority, "2 out of 2", Priority.HIGH),
        (list[str] | None, "[]", []),
        (dict[str, int] | None, "{}", {}),
        (list[str] | None, "none", None),
        (list[int], "[1,000, 2,000]", UNREADABLE),
        (list[int], "[100, 200]", [100, 200]),
        (list[int], "1, 2, and 3", [1, 2, 3]),
        (list[float], "0,1; 0,9", [0.1, 0.9]),
        (list[float], "0,1\n0,9", [0.1, 0.9]),
        (list[float], "[0,5; 0,7]", [0.5, 0.7]),
        (list[int], "1, 2, ...", UNREADABLE),
        (list[str], "['it's', 'b']", ["it's", "b"]),
        # 1,000 is two numbers in a list, and nowhere else.
        (dict[str, str], "{'text': 'the sum is 1,000 dollars'}", {"text": "the sum is 1,000 dollars"}),
        (list[str], "['a 1,000 b']", ["a 1,000 b"]),
        (dict[str, Any], '{"text": "costs 1,000", "n": 1', {"text": "costs 1,000", "n": 1}),
        (dict[str, Any], '{"text": "costs 1,000 dollars" "n": 5}', {"text": "costs 1,000 dollars", "n": 5}),
        (dict[str, int], "{'a': 1,000}", {"a": 1000}),
        (dict[str, int], '{"a": 1,000}', {"a": 1000}),
        (dict[str, int], '{"a": 1,000, "b": 2,000,000}', {"a": 1000, "b": 2_000_000}),
        (dict[str, list[int]], '{"a": [1,000]}', UNREADABLE),
        # Apostrophes between single quotes.
        (dict[str, str], "{'a': 'x', 'b': 'it's, 'c': 'y'}", UNREADABLE),
        (dict[str, str], "{'a': 'x'b': 'y's'}", UNREADABLE),
        (dict[str, str], r"{'a': 'x\ny's'}", {"a": "x\ny's"}),
        (
            dict[str, Any],
            "{'a': 'the boys' \"old\" toys', 'b': 'it's', 'c': True}",
            UNREADABLE,
        ),
        (dict[str, Any], "{'a': 'boys' toys', 'b': 'it's', 'c': True}", {"a": "boys' toys", "b": "it's", "c": True}),
        (dict[str, Any], "{'a': 'I'm \"in\"', 'n': 3}", {"a": 'I\'m "in"', "n": 3}),
        (dict[str, Any], "{'a': 'it's', 'b': 1", {"a": "it's", "b": 1}),
        (list[str], "['don't, 'b']", UNREADABLE),
        (list[str], "Here: ['it's', 'b'] done", ["it's", "b"]),
        (list[str], "['rock 'n' roll', 'b']", ["rock 'n' roll", "b"]),
        # Mixed separators.
        (list[int], "1, 2\n3, 4", [1, 2, 3, 4]),
        (list[int], "1,2;3,4", [1, 2, 3, 4]),
        (list[int], "1, two; 3", [1, 2, 3]),
        (list[Color], "red, green\nblue, red", ["red", "green", "blue", "red"]),
        (list[Color], "red; green, blue", ["red", "green", "blue"]),
        (list[Color], "red\ngreen, blue", ["red", "green", "blue"]),
        (list[float], "0,5, 0,7\n1,5", [0.5, 0.7, 1.5]),
        (list[float], "1,2,3\n4,5,6", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        (list[Literal["a, b", "c"]], "a, b\nc", ["a, b", "c"]),
        # Nothing between brackets is no value, unless it is an empty one.
        *[(kind | None, text, None) for kind in (str, int, float, bool, User, Color) for text in ("[]", "{}")],
        (list[str] | None, "{}", None),
        (dict[str, int] | None, "[]", None),
        (Optional[Short], "[]", []),  # noqa: UP045
        # Fields that are not required.
        (Person, "name: Bob, age: 5", Person(name="Bob", age=5)),
        (Person, "name: Bob; age: 5; city: X", UNREADABLE),
        (Person, "Name: Bob\nAge is 5", UNREADABLE),
        (Person, "<name>Bob</name>\nage: 5", UNREADABLE),
        (Person, "Name: Bob (age 5)", UNREADABLE),
        (Person, "Name: Bob\n\nNo age is given.", UNREADABLE),
        (Person, "name: Bob\nage: 5\nage: 6", UNREADABLE),
        (Person, "Name: Bob of age", Person(name="Bob of age")),
        (Person, "First: x\nName: Bob", Person(name="Bob")),
        (list[str], "- a\n  goes on\n- b\n\nThat is all.", ["a\ngoes on", "b"]),
        (User, '{"name": "Ann", "age": "thirty"}', User(name="Ann", age=30)),
        (User, "**Name:** Ann\n**Age:** 30", User(name="Ann", age=30)),
        (User, "- Name: Ann\n- Age: unknown", User(name="Ann")),
        (User, "Name: Ann", User(name="Ann")),
        (User, "<user><name>Ann</name><age>30</age></user>", User(name="Ann", age=30)),
        (User, "```yaml\nname: Ann\nage: 30\n```", User(name="Ann", age=30)),
        (User, "name='Ann' age=30", UNREADABLE),
        (User, "Age: 30", UNREADABLE),
        (datetime.date, "2024-05-01T12:30:00Z", datetime.date(2024, 5, 1)),
        (datetime.date, "2024년 5월 1일", datetime.date(2024, 5, 1)),
        (pydantic.HttpUrl, "`https://example.org/a`", pydantic.HttpUrl("https://example.org/a")),
        (pydantic.HttpUrl, "<https://example.org/a>", pydantic.HttpUrl("https://example.org/a")),
    ],
)
def test_a_value_is_read_or_refused(kind: Any, written: str, value: Any) -> None:
    assert_read(kind, written, value)
