r"""Metrics that compare numbers, and the rules by which numbers are read from text.

* Commas, apostrophes, underscores and spaces before groups of three digits are thousands separators, never a decimal
  point: `1,234` and `1 234` are one number, `1,2` and `1,23` are two.
* Currency signs before a number, and a unit or percent sign after it, are not part of its value: `$18` and `18 apples`
  are 18, `50%` is 50 and not 0.5.
* A minus (also the Unicode one) belongs to a number unless it directly follows something that it could be
  subtracted from: `-5` is not 5, but the last number of `10-5` is 5. If a space follows it, or if it is written out, it
  counts only where an answer begins: `x = - 5`, `it is minus 5`. `negative 5` is always -5.
* `3/4` and LaTeX's `\frac{3}{4}` are one number, the fraction. `1 1/2` is 1.5. Dates such as `1/2/2024` are skipped.
* Digits inside a word (`x2`, `H2O`) and exponents (`m^2`) are skipped.

Comparison is exact (`fractions.Fraction`): 18 equals 18.0, and 3.5 is not 3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

import dspy

from moa_dspy.data.metrics.metric import TextMetric, vote_key
from moa_dspy.data.metrics.text import denied, ends_with

__all__ = ["Numeric", "ShortNumber", "last_number", "numbers", "parse_number"]

_MINUS = "-\u2212\u2012\u2013\uff0d"
_SEPARATORS = " ,'\u2019\u00a0\u202f\u2009_"
_CURRENCY = "$\u20ac\u00a3\u00a5\u20b9\u20a9\u20bd\uffe5"
_DIGITS_MAX = 400
"""Maximum number of digits of a number. Longer runs come from a model stuck in a loop and are not read."""

_LATEX = (
    (re.compile(r"\{,\}|,\\!"), ","),
    (re.compile(r"(?<=\d)\\[,;:! ](?=\d{3})"), ","),
    (re.compile(r"(?<=\d)\\[dt]?frac\s?\{(\d{1,400})\}\s?\{(\d{1,400})\}"), r" \1/\2"),
    (re.compile(r"\\[dt]?frac\s?\{(\d{1,400})\}\s?\{(\d{1,400})\}"), r"\1/\2"),
)
"""LaTeX forms with their plain forms: thousands separators, fractions after a whole number, fractions."""

_WHOLE = rf"(?:\d{{1,3}}(?:[{_SEPARATORS}]\d{{3}})+(?!\d)|\d+)"
_UNSIGNED = rf"(?:{_WHOLE}(?:\.\d+)?|(?<![\d.])\.\d+)(?:[eE][+-]?\d{{1,3}}(?![\w.]))?"
_NUMBER = re.compile(
    rf"""
    (?:
        (?P<negative>
            \bnegative\s
            | (?:\A|[=:\#(\u2248]|\bis\b)\s{{0,3}}(?:[{_MINUS}]|\bminus\b)\s
        )
        | (?<![^\W\d_])                                # not inside a word
          (?<!\d)(?<!\d\.)(?<!\^)(?<!\^\{{)            # not inside a number, and no exponent
          (?P<sign>(?<![\w)\]}}])[{_MINUS}+])?
    )
    (?:\\?[{_CURRENCY}][ ]?)?
    (?P<inner>(?<=[{_CURRENCY}])[{_MINUS}]|(?<=[{_CURRENCY}][ ])[{_MINUS}])?
    (?:
        (?P<date>\d+(?:/\d+){{2,}})
        | (?:(?P<whole>\d{{1,9}})[ ](?=\d+[ ]?/))?
          (?P<digits>{_UNSIGNED})(?:[ ]?/[ ]?(?P<denominator>\d+)(?![\d./]))?
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)


def numbers(text: str) -> list[Fraction]:
    """Return all numbers of a text, in order. The time is linear in the length of the text.

    Runs of more than 400 digits are left out.
    """
    for latex, plain in _LATEX:
        text = latex.sub(plain, text)
    values = (_value(match) for match in _NUMBER.finditer(text))
    return [value for value in values if value is not None]


def last_number(text: str) -> Fraction | None:
    """Return the last number of a text, or None."""
    values = numbers(text)
    return values[-1] if values else None


def parse_number(value: object) -> Fraction | None:
    """Return a value as an exact number. For a text, the last number is used.

    Args:
        value: a value from a program or a data set.

    Returns:
        The number; None for a boolean, NaN, infinity, or a text without a number.
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | Fraction):
        return Fraction(value)
    return last_number(str(value))


def _value(match: re.Match[str]) -> Fraction | None:
    parts = (match["digits"] or "", match["denominator"] or "")
    if match["date"] or max(map(len, parts)) > _DIGITS_MAX:
        return None
    digits = re.sub(f"[{_SEPARATORS}]", "", parts[0])
    value = Fraction(digits if not digits.startswith(".") else f"0{digits}")
    if match["denominator"]:
        denominator = int(match["denominator"])
        if denominator == 0:
            return None
        value = value / denominator + int(match["whole"] or 0)
    negative = bool(match["negative"] or match["inner"]) or (match["sign"] or "+") in _MINUS
    return -value if negative else value


@dataclass(frozen=True)
class Numeric(TextMetric):
    """The last number of the output equals the answer.

    Attributes:
        tolerance: largest allowed difference; 0 means equality of the written numbers.
    """

    tolerance: float = 0.0

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Return whether the numbers are equal."""
        value, expected = parse_number(output), parse_number(accepted)
        return value is not None and expected is not None and abs(value - expected) <= self.tolerance

    def read(self, output: str, example: dspy.Example) -> str:  # noqa: ARG002
        """Return the last number of the output."""
        value = parse_number(output)
        return "" if value is None else str(value)


@dataclass(frozen=True)
class ShortNumber(Numeric):
    """The output's number is the answer, in digits or in words.

    The last number that is not in the question is used. To a question about 5 tickets, "40 dollars for 5
    tickets" answers 40. An accepted answer in words is the whole output, or its end ("the answer is seven"). A number
    that is denied, or one of two alternatives, is not an answer.

    Attributes:
        question: the field of the example with the question.
    """

    question: str = "question"

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:
        """Return whether the numbers are equal, or the texts if the accepted answer has no digits."""
        expected = parse_number(accepted)
        if expected is None:
            return vote_key(output) == vote_key(accepted) or ends_with(output, accepted)
        value = self._number(output, example)
        return value is not None and abs(value - expected) <= self.tolerance and not denied(output, accepted)

    def read(self, output: str, example: dspy.Example) -> str:
        """Return the number that is compared."""
        value = self._number(output, example)
        return "" if value is None else str(value)

    def _number(self, output: str, example: dspy.Example) -> Fraction | None:
        answered, asked = numbers(output), numbers(str(example.get(self.question, "")))
        new = [number for number in answered if number not in asked] or answered
        return new[-1] if new else None
