"""GSM8K: grade school word problems with one number as the answer (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import dspy

from moa_dspy.data.benchmark import Benchmark, Hub
from moa_dspy.data.metrics.metric import Checked, Metric
from moa_dspy.data.metrics.numbers import last_number, numbers
from moa_dspy.data.sources import Row

__all__ = ["Gsm8k", "final_number", "is_correct"]

_HASHES = re.compile(r"####")
_LETTER_A = re.compile(r"^[ \t]*A:", re.MULTILINE)


def is_correct(solution: str, reference: str) -> bool:
    """Whether a solution ends in the reference's number.

    The final answer of either stands after the last ``####`` (or on a line that begins with ``A:``, as in the published
    model solutions), in the first line there that has a number: the first one after its last equals sign, so that units
    and workings may follow. Commas and currency are stripped and values compared as numbers: 18 equals 18.00, -5 is not
    5, 3.5 is not 3. Agrees with all 2638 verdicts that OpenAI published for its two 6B models.

    Args:
        solution: a model's whole solution; one without a marker is read by its last number.
        reference: the data set's worked answer, or the number alone.

    Returns:
        False as well when either has no number.
    """
    expected = final_number(reference)
    return expected is not None and final_number(solution) == expected


def final_number(solution: str) -> Fraction | None:
    """The number that a solution ends in, or None."""
    for marker in (_HASHES, _LETTER_A):
        ends = [match.end() for match in marker.finditer(solution)]
        if ends:
            return _first_in_lines(solution[ends[-1] :])
    return last_number(solution)


def _first_in_lines(text: str) -> Fraction | None:
    for line in text.splitlines():
        for part in (line.rpartition("=")[2].strip(), line):
            if found := numbers(part):
                return found[0]
    return None


class SolveWordProblem(dspy.Signature):
    """Solve the problem step by step. End with a line that holds only "#### " and the final number."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="the steps, then the line with the final number")


class Gsm8k(Benchmark):
    """1319 test and 7473 training problems."""

    name = "gsm8k"
    title = "GSM8K"
    source = "arXiv 2110.14168, openai/grade-school-math"
    licence = "MIT"
    signature = SolveWordProblem
    splits = ("test", "train")
    hub = Hub("openai/gsm8k", configs=("main",))

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """The reference keeps its worked steps as ``solution``."""
        solution, _, answer = row["answer"].rpartition("####")
        return dspy.Example(
            id=str(position), question=row["question"], answer=answer.strip(), solution=solution.strip()
        ).with_inputs("question")

    def metric(self, lm: dspy.BaseLM | None = None, prompts: Path | str | None = None) -> Metric:  # noqa: ARG002
        """The final number, compared exactly."""
        return Checked(check=is_correct, reading=final_number)
