"""Numbers in a model's text, where it is clear which number is meant."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from typing import Final

from moa_dspy.parsing.bounds import is_bound, is_compound
from moa_dspy.parsing.corrections import correction_start
from moa_dspy.parsing.negation import is_negated
from moa_dspy.parsing.number_words import number_in_words
from moa_dspy.parsing.phrases import IDEOGRAPH, TEXT_MAX, WIDE, agreed, boxes, claims, undecorated

__all__ = ["Number", "numbers", "read_number", "stated_number", "tidied", "without_scale"]

_MINUS: Final = "-−‒–－﹣"
_CURRENCY: Final = r"(?:US|A|C|HK|NZ|R)?\\?[$€£¥₹₩₽₺¢฿￥]|\b(?:USD|EUR|GBP|JPY|CHF|INR|CNY|RMB|Rs\.?|kr)(?![^\W\d_])"
_MONTH: Final = r"(?-i:Jan|Feb|Mar|Apr|May|June?|July?|Aug|Sept?|Oct|Nov|Dec)[a-z]{0,6}\.?"
_SCALES: Final = {
    "k": 1000,
    **dict.fromkeys(("hundred",), 100),
    **dict.fromkeys(("thousand", "tausend", "тыс", "тысяч"), 1000),
    **dict.fromkeys(("lakh",), 10**5),
    **dict.fromkeys(("million", "millones", "milhões", "milioni", "mn", "mio", "млн", "миллион"), 10**6),
    **dict.fromkeys(("crore",), 10**7),
    **dict.fromkeys(("billion", "milliard", "miliardi", "bn", "mrd", "млрд", "миллиард"), 10**9),
    **dict.fromkeys(("trillion", "billionen", "billones", "tn"), 10**12),
}
# Attached to the number, and to what follows.
_SIGNS: Final = {"千": 1000, "천": 1000, "万": 10**4, "萬": 10**4, "만": 10**4, "億": 10**8, "亿": 10**8, "억": 10**8}
_NAMES: Final = "|".join(sorted((name for name in _SCALES if name != "k"), key=len, reverse=True))
_MONEY_SCALES: Final = {"m": 10**6, "b": 10**9, "t": 10**12}
_NUMBER: Final = re.compile(
    rf"""
    (?P<skip>
        (?<![\d.])\d{{1,4}}(?P<mark>[-/.])\d{{1,2}}(?P=mark)\d{{1,4}}(?![\d.,]*\d)             # 2024-05-01, 1.2.3
        | \d{{1,2}}:\d{{2}}(?::\d{{2}})?(?!\d)(?:[ ]?[ap]\.?m\b\.?)? | \d{{1,2}}[ ]?(?-i:[AP]M|[ap]m)\b     # 9:30
        | \b{_MONTH}[ ]\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?[ ]\d{{4}}\b)?                  # May 5th, 2024
        | \b\d{{1,2}}(?:st|nd|rd|th)?[ ](?:of[ ])?{_MONTH}(?![a-z])(?:,?[ ]\d{{4}}\b)? # 5 May
        | \b(?:step|question|problem|part|case|section|chapter|figure|table|item|example|equation)s?[ #]*\d{{1,3}}\b
        | ^[ \t]*\(?\d{{1,2}}[.)][ \t]+(?=\S) | ^[ \t]*\(\d{{1,2}}\)(?=[^\W\d]) # 1. first
        | (?<![\d./])0[1-9]/(?:19|20)\d\d(?![\d/])                                       # 05/2024, no fraction
        | \b0[xob][\da-f]+\b                                                          # 0xFF
    )
    | (?P<power>\d[\d.,]*\s?(?:\^|\*\*)\s?\{{?\(?[-−]?\d+\)?\}}?|\d[\d.,]*[²³¹⁰⁴-⁹]+)            # 2^10
    | (?P<range>\d[\d.,]*[-–−‒]\$?\d[\d.,]*(?:[-–−‒]\d[\d.,]*)*)                              # 5-7
    | (?:(?P<whole>\d{{1,9}})[ ](?=\d{{1,400}}[ ]?/[ ]?\d))?
      (?P<digits>\d{{1,3}}(?:[ \u00a0\u2009\u202f]\d{{3}})+(?:[.,]\d{{1,40}})?(?!\d)
        | \d(?:[\d,'’_.]*\d)?+ | (?<![\d.])\.\d++)
      (?:[ ]?/[ ]?(?P<denominator>\d{{1,400}})(?![\d./]*\d))?
      (?P<exponent>[eE][+-]?\d{{1,4}}(?!\w)
        |[ ]?(?:[×x*·]|\\times|\\cdot)[ ]?10[ ]?(?:(?:\^|\*\*)[ ]?\{{?)?(?P<ten>[+\-−]?\d{{1,4}}
          |[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]{{1,5}})\}}?(?![\d.]))?
      (?P<scale>[ ]?(?:(?:{_NAMES})(?:e?s|en|ов|а|и)?\b|[{"".join(_SIGNS)}])|k\b)?
      (?:[ ]?(?P<after>\\?%|{_CURRENCY}))?
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_BEFORE: Final = re.compile(
    rf"(?P<sign>[{_MINUS}+]|\b(?:minus|negative)[ ])?[ ]?(?:(?P<money>{_CURRENCY})[ ]?(?P<inner>[{_MINUS}+])?)?[ ]?\Z",
    re.IGNORECASE,
)
_BEGINS_VALUE: Final = re.compile(r"(?:[=:#(≈]|\b(?:is|be|are|equals))\s{0,3}\Z")
_OUT_OF: Final = re.compile(r"\s?out of\s(\d{1,4})(?![\d/.,]*\d)", re.IGNORECASE)
_RATIOS: Final = frozenset({5, 10, 20, 100})
_ATTACHED: Final = re.compile(r"[^\W\d_²³¹⁰⁴-⁹]{1,12}[²³]?(?![\w^])|[^\W\d_]{1,4}\^\{?\d\}?")
_SUPERSCRIPTS: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--")
_ARABIC: Final = str.maketrans("٫٬٪", ".,%")
_GROUP: Final = ",'’_ \u00a0\u2009\u202f"
_DIGITS_MAX: Final = 400  # a longer run comes from a model stuck in a loop
_SCANNED: Final = 10_000  # numbers in one text
_STATED_MAX: Final = 50  # numbers in a text of which one may be stated

_UNITS: Final = re.compile(
    r"(?![ ]?(?:is|isn|are|was|were|or|and|not|to|cannot)\b)[ ]?(?:[^\W\d_]{1,20}[.²³°]?|°[CFK]?)"
    r"(?:(?: per |[ /·])[^\W\d_]{1,20}[²³]?){0,3}"
)
_LEAD: Final = re.compile(
    r"(?:(?:about|approximately|approx\.?|around|roughly|circa|ca\.?|exactly|precisely|only|just|simply|still|also|"
    r"likely|clearly|probably|therefore|thus|indeed|then|an?|the|total|of|no\.|number|n|x|y|is|be|equal to|it|that)\b"
    r"|[=~≈#>:*_`\"'(\[{\s]|\.\s)*+",
    re.IGNORECASE,
)
_EQUALS: Final = re.compile(r"(?<![<>!])=+>?|≈|\\approx\b|\\implies\b|⇒|->|→")
_OPERATOR: Final = re.compile(
    r"[\s)%(\\$€£]*(?:[-+*/×·÷−–^:x]|\*\*|\\times|\\cdot|\\div|plus|minus|times|divided by|or|to|and|through)"
    r"[\s(\\$€£]*",
    re.IGNORECASE,
)
"""What stands between two numbers that are not one value: an operator, a colon, "or", "to"."""

_LISTED: Final = re.compile(r"\s*(?:,|,?\s?(?:or|to|and|through))\s*[$€£]?", re.IGNORECASE)

_ARITHMETIC: Final = re.compile(
    r"[\s)%(\\$€£]*(?:[-+*/×·÷−–x]|\\times|\\cdot|\\div|plus|minus|times|divided by)[\s(\\$€£]*", re.IGNORECASE
)
_OPERAND: Final = re.compile(rf"{_ARITHMETIC.pattern}|\s?of\s(?:the\s)?[$€£]?", re.IGNORECASE)
_MAKES: Final = re.compile(r"\s(?:is|equals|makes|gives)\s(?:equal to\s)?[$€£]?", re.IGNORECASE)
_PART_OF: Final = re.compile(r"\b(?:half|quarter|third|twice|double)\s(?:of\s)?[$€£]?\Z", re.IGNORECASE)
_ADJUNCT: Final = re.compile(
    r"\b(?:in|for|after|over|within|during|every|per|of|each of)\s(?:the |all |these |next |first |last )?\Z",
    re.IGNORECASE,
)
_PERIOD: Final = re.compile(r"\s?-?(?:second|minute|hour|day|week|month|year|night|trip|time|step)s?\b", re.IGNORECASE)
_SENTENCE_END: Final = re.compile(r"(?<!\bapprox)(?<!\bca)(?<!\bno)[.!?;](?=\s|\Z)|\n")
_ASIDE: Final = re.compile(r"(?<=[^\s(#:=])\s+\((?:[^()\n]|\([^()\n]*\)){1,400}\)(?=[\s.!*_]*(?:\n|\Z))")
_CITATION: Final = re.compile(  # right after a number, and not after the numeral of a list
    r"(^[ \t]*\(?\d{1,2}[.)][ ](?=\[)\S++)|(\d[.%)]{0,2})[ ]?(?:\[\^?\d{1,3}\])+(?=[\s.,;)]|\Z)", re.MULTILINE
)
_SCALE_OF: Final = re.compile(  # "(1-5):", "on a scale of 1 to 10"
    r"\(\s?\d{1,3}\s?(?:[-–—~]|to|through)\s?\d{1,3}\s?\)(?=[*_\s]*[:=])"
    r"|\b(?:on|in|using) (?:a|the) (?:\w+ )?scale (?:of|from|between) \d{1,3}\s?(?:[-–—]|to|and|through)\s?\d{1,3}\b",
    re.IGNORECASE,
)
_MARKUP: Final = re.compile(
    r"\*\*(?!\d)|(?<!\d)\*\*|[`_]{1,3}(?!\d)|\\(?:text(?:bf|it)?|f?box(?:ed)?)\b|\\mathrm\b|\\left\b|\\right\b|\\[()\[\]]|[{}]"
)
_LATEX: Final = (
    (re.compile(r"\{,\}|,\\!"), ","),
    (re.compile(r"(?<=\d)\\[,;:! ](?=\d{3})"), ","),
    (re.compile(r"(?<=\d)\\[dt]?frac\s?\{(\d{1,400})\}\s?\{(\d{1,400})\}"), r" \1/\2"),
    (re.compile(r"\\[dt]?frac\s?\{(\d{1,400})\}\s?\{(\d{1,400})\}"), r"\1/\2"),
    (re.compile(r"\\[dt]?frac\s?(\d)\s?(\d)(?!\d)"), r"\1/\2"),
)
_VULGAR: Final = re.compile(r"(\d?)([½⅓⅔¼¾⅕⅖⅗⅘⅙⅛⅜⅝⅞])")
_SPECIAL: Final = re.compile(r"([+\-−]?)\s*(?:inf|infinity|∞)", re.IGNORECASE)


@dataclass(frozen=True)
class Number:
    """A number in a text.

    Attributes:
        start: position of its sign, currency or first digit.
        end: position after its last character, with scale, percent sign and currency.
        value: its value; None if it is no clear number: a range, a power, a ratio.
    """

    start: int
    end: int
    value: Fraction | None


def tidied(text: str) -> str:
    r"""Return a text with ASCII digits and without LaTeX around numbers: `1{,}234` is 1,234, `\frac{3}{4}` is 3/4."""
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(one)) if one.isdecimal() else one for one in text)
        text = _VULGAR.sub(_fraction, text.translate(WIDE).translate(_ARABIC)).replace("⁄", "/")
    if "\\" in text or "{" in text:
        for latex, written in _LATEX:
            text = latex.sub(written, text)
    return text


def without_scale(text: str) -> str:
    """Return a text without the scale that it names: `Score (1-5): 4` is `Score : 4`."""
    return _SCALE_OF.sub("", text)


def _without_citations(text: str) -> str:
    """Return a text without sources, `42 [1]`. What is between brackets is the number if there is no other."""
    cited = _CITATION.sub(r"\1\2", text)
    return text if cited == text or next(_numbers(cited, None), None) is None else cited


def _fraction(match: re.Match[str]) -> str:
    return f"{match[1]}{' ' if match[1] else ''}{unicodedata.normalize('NFKC', match[2]).replace('⁄', '/')}"


def read_number(text: str, *, prose: bool = True, integer: bool | None = None) -> Fraction | float | None:
    """Return the number that a text states; None if there is none, or if it is not clear which one is meant.

    | read | not read |
    |---|---|
    | `1,234`, `1.234,56`, `12,34,567`, `1 234`, `1'234`, `1_234`, `٤٢` | `1,2,3`, `1.2.3` |
    | `$18`, `18 EUR`, `-$5`, `18 km/h`, `50%`, `5th` | `H2O`, `COVID-19` |
    | `3/4`, `1 1/2`, `½`, `1.5e3`, `1.5 x 10^3`, `$5M`, `3 million`, `forty-two` | `2^10`, `10²`, `4:1` |
    | `x = -5`, `3 * 6 = 18`, `2 + 2 = 4, 4 + 3 = 7` | `3 * 6`, `2+2=4 and 3+3=6` |
    | `It is 42.`, `not 41 but 42`, `42 on 2024-05-01`, `42 in 3 days` | `not 42`, `5-7`, `41 or 42`, `9:30` |

    Args:
        text: a number with or without markup, currency, unit and separators, or a text that states one.
        prose: whether a sentence may state it. If not, the text must be the number, or say that it is the answer.
        integer: True if a whole number is meant: 8/10 is 8. False if any number is meant: then 8/10 is unclear, because
            it may be a grade. None if it is a fraction.
    """
    text = _without_citations(without_scale(tidied(text.strip())))
    inner = undecorated(text)
    if inner.casefold() == "nan" and integer is False:
        return math.nan
    special = _SPECIAL.fullmatch(inner)
    if special:
        return -math.inf if special[1] in ("-", "−") else math.inf
    whole = _whole(inner, integer)
    if whole is not None:
        return whole
    text = text[-TEXT_MAX:]
    said = _claimed(text, integer)
    if said:
        return agreed(said, text)
    if not prose:
        return number_in_words(inner)
    text = _ASIDE.sub("", text)
    return _single(text, list(islice(_numbers(text, integer), _STATED_MAX + 1)))


def _claimed(text: str, integer: bool | None) -> list[tuple[Fraction | None, int, bool]]:
    """Return the numbers that a text claims to be its answer, each with its position, and whether it is final.

    The number of a claim that states several is None.
    """
    stated = [(content, start, False) for content, start in boxes(text)]
    stated += [(claim.answer, claim.start, claim.final) for claim in claims(text)]
    found: list[tuple[Fraction | None, int, bool]] = []
    for content, start, final in sorted(stated, key=lambda one: one[1]):
        value = stated_number(content[correction_start(content) :], integer=integer)
        if value is not None or next(_numbers(content, integer), None) is not None:
            found.append((value, start, final))
    return found


def numbers(text: str) -> list[Fraction]:
    r"""Return the clear numbers of a text, in order. The time is linear in the length of the text.

    Dates, times, versions, numerals of lists, digits inside a word (`H2O`) and exponents (`m^2`) are not numbers. A
    minus belongs to a number unless it directly follows what it could be subtracted from. Followed by a space, or
    written out, it counts only where an answer begins: `x = - 5`, `it is minus 5`.
    """
    return [number.value for number in _numbers(tidied(text), None) if number.value is not None]


def stated_number(statement: str, *, integer: bool | None = None) -> Fraction | None:
    """Return the number that one statement gives, such as `18 dollars per day for 3 days` or `3 * 6 = 18`.

    Args:
        statement: a tidied text. The first sentence with a number counts.
        integer: as in `read_number`.
    """
    boxed = boxes(statement)
    statement = _MARKUP.sub("", _ASIDE.sub("", boxed[-1][0] if boxed else statement))
    statement = re.sub(rf"\A([\s:*]*)([{_MINUS}])\s+(?=[\d$€£.])", r"\1\2", statement)  # a sign, and no bullet
    if not any(map(str.isdigit, statement)):
        return number_in_words(undecorated(statement))
    for sentence in _SENTENCE_END.split(statement):
        if found := list(islice(_numbers(sentence, integer), _STATED_MAX + 1)):
            leading = None if _EQUALS.search(sentence) else _leading(sentence, found)
            return leading or _single(sentence, found)
    return None


def _leading(text: str, found: Sequence[Number]) -> Fraction | None:
    """Return the number with which a statement begins; None if it goes on to another one with "or" or an operator."""
    first = found[0]
    lead = _LEAD.match(text)
    if first.value is None or (lead is not None and lead.end() < first.start):
        return None
    if len(found) > 1:
        between = text[first.end : found[1].start]
        if _LISTED.fullmatch(between) or _OPERATOR.fullmatch(between) or is_compound(text, first.end, found[1].end):
            return None
    return None if is_negated(text, first.start, first.end) else first.value


def _whole(text: str, integer: bool | None) -> Fraction | None:
    """Return the number of a text that contains nothing else but a unit."""
    text = text[:5000]
    number = next(_numbers(text, integer), None)
    if number is None or number.value is None:
        return None
    lead = _LEAD.match(text, 0, number.start)
    if lead is not None and lead.end() < number.start:
        return None
    rest = text[number.end :].strip(" .!;,*_`\"')]}")
    is_unit = _UNITS.fullmatch(f" {rest}") and not is_negated(text, number.start, number.end)
    return number.value if not rest or is_unit else None


def _single(text: str, found: Sequence[Number]) -> Fraction | None:
    """Return the only number of a text that may be its answer: the result of what it calculates, or what it states."""
    if not found or len(found) > _STATED_MAX:
        return None if found else number_in_words(undecorated(text))
    if _EQUALS.search(text):
        return _calculated(text, found)
    if _is_spoken(text, found):
        return None if is_negated(text, found[-1].start, found[-1].end) else found[-1].value
    if any(_ARITHMETIC.fullmatch(text, one.end, other.start) for one, other in pairwise(found)):
        return None  # an expression without its value
    said = [number for number in found if not is_negated(text, number.start, number.end)]
    strong = [number for number in said if not _is_adjunct(text, number)]
    values = {number.value for number in strong or said}
    return values.pop() if len(values) == 1 else None


def _is_spoken(text: str, found: Sequence[Number]) -> bool:
    """Return whether a text is a calculation with its result, without an equals sign: `10% of 180 is 18`."""
    *operands, last = found
    if not operands or not _MAKES.fullmatch(text, operands[-1].end, last.start):
        return False
    multiple = len(operands) > 1 or _PART_OF.search(text, max(0, operands[0].start - 20), operands[0].start)
    return bool(multiple) and all(_OPERAND.fullmatch(text, a.end, b.start) for a, b in pairwise(operands))


def _is_adjunct(text: str, number: Number) -> bool:
    """Return whether a number only says how long or how often: `in 3 days`."""
    return bool(_ADJUNCT.search(text[max(0, number.start - 24) : number.start]) and _PERIOD.match(text, number.end))


def _calculated(text: str, found: Sequence[Number]) -> Fraction | None:
    """Return the result of a calculation, or of several of which each uses the result before: `2 + 2 = 4, 4 + 3 = 7`.

    Results that do not depend on each other are several answers, and so is a further number after the last result.
    """
    results: list[int] = []
    operands: set[int] = set()
    for at, number in enumerate(found):
        before = text[found[at - 1].end if at else 0 : number.start]
        after = text[number.end : found[at + 1].start if at + 1 < len(found) else len(text)]
        joined = _ARITHMETIC.fullmatch(before) or (at + 1 < len(found) and _ARITHMETIC.fullmatch(after))
        equals = list(_EQUALS.finditer(before))
        if joined or re.match(r"\s*[-+*/×·÷]\s", after):
            operands.add(at)
        elif equals and re.fullmatch(_LEAD.pattern + r"[\\$€£]*", before[equals[-1].end() :], re.IGNORECASE):
            results.append(at)
    if not results:
        sides = {number.value for at, number in enumerate(found) if at not in operands}
        return sides.pop() if len(sides) == 1 else None
    last = results[-1]
    for at in results[:-1]:
        following = text[found[at].end : found[at + 1].start]
        same = found[at].value == found[last].value
        chained = _EQUALS.search(following) and not re.search(r"[.;,\n]|\b(?:or|and)\b", _EQUALS.split(following)[0])
        used = (found[other].value for other in range(at, last) if other in operands)
        if not (same or chained or found[at].value in used):
            return None
    if is_negated(text, found[last].start, found[last].end):
        return None
    rest = [one for one in found[last + 1 :] if not (_is_adjunct(text, one) or is_negated(text, one.start, one.end))]
    return found[last].value if all(number.value == found[last].value for number in rest) else None


def _numbers(text: str, integer: bool | None) -> Iterator[Number]:
    end = 0
    for scanned, match in enumerate(_NUMBER.finditer(text)):
        if scanned > _SCANNED:
            return
        if (start := match.start()) < end:
            continue  # the 5 of "4 out of 5"
        previous = text[max(0, start - 2) : start]
        if match["skip"] or _is_name(previous):
            continue
        if match["power"] or match["range"]:
            yield Number(start, match.end(), None)
            continue
        number = _number(match, text, integer)
        end = number.end
        yield number


def _is_name(previous: str) -> bool:
    """Return whether the characters before a number make it part of a name or an exponent: `H2O`, `GPT-4`, `m^2`."""
    last = previous[-1:]
    return (
        (last.isalpha() and not IDEOGRAPH.match(last))
        or last in ("_", "^")
        or (last in ("-", "{") and previous[:1] == "^")
        or (last == "-" and previous[:1].isalpha())
    )


def _number(match: re.Match[str], text: str, integer: bool | None) -> Number:
    before = _BEFORE.search(text, max(0, match.start() - 16), match.start())
    assert before is not None  # it may be empty
    start, end, value = match.start(), match.end(), _magnitude(match, text)
    money = before["money"] or match["after"] not in (None, "%", "\\%")
    scale = re.compile(r"[ ]?([mbt])\b", re.IGNORECASE).match(text, end) if money and not match["scale"] else None
    if scale and value is not None:
        value, end = value * _MONEY_SCALES[scale[1].lower()], scale.end()
    after = text[end : end + 1]
    goes_on = after in ("^", "/", ":") and text[end + 1 : end + 2].isdigit()
    if goes_on or (after.isalnum() and not _ATTACHED.match(text, end)) or is_bound(text, start, end):
        value = None
    ratio = _OUT_OF.match(text, end)
    if ratio and value is not None:
        end = ratio.end()
        value = value if integer is not False and 0 <= value <= int(ratio[1]) else None
    negative, start = _sign(before, text, start)
    if before["money"]:
        start = min(start, before.start("money"))
    if match["denominator"] and value is not None:
        value = _ratio(match, value, integer)
    if value is not None and negative is not False:
        value = None if negative is None else -value
    return Number(start, end, value)


def _ratio(match: re.Match[str], value: Fraction, integer: bool | None) -> Fraction | None:
    """Return the value of a fraction. If it may be a grade, such as 8/10, it is 8 where a whole number is meant."""
    denominator = int(match["denominator"])
    if not denominator or max(len(match["digits"]), len(match["denominator"])) > _DIGITS_MAX:
        return None
    if match["whole"]:
        return int(match["whole"]) + value / denominator
    if denominator in _RATIOS and integer is not None:
        return value if integer and 0 <= value <= denominator else None
    return value / denominator


def _sign(before: re.Match[str], text: str, start: int) -> tuple[bool | None, int]:
    """Return whether a number is negative, and where it begins. None if its sign may also be the bullet of a list."""
    if before["inner"]:
        return before["inner"] != "+", before.start("inner")
    sign = before["sign"]
    if sign is None:
        return False, start
    at = before.start("sign")
    line = text[max(0, at - 80) : at].rpartition("\n")[2]
    begins = _BEGINS_VALUE.search(line) is not None
    if len(sign) > 1:
        counts = sign.strip().lower() == "negative" or begins or not line.strip()
        return counts, at if counts else start
    if line[-1:].isalnum() or line[-1:] in (")", "]", "}", "%"):
        return False, start  # an operator
    spaced = text[at + 1 : at + 2] == " "
    if spaced and not begins:
        return (None, at) if not line.strip() and sign != "+" else (False, start)
    return sign != "+", at


def _magnitude(match: re.Match[str], text: str) -> Fraction | None:
    value = _grouped(match["digits"])
    if value is None:
        return None
    around = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    if around in (("[", "]"), ("(", ")")) and re.fullmatch(r"\d+,(?!\d{3}\Z)\d+", match["digits"]):
        return None  # a list or a point
    if match["scale"]:
        value *= _scale(match["scale"].strip().lower())
    if match["exponent"]:
        exponent = int((match["ten"] or match["exponent"][1:]).translate(_SUPERSCRIPTS))
        if abs(exponent) > _DIGITS_MAX:
            return None
        value *= Fraction(10) ** exponent
    return value


def _scale(name: str) -> int:
    if name in _SCALES or name in _SIGNS:
        return _SCALES.get(name) or _SIGNS[name]
    return _SCALES[next(one for one in _NAMES.split("|") if name.startswith(one))]  # a plural


def _grouped(digits: str) -> Fraction | None:
    """Return the value of digits with separators. One that separates thousands has three digits after it."""
    if len(digits) > _DIGITS_MAX:
        return None
    marks = [mark for mark in digits if not mark.isdigit()]
    if not marks:
        return Fraction(int(digits))
    decimal = marks[-1]
    if len(marks) == 1 and decimal in ".,":
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
    return Fraction(re.sub(r"\D", "", whole) + f".{part}")


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
