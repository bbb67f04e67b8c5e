"""MMLU: four choices in 57 subjects (Hendrycks et al. 2020, arXiv 2009.03300)."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import dspy

from moa_dspy.data.benchmark import Benchmark, Hub
from moa_dspy.data.metrics.choices import ChoiceLetter
from moa_dspy.data.sources import Row, parse_structure

__all__ = ["AnswerMultipleChoice", "Mmlu", "MultipleChoice"]


class AnswerMultipleChoice(dspy.Signature):
    """Think step by step. End with a line "Answer: X", where X is the letter of one choice."""

    question: str = dspy.InputField(desc="a question and its lettered choices")
    answer: str = dspy.OutputField(desc="the reasoning, then the line with the letter")


class MultipleChoice(Benchmark):
    """A benchmark with lettered choices."""

    signature = AnswerMultipleChoice
    scorer = ChoiceLetter()

    def lettered_example(self, question: str, choices: Sequence[str], right: int, **fields: Any) -> dspy.Example:
        """Return an example whose question ends with the lettered choices. `right` is a position from 0."""
        letters = string.ascii_uppercase[: len(choices)]
        lines = [f"{letter}) {choice}" for letter, choice in zip(letters, choices, strict=True)]
        text = "\n".join([question.strip(), "", *lines])
        example = dspy.Example(question=text, choices=list(choices), answer=letters[right], **fields)
        return example.with_inputs("question")


class Mmlu(MultipleChoice):
    """14042 test questions; the category is the subject."""

    name = "mmlu"
    title = "MMLU"
    source = "arXiv 2009.03300, cais/mmlu"
    licence = "MIT"
    splits = ("test", "validation", "dev")
    hub = Hub("cais/mmlu", configs=("all",))
    files = {
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
