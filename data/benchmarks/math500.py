"""MATH-500: competition problems with an expression as the answer (arXiv 2103.03874; the 500 of arXiv 2305.20050)."""

from __future__ import annotations

import dspy

from moa_dspy.data.benchmark import Benchmark, Hub
from moa_dspy.data.metrics.expressions import final_expression
from moa_dspy.data.metrics.mathematics import MathEquivalence, equivalent
from moa_dspy.data.sources import Row

__all__ = ["Math500", "is_correct"]


class SolveCompetitionProblem(dspy.Signature):
    r"""Solve the problem step by step. Write the final answer once, inside \boxed{}."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc=r"the steps, with the final answer inside \boxed{}")


class Math500(Benchmark):
    """500 problems in seven subjects; the category is the subject."""

    name = "math500"
    title = "MATH-500"
    source = "arXiv 2103.03874 and 2305.20050, HuggingFaceH4/MATH-500"
    licence = "MIT"
    signature = SolveCompetitionProblem
    scorer = MathEquivalence()
    hub = Hub("HuggingFaceH4/MATH-500")

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """Return an example whose `answer` is the expression alone."""
        return dspy.Example(
            id=str(row.get("unique_id", position)),
            question=row["problem"],
            answer=row["answer"],
            solution=row["solution"],
            category=row["subject"],
            level=row.get("level"),
        ).with_inputs("question")


def is_correct(solution: str, reference: str) -> bool:
    r"""Return whether the last `\boxed{}` of a solution is equivalent to the reference, boxed or not."""
    return equivalent(final_expression(reference), final_expression(solution))
