"""Answers of BIG-Bench Hard, read in the form of the target: a choice, a word of a closed set, a number, or a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import dspy

from moa_dspy.data.metrics.answers import TEXT_MAX, claims, final_answer, last_boxed, plain
from moa_dspy.data.metrics.choices import choice_letter, leading_choice, named_choice
from moa_dspy.data.metrics.metric import TextMetric
from moa_dspy.data.metrics.numbers import stated_number

__all__ = ["HardTaskAnswer", "read_as"]

_CHOICE = re.compile(r"\([A-Z]\)")
_NUMBER = re.compile(r"-?\d+")
_OPTION = re.compile(r"^\(([A-Z])\)[ \t]+(.+)$", re.MULTILINE)
_CLOSED = (("true", "false"), ("yes", "no"), ("valid", "invalid"))
_WORD = re.compile(r"\W{0,3}(\w+)\W{0,3}(?:\Z|(?<=[.,;:!)\n])|(?:because|since|as|for)\b)", re.IGNORECASE)


def read_as(prediction: str, target: str, options: Sequence[str] = ()) -> str | None:
    """Return the answer of a prediction in the form of the target, or None if it has none of this form.

    | target | what is read | examples |
    |---|---|---|
    | `(B)` | a letter, or the text of an option | `So the answer is (B).`, `**Answer**: b`, `(B) 12/02/1990` |
    | True, False; yes, no; valid, invalid | one of the two words | `The answer is **valid**.`, `No, because ...` |
    | a number | a number | `So the answer is 1,234.`, `the answer is 3 * 6 = 18` |
    | anything else | the text after the marker, else the box, else the whole text | `] ) }` |

    The last claim in this form is used (see `answers.claims`), else the box, else the whole text, its last or its first
    line. A letter may also be chosen in the other ways of `choices.choice_letter`.

    Args:
        prediction: a model's whole answer.
        target: the data set's answer. Only its form is used.
        options: the texts of the options.
    """
    text, expected = prediction[-TEXT_MAX:], plain(target)
    read = _reader(expected, options)
    if read is None:
        return final_answer(text).casefold()
    boxed = last_boxed(text)
    lines = [line for line in text.strip().splitlines() if line.strip()]
    candidates = [*(claim.answer for claim in reversed(claims(text))), *([] if boxed is None else [boxed]), text]
    for candidate in candidates:
        if (answer := read(plain(candidate))) is not None:
            return answer
    if _CHOICE.fullmatch(expected):
        return choice_letter(text, list(options) or 26)
    ends = {answer for line in (*lines[:1], *lines[-1:]) if (answer := read(plain(line))) is not None}
    return ends.pop() if len(ends) == 1 else None


def _reader(expected: str, options: Sequence[str]) -> Callable[[str], str | None] | None:
    """Return the function that reads an answer of the target's form; None if any text may be one."""
    if _CHOICE.fullmatch(expected):
        return lambda text: leading_choice(text) or named_choice(text, options)
    if _NUMBER.fullmatch(expected):
        return _number
    pair = next((pair for pair in _CLOSED if expected.casefold() in pair), None)
    return None if pair is None else lambda text: _word(text, pair)


def _number(text: str) -> str | None:
    value = stated_number(text) if "\n" not in text else None
    return None if value is None else str(value)


def _word(text: str, pair: Sequence[str]) -> str | None:
    match = _WORD.match(text)
    return match[1].casefold() if match and match[1].casefold() in pair else None


@dataclass(frozen=True)
class HardTaskAnswer(TextMetric):
    """The output's answer, read in the form of the target, equals the target.

    Attributes:
        question: the field of the example with the question and its options.
    """

    question: str = "question"

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:
        """Return whether the answers are equal."""
        options = self._options(example)
        answer = read_as(output, accepted, options)
        return answer is not None and answer == read_as(accepted, accepted, options)

    def read(self, output: str, example: dspy.Example) -> str:
        """Return the answer in the form of the example's target."""
        return read_as(output, str(example.get(self.target, "")), self._options(example)) or ""

    def _options(self, example: dspy.Example) -> list[str]:
        return [text.strip() for _, text in _OPTION.findall(str(example.get(self.question, "")))]
