"""Multiple choice as a metric: the letter that an output chooses."""

from __future__ import annotations

from dataclasses import dataclass

import dspy

from moa_dspy.data.metrics.metric import TextMetric
from moa_dspy.parsing.choices import choice_letter

__all__ = ["ChoiceLetter", "choice_letter"]


@dataclass(frozen=True)
class ChoiceLetter(TextMetric):
    """The output chooses the letter of the answer.

    Attributes:
        choices: the field of the example with the texts of the choices. Letters beyond them are ignored.
    """

    choices: str = "choices"

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:
        """Return whether the letters are equal."""
        return self.read(output, example) == accepted.strip().strip("()").upper()

    def read(self, output: str, example: dspy.Example) -> str:
        """Return the letter that the output chooses."""
        choices = example.get(self.choices) if self.choices in example else None
        return choice_letter(output, 26 if choices is None else list(choices)) or ""
