"""Whether the words around a value deny it: ``not 9``, ``I do not think that it is 9``, ``9 can be ruled out``.

The negations of the clause are counted: two of them affirm (``there is no doubt that it is 9``, ``9 is not wrong``).
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_negated"]

_BEFORE: Final = 100
_AFTER: Final = 80

_NOT: Final = (
    r"(?:\b(?:not|never|cannot|no longer|hardly|scarcely|by no means|in no way|far from|anything but)\b|n['’]t\b)"
)
_WRONG: Final = (
    r"(?:wrong|incorrect|untrue|false|bad|impossible|improbable|implausible|invalid|unlikely|doubtful|misleading"
    r"|inaccurate|absurd|inconsistent|nonsense)"
)
_REJECTED: Final = r"(?:(?:rul|exclud|eliminat|reject|discard|dismiss|den[iy])(?:e|es|ed|ing)?(?: out)?)"
_NEGATIVE: Final = re.compile(
    rf"(?P<nor>\bnor\b)|{_NOT}"
    r"|\b(?:neither|rather than|instead of|unlike|without|except(?: for)?|other than|disagree\w*|refuse\w*|nobody"
    r"|no one|nothing|none|fail(?:s|ed)? to|forget|(?<!in )(?<!of )doubt(?:s|ed|ful)?"
    rf"|{_REJECTED}|no(?= (?:\Z|(?!it\b|the\b|this\b|that\b|i\b|we\b|my\b)[a-z]))"
    r"|(?:hard|difficult|mistake|error)(?= (?:that|to|if)\b)"
    rf"|{_WRONG}(?= (?:that|to|if|it)\b))\b",
    re.IGNORECASE,
)
# What looks like a negation and denies nothing that follows.
_IDIOM: Final = re.compile(
    r"\b(?:(?:beyond|without|no)\s+(?:(?:a|any|all|reasonable|shadow of a|the slightest)\s+)*(?:doubt|question|wonder)"
    r"|(?:not|n['’]t)\s+(?:only|just|merely|simply|to mention|surprising(?:ly)?|unexpectedly)|why not"
    r"|(?:am|['’]m)\s+not\s+(?:wrong|mistaken)|can(?:not|['’]t)\s+help but"
    r"|no\s+(?:choice|option|alternative|other)(?:\s+\w+)?\s+(?:but|than)"
    r"|(?:nothing|none|not(?:hing)? else)\s+(?:but|other than)|can(?:not|['’]t) (?:possibly )?be anything but"
    r"|c(?:an|ould)(?:\s*not|n?['’]t)\s+be\s+(?:(?:anything|anyone)\s+)?"
    r"(?:but|other than|more \w+|(?:clear|sur|simpl|plain)er))\b",
    re.IGNORECASE,
)
_ASIDE: Final = re.compile(
    r",\s*(?:however|though|of course|in fact|personally|honestly|in my (?:view|opinion))\s*,", re.IGNORECASE
)
# Where a negation ends: what follows is said for itself.
_BOUNDARY: Final = re.compile(
    r"[.!?;]\s|[\n,]|(?<!not )(?<!n['’]t )\bso\b"
    r"|\b(?:(?<!anything )but|and|yet|because|since|therefore|thus|hence|then|although|though|while|whereas|if"
    r"|unless)\b",
    re.IGNORECASE,
)
_WORD: Final = r"\\?[^\W\d][\w'’]*"
# Of what a sentence says before a colon, only the verb or noun next to it is about the value.
_END: Final = r"(?:(?!\W{0,5}:)|(?<=\bis)|(?<=\bbe)|(?<=\bsay)|(?<=answer)|(?<=option)|(?<=choice))\W{0,6}\Z"
_NEAR: Final = re.compile(
    rf"(?:\W{{0,6}}\Z|(?:\s+(?:so|that|too|very)|(?:\s+(?!(?:that|sure|there)\b){_WORD}){{1,4}}){_END})", re.IGNORECASE
)
# Words whose complement is denied with them.
_CLAIMING: Final = (
    r"(?:think|believe|sa(?:y|id)|agree|feel|suppose|imagine|expect|claim|conclude|consider|mean|see|buy|accept|assume"
    r"|recommend|suggest|imply|find|guess|prove|show|indicate|convinced|sure|certain|confident|clear|evident|obvious"
    r"|likely|true|right|correct|possible|plausible|case|evidence|reason|way|chance|sign|proof|indication|basis|that)"
    r"(?:s|es|d|ed|ing)?"
)
_COMPLEMENT: Final = re.compile(rf"(?:\s+{_WORD}){{0,3}}?\s+{_CLAIMING}(?:\s+{_WORD}){{0,12}}{_END}", re.IGNORECASE)
_ITSELF: Final = re.compile(
    rf"(?:doubt|disagree|den[iy]|refuse|forget|nobody|no one|nothing|none|hard|difficult|mistake|error|fail|{_WRONG})",
    re.IGNORECASE,
)
"""Negations whose complement is denied without a further word: `I doubt it is 9`."""
_REACH: Final = re.compile(rf"(?:\s+{_WORD}){{0,12}}{_END}", re.IGNORECASE)

_ADVERB: Final = r"also|just|still|clearly|certainly|definitely|therefore|thus|obviously|probably|simply|really|very"
_VERB: Final = (
    r"(?:is|are|was|were|be|been|being|seems?|looks?|appears?|sounds?|remains?|becomes|does|do|did|has|have|had"
    r"|can|could|will|would|should|must|may|might|shall|makes|made|ca|wo)"
)
_DENYING: Final = re.compile(
    rf"{_NOT}|\b(?:no|neither|{_WRONG}|{_REJECTED}|fail(?:s|ed)?|contradicts?|mistake|distractor|trap"
    r"|out of(?= (?:the question|consideration|contention|place|bounds)))\b",
    re.IGNORECASE,
)
_NO_SUBJECT: Final = (
    r"because|since|as|and|or|but|which|that|who|where|while|if|so|when|whereas|though|unless|than|then"
)
_CLOSE: Final = r"[*_`\"'”’)\]}]{0,4}"
# Up to three words that go on with the value, and what is said of it: verbs, negations and adjectives.
_PREDICATE: Final = re.compile(
    rf"{_CLOSE}(?:\s+(?!(?:{_NO_SUBJECT}|{_VERB}(?:n['’]t)?|{_DENYING.pattern})\b)[^\W\d]+){{0,3}}{_CLOSE}"
    r"(?:,\s+(?:however|though)\s*,)?"
    rf"(?P<said>\s+(?:{_VERB}n['’]t|{_VERB}|{_DENYING.pattern})\b"
    rf"(?:\s+(?:{_VERB}|{_ADVERB}|an?|the|sense|question|{_DENYING.pattern})\b)*)"
    rf"|{_CLOSE}(?:\s\w+){{0,2}}\?\s+(?P<no>no|nope|wrong|incorrect|false|not)\b",
    re.IGNORECASE,
)


def is_negated(text: str, start: int, end: int | None = None) -> bool:
    """Return whether the words before a value, or after its ``end``, deny it: `not 9`, `9 is wrong`."""
    before = text[max(0, start - _BEFORE) : start]
    if text[start : start + 1].isdigit():
        before = before.removesuffix(", no ")  # a correction
    if _denied_before(before):
        return True
    return end is not None and _denied_after(text[end : end + _AFTER])


def _denied_before(before: str) -> bool:
    if not _NEGATIVE.search(before):
        return False
    clause = _BOUNDARY.split(_IDIOM.sub(" ", _ASIDE.sub(" ", before)))[-1]
    found = list(_NEGATIVE.finditer(clause))
    if not found:
        return False
    last = found[-1]
    rest = clause[last.end() :]
    if not (
        _NEAR.match(rest) or _COMPLEMENT.match(rest) or (_ITSELF.match(last[0]) is not None and _REACH.match(rest))
    ):
        return False
    return last["nor"] is not None or len(found) % 2 == 1


def _denied_after(after: str) -> bool:
    predicate = _PREDICATE.match(_IDIOM.sub(" ", after))
    if predicate is None:
        return False
    return predicate["no"] is not None or len(_DENYING.findall(predicate["said"])) % 2 == 1
