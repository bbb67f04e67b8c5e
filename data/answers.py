"""The answer inside a model's text: boxed, marked, or a choice letter."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

__all__ = ["choice_letter", "comparable", "f1", "last_boxed", "normalize"]

_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)\s{0,9}\{)|\\.|[{}]", re.DOTALL)
_TEXT_MAX = 100_000
_MARKED = re.compile(
    r"\b(?:answer|choice|option)\b ?(?:is\b|=)? ?:?"
    r"[*_$ (\[{]{0,8}(?:\\(?:text|textbf|boxed|mathrm) ?\{)?[( ]{0,2}(?P<letter>[A-Za-z])(?![\w'])",
    re.IGNORECASE,
)
_ALONE = re.compile(r"[ *_$(\[]*(?P<letter>[A-Za-z])(?:[ *_$.:)\]]*$|[ ]?[.:)\]][*_]* \S)")
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf) ?\{([^{}]*)\}")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = frozenset(string.punctuation)


def last_boxed(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` holds, with nested braces; None where there is none that is closed.

    A box inside a box is part of the outer one. One pass over the last 100 000 characters.
    """
    text = text[-_TEXT_MAX:]
    found = None
    opened: list[int | None] = []
    for match in _BRACE.finditer(text):
        if match["box"] or match[0] == "{":
            opened.append(match.end() if match["box"] else None)
        elif match[0] == "}" and opened and (start := opened.pop()) is not None:
            found = text[start : match.start()]
    return found


def choice_letter(text: str, choices: Sequence[str] | int = 26) -> str | None:
    """The letter that a text chooses.

    In this order: the last boxed letter, the last "answer: B" (also "the answer is (B)"), a text that is one letter
    (``B``, ``(b).``) or begins with one as a label (``B) ...``), and, where the choices are known, a text that is one
    of them.

    Args:
        text: a model's whole answer.
        choices: the choices, or how many there are; letters beyond them do not count.

    Returns:
        An upper-case letter, or None where nothing is chosen.
    """
    letters = string.ascii_uppercase[: choices if isinstance(choices, int) else len(choices)]
    text = " ".join(text[-_TEXT_MAX:].split())
    boxed = last_boxed(text)
    candidates = [_WRAPPER.sub(r"\1", boxed)] if boxed is not None else []
    marked = [match["letter"].upper() for match in _MARKED.finditer(text) if _counts(match, letters)]
    alone = (_ALONE.match(candidate) for candidate in [*candidates, text])
    found = [match["letter"].upper() for match in alone if match and match["letter"].upper() in letters]
    if boxed is not None and found:
        return found[0]
    if marked:
        return marked[-1]
    if found:
        return found[0]
    return None if isinstance(choices, int) else _by_text(boxed or text, choices)


def _counts(match: re.Match[str], letters: str) -> bool:
    """Not the article of "the answer is a number": a lower-case letter with a word after it is no choice."""
    letter = match["letter"]
    followed_by_word = re.match(r"\s+\w", match.string[match.end() :]) is not None
    return letter.upper() in letters and not (letter in "aiI" and followed_by_word)


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    wanted = comparable(text)
    equal = [position for position, choice in enumerate(choices) if wanted and comparable(str(choice)) == wanted]
    return string.ascii_uppercase[equal[0]] if len(equal) == 1 else None


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


def f1(prediction: str, reference: str) -> float:
    """Token F1 of two normalised texts, from 0 to 1; yes, no and noanswer match only themselves (HotPotQA)."""
    predicted, expected = normalize(prediction), normalize(reference)
    special = {"yes", "no", "noanswer"}
    if predicted != expected and (predicted in special or expected in special):
        return 0.0
    given, wanted = predicted.split(), expected.split()
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted)) if common else 0.0
