"""Numbers in text, read as exact fractions (18 equals 18.0), and the metrics that compare them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

import dspy

from moa_dspy.data.metrics.answers import after_last
from moa_dspy.data.metrics.metric import TextMetric, vote_key
from moa_dspy.data.metrics.text import denied, ends_with

__all__ = ["Numeric", "ShortNumber", "final_number", "last_number", "numbers"]

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

_HASHES = re.compile(r"####")
_LETTER_A = re.compile(r"^[ \t]*A:", re.MULTILINE)

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
    r"""Return all numbers of a text, in order. The time is linear in the length of the text.

    * Commas, apostrophes, underscores and spaces before groups of three digits are thousands separators: `1,234` and
      `1 234` are one number, `1,2` and `1,23` are two.
    * Currency signs and units are not part of a number: `$18` and `18 apples` are 18, `50%` is 50.
    * A minus belongs to a number unless it directly follows what it could be subtracted from: the last number of `10-5`
      is 5. Followed by a space, or written out, it counts only where an answer begins: `x = - 5`, `it is minus 5`.
    * `3/4` and `\frac{3}{4}` are one number. `1 1/2` is 1.5. Dates such as `1/2/2024` are skipped, and so are digits
      inside a word (`H2O`), exponents (`m^2`) and runs of more than 400 digits.
    """
    for latex, plain in _LATEX:
        text = latex.sub(plain, text)
    values = (_value(match) for match in _NUMBER.finditer(text))
    return [value for value in values if value is not None]


def last_number(text: str) -> Fraction | None:
    """Return the last number of a text, or None."""
    values = numbers(text)
    return values[-1] if values else None


def final_number(solution: str) -> Fraction | None:
    """Return the number at the end of a GSM8K solution, or None.

    It follows the last `####`, else the last `A:` at the beginning of a line. There, the first line with a number is
    used, and in it the first number after the last equals sign. Without a marker, the last number is used.
    """
    marked = after_last(solution, _HASHES, _LETTER_A)
    if marked is None:
        return last_number(solution)
    for line in marked.splitlines():
        for part in (line.rpartition("=")[2].strip(), line):
            if values := numbers(part):
                return values[0]
    return None


def _value(match: re.Match[str]) -> Fraction | None:
    parts = (match["digits"] or "", match["denominator"] or "")
    if match["date"] or max(map(len, parts)) > _DIGITS_MAX:
        return None
    digits = re.sub(f"[{_SEPARATORS}]", "", parts[0])
    value = Fraction(f"0{digits}" if digits.startswith(".") else digits)
    if match["denominator"]:
        if int(match["denominator"]) == 0:
            return None
        value = value / int(match["denominator"]) + int(match["whole"] or 0)
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
        value, expected = last_number(output), last_number(accepted)
        return value is not None and expected is not None and abs(value - expected) <= self.tolerance

    def read(self, output: str, example: dspy.Example) -> str:
        """Return the number of the output that is compared."""
        value = self.number(output, example)
        return "" if value is None else str(value)

    def number(self, output: str, example: dspy.Example) -> Fraction | None:  # noqa: ARG002
        """Return the last number of the output, or None."""
        return last_number(output)


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
        expected = last_number(accepted)
        if expected is None:
            return vote_key(output) == vote_key(accepted) or ends_with(output, accepted)
        value = self.number(output, example)
        return value is not None and abs(value - expected) <= self.tolerance and not denied(output, accepted)

    def number(self, output: str, example: dspy.Example) -> Fraction | None:
        """Return the last number of the output that is not in the question, else the last number."""
        answered, asked = numbers(output), numbers(str(example.get(self.question, "")))
        new = [number for number in answered if number not in asked] or answered
        return new[-1] if new else None
