"""Numbers in a model's text, where it is clear which number is meant."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from moa_dspy.parsing.phrases import answer_phrases, is_negated, undecorated

__all__ = ["read_number"]

_GROUP: Final = ",'’_ \u00a0\u2009\u202f"
_CURRENCY: Final = r"(?:US|A|C|HK|NZ|R)?[$€£¥₹₩₽₺¢฿]|\b(?:USD|EUR|GBP|JPY|CHF|INR|CNY|RMB|Rs\.?|kr)\b"
_CHUNK: Final = re.compile(
    rf"(?P<before>{_CURRENCY})?[ ]?(?P<sign>[+\-−–]|\b(?:minus|negative)[ ])?[ ]?(?P<inner>{_CURRENCY})?[ ]?"
    r"(?P<number>\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?:[.,]\d{1,40})?(?!\d)"
    r"|\d(?:[\d,'’_.]*\d)?+|(?<![\d.])\.\d++)"
    r"(?P<power>[eE][+-]?\d{1,4}(?!\w)|[ ]?[×x*·][ ]?10(?:\^|\*\*)?\{?(?P<ten>[+\-−]?[\d⁰¹²³⁴⁵⁶⁷⁸⁹⁻]{1,4})\}?)?"
    r"(?P<scale>[ ]?(?:hundred|thousand|million|billion|trillion|lakh|crore|mn|bn|tn|mio|mrd)\b|[kK]\b|[MBT]\b|m\b)?"
    rf"[ ]?(?P<after>%|{_CURRENCY})?",
    re.IGNORECASE,
)
_SCALES: Final = {
    "hundred": 100,
    "k": 1000,
    "thousand": 1000,
    "lakh": 10**5,
    "mn": 10**6,
    "mio": 10**6,
    "million": 10**6,
    "crore": 10**7,
    "bn": 10**9,
    "mrd": 10**9,
    "billion": 10**9,
    "tn": 10**12,
    "trillion": 10**12,
    "m": 10**6,
    "b": 10**9,
    "t": 10**12,
}
_DASHES: Final = ("-", "−", "–")
_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--")
_OUT_OF: Final = re.compile(r"\s*(?:/|out of|of)\s*(\d{1,4})(?![\d/.,]*\d)")
_RATIOS: Final = frozenset({5, 10, 20, 100})
_UNITS: Final = re.compile(r"[ ]?(?:[^\W\d_]{1,20}[.²³°]?|°[CFK]?)(?:[ /·][^\W\d_]{1,20}[²³]?){0,3}")
_ENUMERATOR: Final = re.compile(r"[.)][ \t]+(?=\S)")
_ORDINAL: Final = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)
_ATTACHED: Final = re.compile(r"[^\W\d_²³¹⁰⁴-⁹]{1,12}(?![\w^])")
_ABOUT: Final = re.compile(
    r"(?:about|approximately|approx\.?|around|roughly|circa|ca\.?|exactly|only|just|no\.|number|n|x|y|is|be|=|~|≈|#)\s*",
    re.IGNORECASE,
)
_WORDS: Final = {
    "zero": 0,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18,
    "nineteen": 19,
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
_SPECIAL: Final = re.compile(r"([+\-−]?)\s*(?:inf|infinity|∞)", re.IGNORECASE)
_LONGEST: Final = 4000  # digits that Python converts
_SCANNED: Final = 400  # numbers in one text


@dataclass(frozen=True)
class _Number:
    start: int
    end: int
    value: Fraction | None  # None if it is no clear number: a date, a range, a version


def read_number(text: str, *, prose: bool = True, integer: bool = False) -> Fraction | float | None:
    """Return the number that a text states; None if there is none, or if it is not clear which one is meant.

    Args:
        text: a number with or without markup, currency, unit and separators, or a sentence that states one.
        prose: whether a sentence may state it. If not, the text must be the number, or say that it is the answer.
        integer: whether a whole number is meant. Then 8/10 is 8, otherwise it may be 0.8.
    """
    text = _ascii_digits(text.strip())
    inner = undecorated(text)
    if inner.casefold() == "nan" and not integer:
        return math.nan
    special = _SPECIAL.fullmatch(inner)
    if special:
        return -math.inf if special[1] in ("-", "−") else math.inf
    whole = _whole(inner, integer)
    if whole is not None:
        return whole
    if not any(letter.isdigit() for letter in text[:200_000]):
        return _in_words(inner)
    stated = [_first(phrase, integer) for phrase in answer_phrases(text)]
    if stated:
        return _agreed(stated)
    if not prose:
        return None
    return _equation(inner, integer) if "=" in inner else _only(list(_numbers(text, integer)), text)


def _ascii_digits(text: str) -> str:
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(letter)) if letter.isdecimal() else letter for letter in text)


def _whole(text: str, integer: bool) -> Fraction | None:
    """Return the number of a text that contains nothing else but a unit."""
    lead = 0
    while (about := _ABOUT.match(text, lead)) is not None and about.end() > lead:
        lead = about.end()
    number = next(_numbers(text[lead : lead + 5000], integer), None)
    if number is None or number.value is None or text[lead : lead + number.start].strip():
        return None
    rest = text[lead + number.end :].strip(" .!;,*_`\"')]}")
    return number.value if not rest or _UNITS.fullmatch(f" {rest}") else None


def _in_words(text: str) -> Fraction | None:
    """Return a number below 1000 in English words."""
    words = re.findall(r"[a-z]+", text.lower()) if len(text) < 60 else []
    if not words or re.search(r"[^a-z\s.-]", text.lower()):
        return None
    total, last = 0, 1000
    for word in words:
        if word == "hundred" and 0 < total < 10:
            total, last = total * 100, 100
        elif word in _WORDS and (value := _WORDS[word]) < last and not (last < 20):
            total, last = total + value, value if value >= 20 else 10
        elif word != "and" or total < 100:
            return None
    return Fraction(total)


def _first(phrase: str, integer: bool) -> Fraction | None:
    """Return the number with which the rest of a sentence begins; None if it goes on with another one."""
    text = phrase.strip().lstrip("*_`\"'([{$: ")
    lead = 0
    while (about := _ABOUT.match(text, lead)) is not None and about.end() > lead:
        lead = about.end()
    text = phrase.strip() if text[lead - 1 : lead] == "$" else text
    number = next(_numbers(text[lead:], integer), None)
    if number is None or re.search(r"\w", text[lead : lead + number.start]):
        return None
    if number.value is None or re.match(
        r"\W{0,4}(?:or|to|and|,|through)\W{1,3}[$€£]?\d", text[lead + number.end :], re.IGNORECASE
    ):
        return None
    return number.value


def _agreed(values: list[Fraction | None]) -> Fraction | None:
    return values[0] if len(set(values)) == 1 else None


def _equation(text: str, integer: bool) -> Fraction | None:
    """Return the side of an equation that is a single number."""
    sides = [_whole(undecorated(side), integer) for side in text.split("=")[:10]]
    known = {side for side in sides if side is not None}
    return known.pop() if len(known) == 1 and (len(sides) == 2 or sides[-1] is not None) else None


def _only(numbers: list[_Number], text: str) -> Fraction | None:
    values = {number.value for number in numbers}
    if len(values) != 1 or any(is_negated(text, number.start) for number in numbers):
        return None
    return values.pop()


def _numbers(text: str, integer: bool) -> Iterator[_Number]:
    """Yield the numbers of a text, in order: a few hundred at most."""
    position = 0
    for _ in range(_SCANNED):
        match = _CHUNK.search(text, position)
        if match is None:
            return
        position = max(match.end(), match.start() + 1)
        start, end = match.start("number"), match.end()
        first = match.start() + len(match[0]) - len(match[0].lstrip())
        before = text[max(0, start - 1) : start]
        if before.isalpha() or before == "_":  # part of a name, such as H2O
            continue
        if not text[:start].rpartition("\n")[2].strip() and _ENUMERATOR.match(text, end) and end - start < 3:
            continue
        value = _value(match, text)
        ratio = _OUT_OF.match(text, end) if value is not None else None
        if ratio:
            whole, end = int(ratio[1]), ratio.end()
            position = end
            if whole in _RATIOS:
                yield _Number(first, end, value if integer and value is not None and 0 <= value <= whole else None)
            else:
                yield _Number(first, end, value / whole if value is not None and whole else None)
            continue
        yield _Number(first, end, value)


def _value(match: re.Match[str], text: str) -> Fraction | None:
    """Return the value of a chunk; None if it is part of a date, a range, a version, a time or a power."""
    start, end = match.start("number"), match.end()
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    joined = re.search(r"\d[-–:/.]\Z|[:.]\Z", before) is not None or re.match(r"[-–−:/^²³⁴-⁹]\d|[²³⁴-⁹^]|\w", after)
    if joined and not (_ORDINAL.match(text, end) or _OUT_OF.match(text, end) or _attached_unit(text, end)):
        return None
    value = _grouped(match["number"])
    if value is None:
        return None
    money = match["before"] or match["inner"] or match["after"] not in (None, "%")
    scale = (match["scale"] or "").strip()
    if scale:
        factor = _SCALES[scale.lower()]
        if scale in ("M", "B", "T", "m", "b", "t"):
            factor = factor if money else (1 if scale in "mbt" else 0)
        if not factor:
            return None
        value *= factor
    power = match["power"]
    if power:
        exponent = int((match["ten"] or power[1:]).translate(_SUPERSCRIPTS))
        if abs(exponent) > 400:
            return None
        value *= Fraction(10) ** exponent
    negative = _is_negative(match, text)
    return None if negative is None else -value if negative else value


def _is_negative(match: re.Match[str], text: str) -> bool | None:
    """Return whether a number has a minus sign; None if the sign may also be the bullet of a list."""
    sign = match["sign"] or ""
    if sign not in _DASHES:
        return len(sign) > 1  # the word minus
    begins_line = not text[max(0, match.start("sign") - 80) : match.start("sign")].rpartition("\n")[2].strip()
    if begins_line and text[match.end("sign")] == " " and not match["before"]:
        return None
    return sign in ("-", "−") or (sign == "–" and begins_line)


def _attached_unit(text: str, at: int) -> bool:
    """Return whether letters and no digits follow: ``42km``."""
    match = _ATTACHED.match(text, at)
    return match is not None


def _grouped(digits: str) -> Fraction | None:
    """Return the value of digits with separators. One that separates thousands has three digits after it."""
    if len(digits) > _LONGEST:
        return None
    marks = [mark for mark in digits if not mark.isdigit()]
    if not marks:
        return Fraction(int(digits))
    decimal = marks[-1]
    if len(set(marks)) == 1 and len(marks) == 1 and decimal in ".,":
        head, tail = digits.split(decimal)
        thousands = decimal == "," and len(tail) == 3 and 1 <= len(head) <= 3 and not head.startswith("0")
        return Fraction(int(head + tail)) if thousands else Fraction(f"{head or '0'}.{tail}")
    if len(set(marks)) == 1:
        return Fraction(int(re.sub(r"\D", "", digits))) if _is_grouped(digits, decimal) else None
    if decimal not in ".," or marks.count(decimal) != 1 or len(set(marks)) != 2:
        return None
    whole, _, part = digits.rpartition(decimal)
    if not _is_grouped(whole, marks[0]):
        return None
    return Fraction(f"{re.sub(chr(92) + 'D', '', whole)}.{part}")


def _is_grouped(digits: str, mark: str) -> bool:
    """Return whether a mark separates thousands, as in 1,234,567, or as in 12,34,567 (India)."""
    if mark not in _GROUP + ".":
        return False
    first, *groups = digits.split(mark)
    if mark == "_":
        return all(groups)
    western = 1 <= len(first) <= 3 and all(len(group) == 3 for group in groups)
    indian = mark == "," and 1 <= len(first) <= 2 and len(groups) > 1 and all(len(g) == 2 for g in groups[:-1])
    return western or (indian and len(groups[-1]) == 3)
