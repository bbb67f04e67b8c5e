"""Metrics for questions whose answer is a few words or one number, stricter and kinder than a comparison of texts."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

import dspy

from moa_dspy.data.answers import ballot
from moa_dspy.data.metrics import Numeric, TextMetric
from moa_dspy.data.numeric import numbers, parse_number

__all__ = ["ShortNumber", "Stated"]

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n")
_ALTERNATIVES = re.compile(r"\bor\b")
_NEGATED = re.compile(r"(?:\bnot|\bnever|n['\u2019]t)\s+(?:(?:the|a|an|in|at|called)\s+)*\W*\Z")
_NEEDLESS_DECIMALS = re.compile(r"(?<=\d)\.0+(?!\d)")


@dataclass(frozen=True)
class Stated(TextMetric):
    """The output states the answer: its words stand there as whole words, not denied and not as one of several.

    Case, typographic forms (a small 2 in CO2), hyphens and needless decimals (``0.0``) do not count. "Not Paris" and
    "Lyon or Paris" do not state Paris.
    """

    def compare(self, given: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Whether one sentence of the output states the answer."""
        wanted = _words(accepted)
        return any(_states(sentence, wanted) for sentence in _SENTENCE_END.split(_plain(given)))


def _states(sentence: str, wanted: re.Pattern[str]) -> bool:
    if _ALTERNATIVES.search(sentence):
        return False
    return any(not _NEGATED.search(sentence[: match.start()]) for match in wanted.finditer(sentence))


def _words(accepted: str) -> re.Pattern[str]:
    """The words of an answer, spaces and hyphens alike; a number is not part of a larger one."""
    words = r"[\s\u2010\u2011-]+".join(map(re.escape, re.split(r"[\s-]+", _plain(accepted).strip())))
    before, after = (r"(?<![\w.,\u2212-])", r"(?!\w|[.,]\d)") if accepted.strip().isdigit() else (r"(?<!\w)", r"(?!\w)")
    return re.compile(before + words + after)


def _plain(text: str) -> str:
    return _NEEDLESS_DECIMALS.sub("", unicodedata.normalize("NFKC", text).casefold())


@dataclass(frozen=True)
class ShortNumber(Numeric):
    """The output's number is the answer, in digits or in words.

    The last number counts that the question does not hold itself: "40 dollars for 5 tickets" answers a question about 5
    tickets with 40. An accepted answer in words is the whole output or nothing.

    Attributes:
        question: field of the example with the question.
    """

    question: str = "question"

    def compare(self, given: str, accepted: str, example: dspy.Example) -> bool:
        """Equality of two numbers, or of two texts where the accepted one has no digits."""
        expected = parse_number(accepted)
        if expected is None:
            return ballot(given) == ballot(accepted)
        value = self._number(given, example)
        return value is not None and abs(value - expected) <= self.tolerance

    def read(self, given: str, example: dspy.Example) -> str:
        """The number that counts."""
        value = self._number(given, example)
        return "" if value is None else str(value)

    def _number(self, given: str, example: dspy.Example) -> Fraction | None:
        found, asked = numbers(given), numbers(str(example.get(self.question, "")))
        counting = [number for number in found if number not in asked] or found
        return counting[-1] if counting else None
