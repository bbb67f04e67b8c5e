"""The answer inside a model's text: boxed, marked, or a choice letter."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["ballot", "choice_letter", "comparable", "f1", "last_boxed", "normalize", "unwrapped"]

_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s{0,9}\{)|\\.|[{}]", re.DOTALL)
_TEXT_MAX = 100_000
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed) ?\{([^{}]*)\}")
_LATEX_SPACE = re.compile(r"\\(?:[ ,;:!]|q?quad\b)|~")

_OPEN = r"[\s*_$`\"'\u201c\u2018(\[{<]{0,8}"
_CLOSE = r"[*_$`\"'\u201d\u2019)\]}>]{0,8}"
_LETTER = rf"{_OPEN}(?P<letter>[A-Za-z])(?!\w|['\u2019]\w)"
_CAPITAL = rf"{_OPEN}(?P<letter>(?-i:[A-Z]))(?!\w|['\u2019]\w)"
_IS = r"(?:\s(?:is|would be|should be|must be|will be)\b)?\s?[:\uff1a=>\u2013\u2014-]?"
_KIND = r"(?:\s?(?:the )?(?:option|choice|letter)\b:?)?"
_SEVERAL = (
    rf"(?!{_CLOSE}\s?(?:(?:or|and|&|/)\s?{_OPEN}[A-Za-z](?![\w'\u2019])"
    rf"|,\s?{_OPEN}(?-i:[A-Z]){_CLOSE}\s?(?:[,.;]|(?:or|and)\b|\Z)))"
)
_NEGATED = (
    rf"(?!{_CLOSE}\s(?:(?:is|are|was|would be)(?: not|n['\u2019]t)\b|(?:is|are|was|seems) (?:wrong|incorrect|false)\b))"
)

_ANSWER = (re.compile(rf"\banswers?\b[*_]{{0,3}}{_IS}{_KIND}{_LETTER}{_NEGATED}{_SEVERAL}", re.IGNORECASE),)
_ASSERTED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:correct|right|best|final|my) (?:option|choice|letter)\b[*_]{{0,3}}{_IS}{_LETTER}{_NEGATED}{_SEVERAL}",
        rf"\b(?:it is|it['\u2019]s|it must be|i choose|i pick|i select|go with)\b{_KIND}{_CAPITAL}{_NEGATED}{_SEVERAL}",
        rf"(?<!\w){_CAPITAL}{_CLOSE} is (?:the )?(?:only )?(?:correct|right|best|answer)\b",
    )
)
_LABEL = (
    re.compile(
        rf"\A{_LETTER}{_NEGATED}{_SEVERAL}"
        rf"(?:[\s*_$`\"'.:)\]}}>]{{0,8}}\Z|{_CLOSE} ?[.:)\]][*_]* \S|{_CLOSE} [\u2013\u2014-] \S"
        rf"|{_CLOSE},? (?:because|since)\b)"
    ),
)
_MENTIONED = (re.compile(rf"\b(?:option|choice)\b{_IS}{_LETTER}{_NEGATED}{_SEVERAL}", re.IGNORECASE),)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_AROUND = "\"'`*_.,;:!?()[]{}\u2018\u2019\u201c\u201d"
_PUNCTUATION = frozenset(string.punctuation)


def last_boxed(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` holds, with nested braces; None where there is none that is closed.

    A box inside a box is part of the outer one; an empty box counts only where there is no other. One pass over the
    last 100 000 characters.
    """
    text = text[-_TEXT_MAX:]
    found = None
    opened: list[int | None] = []
    for match in _BRACE.finditer(text):
        if match["box"] or match[0] == "{":
            opened.append(match.end() if match["box"] else None)
        elif match[0] == "}" and opened and (start := opened.pop()) is not None:
            content = text[start : match.start()]
            found = content if content.strip() or found is None else found
    return found


def choice_letter(text: str, choices: Sequence[str] | int = 26) -> str | None:
    """The letter that a text chooses.

    The first of these that there is, and of several the last: a boxed letter; "answer: B" (also "the answer should be
    (B)"); a letter that is said to be right ("it is B", "option B is correct"); a text that is one letter (``B``,
    ``(b).``) or begins with one as a label (``B) ...``, ``B - ...``); an option that is mentioned and not said to be
    wrong; where the choices are known, a text that is one of them. "A or B" chooses nothing.

    Args:
        text: a model's whole answer.
        choices: the choices, or how many there are; letters beyond them do not count.

    Returns:
        An upper-case letter, or None where nothing is chosen.
    """
    letters = string.ascii_uppercase[: choices if isinstance(choices, int) else len(choices)]
    text = text[-_TEXT_MAX:]
    boxed = last_boxed(text)
    first_line = text.strip().partition("\n")[0]
    places: list[tuple[str, Sequence[re.Pattern[str]]]] = [] if boxed is None else [(boxed, _LABEL)]
    places += [(text, _ANSWER), (text, _ASSERTED), (text, _LABEL), (first_line, _LABEL), (text, _MENTIONED)]
    for place, patterns in places:
        found = _last_letter(unwrapped(place), patterns, letters)
        if found is not None:
            return found
    return None if isinstance(choices, int) else _by_text(unwrapped(boxed or text), choices)


def unwrapped(text: str) -> str:
    """Text without LaTeX around its words, and with single spaces."""
    return " ".join(_LATEX_SPACE.sub(" ", _WRAPPER.sub(r"\1", text)).split())


def _last_letter(text: str, patterns: Iterable[re.Pattern[str]], letters: str) -> str | None:
    matches = [match for pattern in patterns for match in pattern.finditer(text) if _counts(match, letters)]
    return max(matches, key=lambda match: match.end("letter"))["letter"].upper() if matches else None


def _counts(match: re.Match[str], letters: str) -> bool:
    """Not the article of "the answer is a number": a lower-case letter with a word after it is no choice."""
    letter = match["letter"]
    followed_by_word = re.match(r"\s+\w", match.string[match.end("letter") :]) is not None
    return letter.upper() in letters and not (letter in "aiI" and followed_by_word)


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    wanted = comparable(text)
    equal = [
        letter
        for letter, choice in zip(string.ascii_uppercase, map(str, choices), strict=False)
        if wanted and wanted in (comparable(choice), comparable(f"{letter} {choice}"))
    ]
    return equal[0] if len(equal) == 1 else None


def normalize(text: str) -> str:
    """Text for comparison: lower case, no ASCII punctuation, no English articles, single spaces.

    The rules of the SQuAD and HotPotQA scripts, after Unicode NFD as in DSPy's own metric.
    """
    text = unicodedata.normalize("NFD", text).lower()
    text = "".join(character for character in text if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def comparable(text: str) -> str:
    """``normalize``, or where that leaves nothing ("A", "+") the bare text: such answers differ from one another."""
    return normalize(text) or text.strip().casefold()


def ballot(text: str) -> str:
    """Text as it is counted in a vote: ``comparable``, but for signs, decimals and symbols, which make another answer.

    Case, articles, and punctuation around words do not count; ``-5``, ``3.5``, ``50%`` and ``C++`` stay what they are.
    """
    words = [word.strip(_AROUND) or word for word in unicodedata.normalize("NFC", text).casefold().split()]
    return " ".join(word for word in words if not _ARTICLES.fullmatch(word)) or " ".join(words)


def f1(prediction: str, reference: str) -> float:
    """Token F1 of two normalised texts, from 0 to 1; yes, no and noanswer match only themselves (HotPotQA)."""
    predicted, expected = normalize(prediction), normalize(reference)
    special = {"yes", "no", "noanswer"}
    if predicted != expected and (predicted in special or expected in special):
        return 0.0
    given, wanted = predicted.split(), expected.split()
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted)) if common else 0.0
