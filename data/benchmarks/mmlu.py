"""MMLU: four choices in 57 subjects (Hendrycks et al. 2020, arXiv 2009.03300)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import dspy

from moa_dspy.data.benchmark import Hub
from moa_dspy.data.benchmarks.multiple_choice import MultipleChoice
from moa_dspy.data.literals import parse_structure
from moa_dspy.data.sources import Row

__all__ = ["Mmlu"]


class Mmlu(MultipleChoice):
    """14042 test questions; the category is the subject."""

    name = "mmlu"
    title = "MMLU"
    source = "arXiv 2009.03300, cais/mmlu"
    licence = "MIT"
    splits = ("test", "validation", "dev")
    hub = Hub("cais/mmlu", configs=("all",))
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "test": ("test/*_test.csv", "*_test.csv"),
        "validation": ("val/*_val.csv", "*_val.csv"),
        "dev": ("dev/*_dev.csv", "*_dev.csv"),
    }
    csv_columns = ("question", "A", "B", "C", "D", "answer")

    def example(self, row: Row, part: str, position: int) -> dspy.Example:
        """Return an example. The hub has a list of choices and a number, the authors' CSV four columns and a letter."""
        if "choices" in row:
            choices, right, subject = list(parse_structure(row["choices"])), int(row["answer"]), row["subject"]
        else:
            choices, right = [row[letter] for letter in "ABCD"], "ABCD".index(row["answer"].strip())
            subject = part.rpartition("_")[0]
        return self.lettered_example(row["question"], choices, right, id=f"{subject}-{position}", category=subject)
