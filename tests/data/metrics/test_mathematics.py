"""Mathematical equivalence: right, in threads, and with an end."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from moa_dspy.data import math500
from moa_dspy.data.metrics.expressions import final_expression
from moa_dspy.data.metrics.mathematics import equivalent


@pytest.fixture(autouse=True)
def dspy_sandbox():
    """No language model is called in this file: the shared fixture's response cache on disk is not needed."""


EXPRESSIONS = [
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
]
HALF = r"\frac{1}{2}"
SOLUTIONS = [
    (HALF, r"so \boxed{0.5}", True),
    (HALF, r"so \boxed{0.6}", False),
    (r"\$18.90", r"so \boxed{\$18.90}", True),
    (r"\$32,\!348", r"so \boxed{32348}", True),
    ("18", r"so \boxed{\$18}", True),
    ("18", "\uff11\uff18", True),
    (HALF, r"So the answer is $\frac{1}{2}$.", True),
    (HALF, r"So the answer is \(\frac{1}{2}\).", True),
    (HALF, r"**Answer:** $\frac{1}{2}$", True),
    (HALF, r"**Answer:** 1/2", True),
    (HALF, r"ANSWER: 0.5", True),
    (HALF, r"Final Answer: The final answer is $\frac{1}{2}$. I hope it is correct.", True),
    (HALF, r"Final Answer: The final answer is $x = \frac{1}{2}$. I hope it is correct.", True),
    (HALF, "#### 1/2", True),
    (HALF, "Let us see.\n#### $\\frac{1}{2}$", True),
    (HALF, "\\[\n\\boxed{\n\\frac{1}{2}\n}\n\\]", True),
    (HALF, "Answer:\n\n\\[ \\frac{1}{2} \\]", True),
    (HALF, "The final answer is:\n\\[ \\frac{1}{2} \\]", True),
    (HALF, "The answer is\n$$\n\\frac{1}{2}\n$$", True),
    (HALF, r"The answer is 1/2. I hope the answer is clear.", True),
    (HALF, "The answer is $\\frac{1}{2}$.\nLet me know if the answer is unclear.", True),
    (HALF, r"The answer is $\frac{1}{2}$, because 2 is the denominator.", True),
    (HALF, r"Thus $x = \frac{1}{2}$.", True),
    (HALF, r"The answer is not $\frac{1}{2}$.", False),
    (HALF, r"It is not \boxed{\frac{1}{2}}.", False),
    (HALF, r"The answer is $\frac{1}{3}$. Wait, the answer is $\frac{1}{2}$.", True),
    (HALF, r"The answer is $\frac{1}{2}$ or $\frac{1}{3}$.", False),
    (HALF, '{"answer": "1/2"}', True),
    (HALF, '```json\n{"answer": "1/2"}\n```', True),
    (HALF, r"<answer>1/2</answer>", True),
    (HALF, r"\boxed{x = \frac{1}{2}}", True),
    (HALF, r"\boxed{\text{1/2}}", True),
    (HALF, r"\boxed{\text{The answer is } \frac{1}{2}}", True),
    (HALF, r"$\boxed{\dfrac{1}{2}}$ is the answer.", True),
    (HALF, r"Therefore, the simplified fraction is **1/2**.", True),
    (HALF, r"Therefore, $\frac{1}{3} + \frac{1}{6} = \frac{1}{2}$.", True),
    (HALF, r"The final answer is \( \boxed{\frac{1}{2}} \).", True),
    ("5", "Thus, x = 5 is the solution.", True),
    ("5", "**Answer:** x = 5", True),
    ("5", "The solution is $x = 5$.", True),
    ("5", "5", True),
    ("5", "$5$", True),
    ("5", "**5**", True),
    ("5", "The answer is five.", True),
    (r"\{2, 3\}", r"\boxed{x = 2, x = 3}", True),
    (r"\{2, 3\}", r"\boxed{2, 3}", True),
    (r"\{2, 3\}", r"\boxed{x = 2 \text{ or } x = 3}", True),
    (r"\{2, 3\}", r"\boxed{x = 2 \text{ and } x = 3}", True),
    (r"\{2, 3\}", r"The solutions are $x = 2$ and $x = 3$.", True),
    (r"\{2, 3\}", r"So the answer is {2, 3}.", True),
    (r"\{2, 3\}", r"**Answer:** $\{3, 2\}$", True),
    (r"\{2, 3\}", r"**Answer:** $\{2\}$", False),
    ("(-3, 9)", r"\boxed{(-3, 9)}", True),
    ("(-3, 9)", r"\boxed{-3 < x < 9}", True),
    ("(-3, 9)", r"\boxed{x \in (-3, 9)}", True),
    ("(-3, 9)", r"So the answer is (-3, 9).", True),
    ("(-3, 9)", r"So the answer is -3 < x < 9.", True),
    ("(-3, 9)", r"\boxed{[-3, 9]}", False),
    (r"[2, \infty)", r"\boxed{x \geq 2}", True),
    (r"[2, \infty)", r"\boxed{[2, +\infty)}", True),
    (r"[2, \infty)", r"The answer is [2, ∞).", True),
    (r"[2, \infty)", r"So the answer is $[2, \infty)$.", True),
    (r"[2, \infty)", r"\boxed{x > 2}", False),
    ("x^2 + 5x + 6", r"So the answer is x^2 + 5x + 6.", True),
    ("x^2 + 5x + 6", r"So the answer is x² + 5x + 6.", True),
    ("x^2 + 5x + 6", r"$(x+2)(x+3) = x^2 + 5x + 6$", True),
    ("x^2 + 5x + 6", r"**Answer:** `x^2 + 5x + 6`", True),
    ("x^2 + 5x + 6", r"**Answer:** x^2 + 5*x + 6", True),
    ("6x^2 + 7", r"\boxed{f'(x) = 6x^2 + 7}", True),
    ("6x^2 + 7", r"The derivative is $f'(x) = 6x^2 + 7$.", True),
    ("6x^2 + 7", r"ANSWER: $6x^2 + 7$", True),
    ("6x^2 + 7", r"ANSWER: \(6x^2 + 7\).", True),
    (r"2\sqrt{2}", r"The answer is 2√2.", True),
    (r"2\sqrt{2}", r"The answer is 2sqrt(2).", True),
    (r"2\sqrt{2}", r"The answer is $2\sqrt{2}$", True),
    (r"\frac{\pi}{6}", r"So the answer is π/6.", True),
    (r"\frac{\pi}{6}", r"So the answer is \frac{\pi}{6} radians.", True),
    (r"\frac{\pi}{6}", r"\boxed{\frac{\pi}{6} \text{ radians}}", True),
    ("8 + 6i", r"So the answer is 8 + 6i.", True),
    ("(3, 5)", r"The midpoint is (3, 5).", True),
    ("(3, 5)", r"So the answer is (5, 3).", False),
    ("(3, 5)", r"\boxed{\left( \frac{6}{2}, \frac{10}{2} \right)}", True),
    ("70012", r"So the answer is 70,012.", True),
    ("70012", r"\boxed{70{,}012}", True),
    ("13 + 9i", "(6 + 10i) + (7 - i) = 13 + 9i", True),
    ("(4, 13)", r"ANSWER: ($\frac{1+7}{2}, \frac{12+14}{2})", True),
    ("11", "The last line is:\n\n\\[Answer: x = 11\\]", True),
    (HALF, "We get \\frac{1}{2}.\n\nTherefore, the sum is \\(\\boxed{\\frac{1}{", False),
    (HALF, "The sum of \\(\\frac{1}{3}\\) and \\(\\frac{1}{6}\\) is \\(\\frac{1}{2}\\).", True),
    ("(x + 3)(x + 8)", r"Therefore, the expanded form of $(x + 3)(x + 8)$ is \(\boxed", False),
    ("(x + 3)(x + 8)", r"The product \((x + 3)(x + 8)\) has to be expanded step by", False),
    ("5", "Let us compute it.\n```python\nx = 10 / 2\ny = 5", False),
    ("5", "```python\nprint(10 / 2)\n```\nThe result is 5.", True),
    ("5", "4. The value of $x$ is 5.", True),
    (r"\{4, 8\}", "The solutions are \\(x = 4\\) and \\(x = 8\\).\n\nSo, the answer is", True),
    (r"\frac{2\pi}{3}", r"120 degrees is equivalent to \(\frac{120 \pi}{180}\) radians.", True),
]


@pytest.mark.parametrize(("gold", "answer", "verdict"), EXPRESSIONS)
def test_pairs(gold, answer, verdict):
    assert equivalent(gold, answer) is verdict


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"First \boxed{1}, so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("The answer is $x+1$.", "x+1"),
        (r"The sum:\\$x+1$", r"\\$x+1$"),
        (r"The answer is \$18.", "18"),
        ("steps\n42", "42"),
        ("", ""),
    ],
)
def test_where_the_answer_is(text, expected):
    assert final_expression(text) == expected


@pytest.mark.parametrize(("gold", "solution", "verdict"), SOLUTIONS)
def test_solutions(gold, solution, verdict):
    assert math500.is_correct(solution, gold) is verdict


def test_in_threads():
    pairs = [(str(n), rf"\frac{{{2 * n}}}{{2}}") for n in range(1, 25)] + [(str(n), str(n + 1)) for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda pair: equivalent(*pair), pairs))
    assert verdicts == [True] * 24 + [False] * 8
    assert threading.current_thread() is threading.main_thread()


@pytest.mark.slow
def test_a_runaway_is_ended_and_the_next_one_works():
    equivalent("1", "1.0")
    started = time.monotonic()
    assert equivalent("1", "(10^{100})!", seconds=1) is False
    assert time.monotonic() - started < 15
    assert equivalent("2", r"\sqrt{4}") is True
