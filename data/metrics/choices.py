"""Multiple choice: the letter that a text chooses."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import dspy

from moa_dspy.data.metrics.answers import TEXT_MAX, Claim, claims, last_boxed, plain, without_latex
from moa_dspy.data.metrics.metric import TextMetric
from moa_dspy.data.metrics.text import normalize_or_keep

__all__ = ["ChoiceLetter", "choice_letter", "leading_choice", "named_choice"]

_OPEN = r"[\s*_$`\"'\u201c\u2018(\[{<]{0,8}"
_CLOSE = r"[*_$`\"'\u201d\u2019)\]}>]{0,8}"
_LETTER = rf"{_OPEN}(?P<letter>[A-Za-z])(?!\w|['\u2019]\w)"
_CAPITAL = rf"{_OPEN}(?P<letter>(?-i:[A-Z]))(?!\w|['\u2019]\w)"
_ADVERBS = (
    r"(?:[\s,]{1,3}(?:most|very|quite|almost|likely|probably|definitely|clearly|certainly|surely|obviously|undoubtedly|"
    r"thus|therefore|hence|then|indeed|actually|simply|still|also|just|only|in fact|of course|I (?:think|believe|guess|"
    r"would say|am confident)|in my opinion)\b,?){0,4}"
)
_IS = rf"(?:\s(?:is|would be|should be|must be|will be|has to be)\b{_ADVERBS})?\s?[:\uff1a=>\u2013\u2014-]?"
_KIND = r"(?:\s?(?:the )?(?:option|choice|letter|answer|statement)\b:?)?"
_SEVERAL = (
    rf"(?!{_CLOSE}\s?(?:(?:or|and|&|/)\s?{_OPEN}[A-Za-z](?![\w'\u2019])"
    rf"|,\s?{_OPEN}(?-i:[A-Z]){_CLOSE}\s?(?:[,.;]|(?:or|and)\b|\Z)))"
)
_NEGATED = (
    rf"(?!{_CLOSE}\s(?:(?:is|are|was|would be)(?: not|n['\u2019]t)\b|(?:is|are|was|seems) (?:wrong|incorrect|false)\b"
    rf"|(?:can(?:not|['\u2019]t| not)|would be (?:right|correct|true|wrong))\b))"
)
_END = rf"(?={_CLOSE}\s*(?:[.!;]|\n|\Z))"

_STATED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\A{_ADVERBS}\s?{_KIND}{_LETTER}{_NEGATED}{_SEVERAL}",
        rf"\A[^\n]{{0,40}}?\bnot\b{_KIND}{_OPEN}[A-Z]{_CLOSE},?\s(?:but|rather)\b(?: rather)?{_KIND}{_CAPITAL}",
    )
)
"""What follows a marker of an answer."""

_SAYING = r"(?:it is|it['\u2019]s|it must be|i choose|i pick|i select|i['\u2019]d (?:choose|pick|say)|go with)"
_SO = r"(?:so|thus|therefore|hence|leaving|leaves|that leaves|conclusion)\b[,:]?"
_CHOSEN = r"(?: (?:only|just|us with|it is|it['\u2019]s|it must be|i choose|we choose|pick|choose))?"
_RIGHT = r"(?:correct|right|best|appropriate|suitable|likely|true|answer)"
_ASSERTED = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:correct|right|best|final|my) (?:option|choice|letter)\b[*_]{{0,3}}{_IS}{_LETTER}{_NEGATED}{_SEVERAL}",
        rf"\b{_SAYING}\b{_ADVERBS}{_KIND}{_CAPITAL}{_NEGATED}{_SEVERAL}",
        rf"(?<!\w){_CAPITAL}{_CLOSE} (?:is|must be|should be) (?:the )?(?:only )?(?:most )?{_RIGHT}\b",
        rf"(?<!\w){_CAPITAL}{_CLOSE} remains\b",
        rf"\b{_SO}{_CHOSEN}{_KIND}{_CAPITAL}{_NEGATED}{_SEVERAL}{_END}",
        rf"\bnot{_KIND}{_OPEN}[A-Z]{_CLOSE},? (?:but|rather)\b(?: rather)?{_KIND}{_CAPITAL}",
        rf"(?:\A|\n)[\s#*_]{{0,8}}(?:my |final )?answer{_LETTER}{_NEGATED}{_SEVERAL}{_END}",
    )
)
_LABEL = (
    re.compile(
        rf"\A(?:#{{1,6}} ?)?(?:(?i:option|choice|answer)\b)?{_LETTER}{_NEGATED}{_SEVERAL}"
        rf"(?:[\s*_$`\"'.:)\]}}>]{{0,8}}\Z|{_CLOSE} ?[.:)\]][*_]* \S|{_CLOSE} [\u2013\u2014-] \S"
        rf"|{_CLOSE},? (?:because|since|as|for)\b)"
    ),
)
_NAMED = re.compile(
    rf"\b(?:{_SAYING}|(?:correct|right|best|final|my) (?:option|choice) (?:is|would be))\b[ :*\"'`]{{0,6}}"
    r"(?P<rest>[^\n]{1,300})",
    re.IGNORECASE,
)
"""What stands before a choice that is named by its text."""

_KEY = re.compile(
    rf"[\"'](?:final_?|correct_?)?(?:choice|option|letter)[\"']\s{{0,3}}:{_LETTER}{_CLOSE}\s{{0,3}}(?:[,}}]|\Z)",
    re.IGNORECASE,
)
_CHANGED = re.compile(
    r"\b(?:wait|actually|correction|no(?=,)|sorry|oops|mistaken?|instead|on second thought|re-?(?:consider|check|think|"
    r"examin|evaluat|read)\w*|however|scratch that|hmm+|revis\w+|updat\w+|changed? my)\b|\bbut\b(?! not)",
    re.IGNORECASE,
)
"""Words after which a later answer replaces an earlier one."""

_BOUNDARY = re.compile(r"(?![\w%]|[.,]\d)")
_ALTERNATIVE = re.compile(r"\W{0,3}(?:or|and|is (?:not|wrong|incorrect))\b", re.IGNORECASE)
_BEFORE_WORD = re.compile(r"\s+\w")
_LEADING = re.compile(
    r"(?:(?i:option|choice) )?(?:\((?P<enclosed>[A-Za-z])\)|(?P<bare>[A-Z])(?=$|[.:,)]| because\b)|(?P<alone>[a-z])$)"
    r"(?! ?(?:or|and|/) ?\(?[A-Za-z]\b)"
)
_MENTIONED = (re.compile(rf"\b(?:option|choice)\b{_IS}{_LETTER}{_NEGATED}{_SEVERAL}", re.IGNORECASE),)


class _Choice(NamedTuple):
    letter: str
    start: int
    final: bool = False


def choice_letter(text: str, choices: Sequence[str] | int = 26) -> str | None:
    r"""Return the letter that a text chooses, or None if it chooses none or several.

    The rules are tried in this order. The first one that finds a letter decides.

    | rule | examples, all B |
    |---|---|
    | a box, a labelled line, JSON | `\boxed{B}`, `**Answer:** B`, `Answer: Rome`, `{"answer": "B"}` |
    | "the answer is" | `The answer is likely (B).`, `The best answer here is option B.`, `The answer is Rome.` |
    | a letter that is called right | `It is B.`, `It is Rome.`, `B is correct.`, `A is wrong, so B.`, `not A but B` |
    | the text, its first or last line begins with it | `B`, `(b).`, `**B**`, `B) Rome`, `Option B`, `B, because ...` |
    | an option that is mentioned, and not called wrong | `I like option B` |
    | a text that equals a choice | `Rome` |

    "A or B" chooses nothing. A rule that finds different letters chooses nothing, unless the text says between them
    that it changed ("Wait", "however"), or calls one of them the final answer. An answer under another condition
    ("answer A would be right for England") is no choice.

    Args:
        text: a model's whole answer.
        choices: the choices, or their number. Letters beyond them are ignored.

    Returns:
        An upper-case letter, or None.
    """
    known = [] if isinstance(choices, int) else list(map(str, choices))
    letters = string.ascii_uppercase[: choices if isinstance(choices, int) else len(known)]
    first_line = text[:TEXT_MAX].strip().partition("\n")[0]
    text = text[-TEXT_MAX:]
    last_line = text.strip().rpartition("\n")[2]
    said = claims(text)
    rules: list[Callable[[], list[_Choice]]] = [
        lambda: sorted(
            [
                *_boxed(text, letters, known),
                *_claimed(said, letters, known, formal=True),
                *_found(text, (_KEY,), letters),
            ],
            key=lambda choice: choice.start,
        ),
        lambda: _claimed(said, letters, known, formal=False),
        lambda: _found(text, _ASSERTED, letters) or _named(text, known),
        lambda: _found(without_latex(text), _LABEL, letters),
        lambda: _found(without_latex(first_line), _LABEL, letters),
        lambda: _found(without_latex(last_line), _LABEL, letters),
        lambda: _found(text, _MENTIONED, letters)[-1:],
    ]
    for rule in rules:
        if found := rule():
            return _agreed(found, text)
    return _by_text(without_latex(last_boxed(text) or text), known)


def _boxed(text: str, letters: str, known: Sequence[str]) -> list[_Choice]:
    boxed = last_boxed(text)
    if boxed is None:
        return []
    content, start = without_latex(boxed), text.rfind(boxed)
    letter = _by_text(content, known)
    return (
        [_Choice(letter, start)] if letter else [one._replace(start=start) for one in _found(content, _LABEL, letters)]
    )


def _claimed(said: Iterable[Claim], letters: str, known: Sequence[str], *, formal: bool) -> list[_Choice]:
    found: list[_Choice] = []
    for claim in said:
        if claim.formal is formal:
            answer = without_latex(claim.answer)
            first = _found(f" {answer}", _STATED, letters)[:1]
            letter = _by_text(plain(answer), known) or (first[0].letter if first else _beginning(plain(answer), known))
            found += [_Choice(letter, claim.start, claim.final)] if letter else []
    return found


def _named(text: str, known: Sequence[str]) -> list[_Choice]:
    read = ((_beginning(plain(match["rest"]), known), match.start()) for match in _NAMED.finditer(text))
    return [_Choice(letter, start) for letter, start in read if letter]


def _agreed(found: Sequence[_Choice], text: str) -> str | None:
    """Return the letter of all choices, or of the last one if the text says that it replaces the others."""
    final = [choice for choice in found if choice.final] or found
    last = final[-1]
    others = [choice for choice in final if choice.letter != last.letter]
    if others and not _CHANGED.search(text, others[-1].start, last.start):
        return None
    return last.letter


def _found(text: str, patterns: Iterable[re.Pattern[str]], letters: str) -> list[_Choice]:
    """Return the letters that the patterns find, in the order of the text."""
    matches = [match for pattern in patterns for match in pattern.finditer(text) if _is_choice(match, letters)]
    choices = [_Choice(match["letter"].upper(), match.start("letter")) for match in matches]
    return sorted(choices, key=lambda choice: choice.start)


def _is_choice(match: re.Match[str], letters: str) -> bool:
    """Return False for a lower-case letter before a word, such as the article in "the answer is a number"."""
    letter = match["letter"]
    article = letter in "aiI" and _BEFORE_WORD.match(match.string, match.end("letter"))
    return letter.upper() in letters and not article


def leading_choice(answer: str) -> str | None:
    """Return the letter with which an answer begins, as in `(B) 12/02/1990`; None for `(A) or (B)` (BBH)."""
    match = _LEADING.match(answer)
    return match[match.lastgroup or 0].upper() if match else None


def named_choice(text: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the choice that a text equals or begins with, or None."""
    return _by_text(text, choices) or _beginning(text, choices)


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the only choice that equals a text."""
    wanted = normalize_or_keep(text)
    equal = [
        letter
        for letter, choice in zip(string.ascii_uppercase, choices, strict=False)
        if wanted and wanted in (normalize_or_keep(choice), normalize_or_keep(f"{letter} {choice}"))
    ]
    return equal[0] if len(equal) == 1 else None


def _beginning(text: str, choices: Sequence[str]) -> str | None:
    """Return the letter of the longest choice with which a text begins, if the text does not go on to another one."""
    folded = text.casefold()
    fitting = [
        (len(choice), letter)
        for letter, choice in zip(string.ascii_uppercase, choices, strict=False)
        if len(choice) > 1 and folded.startswith(choice.casefold()) and _BOUNDARY.match(text, len(choice))
    ]
    if not fitting:
        return None
    length, letter = max(fitting)
    return None if _ALTERNATIVE.match(text, length) else letter


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
