"""Numbers in text, read as exact fractions (18 equals 18.0), and the metrics that compare them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import dspy

from moa_dspy.data.metrics.answers import TEXT_MAX, claims, last_boxed
from moa_dspy.data.metrics.metric import TextMetric, vote_key
from moa_dspy.data.metrics.text import denied, ends_with

__all__ = ["Numeric", "ShortNumber", "final_number", "last_number", "numbers", "stated_number"]

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

_SCIENTIFIC = re.compile(
    r"(?<=\d)\s?(?:[x*\u00d7\u00b7]|\\times|\\cdot)\s?10\s?(?:\^|\*\*)\s?\{?([+-]?\d{1,3})(?:\}|(?![\d.]))"
)
"""A power of ten after a number, as in `1.5 x 10^3`."""

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
    * `3/4` and `\frac{3}{4}` are one number. `1 1/2` is 1.5. `1.5e3` and `1.5 x 10^3` are 1500. Dates such as
      `1/2/2024` are skipped, and so are digits inside a word (`H2O`), exponents (`m^2`) and runs of more than 400
      digits.
    """
    return [number.value for number in _numbers(_without_latex(text))]


def last_number(text: str) -> Fraction | None:
    """Return the last number of a text, or None."""
    values = numbers(text)
    return values[-1] if values else None


class _Number(NamedTuple):
    value: Fraction
    start: int
    end: int


def _numbers(text: str) -> list[_Number]:
    found = ((_value(match), match) for match in _NUMBER.finditer(text))
    return [_Number(value, match.start(), match.end()) for value, match in found if value is not None]


def _without_latex(text: str) -> str:
    for latex, plain in _LATEX:
        text = latex.sub(plain, text)
    return _SCIENTIFIC.sub(r"e\1", text)


_SECTIONS_MAX = 50
_STATEMENT_MAX = 500
_HASHES = re.compile(r"(?<!#)####(?!#)")
_LETTER_A = re.compile(r"^[ \t]*A:([^\n]+)", re.MULTILINE)
_MARKUP = re.compile(r"\*\*(?!\d)|(?<!\d)\*\*|[`_]{1,3}(?!\d)|\\text(?:bf|it)?\b|\\mathrm\b|\\left\b|\\right\b|[{}]")
_REMARK = re.compile(r"(?<=[^\s(#:=])\s+\((?:[^()\n]|\([^()\n]*\)){1,400}\)(?=[\s.!*_]*(?:\n|\Z))")
_SENTENCE_END = re.compile(r"(?<!\bapprox)(?<!\bca)[.!?;](?=\s|\Z)")
_EQUALS = re.compile(r"=+>?|\u2248|\\approx\b|\\implies\b|\u21d2|->|\u2192")
_QUALIFIERS = (
    r"about|approximately|approx\.?|around|roughly|exactly|precisely|only|just|simply|still|also|likely|clearly|probably|"
    r"therefore|thus|indeed|then|a|the|total|of|number|is|be|equal to|or|US|USD|EUR|GBP|Rs\.?"
)
_BEFORE_VALUE = re.compile(
    rf"[\s:*~\u2248>]*(?:(?:{_QUALIFIERS})\b[\s:*]*)*\\?[$\u20ac\u00a3\u00a5\u20b9]?\s*", re.IGNORECASE
)
_BEFORE_MAX = 80
_OPERATORS = r"[-+*/\u00d7\u00b7\u00f7\u2212\u2013^:x]|\*\*|\\times|\\cdot|\\div|plus|minus|times|divided by|or|to|and"
_JOINED = re.compile(
    rf"[\s)%(\\$\u20ac\u00a3]*(?:{_OPERATORS})[\s(\\$\u20ac\u00a3]*",
    re.IGNORECASE,
)
"""What stands between two numbers that are not one value: an operator, a colon, "or", "to"."""

_POWER = re.compile(r"\s?(?:\^|\*\*\s?\d)|[\u00b2\u00b3\u2070-\u2079]")
_TITLE = re.compile(r"(?:(?:the|my|final|correct|result|solution|answer|is|and)\b[\s*:_]*)+", re.IGNORECASE)
_ENUMERATED = re.compile(r"\d{1,2}[.)]\s+[^\W\d]")
_NUMBERED_LABEL = re.compile(r"[^\W\d]+[ #]*\d+\b")
_LABEL = re.compile(r"[^\d:=]{1,80}[:=]")


def final_number(solution: str) -> Fraction | None:
    r"""Return the number that a solution gives as its answer, or None.

    The first of these that can be read is used. Of several of one kind, the last is used.

    | form | examples, all 18 |
    |---|---|
    | after `####` (GSM8K) | `#### $18.00`, `#### 18 = 3 * 6`, `#### 3 * 6 = 18 eggs`, `#### Answer: 18` |
    | in a box | `\boxed{18}`, `\boxed{18\text{ eggs}}` |
    | after a marker of `answers.claims` | `The answer is 18.`, `**Answer:** 18`, `{"answer": 18}` |
    | after `A:` at the beginning of a line | `A: 18` |
    | the last number, without a remark in parentheses at the end | `So it is 18. (This took 3 steps.)` |

    A Markdown heading is no answer: `#### Step 2: multiply`, `#### 2. Multiply`, and `#### Check` with text below. An
    expression without its value (`#### 3 * 6`), a range and alternatives (`3 or 4`) are not read. Units, currency and
    percent signs are not part of the number.
    """
    text = _REMARK.sub("", _without_latex(solution[-TEXT_MAX:]))
    sections = [_section(part) for part in _HASHES.split(text)[1:][-_SECTIONS_MAX:]]
    for strong in (True, False):
        if values := [value for value, is_strong in sections if is_strong is strong and value is not None]:
            return values[-1]
    if any(is_strong for _, is_strong in sections):
        return None  # an answer that cannot be read
    statements = [boxed for boxed in [last_boxed(text)] if boxed is not None]
    said = [[*statements], [claim.answer for claim in claims(text)], [match[1] for match in _LETTER_A.finditer(text)]]
    for group in said:
        if values := [value for value in map(_stated, group) if value is not None]:
            return values[-1]
    found = _numbers(text)
    return found[-1].value if found else None


def stated_number(statement: str) -> Fraction | None:
    """Return the number that one statement gives, such as `18 dollars` or `3 * 6 = 18`.

    Returns:
        None if it gives no number or several, or has more than 500 characters.
    """
    return _stated(_REMARK.sub("", _without_latex(statement))) if len(statement) <= _STATEMENT_MAX else None


def _section(section: str) -> tuple[Fraction | None, bool]:
    """Return the number of what follows a `####`, and whether it is an answer and not a heading.

    (None, True) is an answer that cannot be read, (None, False) a heading.
    """
    head, _, body = section.partition("\n")
    head, body = _MARKUP.sub("", head).strip(" \t:*"), body.strip()
    if not head or _TITLE.fullmatch(head):
        below = [line for line in body.splitlines() if _numbers(line)]
        return (_stated(below[0], whole=False), True) if below else (None, False)
    if said := claims(head):
        return _stated(said[-1].answer), True
    if _ENUMERATED.match(head):
        return (None, False) if body else (_stated(head), True)
    if _starts_with_number(head):
        return _stated(head), True
    if _NUMBERED_LABEL.match(head) or not _numbers(head):
        return None, False
    if _EQUALS.search(head) or not body:
        return _stated(head), False
    label = _LABEL.match(head)
    return (_stated(head[label.end() :]) if label else None), False


def _stated(statement: str, *, whole: bool = True) -> Fraction | None:
    """Return the number that a statement gives, or None if it gives none or several.

    With `whole`, words before the number are allowed only if there is no other number.
    """
    for sentence in _SENTENCE_END.split(_MARKUP.sub("", statement)):
        if _numbers(sentence):
            parts = [part for part in _EQUALS.split(sentence) if part.strip()]
            for part in (parts[-1], parts[0]) if len(parts) > 1 else parts:
                if (value := _single(part, whole=whole)) is not None:
                    return value
            return None
    return None


def _starts_with_number(text: str) -> bool:
    found = _numbers(text)
    before = " ".join(text[: _digits(text, found[0])].split()) if found else ""
    return bool(found) and len(before) <= _BEFORE_MAX and _BEFORE_VALUE.fullmatch(before) is not None


def _digits(text: str, number: _Number) -> int:
    """Return where the sign or the first digit of a number is."""
    return next(
        (n for n in range(number.start, number.end) if text[n].isdigit() or text[n] in f"{_MINUS}+."), number.start
    )


def _single(text: str, *, whole: bool) -> Fraction | None:
    found = _numbers(text)
    if not found or _POWER.match(text, found[0].end):
        return None
    if len(found) > 1 and _JOINED.fullmatch(text, found[0].end, found[1].start):
        return None
    if _starts_with_number(text) or len({number.value for number in found}) == 1:
        return found[0].value
    return None if whole else found[-1].value


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
    """The final number of the output equals the answer. `final_number` reads both.

    Attributes:
        tolerance: largest allowed difference; 0 means equality of the written numbers.
    """

    tolerance: float = 0.0

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Return whether the numbers are equal."""
        value, expected = final_number(output), final_number(accepted)
        return value is not None and expected is not None and abs(value - expected) <= self.tolerance

    def read(self, output: str, example: dspy.Example) -> str:
        """Return the number of the output that is compared."""
        value = self.number(output, example)
        return "" if value is None else str(value)

    def number(self, output: str, example: dspy.Example) -> Fraction | None:  # noqa: ARG002
        """Return the final number of the output, or None."""
        return final_number(output)


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
