"""Prompts before and after, with every word that differs marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Final, TypeAlias

from moa_dspy.optimizers.report.blocks import fold, missing
from moa_dspy.optimizers.report.markup import Child, Node, el
from moa_dspy.optimizers.report.values import Record, given, inner

__all__ = ["Change", "changes_of", "differences", "prompt_changes", "prompts_of"]

Pieces: TypeAlias = list[tuple[bool, str]]
"""A text in parts, each with whether it differs from the other text."""

_WORD: Final = re.compile(r"\s+|\S+\s*")
_MOST_PAIRS: Final = 2_000_000
_LONG: Final = 5000


@dataclass(frozen=True)
class Change:
    """What has become of one predictor's prompt.

    Attributes:
        name: of the predictor.
        before: its instructions; None where there was no such predictor.
        after: its instructions; None where there is none any more.
        notes: on demos and decisions.
    """

    name: str
    before: str | None
    after: str | None
    notes: tuple[str, ...] = ()

    @property
    def is_one(self) -> bool:
        """Return whether anything has changed."""
        return self.before != self.after or bool(self.notes)


def changes_of(record: Record) -> list[Change]:
    """Return the changes in a record of ``compile``."""
    found = []
    for name, entry in inner(record, "predictors").items():
        texts = inner(entry, "instructions")
        found.append(Change(name, _text(texts.get("before")), _text(texts.get("after")), _notes(inner(entry))))
    return found


def prompts_of(before: Record, after: Record) -> list[Change]:
    """Return the changes from one program's prompts to another's; both by predictor."""
    names = dict.fromkeys([*after, *before])
    return [Change(name, _text(before.get(name)), _text(after.get(name))) for name in names]


def prompt_changes(changes: Sequence[Change]) -> list[Child]:
    """Return the changes as text side by side; what is unchanged is folded away."""
    if not changes:
        return [missing("No prompts are on record.")]
    changed = [change for change in changes if change.is_one]
    same = [change for change in changes if not change.is_one]
    nodes: list[Child] = [_shown(change) for change in changed] or [el("p", "No prompt was changed.")]
    if same:
        names = ", ".join(change.name for change in same)
        texts = [_column(change.name, [(False, change.after or "")]) for change in same]
        nodes.append(fold(f"{len(same)} unchanged: {names}", *texts))
    return nodes


def differences(before: str, after: str) -> tuple[Pieces, Pieces]:
    """Return both texts in pieces, with those marked that differ, word by word.

    Where long texts differ a lot, lines are compared, and at last what lies between their common beginning and end.
    """
    for split in (_words, _lines):
        old, new = split(before), split(after)
        start = _common(old, new)
        end = _common(old[start:][::-1], new[start:][::-1])
        middle = old[start : len(old) - end], new[start : len(new) - end]
        if len(middle[0]) * len(middle[1]) <= _MOST_PAIRS:
            codes = SequenceMatcher(None, *middle).get_opcodes()
            break
    else:
        codes = [("replace", 0, len(middle[0]), 0, len(middle[1]))]
    gone = [(code != "equal", start + first, start + last) for code, first, last, _, _ in codes]
    come = [(code != "equal", start + first, start + last) for code, _, _, first, last in codes]
    return _pieces(old, start, end, gone), _pieces(new, start, end, come)


def _pieces(parts: Sequence[str], start: int, end: int, codes: Sequence[tuple[bool, int, int]]) -> Pieces:
    last = len(parts) - end
    spans = [(False, 0, start), *codes, (False, last, len(parts))]
    return [(differs, "".join(parts[first:stop])) for differs, first, stop in spans if stop > first]


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """How many parts both begin with."""
    pairs = zip(first, second, strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _shown(change: Change) -> Node:
    before, after = change.before, change.after
    if before is None or after is None:
        what = "new" if before is None else "no longer there"
        body: Node = _column(f"{change.name}: {what}", [(False, after or before or "")])
    elif before == after:
        body = fold("the instructions are unchanged", _column("before and after", [(False, after)]))
    else:
        old, new = differences(before, after)
        body = el("div", _column("before", old, "del"), _column("after", new, "ins"), cls="sides")
    return el("div", el("h4", change.name), *(el("p", note) for note in change.notes), body, cls="change")


def _column(title: str, pieces: Pieces, tag: str = "ins") -> Node:
    length = sum(len(text) for _, text in pieces)
    text = el("div", *(el(tag, text) if differs else text for differs, text in pieces), cls="prompt")
    if length > _LONG:
        return el("div", el("p", title, cls="side"), fold(f"{length:,} characters", text))
    return el("div", el("p", title, cls="side"), text)


def _notes(entry: Record) -> tuple[str, ...]:
    demos, decisions = inner(entry, "demos"), entry.get("decisions")
    kinds = [f"{demos[kind]} {kind}" for kind in ("bootstrapped", "labeled") if demos.get(kind)]
    notes = [f"Demos: {', '.join(kinds)}."] if kinds else []
    if demos.get("shown"):
        notes.append(f"Each question is shown the {given(demos['shown'])} nearest of them.")
    if decisions:
        notes.append(f"Decisions: {given(decisions)}.")
    return tuple(notes)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else given(value)
