"""Reasoning in a model's text, and the answer after it.

The rule, in order:

1. Turns of chat templates: the assistant's first turn counts, or its final channel. Other channels are reasoning.
2. Parts that are headed in plain words (``Here is my thought process:``) up to the head of the answer.
3. A tag whose name speaks of reasoning, at the start of a line or after a sentence, up to the tag that closes it. If
   none closes it, the reply ended while the model was reasoning.
4. A closing tag without an opening one: the template wrote the opening one, and all before it is reasoning.
5. After reasoning, tags around the whole answer (``<answer>``, ``<response>``) go, too.

Tags that a sentence mentions, that stand in code, or that are part of a larger document stay.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from moa_dspy.parsing.marks import OPENING_SAYS, Mark, fences, has_cognition, is_mention, span_at, tags
from moa_dspy.parsing.turns import split_turns

__all__ = ["ANSWER_BEGINS", "EDGES", "PLAIN", "SplitReply", "split_reasoning"]

EDGES: Final = " \t\n\r\x0b\x0c\x85\xa0\u200b\u2028\u2029\u202f\u2060\u3000\ufeff"
_ANSWER_NAME: Final = r"(?:final[ _-]?)?(?:answer|response|output|solution|conclusion|result|final)"
_ANSWER_TAG: Final = re.compile(rf"\A<({_ANSWER_NAME})>(.*)</\1>\Z", re.DOTALL | re.IGNORECASE)
_ANSWER_OPEN: Final = re.compile(rf"\A<({_ANSWER_NAME})>(?!.*</\1>)", re.DOTALL | re.IGNORECASE)
_ANSWER_HEAD: Final = re.compile(rf"<{_ANSWER_NAME}>", re.IGNORECASE)
ANSWER_BEGINS: Final = re.compile(rf"<{_ANSWER_NAME}>\s*\Z", re.IGNORECASE)
"""Matches at the end of a text after which an answer begins, and a tag may close it."""

# A part that prepares an answer between answer tags, under a name that alone would not say so.
_WORKING: Final = re.compile(
    r"\A<(analysis|plan|planning|draft|working|steps|notes)>((?:(?!</\1>).){0,200000}?)</\1>\s*(?=<)",
    re.DOTALL | re.IGNORECASE,
)
_DOCUMENT: Final = re.compile(r"<(?!\?)([A-Za-z][\w:.-]*)[^<>]{0,500}>")
_VISIBLE: Final = re.compile(r"\S")
_FENCE_LINE: Final = re.compile(r"^[ \t]{0,3}(?:```|~~~)", re.MULTILINE)

# Parts with heads in plain words: the pattern of the first head, and that of the answer's.
_HEADED: Final = (
    (
        re.compile(r"\A(?:here(?:['’]s| is) my|my) (?:thought|thinking|reasoning)[^\n:]{0,30}:", re.IGNORECASE),
        re.compile(
            r"^\W{0,4}(?:here(?:['’]s| is) my|my)(?: final)? (?:response|answer)[^\n:]{0,30}:\W{0,3}",
            re.IGNORECASE | re.MULTILINE,
        ),
    ),
    (
        re.compile(r"\A(?:thinking|thought)(?:\.{3}|…)[ \t]*\n", re.IGNORECASE),
        re.compile(r"^(?:\.{3}|…)done thinking\.?", re.IGNORECASE | re.MULTILINE),
    ),
    (
        re.compile(r"\A#{1,6} *(?:thinking|thoughts?|thought process|chain of thought)\b.{0,20}\n", re.IGNORECASE),
        re.compile(r"^#{1,6} *final (?:response|answer)\b.{0,3}\n", re.IGNORECASE | re.MULTILINE),
    ),
    (
        re.compile(r"\A(?:```|~~~) *(?:thinking|thoughts?|reasoning|think) *\n", re.IGNORECASE),
        re.compile(r"^(?:```|~~~)[ \t]*$", re.MULTILINE),
    ),
    # Without an answer, these two are reasoning that was cut off.
    (re.compile(r"\Aanalysis(?=[A-Z])"), re.compile(r"assistant\s?final(?=\S|\s*\Z)")),
    (re.compile(r"\A<[a-z]{2,12}\d{1,3}> ?(?:thought|thinking|think)[ \t]*\n"), re.compile(r"<[a-z]{2,12}\d{1,3}>")),
)


_HEADS: Final = "|".join(first.pattern for first, _ in _HEADED).replace(r"\A", "")
PLAIN: Final = re.compile(rf"(?![{EDGES}]*+(?i:{_HEADS}))[^<＜◁⟨〈《«‹【\[\]&]*+")
"""Matches, from beginning to end, only texts without reasoning, tokens and markers of fields: no notation can occur."""


@dataclass(frozen=True)
class SplitReply:
    """A text, divided into reasoning and answer.

    Attributes:
        reasoning: the reasoning; empty if there is none.
        text: the answer, without marks around it.
        ended: whether the reasoning ended. If not, the text was cut off before the answer, which is empty.
    """

    reasoning: str
    text: str
    ended: bool = True


def split_reasoning(text: str, keep: Collection[str] = ()) -> SplitReply:
    """Divide a model's text into reasoning and answer. Tags named in ``keep`` are fields of the reply."""
    return _split(text, tuple(keep))


@functools.lru_cache(maxsize=16)  # a run and its adapter read the same reply, one after the other
def _split(text: str, keep: tuple[str, ...]) -> SplitReply:
    turns = split_turns(text.strip(EDGES))
    reasoning, body, ended = list(turns.reasoning), turns.text.strip(EDGES), turns.ended
    headed = _split_headed(body)
    if headed is not None:
        reasoning.append(headed.reasoning)
        body, ended = headed.text, headed.ended
    kept = {name.lower() for name in keep}
    tagged = _TagReader(body, [mark for mark in tags(body) if mark.name not in kept], kept).read()
    if tagged.reasoning or tagged.text != body:
        reasoning.append(tagged.reasoning)
        body = tagged.text
    ended = ended and tagged.ended
    body = body.strip(EDGES)
    if reasoning or body != text.strip(EDGES):
        body = _unwrapped(body, kept)
    working = _WORKING.match(body)
    if working and working[1].lower() not in kept and _ANSWER_HEAD.match(body, working.end()):
        reasoning.append(working[2])
        body = _unwrapped(body[working.end() :].strip(), kept)
    joined = "\n\n".join(part.strip() for part in reasoning if part.strip())
    return SplitReply(joined, body, ended or bool(body))


def _unwrapped(text: str, kept: Collection[str]) -> str:
    """Return an answer without tags around it."""
    wrapper = _ANSWER_TAG.match(text) or _ANSWER_OPEN.match(text)
    if wrapper is None or wrapper[1].lower() in kept:
        return text
    return (wrapper[2] if wrapper.lastindex == 2 else text[wrapper.end() :]).strip(EDGES)


def _split_headed(text: str) -> SplitReply | None:
    for first, second in _HEADED:
        head = first.match(text)
        if head is None:
            continue
        answer = second.search(text, head.end())
        if answer is not None:
            return SplitReply(text[head.end() : answer.start()], text[answer.end() :].strip())
        if first in (_HEADED[-2][0], _HEADED[-1][0]):
            return SplitReply(text[head.end() :], "", ended=False)
    return None


class _TagReader:
    """Takes the tags of reasoning out of one text, in time linear in its length."""

    def __init__(self, text: str, marks: Sequence[Mark], kept: Collection[str]) -> None:
        self._text, self._marks = text, marks
        self._fence_lines = fences(text) if marks else []
        self._kept_names = kept
        self._reasoning: list[str] = []
        self._kept: list[str] = []
        self._any_kept = False
        self._first = 0  # index of the first character that is kept
        self._mentions = self._mentioned()

    def read(self) -> SplitReply:
        """Return the text without reasoning."""
        position, shown = 0, 0
        visible = self._first = self._visible_from(0)
        for at, mark in enumerate(self._marks):
            if mark.start < max(position, shown) or at in self._mentions:
                continue
            leading = not self._any_kept and visible >= mark.start
            if mark.closes and self._reasoning and self._visible_from(mark.end) == len(self._text):
                self._keep(position, mark.start)  # a second closing tag, after the answer
                end = mark.end
            elif mark.closes:
                self._reasoning += [*self._kept, self._text[position : mark.start]]
                self._kept, self._any_kept, end = [], False, mark.end
            elif mark.empty:
                self._keep(position, mark.start)
                end = mark.end
            else:
                close, end = self._end_of(at)
                if self._is_shown(mark, close, end, leading=leading):
                    shown = end
                    continue
                self._keep(position, mark.start)
                self._reasoning.append(self._text[mark.end : close if close >= 0 else None])
                if close < 0:
                    return self._split(ended=self._any_kept)
            position, visible = end, self._visible_from(end)
            self._first = self._first if self._any_kept else visible
        self._keep(position, len(self._text))
        return self._split(ended=True)

    def _keep(self, start: int, end: int) -> None:
        part = self._text[start:end].strip("\n")
        if part.strip():
            self._kept.append(part)
            self._any_kept = True

    def _split(self, *, ended: bool) -> SplitReply:
        reasoning = "\n\n".join(part.strip() for part in self._reasoning if part.strip())
        return SplitReply(reasoning, "\n\n".join(self._kept), ended)

    def _visible_from(self, position: int) -> int:
        match = _VISIBLE.search(self._text, position)
        return len(self._text) if match is None else match.start()

    def _begins_line(self, mark: Mark) -> bool:
        return self._text[max(0, mark.start - 80) : mark.start].rstrip(" \t")[-1:] in ("", "\n")

    def _is_shown(self, mark: Mark, close: int, end: int, *, leading: bool) -> bool:
        """Return whether the part that a mark opens is shown to the reader.

        It is part of a document, or an example that the line before it announces with a colon, or a pair of tags
        without content that begins a sentence about such tags. An unclosed mark inside a line is also shown.
        """
        if close < 0 and not (mark.plain and (leading or self._begins_line(mark))):
            return True
        if not leading:
            line = self._text[max(0, mark.start - 200) : mark.start].rstrip().rpartition("\n")[2]
            return self._in_document() or (line.endswith(":") and not has_cognition(line))
        inner = self._text[mark.end : min(close, mark.end + 20)].strip(" .…*_")
        return not inner and 0 <= close < mark.end + 20 and OPENING_SAYS.match(self._text, end) is not None

    def _in_document(self) -> bool:
        """Return whether the text from its first kept character on is one element of markup."""
        document = _DOCUMENT.match(self._text, self._first)
        name = "" if document is None else document[1].lower()
        if not name or has_cognition(name) or name in self._kept_names or _ANSWER_HEAD.match(f"<{name}>"):
            return False
        return self._text[-len(name) - 3 :].lower() == f"</{name}>"

    def _end_of(self, at: int) -> tuple[int, int]:
        """Return where the part that a mark opens ends: the index of the closing tag and the index after it.

        Both are -1 if none closes it. A name in its attributes only (``<details type="reasoning">``) is closed by its
        tag, other names by one of the same words, or by any that speaks of reasoning.
        """
        mark, text = self._marks[at], self._text
        if not has_cognition(mark.name):
            found = re.compile(rf"</{re.escape(mark.name)}\s*>", re.IGNORECASE).search(text, mark.end)
            return (found.start(), found.end()) if found else (-1, -1)
        depth, last = 1, {}
        for index in range(at + 1, len(self._marks)):
            other = self._marks[index]
            effective = index not in self._mentions
            if other.closes:
                last[other.core == mark.core, effective] = other
            if other.core == mark.core and effective:
                depth += -1 if other.closes else 1
                if depth == 0:
                    return other.start, other.end
        for kind in ((True, True), (True, False), (False, True), (False, False)):
            if kind in last:
                return last[kind].start, last[kind].end
        return -1, -1

    def _mentioned(self) -> set[int]:
        """Return the indices of marks without effect.

        A mark that closes a mentioned one on the same line, or one in the same block of code, is among them.
        """
        mentions: set[int] = set()
        end, pending, opened_in = 0, 0, -1
        for at, mark in enumerate(self._marks):
            if "\n" in self._text[end : mark.start]:
                pending = 0
            end = mark.end
            block = span_at(mark.start, self._fence_lines)
            if block >= 0 and not (mark.closes and opened_in != block and self._ends_block_after(mark)):
                opened_in = block if not mark.closes else opened_in
                mentions.add(at)
            elif is_mention(self._text, mark) or (mark.closes and pending > 0):
                mentions.add(at)
                pending += -1 if mark.closes else 1
        return mentions

    def _ends_block_after(self, mark: Mark) -> bool:
        """Return whether the code after a closing tag is complete without the block that the tag is in.

        Reasoning may leave a block of code open. Then the next block's head looks like its end.
        """
        return len(_FENCE_LINE.findall(self._text, mark.end)) % 2 == 0
