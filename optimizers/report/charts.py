"""Small charts as inline SVG: trials and the best so far, score against price, depth, and bars with intervals.

Colours are variables of the page's style sheet. What a colour says, a shape or a word says as well, and every mark has
its figures as a tooltip.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from moa_dspy.optimizers.report.axes import Axis, drawable, fitting, place
from moa_dspy.optimizers.report.markup import Child, Node, add, el

__all__ = ["Bar", "Line", "Mark", "bars", "plot"]

Look: TypeAlias = Literal["plain", "best", "faint", "pruned", "failed", "second", "third"]

_WIDTH: Final = 720
_HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 700, 14, 250
_RADIUS: Final = 4
_CAP: Final = 4
_TICK_ROOM: Final = 17
_ROW: Final = 26
_NAMES: Final = 200
_FIGURES: Final = 530
_LETTERS: Final = 12


@dataclass(frozen=True)
class Mark:
    """A point of a chart.

    Attributes:
        x: across.
        y: up; None is below the axis' values, such as for a trial without a score.
        title: what its tooltip says.
        look: of the point; ``pruned`` is hollow, ``failed`` a cross.
        low: lower end of the interval of ``y``.
        high: upper end.
        label: short text beside it.
    """

    x: float
    y: float | None
    title: str
    look: Look = "plain"
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Line:
    """A line through points, in their order.

    Attributes:
        points: x and y.
        look: its colour.
        steps: whether it stays level up to the next point.
    """

    points: Sequence[tuple[float, float]]
    look: Look = "best"
    steps: bool = False


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart.

    Attributes:
        name: what the value is of.
        value: the bar's end; it begins at 0.
        low: lower end of the interval.
        high: upper end.
        figures: the same in words, at the row's end.
    """

    name: str
    value: float
    low: float
    high: float
    figures: str


def plot(
    label: str,
    across: str,
    up: str,
    marks: Sequence[Mark],
    lines: Sequence[Line] = (),
    *,
    legend: str = "",
    whole: bool = False,
    empty: str = "There is nothing to draw.",
) -> Node:
    """Return a chart of points and lines.

    Args:
        label: what the chart shows, for those who do not see it.
        across: title of the horizontal axis.
        up: title of the vertical axis.
        marks: points; those that cannot be drawn are left out.
        lines: between points.
        legend: says what is what, below the chart.
        whole: the horizontal axis counts.
        empty: what is said instead where there is no point.
    """
    shown = [mark for mark in marks if drawable(mark.x) and (mark.y is None or drawable(mark.y))]
    if not shown:
        return el("p", empty, cls="missing")
    drawn = [_drawable_points(line) for line in lines]
    heights = [height for mark in shown for height in (mark.y, mark.low, mark.high) if height is not None]
    heights += [y for points in drawn for _, y in points]
    widths = [*(mark.x for mark in shown), *(x for points in drawn for x, _ in points)]
    horizontal = Axis.over(widths, _LEFT + 10, _RIGHT - 10, whole=whole, ticks=8)
    vertical = Axis.over(heights, _BOTTOM - 6, _TOP + 6)
    svg = _canvas(label, _HEIGHT)
    add(svg, *_grid(horizontal, vertical), *_titles(across, up))
    for line, points in zip(lines, drawn, strict=True):
        add(svg, _path(points, line, horizontal, vertical))
    add(svg, *(_point(mark, horizontal, vertical) for mark in sorted(shown, key=lambda mark: mark.look == "best")))
    return _figure(svg, legend)


def bars(label: str, rows: Sequence[Bar], *, legend: str = "", empty: str = "There is nothing to draw.") -> Node:
    """Return a chart of horizontal bars, each with its interval as a whisker.

    Args:
        label: what the chart shows, for those who do not see it.
        rows: from top to bottom; those that cannot be drawn are left out.
        legend: below the chart.
        empty: what is said instead where there is no row.
    """
    shown = [row for row in rows if all(map(drawable, (row.value, row.low, row.high)))]
    if not shown:
        return el("p", empty, cls="missing")
    bottom = _TOP + _ROW * len(shown)
    values = [value for row in shown for value in (row.value, row.low, row.high)]
    axis = Axis.over(values, _NAMES + 10, _FIGURES - 16, zero=True)
    svg = _canvas(label, bottom + 2 * _TICK_ROOM)
    for value in axis.ticks:
        x = axis.at(value)
        add(svg, _rule(x, _TOP, x, bottom, "grid"), _words(axis.label(value), x, bottom + _TICK_ROOM, "middle"))
    add(svg, _rule(axis.at(0.0), _TOP, axis.at(0.0), bottom, "axis"))
    for number, row in enumerate(shown):
        add(svg, _bar(row, axis, _TOP + _ROW * number))
    return _figure(svg, legend)


def _bar(row: Bar, axis: Axis, top: float) -> Node:
    middle, start, end = top + _ROW / 2, *sorted((axis.at(0.0), axis.at(row.value)))
    low, high = axis.at(row.low), axis.at(row.high)
    look = "loss" if row.value < 0 else "gain"
    return el(
        "g",
        el("title", f"{row.name}: {row.figures}"),
        _words(fitting(row.name, _NAMES - 14), _NAMES - 4, middle + 4, "end"),
        el("rect", x=place(start), y=place(top + 6), width=place(end - start), height=_ROW - 12, cls=f"bar {look}"),
        _rule(low, middle, high, middle, "whisker"),
        _rule(low, middle - _CAP, low, middle + _CAP, "whisker"),
        _rule(high, middle - _CAP, high, middle + _CAP, "whisker"),
        _words(fitting(row.figures, _WIDTH - _FIGURES - 4), _FIGURES, middle + 4, "start"),
    )


def _canvas(label: str, height: float) -> Node:
    return el("svg", viewBox=f"0 0 {_WIDTH} {place(height)}", role="img", aria_label=label)


def _figure(svg: Node, legend: str) -> Node:
    return el("figure", el("div", svg, cls="wide"), el("figcaption", legend) if legend else None)


def _grid(horizontal: Axis, vertical: Axis) -> list[Child]:
    parts: list[Child] = []
    for value in vertical.ticks:
        y = vertical.at(value)
        parts += [_rule(_LEFT, y, _RIGHT, y, "grid"), _words(vertical.label(value), _LEFT - 6, y + 4, "end")]
    for value in horizontal.ticks:
        x = horizontal.at(value)
        parts += [_rule(x, _BOTTOM, x, _BOTTOM + _CAP, "axis")]
        parts += [_words(horizontal.label(value), x, _BOTTOM + _TICK_ROOM, "middle")]
    return [*parts, _rule(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis"), _rule(_LEFT, _TOP, _LEFT, _BOTTOM, "axis")]


def _titles(across: str, up: str) -> list[Child]:
    middle = (_TOP + _BOTTOM) / 2
    upright = _words(up, 16, middle, "middle")
    upright.set("transform", f"rotate(-90 16 {place(middle)})")
    return [_words(across, (_LEFT + _RIGHT) / 2, _BOTTOM + 2 * _TICK_ROOM + 4, "middle"), upright]


def _path(points: Sequence[tuple[float, float]], line: Line, horizontal: Axis, vertical: Axis) -> Child:
    spots = [(horizontal.at(x), vertical.at(y)) for x, y in points]
    if len(spots) < 2:
        return None
    if line.steps:
        corners = [((after[0], before[1]), after) for before, after in itertools.pairwise(spots)]
        spots = [spots[0], *itertools.chain.from_iterable(corners)]
    return el("polyline", points=" ".join(f"{place(x)},{place(y)}" for x, y in spots), cls=f"line {line.look}")


def _point(mark: Mark, horizontal: Axis, vertical: Axis) -> Node:
    x, y = horizontal.at(mark.x), _BOTTOM if mark.y is None else vertical.at(mark.y)
    group = el("g", el("title", mark.title), cls=f"mark {mark.look}")
    if drawable(mark.low) and drawable(mark.high):
        low, high = vertical.at(mark.low), vertical.at(mark.high)
        add(group, _rule(x, low, x, high, "whisker"))
        add(group, *(_rule(x - _CAP, end, x + _CAP, end, "whisker") for end in (low, high)))
    if mark.look == "failed":
        add(group, _rule(x - _CAP, y - _CAP, x + _CAP, y + _CAP, "cross"))
        add(group, _rule(x - _CAP, y + _CAP, x + _CAP, y - _CAP, "cross"))
    else:
        add(group, el("circle", cx=place(x), cy=place(y), r=_RADIUS))
    if mark.label:
        before = x > (_LEFT + _RIGHT) / 2
        text = fitting(mark.label, (_RIGHT - _LEFT) / 2 - 20)
        add(group, _words(text, x - 7 if before else x + 7, max(y - 9, _LETTERS), "end" if before else "start"))
    return group


def _drawable_points(line: Line) -> list[tuple[float, float]]:
    return [(x, y) for x, y in line.points if drawable(x) and drawable(y)]


def _rule(x1: float, y1: float, x2: float, y2: float, cls: str) -> Node:
    return el("line", x1=place(x1), y1=place(y1), x2=place(x2), y2=place(y2), cls=cls)


def _words(text: str, x: float, y: float, anchor: Literal["start", "middle", "end"]) -> Node:
    return el("text", text, x=place(x), y=place(y), text_anchor=anchor)
