"""GPQA diamond: 198 graduate-level questions (Rein et al. 2023, arXiv 2311.12022). The set is gated on the hub."""

from __future__ import annotations

import hashlib
import random

import dspy

from moa_dspy.data.benchmark import Hub
from moa_dspy.data.benchmarks.mmlu import MultipleChoice
from moa_dspy.data.sources import Row

__all__ = ["GpqaDiamond"]


class GpqaDiamond(MultipleChoice):
    """Do not publish records of runs: they contain answers, and the authors ask not to publish the questions."""

    name = "gpqa"
    title = "GPQA diamond"
    source = "arXiv 2311.12022, Idavidrein/gpqa"
    licence = "CC BY 4.0, gated"
    hub = Hub("Idavidrein/gpqa", configs=("gpqa_diamond",), splits={"test": "train"})
    files = {"test": ("gpqa_diamond.csv",)}

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """Return an example. The data lists the right answer first; here a hash of the question sets the order."""
        question, right = row["Question"], row["Correct Answer"].strip()
        choices = [right, *(row[f"Incorrect Answer {number}"].strip() for number in (1, 2, 3))]
        order = list(range(len(choices)))
        random.Random(hashlib.sha256(question.encode()).digest()).shuffle(order)  # noqa: S311 - order, not a secret
        return self.lettered_example(
            question,
            [choices[index] for index in order],
            order.index(0),
            id=str(row.get("Record ID") or position),
            category=row.get("High-level domain"),
        )
