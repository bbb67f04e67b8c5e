"""MMLU-Pro: up to ten choices, harder questions (Wang et al. 2024, arXiv 2406.01574)."""

from __future__ import annotations

import dspy

from moa_dspy.data.benchmark import Hub
from moa_dspy.data.benchmarks.mmlu import MultipleChoice
from moa_dspy.data.sources import Row, parse_structure

__all__ = ["MmluPro"]


class MmluPro(MultipleChoice):
    """12032 test questions in 14 categories."""

    name = "mmlu_pro"
    title = "MMLU-Pro"
    source = "arXiv 2406.01574, TIGER-Lab/MMLU-Pro"
    licence = "MIT"
    splits = ("test", "validation")
    hub = Hub("TIGER-Lab/MMLU-Pro")

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """Return an example. The options "N/A", which fill up to ten, are removed, as in the authors' code."""
        listed = list(parse_structure(row["options"]))
        options = [option for option in listed if option != "N/A"]
        return self.lettered_example(
            row["question"],
            options,
            options.index(listed[int(row["answer_index"])]),
            id=str(row.get("question_id", position)),
            category=row["category"],
        )
