"""Turns in a model's text: what chat templates put around an answer, and parts of other turns."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Final

from moa_dspy.parsing.marks import Mark, fences, has_cognition, is_mention, span_at, tokens, words_of

__all__ = ["Turns", "split_turns"]

_OTHERS: Final = frozenset(
    {"user", "human", "system", "developer", "tool", "tools", "observation", "environment", "inst"}
)
_OURS: Final = frozenset(
    {"assistant", "model", "bot", "ai", "chatbot", "gpt", "answer", "response", "solution", "final"}
)
_PARTS: Final = frozenset({"analysis", "commentary", "final", "message", "content", "text", "output"})
_LABEL_MAX: Final = 60
_HEADER: Final = re.compile(r"[ \t]*([^\W\d_]{2,14})(?: to=[\w.]{1,40})?[ \t]*(?=\n|$)")
# The end of a text at which the server cut off a token in the middle.
_CUT_TOKEN: Final = re.compile(r"(?<=[^\s`])\s{0,4}<[|｜]\w{2,30}[|｜]?\Z")


@dataclass(frozen=True)
class Turns:
    """A text without the marks of turns.

    Attributes:
        reasoning: parts that are reasoning.
        text: the first turn of the assistant, or its last final part.
        ended: whether an answer was begun. If not, the reply ended while the model was reasoning.
    """

    reasoning: tuple[str, ...]
    text: str
    ended: bool = True


@dataclass
class _Part:
    labels: tuple[str, ...]  # the words of its header; empty if it has none
    body: str
    opener: Mark | None = None
    closer: Mark | None = None

    @property
    def thinks(self) -> bool:
        return "final" not in self.labels and any(
            word in ("analysis", "commentary") or has_cognition(word) for word in self.labels
        )

    @property
    def foreign(self) -> bool:
        return not self.thinks and any(word in _OTHERS for word in self.labels)

    @property
    def named(self) -> bool:
        return any(word in _OURS or word in _PARTS for word in self.labels)


def split_turns(text: str) -> Turns:
    """Return the assistant's answer in a text that contains tokens of chat templates.

    A text without such tokens is returned as it is. So is a text that mentions them.
    """
    marks = _structural(text)
    if not marks:
        return Turns((), _CUT_TOKEN.sub("", text))
    parts = _parts(text, marks)
    _name_unknown_pairs(parts)
    reasoning = tuple(part.body for part in parts if part.thinks and part.body.strip())
    answers = [part for part in parts if not part.thinks and not part.foreign and part.body.strip()]
    final = [part for part in answers if "final" in part.labels]
    if final:
        return Turns(reasoning, final[-1].body)
    if answers:
        return Turns(reasoning, answers[0].body)
    if reasoning:
        return Turns(reasoning, "", ended=False)
    return Turns((), text if any(part.body.strip() for part in parts) else "")  # other turns only: left as they are


def _structural(text: str) -> list[Mark]:
    """Return the tokens that have an effect: those that no sentence mentions and that are not in a block of code."""
    found = list(tokens(text))
    if not found:
        return []
    framed = not text[: found[0].start].strip() and not is_mention(text, found[0])
    spans = [] if framed else fences(text)
    struck = _strikes(text, found)
    marks = [
        mark
        for mark in found
        if span_at(mark.start, spans) < 0 and (mark.name not in ("s", "/s") or not struck) and not _listed(text, mark)
    ]
    if framed:
        return [mark for mark in marks if text[mark.start - 1 : mark.start] != "`"]
    final = _final(text, marks)
    return [
        mark
        for at, mark in enumerate(marks)
        if _follows_the_answer(text, mark, final)
        or (
            not is_mention(text, mark)
            and (
                mark.closes
                or mark.start == 0
                or mark.start >= final
                or text[: mark.start].rstrip(" \t")[-1:] in ("", "\n")
                or (at > 0 and marks[at - 1].end >= mark.start - _LABEL_MAX)
            )
        )
    ]


def _final(text: str, marks: list[Mark]) -> int:
    """Return where the tokens at the end of a text begin; the index after the text if there is none."""
    end = len(text.rstrip())
    start = len(text)
    for mark in reversed(marks):
        if mark.end != end:
            break
        start = end = mark.start
    return start


def _follows_the_answer(text: str, mark: Mark, final: int) -> bool:
    """Return whether a token right after a word ends the text with other tokens, or begins the turn of another role."""
    if not text[mark.start - 1 : mark.start].strip():
        return False
    is_turn = bool(mark.words) and all(word in _OTHERS for word in mark.words)
    return mark.start >= final or (is_turn and text[mark.end : mark.end + 1] == "\n")


def _listed(text: str, mark: Mark) -> bool:
    """Return whether the mark is an item of a list or a definition, which mentions it."""
    after = text[mark.end : mark.end + 3]
    line = text[max(0, mark.start - 8) : mark.start].rpartition("\n")[2].strip()
    return after[:1] in (":", "`", "|") or after[:2] in (" -", " =", " :") or line in ("-", "*", "•", "+")


def _strikes(text: str, found: list[Mark]) -> bool:
    """Return whether ``<s>`` strikes text out, as in HTML: a pair with more text after it."""
    named = [mark for mark in found if mark.name in ("s", "/s")]
    pairs = any(a.name == "s" and b.name == "/s" for a, b in itertools.pairwise(named))
    return pairs and (bool(text[named[-1].end :].strip()) or bool(text[: named[0].start].strip()))


def _parts(text: str, marks: list[Mark]) -> list[_Part]:
    """Cut a text at the marks. Marks with nothing but a label between them are one header."""
    parts = [_Part((), text[: marks[0].start])]
    labels: list[str] = []
    for at, mark in enumerate(marks):
        following = marks[at + 1].start if at + 1 < len(marks) else len(text)
        body = text[mark.end : following]
        header_ends = mark.closes and at > 0 and marks[at - 1].core == mark.core and bool(labels)
        if header_ends and "\n" in text[marks[at - 1].end : mark.start] and any(map(has_cognition, labels)):
            header_ends = False  # reasoning without content, and no header
        if mark.closes and not header_ends:
            parts[-1].closer = parts[-1].closer or mark
            labels = []
        elif not header_ends:
            labels += mark.words
        is_short = len(body) <= _LABEL_MAX and "\n" not in body.strip() and at + 1 < len(marks)
        label = words_of(body.partition(" to=")[0]) if is_short else ()
        if label and len(label) <= 2 and all(_is_label(word) for word in label):
            labels += label
            continue
        header = _HEADER.match(body) if not mark.closes or header_ends else None
        if header and _is_label(header[1].lower()):
            labels.append(header[1].lower())
            body = body[header.end() :]
        if not body.strip() and labels and at + 1 < len(marks):
            continue
        parts.append(_Part(tuple(labels), body, mark))
        labels = []
    return parts


def _is_label(word: str) -> bool:
    return word in _OTHERS or word in _OURS or word in _PARTS or has_cognition(word) or word == "json"


def _name_unknown_pairs(parts: list[_Part]) -> None:
    """Call a leading part reasoning if it has a pair of unknown tokens around it and the answer follows without any."""
    for part, following in itertools.pairwise(parts):
        opener, closer = part.opener, part.closer
        if part.named or part.foreign or part.thinks or opener is None or closer is None or opener.closes:
            continue
        if opener.core == closer.core and opener.core and not following.labels and following.body.strip():
            part.labels = ("thinking",)
