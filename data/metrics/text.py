"""Metrics that compare texts, from equality to statements inside a sentence."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Final

import dspy
from dspy.evaluate import normalize_text

from moa_dspy.data.metrics.metric import TextMetric
from moa_dspy.parsing.negation import is_negated

__all__ = ["F1", "Contains", "ExactMatch", "NormalizedMatch", "Stated", "f1", "normalize", "normalize_or_keep"]

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n")
_ALTERNATIVES = re.compile(r"(?<!\bmore )\bor\b")
_MEASURE = re.compile(r"\d[\d.,]*\s*(?P<unit>[^\d.,;:!?()]*)")
_RANGE_BEFORE = re.compile(r"\d\s*(?:to|-|\u2013)\s*\Z")
_RANGE_AFTER = re.compile(r"\s*(?:to|-|\u2013)\s*\d")
_NEEDLESS_DECIMALS = re.compile(r"(?<=\d)\.0+(?!\d)")


normalize: Final[Callable[[str], str]] = normalize_text
"""Return a text in lower case, without ASCII punctuation and English articles, by the rules of SQuAD and HotPotQA."""


def normalize_or_keep(text: str) -> str:
    """Return `normalize(text)`, or the stripped text if that is empty ("A", "+"). Such answers then stay different."""
    return normalize(text) or text.strip().casefold()


def f1(prediction: str, reference: str) -> float:
    """Return the token F1 of two normalised texts. yes, no and noanswer match only themselves (HotPotQA)."""
    predicted, expected = normalize(prediction), normalize(reference)
    special = {"yes", "no", "noanswer"}
    if predicted != expected and (predicted in special or expected in special):
        return 0.0
    predicted_words, expected_words = predicted.split(), expected.split()
    common = sum((Counter(predicted_words) & Counter(expected_words)).values())
    return 2 * common / (len(predicted_words) + len(expected_words)) if common else 0.0


class ExactMatch(TextMetric):
    """The texts are equal, apart from white space around them."""

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Return whether the stripped texts are equal."""
        return output.strip() == accepted.strip()

    def key(self, output: str, example: dspy.Example) -> str:  # noqa: ARG002
        """Return the stripped text."""
        return output.strip()


class NormalizedMatch(TextMetric):
    """The texts are equal without case, punctuation, articles and extra spaces (SQuAD's EM)."""

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Return whether the normalised texts are equal and not empty."""
        return bool(normalize_or_keep(output)) and normalize_or_keep(output) == normalize_or_keep(accepted)

    def key(self, output: str, example: dspy.Example) -> str:  # noqa: ARG002
        """Return the normalised text."""
        return normalize_or_keep(output)


class F1(TextMetric):
    """Token overlap of the normalised texts, from 0 to 1 (HotPotQA's F1)."""

    def compare(self, output: str, accepted: str, example: dspy.Example) -> float:  # noqa: ARG002
        """Return the F1 of the two texts."""
        return f1(output, accepted)


class Contains(TextMetric):
    """The normalised output contains the normalised answer as whole words."""

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Return whether the answer's words occur in the output, in order and adjacent."""
        wanted = normalize_or_keep(accepted)
        return bool(wanted) and f" {wanted} " in f" {normalize_or_keep(output)} "


class Stated(TextMetric):
    """A sentence of the output states the answer: as whole words, not denied, and not as an alternative.

    Case, typographic forms (a small 2 in CO2), hyphens and needless decimals (`0.0`) are ignored. "Not Paris", "Paris
    is wrong" and "Lyon or Paris" do not state Paris. A list of names states each of them.
    """

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Return whether one sentence of the output states the answer."""
        wanted = _words(accepted)
        return any(_states(sentence, wanted) for sentence in _SENTENCE_END.split(_plain(output)))


def denied(output: str, accepted: str) -> bool:
    """Return whether the output contains the answer, but no sentence of it states the answer."""
    wanted = _words(accepted)
    containing = [sentence for sentence in _SENTENCE_END.split(_plain(output)) if wanted.search(sentence)]
    return bool(containing) and not any(_states(sentence, wanted) for sentence in containing)


def ends_with(output: str, accepted: str) -> bool:
    """Return whether an output ends in "is <answer>" or "are <answer>", and does not deny it elsewhere."""
    ending = rf"\b(?:is|are|be)\s+(?:{_words(accepted).pattern})\W*\Z"
    return re.search(ending, _plain(output)) is not None and not denied(output, accepted)


def _states(sentence: str, wanted: re.Pattern[str]) -> bool:
    if any(_offers(sentence[: match.start()], sentence[match.end() :]) for match in _ALTERNATIVES.finditer(sentence)):
        return False
    return any(
        not is_negated(sentence, match.start(), match.end())
        and not _RANGE_BEFORE.search(sentence[: match.start()])
        and not _RANGE_AFTER.match(sentence, match.end())
        for match in wanted.finditer(sentence)
    )


def _offers(before: str, after: str) -> bool:
    """Return whether an "or" separates two answers, and not one answer in two units (0 Celsius or 32 Fahrenheit)."""
    first, second = [match["unit"].split() for match in _MEASURE.finditer(before)], _MEASURE.search(after)
    if not first or second is None:
        return True
    units = first[-1], second["unit"].split()
    return not all(units) or units[0] == units[1]


def _words(accepted: str) -> re.Pattern[str]:
    """Return a pattern of an answer's words. Spaces and hyphens are equal; a number is not part of a larger one."""
    words = r"[\s\u2010\u2011-]+".join(map(re.escape, re.split(r"[\s-]+", _plain(accepted).strip())))
    before, after = (r"(?<![\w.,\u2212-])", r"(?!\w|[.,]\d)") if accepted.strip().isdigit() else (r"(?<!\w)", r"(?!\w)")
    return re.compile(before + words + after)


def _plain(text: str) -> str:
    return _NEEDLESS_DECIMALS.sub("", unicodedata.normalize("NFKC", text).casefold())
