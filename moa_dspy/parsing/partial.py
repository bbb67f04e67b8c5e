"""The certain beginning of an answer, in a reply that is still being written.

Later text may turn what was written into reasoning, or be a marker that is no part of the answer. Whatever may still
become one of these is held back. What is returned is how the whole answer begins, with one exception: a model whose
template opens its reasoning writes only the closing tag. The caller knows such models by their earlier replies.
"""

from __future__ import annotations

import re
from typing import Final

from moa_dspy.parsing.marks import tags, tokens
from moa_dspy.parsing.reasoning import EDGES, PLAIN, split_reasoning

__all__ = ["AnswerSoFar", "begins_with"]

_CLOSERS: Final = ">＞▷⟩〉》»›】"
_OPENER: Final = re.compile(r"[<＜◁⟨〈《«‹【\[\]&]")
# What may be the first half of a marker's decoration, or be removed at the end of the answer.
_HELD: Final = EDGES + "*_`>\\"
_LONGEST: Final = 300  # characters of a mark
_SHORT: Final = 6  # characters of a token that begins with a closing bracket
_FIELD: Final = re.compile(r"\[\\?\[?[ \t]{0,3}\\?#")
# Heads of reasoning in plain words begin like this. They are decided within so many characters.
_HEADS: Final = ("here", "my", "thinking", "thought", "analysis", "#", "```", "~~~")
_HEAD_MAX: Final = 100
_COMPARED: Final = 32


class AnswerSoFar:
    """Reads a reply as it grows."""

    def __init__(self) -> None:
        self._start = -1  # where the answer begins; -1 if that is not known yet
        self._certain = self._read = 0
        self._stopped = False

    def read(self, text: str) -> str:
        """Return the certain beginning of the answer.

        Args:
            text: the reply so far. It begins with the text of the previous call.
        """
        if self._start < 0:
            self._start = self._certain = self._begin(text)
        self._read = len(text)
        if self._start < 0:
            return ""
        if not self._stopped:
            self._go_on(text)
        return text[self._start : self._certain].rstrip(_HELD)

    def _begin(self, text: str) -> int:
        """Return where the answer begins; -1 if it has not begun, or that is not certain."""
        lead = text.lstrip(EDGES)
        first = len(text) - len(lead)
        if not lead or (len(lead) < _HEAD_MAX and _may_be_head(lead)):
            return -1
        if PLAIN.match(text) is not None and not lead.startswith(("<", "＜", "◁", "&lt;"[: len(lead)])):
            return first
        if self._read and not any(mark in text[self._read - 1 :] for mark in _CLOSERS + "]:;\n"):
            return -1
        split = split_reasoning(text)
        whole = text.rstrip(EDGES)
        found = split.reasoning and split.ended and split.text and whole.endswith(split.text)
        after = split.text[:1]
        return len(whole) - len(split.text) if found and after not in ("<", "＜", "◁", "&") else -1

    def _go_on(self, text: str) -> None:
        """Advance to the end of the text, or to what may become a mark."""
        while True:
            opener = _OPENER.search(text, self._certain)
            if opener is None:
                self._certain = len(text)
                return
            self._certain = opener.start()
            mark = text[self._certain : self._certain + _LONGEST]
            if not _is_decided(mark):
                return
            if any(found.start == 0 for found in (*tags(mark), *tokens(mark))) or _FIELD.match(mark):
                self._stopped = True
                return
            self._certain += 1


def begins_with(reply: str, answer: str) -> bool:
    """Return whether a reply begins with its answer, or with reasoning that it opens itself."""
    lead = reply.lstrip(EDGES)
    return lead.startswith(answer[:_COMPARED]) or PLAIN.match(lead) is None or _OPENER.match(lead) is not None


def _may_be_head(lead: str) -> bool:
    folded = lead.casefold()
    return any(folded.startswith(head) or head.startswith(folded) for head in _HEADS)


def _is_decided(mark: str) -> bool:
    """Return whether more text cannot change if ``mark``, which begins with an opening bracket, begins with a mark."""
    if mark[0] == "]":
        return len(mark) >= _SHORT
    if mark[0] == "&" and not "&lt;".startswith(mark[:4]):
        return True
    closed = next((at for at, one in enumerate(mark) if one in _CLOSERS or (at and one in "];")), None)
    return len(mark) == _LONGEST or "\n" in mark[_SHORT:] or (closed is not None and closed + 2 < len(mark))
