"""What a chat template may read as a special token, by its shape.

A token is recognised by its brackets and by what its name is made of, not by a list of tokens: templates of new models
follow the same habits. Ordinary markup and code keep their form: elements of HTML, SVG and MathML, other XML elements
that are closed, generics, indices, links, log levels in brackets.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

__all__ = ["GAP", "HIDDEN", "INVISIBLE", "broken", "spaced"]

# Unicode's default ignorable code points. They are invisible and may hide inside a token.
INVISIBLE: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Possessive, so that a long run of them is read only once.
HIDDEN: Final = f"[{INVISIBLE}]*+"
GAP: Final = f"[\\s{INVISIBLE}]*+"
_INVISIBLE_ONE: Final = re.compile(f"[{INVISIBLE}]")

# The groups are the bracket, what follows it, a slash, what follows that, and the content.
_ANGLED: Final = re.compile(f"([<\uff1c])({GAP})(?:([/\uff0f])({GAP}))?(?=([^<>\uff1c\uff1e\n]{{1,100}})[>\uff1e])")
_SQUARE: Final = re.compile(f"(\\[)({HIDDEN})(?:(/)({HIDDEN}))?(?=([^\\[\\]\n]{{1,60}})\\])")
# Brackets that no language pairs: ]~b], [e~[, ]<]image[>[, and the triangles of Kimi.
_ODD: Final = re.compile(
    f"\\](?={HIDDEN}(?:~!?{HIDDEN}\\w{{1,20}}{HIDDEN}[\\[\\]]|<{HIDDEN}\\]))"
    f"|\\[(?={HIDDEN}(?:\\w?~{HIDDEN}\\[|>{HIDDEN}\\[))"
    "|\u25c1(?=[^\u25b7\n]{1,60}\u25b7)"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BYTE: Final = re.compile(r"0x[0-9A-F]{2}")
_ASSIGNED: Final = re.compile(r"[a-z_]+ ?=[^>]")
_NAME: Final = re.compile(r"[A-Za-z_][\w:.|\u2581-]*")
_ENDED: Final = re.compile(r"/?$|[\s=]")  # what may follow a name; not a path, an address or a pair of types
_CAMEL: Final = re.compile(r"[A-Z][a-z]")
_WORD: Final = re.compile(r"[A-Za-z]+")
_ALONE: Final = _words("user assistant human bot image img audio video speech sound mask box obj poly ground grounding")
_TAG: Final = re.compile(r"<(/?)([A-Za-z_][\w:.-]*)")
_CAPITALS: Final = re.compile(r"[a-z]?[A-Z][A-Z0-9_]{2,}(?: [A-Z0-9_]+){0,3}")
_NUMBERED: Final = re.compile(r"(?:unused|control|reserved|special|extra)[a-z_]*[0-9]+", re.IGNORECASE)
# Beginning or end of a sequence, document, turn, image and so on: bos, eos, sop, eod, eot, boi.
_BOUND: Final = re.compile(r"(?:[be]o[acdimpstv]|so[mps])s?")

# What only control tokens are named after: turns, reasoning, tools, padding.
_CONTROL: Final = _words(
    "think thinking thought thoughts reasoning reflection role turn utterance inst sys tool tools toolcall toolcalls"
    " arg special reserved unused pad unk cls sep fim gmask im img invoke"
)
# Those that count also where they stand like an index, directly after a word.
_IN_BRACKETS: Final = _words("think thinking turn role inst sys system prompt tool tools call args available")
# What ordinary markup is named after as well. Two of them make a control token, a single one in a tag that stays open.
_SHARED: Final = _words(
    "user assistant system human bot model image audio video speech sound vision function functions call calls"
    " parameter param response result results observation prefix suffix middle mask token tokens args key"
    " value start begin end of extra patch point object obj ref box poly ground grounding loc placeholder blank soft"
    " available channel message scratchpad"
)


def broken(text: str) -> str:
    """Return a text in which each possible special token has a space after its bracket, and after its slash."""
    if "<" in text or "\uff1c" in text:
        tags = set(_TAG.findall(text))
        paired = {name for slash, name in tags if not slash and ("/", name) in tags}
        text = _ANGLED.sub(lambda match: spaced(match) if _is_angled_token(match, paired) else match.group(), text)
    if "[" in text or "]" in text or "\u25c1" in text:
        text = _SQUARE.sub(lambda match: spaced(match) if _is_square_token(match) else match.group(), text)
        text = _ODD.sub(r"\g<0> ", text)
    return text


def spaced(match: re.Match[str]) -> str:
    """Return the beginning of a tag with a space after its bracket and after its slash."""
    bracket, before, slash, after, *_ = match.groups()
    parts = [bracket, _INVISIBLE_ONE.sub("", before) or " "]
    if slash is not None:
        parts += [slash, _INVISIBLE_ONE.sub("", after) or " "]
    return "".join(parts)


def _is_angled_token(match: re.Match[str], paired: set[str]) -> bool:
    content = _visible(match)
    inner = content.strip("|")
    if inner != content:  # a bar at a bracket; a space beside a bar is an operator of a language
        return bool(inner) and ("\uff5c" in match.group(5) or not (inner[0].isspace() or inner[-1].isspace()))
    if "\uff5c" in match.group(5) or _BYTE.fullmatch(content):
        return True
    name = _NAME.match(content)
    if name is None or _CAMEL.search(name.group()) or not _ENDED.match(content, name.end()) or _is_group(match):
        return False
    words = [word.lower() for word in _WORD.findall(name.group())]
    if content == "s" or _NUMBERED.fullmatch(content) or any(map(_BOUND.fullmatch, words)):
        return True
    if name.group() != "img" and not _CONTROL.isdisjoint(words):
        return True
    if _is_glued(match):
        return False
    if _ASSIGNED.match(content) or sum(word in _SHARED for word in words) >= 2:
        return True
    bounds = len(words) > 1 and words[-1] in ("start", "begin", "end")
    alone = name.group() == content and name.group() not in paired
    return alone and (bounds or (len(words) == 1 and words[0] in _ALONE))


def _is_square_token(match: re.Match[str]) -> bool:
    content = _visible(match)
    if match.group(5)[:1].isspace():  # broken up already
        return False
    if content[:1] == content[-1:] == "|" and len(content) > 2:
        return not (content[1].isspace() or content[-2].isspace())
    if _NUMBERED.fullmatch(content):
        return not _is_glued(match)
    if not _CAPITALS.fullmatch(content):
        return False
    words = {word.lower() for word in re.findall(r"[A-Z]+", content)}
    if words & _IN_BRACKETS:
        return True
    end = match.end(5) + 1
    before, after = match.string[match.start() - 1 : match.start()], match.string[end : end + 20].lstrip(" ")[:1]
    if _is_glued(match) or before in tuple(")}\\") or after == "=":  # an index, or a designator of C
        return False
    if words & (_CONTROL | _SHARED) or any(map(_BOUND.fullmatch, words)):
        return True
    return not (before in tuple("=([]") or after in tuple("([:),;.]*"))


def _is_group(match: re.Match[str]) -> bool:
    """Return whether this is the name of a group in a regular expression, as in ``(?P<name>``."""
    return match.string[max(match.start() - 2, 0) : match.start()] in ("?P", "(?")


def _visible(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", _INVISIBLE_ONE.sub("", match.group(5))).strip()


def _is_glued(match: re.Match[str]) -> bool:
    """Return whether the token follows a word or a scope, as a generic or an index does."""
    before = match.string[max(match.start() - 2, 0) : match.start()]
    return before[-1:].isalnum() or before[-1:] == "_" or before == "::"
