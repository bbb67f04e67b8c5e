"""Two texts compared word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["Kind", "Piece", "word_diff"]

Kind: TypeAlias = Literal["same", "removed", "added"]

_WORD: Final = re.compile(r"\s+|\S+\s*")
_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")
_MAX_PAIRS: Final = 4_000_000


class Piece(NamedTuple):
    """A part of two texts: in both, only in the first (``removed``), or only in the second (``added``)."""

    kind: Kind
    text: str


def word_diff(before: str, after: str) -> list[Piece]:
    """Return both texts as one sequence of pieces.

    Without the added pieces it is ``before``, without the removed ones ``after``. Texts are compared by words, and long
    texts by lines. Very long texts are not compared.
    """
    for unit in (_WORD, _LINE):
        old, new = unit.findall(before), unit.findall(after)
        if len(old) * len(new) <= _MAX_PAIRS:
            return list(_pieces(old, new))
    return [Piece("removed", before), Piece("added", after)]


def _pieces(old: list[str], new: list[str]) -> list[Piece]:
    pieces = []
    for code, start, stop, first, last in SequenceMatcher(None, old, new).get_opcodes():
        if code == "equal":
            pieces.append(Piece("same", "".join(old[start:stop])))
            continue
        if stop > start:
            pieces.append(Piece("removed", "".join(old[start:stop])))
        if last > first:
            pieces.append(Piece("added", "".join(new[first:last])))
    return pieces
