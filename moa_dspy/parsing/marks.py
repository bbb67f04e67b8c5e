"""Marks in a model's text: tags and tokens that frame reasoning, turns and answers.

A mark is recognised by its shape (brackets, bars, a slash, the words of its name) and by its position. There is no
list of models. Text that only mentions a mark, such as an answer that explains ``<think>``, is told apart by its
surroundings: quotes, code, or a sentence that goes on.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

__all__ = [
    "COGNITION",
    "OPENING_SAYS",
    "Mark",
    "fences",
    "has_cognition",
    "is_mention",
    "span_at",
    "tags",
    "tokens",
    "words_of",
]

# Word stems of the names for reasoning. A name such as ``seed:think`` or ``begin_of_thought`` contains one of them.
COGNITION: Final = re.compile(
    r"think|thought|reasoning|reflecti|ponder|deliberat|contemplat|meditat|cogitat|ruminat|introspect|musing"
    r"|scratch[ _-]?pad|monologue|rationale|brainstorm|(?<![^\W_])cot(?![^\W_])|chain[ _-]of|self[ _-]?talk"
    r"|思考|推理|思维|思維|размышл|рассужд|réflexion|pensée|pensamiento|razonamiento|raciocínio|denken|gedanken",
    re.IGNORECASE,
)
_CLOSING: Final = frozenset({"end", "close", "closing", "stop", "suffix", "finish", "done"})
_FRAMING: Final = _CLOSING | {"start", "begin", "open", "opening", "prefix", "of", "the"}
_ENDS_TURN: Final = frozenset({"eos", "eot", "eom", "eod", "eop", "return", "call"})
_WORD: Final = re.compile(r"[^\W\d_]+")
_CAMEL: Final = re.compile(r"(?!(?:antThinking|chainOfThought)\Z).*[a-z][A-Z]")
"""Names of elements of XML or JSX (`getThought`), except those that can be nothing else than reasoning."""
_BARS: Final = "|｜"
_SLASHES: Final = "/／"

_OPENERS: Final = r"&lt;|[<＜◁⟨〈《«‹【\[]"
_CLOSERS: Final = r"&gt;|[>＞▷⟩〉》»›】\]]"
_TAG: Final = re.compile(
    rf"\\?(?P<opener>{_OPENERS})(?P<two>(?P=opener))?+(?P<lead>[\s\\:_~!*#{_BARS}{_SLASHES}-]{{0,4}}+)"
    rf"(?P<name>[^\W\d_][\w:.▁-]{{0,40}}+)(?P<rest>\s[^<>＜＞◁▷\[\]\n&]{{0,200}}+)?"
    rf"(?P<tail>[\s{_BARS}{_SLASHES}]{{0,4}}+)\\?(?P<closer>{_CLOSERS})(?(two)(?P=closer))"
)
# Special tokens of chat templates, by shape: bars inside brackets, a tilde between brackets, or a name that is made of
# control words only.
_BARRED: Final = (
    rf"<[{_BARS}][^<>{_BARS}\n]{{1,60}}[{_BARS}]?>|<[^<>{_BARS}\s/][^<>{_BARS}\n]{{0,60}}[{_BARS}]>"
    r"|\[\|[^\[\]|\n]{1,60}\|\]"
)
_CONTROL: Final = (
    r"(?:[Bb][Oo][Ss]|[Ee][Oo][STDMPstdmp]|[Ss][Oo][Pp]|[Pp][Aa][Dd]|[Uu][Nn][Kk]|INST|DONE|STOP"
    r"|(?i:(?:start|begin|end)_of_\w{1,40}|(?:\w{1,20}[:_])?(?:bos|eos|eot|eom)(?:_token)?)|[A-Z_]{2,30}_TOKEN"
    r"|SPECIAL_\d{1,6}|extra_id_\d{1,6}|0x[0-9A-F]{2})"
)
_LINK: Final = re.compile(r"\((?:https?:|[/#.])[^\s()]*\)|:\s*https?:")
_TOKEN: Final = re.compile(rf"{_BARRED}|</?{_CONTROL}>|\[/?{_CONTROL}\]|</?s>|[\[\]][a-z!]?~!?[a-z]?[\[\]](?!\()")
_FENCE: Final = re.compile(r"^[ \t]{0,3}(```+|~~~+)([^\n`]*)$", re.MULTILINE)

_QUOTES: Final = "`\"'“”‘’«»„"
_TERMINAL: Final = ".!?;…。！？)]}*>▷》】"
# A sentence that goes on with a mark after one of these words mentions it.
_LEADS_TO_MENTION: Final = re.compile(
    r"(?:^|\W)(?:a|an|and|as|between|by|called|closing|emits?|ending|in|is|its|like|named|opening|or|output|tags?"
    r"|tokens?|the|to|use|using|with|writes?|put|adds?|of|markers?|marks?|string|before|after|until|from|for|are)\Z",
    re.IGNORECASE,
)
_ANSWER_IS: Final = re.compile(r"\b(?:answer|result|it)(?:'s| is)\Z", re.IGNORECASE)
# What follows a mark that begins a sentence about it.
OPENING_SAYS: Final = re.compile(
    r"[ \t]+(?:is|was|are|were|and|or|in|tags?|blocks?|elements?|tokens?|marks?|opens?|starts?|begins?|means|stands"
    r"|denotes?|wraps?|can|should|must|comes|goes|tells)\b"
)
_CLOSING_SAYS: Final = re.compile(r"[ \t]+(?:is|was|are|tags?|tokens?|marks?|ends?|closes?|means|denotes?)\b")
_VISIBLE: Final = re.compile(r"\S")
_AROUND: Final = 80
_MARKS_MAX: Final = 100


@dataclass(frozen=True)
class Mark:
    """A tag or token in a text.

    Attributes:
        start: index of its first character.
        end: index after its last character.
        name: its name, in lower case.
        words: the words of its name, in lower case.
        closes: whether it ends a part: a slash, a bar on the right side only, or a word such as ``end``.
        empty: whether it opens and closes at once, as ``<think/>``.
        plain: whether it is a tag between angle brackets, or a token.
        thinks: whether its name speaks of reasoning.
        token: whether it is a special token of a chat template.
    """

    start: int
    end: int
    name: str
    words: tuple[str, ...]
    closes: bool = False
    empty: bool = False
    plain: bool = True
    thinks: bool = True
    token: bool = False

    @functools.cached_property
    def core(self) -> tuple[str, ...]:
        """Return the words without those for begin and end. A pair of marks has the same."""
        return tuple(word for word in self.words if word not in _FRAMING)


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name, in lower case: ``START_THINKING`` gives start and thinking."""
    return tuple(word.lower() for word in _WORD.findall(name.replace("_", " ").replace("▁", " ")))


def has_cognition(text: str) -> bool:
    """Return whether a short text speaks of reasoning."""
    return COGNITION.search(text) is not None


def tags(text: str) -> list[Mark]:
    """Return the tags of a text whose name or attributes speak of reasoning: the first and the last hundred."""
    found = (match for match in _TAG.finditer(text) if COGNITION.search(match[0]))
    return [mark for mark in (_tag(text, match) for match in _outer(found)) if mark is not None]


def tokens(text: str) -> list[Mark]:
    """Return the special tokens of a text: the first and the last hundred."""
    return [_token(match) for match in _outer(_TOKEN.finditer(text))]


def _outer(matches: Iterator[re.Match[str]]) -> list[re.Match[str]]:
    return [*islice(matches, _MARKS_MAX), *deque(matches, _MARKS_MAX)]


def _tag(text: str, match: re.Match[str]) -> Mark | None:
    name, rest = match["name"], match["rest"] or ""
    plain = match["opener"].endswith(("<", "＜", "◁", "&lt;"))
    words = words_of(name if "=" in rest else f"{name} {rest}")
    if not has_cognition(f"{name} {rest}") or _CAMEL.match(name) or len(words) > 4:
        return None
    if not (plain or _is_bracketed_name(text, match)):
        return None
    slash = any(one in match["lead"] for one in _SLASHES)
    closes = slash or any(word in _CLOSING for word in (*words[:1], *words[-1:]))
    empty = not closes and (rest + match["tail"]).rstrip().endswith("/")
    certain = plain or name.isupper() or closes
    return Mark(match.start(), match.end(), name.lower(), words, closes, empty, certain)


def _is_bracketed_name(text: str, match: re.Match[str]) -> bool:
    """Return whether square or quoting brackets contain a name and nothing else, and are no link."""
    alone = has_cognition(match["name"]) and not (match["rest"] or "").strip(_BARS + _SLASHES + " \t")
    if match["name"].isupper():  # a token of a chat template, unless what follows is the address of a link
        return alone and not _LINK.match(text, match.end())
    return alone and text[match.end() : match.end() + 1] not in ("(", "[", ":")


def _token(match: re.Match[str]) -> Mark:
    inner = match[0][1:-1]
    words = words_of(inner)
    right_only = inner[-1:] in _BARS and inner[:1] not in _BARS
    slash = inner.lstrip(_BARS).startswith("/")
    closes = slash or right_only or "e~" in inner or any(_ends_turn(word) for word in words)
    return Mark(match.start(), match.end(), inner.lower(), words, closes, thinks=has_cognition(inner), token=True)


def _ends_turn(word: str) -> bool:
    return word in _CLOSING or word in _ENDS_TURN or word.startswith("endof")


def fences(text: str) -> list[tuple[int, int]]:
    """Return the spans of closed code blocks, in order."""
    spans: list[tuple[int, int]] = []
    opened: re.Match[str] | None = None
    for match in _FENCE.finditer(text):
        if opened is None:
            opened = match
        elif not match[2].strip() and match[1].startswith(opened[1]):
            spans.append((opened.start(), match.end()))
            opened = None
    return spans


def span_at(position: int, spans: list[tuple[int, int]]) -> int:
    """Return the index of the ordered span in which a position lies; -1 if it lies in none."""
    at = bisect_right(spans, position, key=lambda span: span[0]) - 1
    return at if at >= 0 and position < spans[at][1] else -1


def is_mention(text: str, mark: Mark) -> bool:
    """Return whether a sentence mentions the mark, so that it has no effect.

    A mark with effect stands at the start or the end of a line, follows the end of a sentence, or is attached to the
    text that it ends.
    """
    before, after = text[max(0, mark.start - _AROUND) : mark.start], text[mark.end : mark.end + _AROUND]
    if before and after and before[-1] in _QUOTES and after[0] in _QUOTES:
        return True
    line = before.rpartition("\n")[2]
    lead = line.rstrip(" \t")
    says = _CLOSING_SAYS if mark.closes else OPENING_SAYS
    if not lead.strip("> \t"):
        return says.match(after) is not None
    if lead[-1] in _QUOTES + "(":
        return lead == line
    if lead[-1] in _TERMINAL or (lead == line and (mark.closes or (not mark.token and lead[-1].isalnum()))):
        return says.match(after) is not None
    if not mark.closes or lead[-1] in ",:(-–—":
        return True
    if _LEADS_TO_MENTION.search(lead) and not _ANSWER_IS.search(lead):
        return True
    following = after.lstrip(" \t")
    if not following.strip() or following[0] == "\n":
        return not mark.token and not _VISIBLE.search(text, mark.end)
    return not (following[0].isupper() or following[0].isdigit() or following[0] in "[{<*\\$#")
