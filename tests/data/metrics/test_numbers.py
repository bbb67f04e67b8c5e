"""Numbers in text: signs, decimals, separators, currency, percent, units; properties over generated numbers."""

from fractions import Fraction

import dspy
import pytest
from hypothesis import given, strategies as st

from moa_dspy.data import Numeric, gsm8k
from moa_dspy.parsing.numbers import numbers


@pytest.fixture(autouse=True)
def dspy_sandbox():
    """No language model is called in this file: the shared fixture's response cache on disk is not needed."""


def last_number(text):
    found = numbers(text)
    return found[-1] if found else None


cents = st.integers(-(10**9), 10**9).map(lambda n: Fraction(n, 100))
minus = st.sampled_from(["-", "\u2212"])


def written(value: Fraction, sign: str = "-", separator: str = ",") -> str:
    text = f"{abs(float(value)):,.2f}".replace(",", separator)
    return (sign if value < 0 else "") + text


@given(cents, minus, st.sampled_from(["", ",", "\u202f", "\u00a0", "'"]))
def test_any_number_is_read_back(value, sign, separator):
    assert last_number(written(value, sign, separator)) == value


@given(
    cents,
    st.sampled_from(["", "$", "€", "£", "\\$"]),
    st.sampled_from(["", "%", " %", " km", " apples.", "**", ".", ")"]),
)
def test_currency_percent_and_units_are_no_part_of_the_value(value, currency, after):
    text = f"{'-' if value < 0 else ''}{currency}{written(abs(value))}{after}"
    assert last_number(f"so it is {text}") == value


@given(cents, cents)
def test_equal_as_numbers_and_only_then(one, other):
    assert gsm8k.is_correct(f"#### {written(one)}", f"#### {written(other)}") is (one == other)


@given(st.integers(1, 10**6))
def test_sign_counts(value):
    assert not gsm8k.is_correct(f"#### -{value}", f"#### {value}")
    assert not gsm8k.is_correct(f"#### \u2212{value}", f"#### {value}")
    assert gsm8k.is_correct(f"#### {value}.00", f"#### {value}")
    assert not gsm8k.is_correct(f"#### {value}.5", f"#### {value}")


@given(st.lists(st.integers(-999, 999), min_size=1, max_size=6))
def test_of_several_answers_the_last_counts(values):
    text = ", ".join(map(str, values))
    assert numbers(text) == values
    assert last_number(text) == values[-1]
    assert gsm8k.final_number("\n".join(f"#### {value}" for value in values)) == values[-1]


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text):
    numbers(text)
    gsm8k.is_correct(text, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10-5", None),
        ("10 - 5", 5),
        ("x = -5", -5),
        ("$-5", -5),
        ("-$5", -5),
        ("3/4", Fraction(3, 4)),
        ("on 1/2/2024", None),
        ("1e3", 1000),
        (".5", Fraction(1, 2)),
        ("H2O and x2", None),
        ("9" * 500, None),
        ("5/0", None),
        ("", None),
        ("none", None),
        ("1.8 billion", 1_800_000_000),
        ("15 m^2", 15),
        ("15 cm^{2}", 15),
        ("x = - 5", -5),
        ("- 5", None),
        ("it is minus 7", -7),
        ("negative 7", -7),
        ("10 minus 7", 7),
        ("10 - 7", 7),
        ("1 1/2", Fraction(3, 2)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        (r"1\frac{1}{2}", Fraction(3, 2)),
        ("[1,2]", None),
        ("1,23", Fraction("1.23")),
        ("1,2345", Fraction("1.2345")),
        ("5 000", 5000),
        ("$1{,}000$", 1000),
        (r"1\,000", 1000),
    ],
)
def test_edges(text, expected):
    assert last_number(text) == expected


@pytest.mark.parametrize("text", ["True", "None", "nan", "inf", "", "abc"])
def test_what_is_no_number(text):
    assert last_number(text) is None


@pytest.mark.parametrize(
    ("solution", "reference", "verdict"),
    [
        ("2 days of 9\n#### 18 dollars", "18", True),
        ("#### 18\nThis is for 3 days.", "#### 18", True),
        ("####\n18", "#### 18", True),
        ("A: 18", "#### 18", True),
        ("I think 18.", "#### 18", True),
        ("#### ", "#### 18", False),
        ("", "#### 18", False),
        ("18", "", False),
        ("#### no idea", "#### 18", False),
        ("#### - 5", "5", False),
        ("#### - 5", "-5", True),
        ("#### 3 1/2", "1/2", False),
        ("#### 20 (5*4)", "20", True),
        ("#### 5 * 4 = 20 apples", "20", True),
        ("#### x = 20", "20", True),
        ("#### Step 1\n9 * 8\n#### Final Answer\n72", "72", True),
    ],
)
def test_gsm8k_solutions(solution, reference, verdict):
    assert gsm8k.is_correct(solution, reference) is verdict


def test_tolerance():
    example = dspy.Example(answer="3.14159")
    assert Numeric(tolerance=0.01)(example, dspy.Prediction(answer="about 3.14")) is True
    assert Numeric()(example, dspy.Prediction(answer="about 3.14")) is False
