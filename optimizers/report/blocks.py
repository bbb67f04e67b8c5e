"""The building blocks of a report: sections, tables, folds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from moa_dspy.optimizers.report.markup import Child, Node, add, el

__all__ = ["Cell", "Section", "facts", "fold", "missing", "part", "table"]

Cell: TypeAlias = str | Node


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own.

    Attributes:
        title: the heading.
        nodes: what is below it.
    """

    title: str
    nodes: Sequence[Child] = ()


def part(title: str, *nodes: Child) -> list[Child]:
    """Return a titled part of a section."""
    return [el("h3", title), *nodes]


def missing(what: str) -> Node:
    """Return a line that says what is not there."""
    return el("p", what, cls="missing")


def facts(rows: Iterable[tuple[str, Cell]]) -> Node:
    """Return names and values."""
    pairs = ((el("dt", name), el("dd", value)) for name, value in rows)
    return el("dl", *(node for pair in pairs for node in pair))


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]], *, words: int = 1, empty: str = "") -> Node:
    """Return a table that scrolls by itself where it is too wide.

    Args:
        head: titles of the columns.
        rows: cells.
        words: so many columns hold words, flush left; the others hold figures.
        empty: what is said instead where there is no row.
    """
    lines = [el("tr", *(_cell("td", cell, column, words) for column, cell in enumerate(row))) for row in rows]
    if not lines:
        return missing(empty or "There are none.")
    top = el("tr", *(_cell("th", title, column, words) for column, title in enumerate(head)))
    return el("div", el("table", el("thead", top), el("tbody", *lines)), cls="wide")


def fold(summary: str, *nodes: Child, unfolded: bool = False) -> Node:
    """Return something that is read by those who open it."""
    return add(el("details", el("summary", summary), open=unfolded), *nodes)


def _cell(tag: str, content: Cell, column: int, words: int) -> Node:
    return el(tag, content, cls=None if column < words else "figure", scope="col" if tag == "th" else None)
