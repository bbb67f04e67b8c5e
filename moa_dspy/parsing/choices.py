"""Members of a closed set in a model's text, where it is clear which one is meant."""

from __future__ import annotations

import functools
import re
from itertools import islice
from typing import Final

from moa_dspy.parsing.phrases import answer_phrases, is_negated, undecorated, unlabelled

__all__ = ["read_bool", "read_choice"]

_SCANNED: Final = 200  # members in one text
_INSPECTED: Final = 2000  # places where a member may be
_TEXT_MAX: Final = 200_000
_TRUE: Final = ("true", "yes")
_FALSE: Final = ("false", "no")
_WHOLE_BOOL: Final = {
    **dict.fromkeys((*_TRUE, "y", "t", "1", "correct", "right", "affirmative", "✓", "✔", "✅"), True),
    **dict.fromkeys((*_FALSE, "n", "f", "0", "incorrect", "wrong", "negative", "✗", "✘", "❌"), False),
}
_VERDICT: Final = re.compile(
    r"(?<![\w-])(true|yes|false|no)(?=[*_`\"')\]]*(?:[.,;:!—–]|\s-|\s*\n|\s*\Z))", re.IGNORECASE
)
_YES: Final = re.compile(r"(?<![\w-])yes(?![\w-])", re.IGNORECASE)
_TRUTH: Final = re.compile(r"(?<![\w-])(true|false)(?![\w-])", re.IGNORECASE)


def read_choice(text: str, members: tuple[str, ...], *, prose: bool = True) -> str | None:
    """Return the member that a text names; None if it names none, or several.

    Args:
        text: a member with or without markup, quotes, punctuation and label, or a sentence that names one.
        members: the closed set.
        prose: whether a sentence may name it. If not, the text must be the member, or say that it is the answer.
    """
    text = text.strip()
    for form in (text, *_forms(text, members)):
        if form in members:
            return form
        named = [member for member in members if _folded(member) == _folded(form)]
        if len(named) == 1:
            return named[0]
        qualified = re.fullmatch(r"<?[A-Za-z_]\w{0,40}\.(\w{1,80})(?::[^<>]{0,80}>)?", form)
        if qualified and (named := [member for member in members if member.casefold() == qualified[1].casefold()]):
            return named[0] if len(named) == 1 else None
    if len(text) > _TEXT_MAX:
        return None
    stated = [_leading(phrase, members) for phrase in answer_phrases(text)]
    if stated:
        return stated[0] if len(set(stated)) == 1 else None
    return _named(text, members) if prose else None


def read_bool(text: str, *, prose: bool = True) -> bool | None:
    """Return whether a text says yes; None if it says neither, or both."""
    text = text.strip()[:_TEXT_MAX]
    for form in _forms(text, (*_TRUE, *_FALSE)):
        if form.casefold() in _WHOLE_BOOL:
            return _WHOLE_BOOL[form.casefold()]
    stated = [read_choice(phrase, (*_TRUE, *_FALSE), prose=prose) for phrase in answer_phrases(text)]
    if stated:
        return stated[0] in _TRUE if len(set(stated)) == 1 and stated[0] is not None else None
    if not prose:
        return None
    said = {match[1].casefold() in _TRUE for match in _VERDICT.finditer(text) if not is_negated(text, match.start())}
    said |= {True for match in _YES.finditer(text) if not is_negated(text, match.start())}
    first = _VERDICT.match(text.lstrip("*_`\"' "))
    if first is not None:
        return said.pop() if len(said) == 1 else None
    found = list(_TRUTH.finditer(text))[:_SCANNED]
    if any(is_negated(text, match.start()) for match in found):
        return None
    said |= {match[1].casefold() == "true" for match in found}
    return said.pop() if len(said) == 1 else None


def _forms(text: str, members: tuple[str, ...]) -> tuple[str, str]:
    """Return a text without markup, and also without its label. A label that names a member is none."""
    plain = undecorated(text)
    rest = unlabelled(plain)
    label = plain[: len(plain) - len(rest)]
    return plain, plain if label and _pattern(members).search(label) else undecorated(rest)


def _folded(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text.strip()).casefold()


def _leading(phrase: str, members: tuple[str, ...]) -> str | None:
    """Return the member with which a phrase begins; None if it goes on with another one."""
    whole = read_choice(phrase, members, prose=False) if not answer_phrases(phrase) else None
    if whole is not None:
        return whole
    lead = phrase.strip().lstrip("*_`\"'([{<: ")
    match = _pattern(members).match(lead)
    if match is None:
        return _named(phrase, members)
    others = {match[0].casefold() for match in _found(lead, members)} - {match[0].casefold()}
    following = re.match(r"\W{0,4}(?:or|and|/)\W", lead[match.end() :], re.IGNORECASE)
    return None if others and following else _member(match[0], members)


def _named(text: str, members: tuple[str, ...]) -> str | None:
    """Return the only member in a sentence that is not negated."""
    found = _found(text, members)
    said = {_member(match[0], members) for match in found if not is_negated(text, match.start())}
    return said.pop() if len(said) == 1 else None


def _found(text: str, members: tuple[str, ...]) -> list[re.Match[str]]:
    """Return the places where a text names members. A single letter must be marked, because it may be a word."""
    found: list[re.Match[str]] = []
    for match in islice(_pattern(members).finditer(text), _INSPECTED):
        if len(match[0]) > 1 or match[0].isdigit() or _is_marked(text, match):
            found.append(match)
        if len(found) >= _SCANNED:
            break
    return found


def _is_marked(text: str, match: re.Match[str]) -> bool:
    """Return whether a single letter stands in brackets or markup, begins the text, or follows a word for a choice."""
    letter, start, end = match[0], match.start(), match.end()
    if not letter.isupper():
        return False
    before, after = text[max(0, start - 24) : start], text[end : end + 3]
    if before[-1:] and before[-1:] in "([{*_`\"'" and after[:1] in tuple(")]}*_`\"'."):
        return True
    if not before.strip() and (not after.strip() or re.match(r"[).:,]|\s-", after)):
        return True
    named = re.search(
        r"\b(?:option|choice|answer|letter|verdict|is|be|pick|choose|select)\W{0,3}\Z", before, re.IGNORECASE
    )
    return named is not None and not re.match(r"\s[a-z]", after)


def _member(found: str, members: tuple[str, ...]) -> str | None:
    if found in members:
        return found
    named = [member for member in members if _folded(member) == _folded(found)]
    return named[0] if len(named) == 1 else None


@functools.lru_cache(maxsize=256)
def _pattern(members: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern for any of the members, as whole words. Longer members go first."""
    spelt = sorted((r"[\s_-]{1,3}".join(map(re.escape, _folded(member).split())) for member in members), key=len)
    return re.compile(
        rf"(?<![\w+#-])(?<!\d[.,])(?:{'|'.join(filter(None, reversed(spelt)))})(?![\w+#-]|[.,]\d)", re.IGNORECASE
    )
