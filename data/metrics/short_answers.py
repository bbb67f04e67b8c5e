"""Metrics for questions whose answer is a few words or one number, stricter and kinder than a comparison of texts."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

import dspy

from moa_dspy.data.metrics.answers import ballot
from moa_dspy.data.metrics.metric import Numeric, TextMetric
from moa_dspy.data.metrics.numeric import numbers, parse_number

__all__ = ["ShortNumber", "Stated"]

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n")
_ALTERNATIVES = re.compile(r"(?<!\bmore )\bor\b")
_MEASURE = re.compile(r"\d[\d.,]*\s*(?P<unit>[^\d.,;:!?()]*)")
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|anything but)|n['\u2019]t)\b(?:(?!\bbut\b)[^,;:])*\Z|\d\s*(?:to|-|\u2013)\s*\Z"
)
_DENIED_AFTER = re.compile(
    r"\W{0,3}\b(?:is|are|was|were|would be)(?:\s+not\b|n['\u2019]t\b|\s+(?:wrong|incorrect|false)\b)"
    r"|\s*(?:to|-|\u2013)\s*\d"
)
_NEEDLESS_DECIMALS = re.compile(r"(?<=\d)\.0+(?!\d)")


@dataclass(frozen=True)
class Stated(TextMetric):
    """The output states the answer: as whole words, not denied in their clause and not as an alternative.

    Case, typographic forms (a small 2 in CO2), hyphens and needless decimals (``0.0``) do not count. "Not Paris" and
    "Lyon or Paris" do not state Paris, nor does "Paris is wrong"; a list of names states each of them.
    """

    def compare(self, given: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Whether one sentence of the output states the answer."""
        wanted = _words(accepted)
        return any(_states(sentence, wanted) for sentence in _SENTENCE_END.split(_plain(given)))


def _states(sentence: str, wanted: re.Pattern[str]) -> bool:
    if any(_chooses(sentence[: found.start()], sentence[found.end() :]) for found in _ALTERNATIVES.finditer(sentence)):
        return False
    return any(
        not _DENIED_BEFORE.search(sentence[: match.start()]) and not _DENIED_AFTER.match(sentence, match.end())
        for match in wanted.finditer(sentence)
    )


def _chooses(before: str, after: str) -> bool:
    """Whether an "or" parts two answers, and not one answer in two units (0 degrees Celsius or 32 Fahrenheit)."""
    first, second = [found["unit"].split() for found in _MEASURE.finditer(before)], _MEASURE.search(after)
    if not first or second is None:
        return True
    units = first[-1], second["unit"].split()
    return not all(units) or units[0] == units[1]


def _words(accepted: str) -> re.Pattern[str]:
    """The words of an answer, spaces and hyphens alike; a number is not part of a larger one."""
    words = r"[\s\u2010\u2011-]+".join(map(re.escape, re.split(r"[\s-]+", _plain(accepted).strip())))
    before, after = (r"(?<![\w.,\u2212-])", r"(?!\w|[.,]\d)") if accepted.strip().isdigit() else (r"(?<!\w)", r"(?!\w)")
    return re.compile(before + words + after)


def _plain(text: str) -> str:
    return _NEEDLESS_DECIMALS.sub("", unicodedata.normalize("NFKC", text).casefold())


def _denied(given: str, accepted: str) -> bool:
    """Whether an answer stands in some sentences, and none of these states it."""
    wanted = _words(accepted)
    there = [sentence for sentence in _SENTENCE_END.split(_plain(given)) if wanted.search(sentence)]
    return bool(there) and not any(_states(sentence, wanted) for sentence in there)


def _ends_with(given: str, accepted: str) -> bool:
    """Whether a text says at its end that it is this."""
    said = rf"\b(?:is|are|be)\s+(?:{_words(accepted).pattern})\W*\Z"
    return re.search(said, _plain(given)) is not None and not _denied(given, accepted)


@dataclass(frozen=True)
class ShortNumber(Numeric):
    """The output's number is the answer, in digits or in words.

    The last number counts that the question does not hold itself: "40 dollars for 5 tickets" answers a question about 5
    tickets with 40. An accepted answer in words is the whole output, or its end ("the answer is seven").
    A number that is denied, or one of two, is no answer.

    Attributes:
        question: field of the example with the question.
    """

    question: str = "question"

    def compare(self, given: str, accepted: str, example: dspy.Example) -> bool:
        """Equality of two numbers, or of two texts where the accepted one has no digits."""
        expected = parse_number(accepted)
        if expected is None:
            return ballot(given) == ballot(accepted) or _ends_with(given, accepted)
        value = self._number(given, example)
        return value is not None and abs(value - expected) <= self.tolerance and not _denied(given, accepted)

    def read(self, given: str, example: dspy.Example) -> str:
        """The number that counts."""
        value = self._number(given, example)
        return "" if value is None else str(value)

    def _number(self, given: str, example: dspy.Example) -> Fraction | None:
        found, asked = numbers(given), numbers(str(example.get(self.question, "")))
        counting = [number for number in found if number not in asked] or found
        return counting[-1] if counting else None
