"""Short answers: stated, denied, or one of several."""

from __future__ import annotations

import dspy
import pytest

from moa_dspy.data.metrics.numbers import ShortNumber
from moa_dspy.data.metrics.text import Stated


@pytest.mark.parametrize(
    ("answer", "said", "right"),
    [
        ("Paris", "It is Paris.", True),
        ("Paris", "I don't think it is Paris.", False),
        ("Paris", "Paris is not the capital.", False),
        ("Paris", "anything but Paris", False),
        ("Paris", "Lyon or Paris", False),
        ("Paris", "It is not Lyon but Paris.", True),
        ("7", "7 to 8", False),
        ("7", "6 to 7", False),
        ("7", "7 or 8", False),
        ("0", "0 degrees Celsius or 32 degrees Fahrenheit", True),
        ("206", "206, more or less", True),
    ],
)
def test_an_answer_is_stated_where_it_is_neither_denied_nor_an_alternative(answer: str, said: str, right: bool) -> None:
    assert Stated()(dspy.Example(answer=answer), dspy.Prediction(answer=said)) is right


@pytest.mark.parametrize(
    ("said", "right"),
    [("The answer is seven.", True), ("It is not 7.", False), ("8 or 7", False), ("It is not seven.", False)],
)
def test_a_number_that_is_denied_or_one_of_two_is_no_answer(said: str, right: bool) -> None:
    example = dspy.Example(question="What is 3 + 4?", answer=["7", "seven"])
    assert ShortNumber()(example, dspy.Prediction(answer=said)) is right
