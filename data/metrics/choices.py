"""Multiple choice: the letter that a text chooses."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dspy

from moa_dspy.data.metrics.answers import TEXT_MAX, last_boxed, without_latex
from moa_dspy.data.metrics.metric import TextMetric
from moa_dspy.data.metrics.text import normalize_or_keep

__all__ = ["ChoiceLetter", "choice_letter", "leading_choice"]

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
_BEFORE_WORD = re.compile(r"\s+\w")
_LEADING = re.compile(
    r"(?:(?i:option|choice) )?(?:\((?P<enclosed>[A-Za-z])\)|(?P<bare>[A-Z])(?=$|[.:,)]| because\b)|(?P<alone>[a-z])$)"
    r"(?! ?(?:or|and|/) ?\(?[A-Za-z]\b)"
)
_MENTIONED = (re.compile(rf"\b(?:option|choice)\b{_IS}{_LETTER}{_NEGATED}{_SEVERAL}", re.IGNORECASE),)


def choice_letter(text: str, choices: Sequence[str] | int = 26) -> str | None:
    """Return the letter that a text chooses.

    The rules are tried in this order. If one rule matches several times, the last match is used.

    1. a boxed letter;
    2. "answer: B", "the answer should be (B)";
    3. a letter that is called right: "it is B", "option B is correct";
    4. a text or first line that is one letter (`B`, `(b).`) or begins with one as a label (`B) ...`, `B - ...`);
    5. an option that is mentioned and not called wrong;
    6. a text that equals one of the choices, if they are known.

    "A or B" chooses nothing.

    Args:
        text: a model's whole answer.
        choices: the choices, or their number. Letters beyond them are ignored.

    Returns:
        An upper-case letter, or None if nothing is chosen.
    """
    letters = string.ascii_uppercase[: choices if isinstance(choices, int) else len(choices)]
    text = text[-TEXT_MAX:]
    boxed = last_boxed(text)
    first_line = text.strip().partition("\n")[0]
    rules: list[tuple[str, Sequence[re.Pattern[str]]]] = [] if boxed is None else [(boxed, _LABEL)]
    rules += [(text, _ANSWER), (text, _ASSERTED), (text, _LABEL), (first_line, _LABEL), (text, _MENTIONED)]
    for part, patterns in rules:
        letter = _last_letter(without_latex(part), patterns, letters)
        if letter is not None:
            return letter
    return None if isinstance(choices, int) else _by_text(without_latex(boxed or text), choices)


def _last_letter(text: str, patterns: Iterable[re.Pattern[str]], letters: str) -> str | None:
    matches = [match for pattern in patterns for match in pattern.finditer(text) if _is_choice(match, letters)]
    return max(matches, key=lambda match: match.end("letter"))["letter"].upper() if matches else None


def _is_choice(match: re.Match[str], letters: str) -> bool:
    """Return False for a lower-case letter before a word, such as the article in "the answer is a number"."""
    letter = match["letter"]
    article = letter in "aiI" and _BEFORE_WORD.match(match.string, match.end("letter"))
    return letter.upper() in letters and not article


def leading_choice(answer: str) -> str | None:
    """Return the letter with which an answer begins, as in `(B) 12/02/1990`; None for `(A) or (B)` (BBH)."""
    match = _LEADING.match(answer)
    return match[match.lastgroup or 0].upper() if match else None


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    wanted = normalize_or_keep(text)
    equal = [
        letter
        for letter, choice in zip(string.ascii_uppercase, map(str, choices), strict=False)
        if wanted and wanted in (normalize_or_keep(choice), normalize_or_keep(f"{letter} {choice}"))
    ]
    return equal[0] if len(equal) == 1 else None


@dataclass(frozen=True)
class ChoiceLetter(TextMetric):
    """The output chooses the letter of the answer.

    Attributes:
        choices: the field of the example with the texts of the choices. Letters beyond them are ignored.
    """

    choices: str = "choices"

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool:
        """Return whether the letters are equal."""
        return self.read(output, example) == accepted.strip().strip("()").upper()

    def read(self, output: str, example: dspy.Example) -> str:
        """Return the letter that the output chooses."""
        choices = example.get(self.choices) if self.choices in example else None
        return choice_letter(output, 26 if choices is None else list(choices)) or ""
