"""Whether a number in a text is only a bound, or a part of an expression."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_bound", "is_compound"]

# What makes a number a bound or a part of an expression: `> 5`, `±5`, `√5`, `less than 5`, `5+`, `5π`, `2M`, `5‰`.
_BOUND_BEFORE: Final = re.compile(
    r"(?:[<>≤≥±≠√∛]|[<>!]=|\\(?:leq?|geq?|pm|neq?)\b|\+/[-−]|\\sqrt\s?\{?|\b(?:less|more|fewer|greater) than)\s?\Z",
    re.IGNORECASE,
)
_NO_BOUND: Final = re.compile(r"(?:[-=~>]|^[ \t]*(?=>\s))>\s?\Z")  # an arrow, a quotation
_TAG: Final = re.compile(r"<[^\s\d<>=][^<>]*>\s?\Z")
_TAG_MAX: Final = 1000
_BOUND_AFTER: Final = re.compile(
    r"\+(?![\s\w(.])|\+\.?\s*\Z|\s?(?:π|√|\\pi\b|\\sqrt)|‰|(?-i:[MBT])(?!\w)|\s[<>]=?\s(?=[^\W\d]\b)|\s?(?:[≤≥≠]|\\(?:leq?|geq?|neq?)\b)"
)

# The units of each kind, from large to small.
_KINDS: Final = (
    (
        "year yr y jahr an año|month mo monat mois mes|week wk woche semaine semana|day d tag jour día|"
        "hour hr h stunde heure hora|minute min m minuto|second sec s sekunde seconde segundo"
    ),
    "mile mi|yard yd|feet foot ft|inch in",
    "kilometer kilometre km|meter metre m|centimeter centimetre cm|millimeter millimetre mm",
    "stone st|pound lb|ounce oz",
    "tonne ton t|kilogram kilo kg|gram g|milligram mg",
    "dollar euro pound franc|cent penny pennie pence",
    "gallon gal|quart qt|pint pt|cup|ounce oz",
    "liter litre l|milliliter millilitre ml",
    "degree|minute|second",
)
_UNIT: Final = re.compile(
    r"\s?-?(?!in (?:total|all|the|an?|one|each|every|this)\b)([^\W\d_]{1,12})\b"
    r"(?! of (?:which|whom|them|these|those)\b)"
)
_LARGER: Final = re.compile(r"\s?-?([^\W\d_]{1,12})\.?,?\s(?:(?:and|und|et|y|&)\s)?[$€£]?\d", re.IGNORECASE)


def is_bound(text: str, start: int, end: int) -> bool:
    """Return whether a number is a bound, or part of an expression: `> 5`, `√5`, `5+`, `5π`."""
    line = text[max(0, start - 80) : start].rpartition("\n")[2].rstrip("$€£")
    if _BOUND_AFTER.match(text, end):
        return True
    if not _BOUND_BEFORE.search(line) or _NO_BOUND.search(line):
        return False
    if line.rstrip().endswith("<"):
        return not re.match(r"\s?>", text[end : end + 2])  # <5>
    opening = text.rfind("<", max(0, start - _TAG_MAX), start)
    return opening < 0 or _TAG.fullmatch(text, opening, start) is None


def is_compound(text: str, first: int, second: int) -> bool:
    """Return whether two numbers are one quantity of two units of a kind: `2 hours and 30 minutes`, `6 ft 2 in`.

    Args:
        text: what contains them.
        first: position after the first number, from which its unit is looked for.
        second: position after the second one.
    """
    larger, smaller = _LARGER.match(text, first, second), _UNIT.match(text, second)
    if larger is None or smaller is None:
        return False
    lower = _ranks(smaller[1].lower())
    return any(kind == other and rank < below for kind, rank in _ranks(larger[1].lower()) for other, below in lower)


def _ranks(unit: str) -> list[tuple[int, int]]:
    """Return the kinds to which a unit may belong, each with its place from large to small."""
    stems = {unit, unit.removesuffix("s")} | {unit.removesuffix(end) for end in ("es", "e", "n", "en") if len(unit) > 4}
    return [
        (kind, rank)
        for kind, units in enumerate(_KINDS)
        for rank, names in enumerate(units.split("|"))
        if not stems.isdisjoint(names.split())
    ]
