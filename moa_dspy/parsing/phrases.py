"""What surrounds a value in a model's text: markup, quotes, labels, phrases that state an answer, negations."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["answer_phrases", "is_negated", "undecorated", "unlabelled"]

_PAIRS: Final = {"(": ")", "[": "]", "{": "}", "“": "”", "‘": "’", "«": "»", "„": "“", "「": "」", "<": ">"}
_EDGES: Final = "*_`\"'~ \t\r\n"
_END: Final = ".,;:!。，"
_LATEX: Final = re.compile(
    r"\A(?:\\boxed|\\fbox|\\text|\\mathbf|\\mathrm|\\textbf)\s*\{(.*)\}\Z|\A\\[(\[](.*)\\[)\]]\Z|\A\$\$?(.*?)\$\$?\Z",
    re.DOTALL,
)
_FENCE: Final = re.compile(r"\A(```+|~~~+)[\w+-]{0,20}[ \t]{0,4}\n")
_WRAPPED: Final = re.compile(r"\A(?:Literal|str|int|float|bool|Optional)\s*[\[(](.*)[\])]\Z", re.DOTALL)
_LABEL: Final = re.compile(
    r"\A\W{0,6}(?:(?:so|thus|therefore|hence)[, ]+)?(?:(?:the|my|our)\s+)?(?:final\s+|correct\s+|overall\s+)?"
    r"(?:[^\W\d_]{2,20}[ _]){0,2}[^\W\d_]{2,20}\s*\W{0,3}(?::|=|->|→|\bis:?\s)\s*",
    re.IGNORECASE,
)
_STATES: Final = re.compile(
    r"\\boxed\s*\{((?:[^{}]|\{[^{}]{0,200}\}){0,500})\}"
    r"|^[ \t]*####[ \t]*([^\n]{1,300})"
    r"|\b(?:final\s+)?(?:answer|verdict|conclusion|classification)\W{0,6}"
    r"(?:(?:is|would be|must be|=|:)[*_: \t]{0,8}+){1,4}+"
    r"(?:\n\s{0,20})?([^\n]{1,300})",
    re.IGNORECASE | re.MULTILINE,
)
_NEGATION: Final = re.compile(
    r"(?:\b(?:not|never|neither|nor|no longer|rather than|instead of|unlike|without|cannot|hardly|far from"
    r"|anything but|except)"
    r"|n['’]t)\s+(?:(?!but\b|and\b|yet\b)[\w'’]+\s+){0,2}\W{0,3}\Z",
    re.IGNORECASE,
)
_BEFORE: Final = 48


def undecorated(text: str) -> str:
    """Return a text without markup, quotes, brackets and punctuation around it."""
    for _ in range(8):
        before = text
        text = text.strip(_EDGES).rstrip(_END).strip(_EDGES)
        fenced = _FENCE.match(before.strip())
        latex = _LATEX.match(text)
        if fenced and before.rstrip().endswith(fenced[1]):
            text = before.strip()[fenced.end() : -len(fenced[1])]
        elif latex:
            text = next(part for part in latex.groups() if part is not None)
        elif text[:1] in _PAIRS and text.endswith(_PAIRS[text[0]]) and text.count(text[0]) == 1:
            text = text[1:-1]
        elif wrapped := _WRAPPED.match(text):
            text = wrapped[1]
        if text == before:
            break
    return text


def unlabelled(text: str) -> str:
    """Return a text without a label such as ``Answer:`` before it."""
    match = _LABEL.match(text[:200])
    return text[match.end() :] if match else text


def answer_phrases(text: str) -> list[str]:
    """Return what follows each phrase that states an answer: ``the answer is``, ``####``, or LaTeX's box."""
    return [next(part for part in match.groups() if part is not None) for match in _STATES.finditer(text)][:50]


def is_negated(text: str, at: int) -> bool:
    """Return whether the words before a position negate what stands there."""
    return _NEGATION.search(text[max(0, at - _BEFORE) : at]) is not None
