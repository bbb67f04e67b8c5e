r"""Numbers in running text: found, cleaned and compared exactly.

Rules, the same for every metric that compares numbers:

* commas, apostrophes, underscores and spaces before groups of three digits are thousands separators, never a decimal
  point: ``1,234`` and ``1 234`` are one number, ``1,2`` and ``1,23`` are two;
* currency signs before a number and anything after it (a unit, a percent sign) are not part of its value: ``$18`` and
  ``18 apples`` are 18, ``50%`` is 50 and not 0.5;
* a minus, also the Unicode one, belongs to a number unless something it could be subtracted from stands right before
  it: ``-5`` is not 5, but the last number of ``10-5`` is 5. With a space after it, or written out, it does so only
  where an answer begins: ``x = - 5``, ``it is minus 5``; ``negative 5`` is -5 everywhere;
* ``3/4`` and LaTeX's ``\frac{3}{4}`` are one number, the fraction, and ``1 1/2`` is 1.5; a date such as ``1/2/2024``
  is no number;
* digits inside a word (``x2``, ``H2O``) and exponents (``m^2``) are no number.

Comparison is exact (``fractions.Fraction``): 18 equals 18.0, and 3.5 is not 3.
"""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["last_number", "numbers", "parse_number"]

_MINUS = "-\u2212\u2012\u2013\uff0d"
_SEPARATORS = " ,'\u2019\u00a0\u202f\u2009_"
_CURRENCY = "$\u20ac\u00a3\u00a5\u20b9\u20a9\u20bd\uffe5"
_DIGITS_MAX = 400
"""Longer digit runs are a model stuck in a loop, not an answer; they are no number."""

_LATEX = (
    (re.compile(r"\{,\}|,\\!"), ","),
    (re.compile(r"(?<=\d)\\[,;:! ](?=\d{3})"), ","),
    (re.compile(r"(?<=\d)\\[dt]?frac\s?\{(\d{1,400})\}\s?\{(\d{1,400})\}"), r" \1/\2"),
    (re.compile(r"\\[dt]?frac\s?\{(\d{1,400})\}\s?\{(\d{1,400})\}"), r"\1/\2"),
)
"""LaTeX for what has a plain form: thousands separators, fractions after a whole number, fractions."""

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
    """All numbers of a text, in order.

    Args:
        text: any text; its length is the only cost (linear).

    Returns:
        Exact values; digit runs of more than 400 characters are left out.
    """
    for latex, plain in _LATEX:
        text = latex.sub(plain, text)
    found = (_value(match) for match in _NUMBER.finditer(text))
    return [value for value in found if value is not None]


def last_number(text: str) -> Fraction | None:
    """The last number of a text, or None."""
    found = numbers(text)
    return found[-1] if found else None


def parse_number(value: object) -> Fraction | None:
    """A value as one exact number: an int, a float, or a text of which the last number counts.

    Args:
        value: what a program or a data set holds.

    Returns:
        The number; None for a boolean, NaN, infinity, or a text without one.
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
        below = int(match["denominator"])
        if below == 0:
            return None
        value = value / below + int(match["whole"] or 0)
    negative = bool(match["negative"] or match["inner"]) or (match["sign"] or "+") in _MINUS
    return -value if negative else value
