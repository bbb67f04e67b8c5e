"""The certain beginning of an answer, in a reply that is still being written.

Later text may turn what was written into reasoning, or be a marker that is no part of the answer. Whatever may still
become one of these is held back. What is returned is how the whole answer begins, with one exception: a model whose
template opens its reasoning writes only the closing tag. The caller knows such models by their earlier replies.
"""

from __future__ import annotations

import re
from typing import Final

from moa_dspy.parsing.marks import tags, tokens
from moa_dspy.parsing.reasoning import ANSWER_BEGINS, EDGES, PLAIN, split_reasoning

__all__ = ["AnswerSoFar", "begins_with", "grown"]

_TAGS: Final = ("<", "＜", "◁", "&")  # tags around the whole answer are removed
_CLOSERS: Final = ">＞▷⟩〉》»›】"
_OPENER: Final = re.compile(r"[<＜◁⟨〈《«‹【\[\]&]")
# What may be the first half of a marker's decoration, or be removed at the end of the answer.
_HELD: Final = EDGES + "*_`>\\"
_LONGEST: Final = 300  # characters of a mark
_LOOKED_AHEAD: Final = 5  # characters of the longest closing bracket, and one behind it
# The beginning of what ``marks.tags`` and ``marks.tokens`` find.
_MAY_BE_MARK: Final = re.compile(
    r"(?:[<＜◁⟨〈《«‹【\[]{1,2}|&lt;(?:&lt;)?)[\s\\:_~!*#|｜/／-]{0,4}"
    r"(?:[^\W\d_][\w:.▁-]{0,40}(?:\s[^<>＜＞◁▷\[\]\n&]{0,200})?[\s|｜/／]{0,4}\\?)?"
    r"|[<\[][|｜]?[^<>\[\]|｜\n]{0,60}[|｜]?|&l?t?|[\[\]][a-z!]?~?!?[a-z]?|"
)
_FIELD: Final = re.compile(r"\[\\?\[?[ \t]{0,3}\\?#")
# Heads of reasoning in plain words begin like this. They are decided within so many characters.
_HEADS: Final = ("here", "my", "thinking", "thought", "analysis", "#", "```", "~~~")
_HEAD_MAX: Final = 100
_COMPARED: Final = 32
_PACE: Final = 64  # what is undecided is read again when it has grown by this part, so that reading stays linear


class AnswerSoFar:
    """Reads a reply as it grows."""

    def __init__(self) -> None:
        self._start = -1  # where the answer begins; -1 if that is not known yet
        self._certain = self._end = self._read = self._next = 0
        self._stopped = False

    def read(self, text: str) -> str:
        """Return the certain beginning of the answer in ``text``, which begins with the text of the previous call."""
        if self._start < 0:
            if len(text) < self._next:
                return ""
            self._next = grown(text)
            self._start = self._certain = self._end = self._begin(text)
            self._read = len(text)
        if self._start < 0:
            return ""
        if not self._stopped:
            before = self._certain
            self._go_on(text)
            shown = text[before : self._certain].rstrip(_HELD)
            self._end = before + len(shown) if shown else self._end
        return text[self._start : self._end]

    def _begin(self, text: str) -> int:
        """Return where the answer begins; -1 if it has not begun, or that is not certain."""
        lead = text.lstrip(EDGES)
        first = len(text) - len(lead)
        is_plain = PLAIN.match(text) is not None
        if not lead or (is_plain and len(lead) < _HEAD_MAX and _may_be_head(lead)):
            return -1
        if is_plain and not lead.startswith(_TAGS):
            return first
        if self._read and not any(mark in text[self._read - 1 :] for mark in _CLOSERS + "]:;\n"):
            return -1
        split, whole = split_reasoning(text), text.rstrip(EDGES)
        if split.ended and not split.text:
            self._next = 0  # the answer may begin with the next word
        start = len(whole) - len(split.text)
        if not (split.reasoning and split.text) or whole[start:] != split.text or split.text.startswith(_TAGS):
            return -1
        before = text[:start]
        is_open = sum(-1 if tag.closes else 1 for tag in tags(before)) > 0  # a later tag may close the reasoning
        return -1 if is_open or ANSWER_BEGINS.search(before) or split_reasoning(before).text else start

    def _go_on(self, text: str) -> None:
        """Advance to the end of the text, or to what may become a mark."""
        while True:
            opener = _OPENER.search(text, self._certain)
            if opener is None:
                self._certain = len(text)
                return
            self._certain = opener.start()
            mark = text[self._certain : self._certain + _LONGEST]
            if _FIELD.match(mark):
                self._stopped = True
                return
            if _MAY_BE_MARK.fullmatch(mark[:-_LOOKED_AHEAD]):
                return
            if _is_mark(mark):
                self._stopped = True
                return
            self._certain += 1


def grown(text: str) -> int:
    """Return the length at which a growing text is worth reading again from its beginning."""
    return len(text) + len(text) // _PACE


def begins_with(reply: str, answer: str) -> bool:
    """Return whether a reply begins with its answer, or with reasoning that it opens itself."""
    lead = reply.lstrip(EDGES)
    if answer and lead.startswith(answer[:_COMPARED]):
        return True
    return PLAIN.match(lead) is None or _is_mark(lead[:_LONGEST])


def _is_mark(text: str) -> bool:
    alone = text.partition("]")[0] + "]"  # what follows a bracket may make a link of it, but only in the whole text
    marks = (*tags(text), *tokens(text), *tags(alone))
    return any(found.start == 0 for found in marks)


def _may_be_head(lead: str) -> bool:
    folded = lead.casefold()
    return any(folded.startswith(head) or head.startswith(folded) for head in _HEADS)
