"""GSM8K: grade school word problems with one number as the answer (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

import dspy

from moa_dspy.data.benchmark import Benchmark, Hub
from moa_dspy.data.metrics.metric import Checked
from moa_dspy.data.metrics.numbers import final_number
from moa_dspy.data.sources import Row

__all__ = ["Gsm8k", "final_number", "is_correct"]


def is_correct(solution: str, reference: str) -> bool:
    """Return whether a solution ends in the reference's number.

    `final_number` reads both. Units and workings may follow. Commas and currency signs are ignored, and values are
    compared as numbers: 18 equals 18.00, -5 is not 5, 3.5 is not 3. This rule reproduces all 2638 verdicts that OpenAI
    published for its two 6B models.

    Args:
        solution: a model's whole solution.
        reference: the data set's worked answer, or the number alone.

    Returns:
        Whether the numbers are equal; False if one of them is missing.
    """
    expected = final_number(reference)
    return expected is not None and final_number(solution) == expected


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
    scorer = Checked(check=is_correct, reading=final_number)
    hub = Hub("openai/gsm8k", configs=("main",))

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """Return the final number as `answer` and the worked steps as `solution`."""
        solution, _, answer = row["answer"].rpartition("####")
        return dspy.Example(
            id=str(position), question=row["question"], answer=answer.strip(), solution=solution.strip()
        ).with_inputs("question")
