"""The base class of benchmarks with lettered choices."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import dspy

from moa_dspy.data.benchmark import Benchmark
from moa_dspy.data.metrics.choices import ChoiceLetter

__all__ = ["AnswerMultipleChoice", "MultipleChoice"]


class AnswerMultipleChoice(dspy.Signature):
    """Think step by step. End with a line "Answer: X", where X is the letter of one choice."""

    question: str = dspy.InputField(desc="a question and its lettered choices")
    answer: str = dspy.OutputField(desc="the reasoning, then the line with the letter")


class MultipleChoice(Benchmark):
    """A benchmark with lettered choices."""

    signature = AnswerMultipleChoice
    scorer = ChoiceLetter()

    def lettered_example(self, question: str, choices: Sequence[str], right: int, **fields: Any) -> dspy.Example:
        """Return an example whose question ends with the lettered choices.

        Args:
            question: the question without its choices.
            choices: the texts of the choices, in order.
            right: position of the right choice, from 0.
            **fields: further fields of the example.
        """
        letters = string.ascii_uppercase[: len(choices)]
        lines = [f"{letter}) {choice}" for letter, choice in zip(letters, choices, strict=True)]
        text = "\n".join([question.strip(), "", *lines])
        example = dspy.Example(question=text, choices=list(choices), answer=letters[right], **fields)
        return example.with_inputs("question")
