"""Answers of BIG-Bench Hard, read in the form of the target: a choice, a word of a closed set, a number, or a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import dspy

from moa_dspy.data.metrics.metric import TextMetric
from moa_dspy.data.metrics.numbers import final_number
from moa_dspy.parsing.choices import choice_letter, read_choice
from moa_dspy.parsing.negation import is_negated
from moa_dspy.parsing.phrases import TEXT_MAX, claims, last_boxed, plain

__all__ = ["HardTaskAnswer", "final_answer", "read_as"]

_CHOICE = re.compile(r"\([A-Z]\)")
_NUMBER = re.compile(r"-?\d+")
_OPTION = re.compile(r"^\(([A-Z])\)[ \t]+(.+)$", re.MULTILINE)
_WORDS = re.compile(r"[\w'-]+(?: [\w'-]+)*")
_ARTICLE = re.compile(r"\A(?:an?|the) (?=\w)", re.IGNORECASE)
_SENTENCE = re.compile(r"[A-Z](?:(?![.,;:!?]\s)[^\n])*[.!]")
_IS = r"(?:is|are|was|were|be|equals|named|called)"
_LINK = r"(?:than|and|or|nor|not|of|in|on|at|by|to|for|from|with|after|before|between|like|as|about|but|if)"
_CLOSED = (("true", "false"), ("yes", "no"), ("valid", "invalid"))


def final_answer(text: str) -> str:
    """Return the answer of a text, without markup: the last claim, else the last box, else the whole text."""
    text = text[-TEXT_MAX:]
    found = claims(text) or claims(text, remarks=True)
    return plain(found[-1].answer if found else last_boxed(text) or text)


def read_as(prediction: str, target: str, options: Sequence[str] = ()) -> str | None:
    """Return the answer of a prediction in the form of the target, or None if it has none of this form.

    | target | what is read | examples |
    |---|---|---|
    | `(B)` | a letter, or the text of an option (`choice_letter`) | `So the answer is (B).`, `(B) 12/02/1990` |
    | True, False; yes, no; valid, invalid | one of the two words (`read_choice`) | `The answer is **valid**.` |
    | a number | a number (`final_number`) | `So the answer is 1,234.`, `the answer is 3 * 6 = 18` |
    | words | as below, without an article; of more words, those that it says are the answer | `The capital is Tokyo.` |
    | anything else | the text after the last marker, else the box, else the whole text | `] ) }` |

    Args:
        prediction: a model's whole answer.
        target: the data set's answer. Only its form is used.
        options: the texts of the options.
    """
    text, expected = prediction[-TEXT_MAX:], plain(target)
    if _CHOICE.fullmatch(expected):
        return choice_letter(text, list(options) or 26)
    if _NUMBER.fullmatch(expected):
        value = final_number(text)
        return None if value is None else str(value)
    pair = next((pair for pair in _CLOSED if expected.casefold() in pair), None)
    if pair is None:
        return _words(text, len(expected.split())) if _WORDS.fullmatch(expected) else final_answer(text).casefold()
    evaluated = re.search(rf"=\s*({'|'.join(pair)})[\s.]*\Z", plain(text), re.IGNORECASE)
    return read_choice(text, pair) or (
        evaluated[1].casefold() if evaluated else _at_ends(text, lambda line: read_choice(line, pair))
    )


def _words(text: str, count: int) -> str:
    """Return the final answer without an article; of more words than wanted, those that it says the answer is."""
    answer = _ARTICLE.sub("", final_answer(text))
    if len(answer.split()) > count:
        said = claims(text)
        answer = said[-1].answer if said else text.strip().rpartition("\n")[2]
        words = rf"[\s*_\"'`(]*(?:(?:an?|the)\s+)?[*_\"'`(]*(?P<words>[\w'-]+(?:\s+[\w'-]+){{{count - 1}}})"
        whole = not said and _SENTENCE.fullmatch(text.strip())
        before = rf"\b(?!{_LINK}\s)[\w'-]+\s" if whole else rf"(?:\b{_IS}\b:?|:)"
        begins = re.match(
            rf"{words}[*_\"'`)]*(?:[.;:!(]|,?\s(?:because|since|as|which|who|not)\b)", answer, re.IGNORECASE
        )
        ends = re.search(rf"{before}{words}\W*\Z", answer, re.IGNORECASE)
        for match in (begins if said else None, ends):
            if match and not is_negated(answer, match.start("words"), match.end("words")):
                return " ".join(match["words"].split()).casefold()
    return answer.casefold()


def _at_ends(text: str, read: Callable[[str], str | None]) -> str | None:
    """Return what the first and the last line with text say, if they say one thing."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    ends = {answer for line in (*lines[:1], *lines[-1:]) if (answer := read(line)) is not None}
    return ends.pop() if len(ends) == 1 else None


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
        return read_as(output, str(example.get(self.target or "answer", "")), self._options(example)) or ""

    def _options(self, example: dspy.Example) -> list[str]:
        return [text.strip() for _, text in _OPTION.findall(str(example.get(self.question, "")))]
