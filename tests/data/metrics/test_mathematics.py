"""Mathematical equivalence: right, in threads, and with an end."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from moa_dspy.data import math500
from moa_dspy.data.metrics.mathematics import equivalent, final_expression


@pytest.fixture(autouse=True)
def dspy_sandbox():
    """No language model is called in this file: the shared fixture's response cache on disk is not needed."""


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac{1}{2}", r"\dfrac12", True),
        ("x+1", "1+x", True),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})", True),
        ("10,000", "10000", True),
        ("10000", "10 000", True),
        (r"10,\!000", "10000", True),
        ("12", "1 2", False),
        ("12", r"1\,2", False),
        (r"\frac12", r"\frac 1 2", True),
        ("6 - 5i", "6-5i", True),
        ("52_8", "52", False),
        ("52_8", "52_9", False),
        ("52_8", "52_{8}", True),
        ("x_1", "x_{1}", True),
        (r"2\sqrt{2}", r"\sqrt{8}", True),
        ("3", "-3", False),
        ("3.5", "3", False),
        ("2", "", False),
        ("2", "9" * 600, False),
        ("2", r"\undefined{", False),
    ],
)
def test_pairs(gold, answer, verdict):
    assert equivalent(gold, answer) is verdict


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"First \boxed{1}, so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("The answer is $x+1$.", "x+1"),
        ("steps\n42", "42"),
        ("", ""),
    ],
)
def test_where_the_answer_is(text, expected):
    assert final_expression(text) == expected


def test_solutions():
    assert math500.is_correct(r"so \boxed{0.5}", r"\frac{1}{2}")
    assert not math500.is_correct(r"so \boxed{0.6}", r"thus \boxed{\frac{1}{2}}")


def test_in_threads():
    pairs = [(str(n), rf"\frac{{{2 * n}}}{{2}}") for n in range(1, 25)] + [(str(n), str(n + 1)) for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda pair: equivalent(*pair), pairs))
    assert verdicts == [True] * 24 + [False] * 8
    assert threading.current_thread() is threading.main_thread()


def test_a_runaway_is_ended_and_the_next_one_works():
    equivalent("1", "1.0")
    started = time.monotonic()
    assert equivalent("1", "(10^{100})!", seconds=1) is False
    assert time.monotonic() - started < 15
    assert equivalent("2", r"\sqrt{4}") is True
