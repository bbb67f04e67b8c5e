"""Charts as inline SVG: points and lines over two axes, and bars with intervals.

Colours are variables of the style sheet. Shapes or words repeat the meaning of a colour. Each mark has a tooltip. A
chart is 420 units wide, and its letters are at most 13 units high, so that it is readable on a narrow screen.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self, TypeAlias, TypeGuard

from markupsafe import Markup

__all__ = ["Axis", "Bar", "Line", "Look", "PlotMark", "bars", "plot"]

Look: TypeAlias = Literal["plain", "best", "faint", "pruned", "failed", "second", "third"]
Anchor: TypeAlias = Literal["start", "middle", "end"]

_WIDTH: Final = 420
_HEIGHT: Final = 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 392, 14, 226
_LETTERS: Final = 13
_LETTER_WIDTH: Final = 0.58
_RADIUS: Final = 4
_CAP: Final = 4
_ROW: Final = 42
_LARGEST: Final = 1e15
_LEAST_SPAN: Final = 1e-9

_FIGURE: Final = Markup(
    '<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}"><title>{label}</title>'
    "<desc>{legend}</desc>{body}</svg><figcaption>{legend}</figcaption></figure>"
)
_NOTHING: Final = Markup("")
_MISSING: Final = Markup('<p class="missing">{}</p>')
_RULE: Final = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"></line>')
_TEXT: Final = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>')
_CIRCLE: Final = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}"></circle>')
_LINE: Final = Markup('<polyline class="line {}" points="{}"></polyline>')
_BAR: Final = Markup('<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="12"></rect>')
_GROUP: Final = Markup('<g class="{}"><title>{}</title>{}</g>')


@dataclass(frozen=True)
class PlotMark:
    """A point of a chart with its tooltip, the interval of ``y``, and a short text beside it.

    ``y`` None puts it on the axis, such as for a trial without a score. ``pruned`` is hollow, ``failed`` is a cross.
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
    """A line through points in the given order. With ``steps`` it stays level up to the next point."""

    points: Sequence[tuple[float, float]]
    look: Look = "best"
    steps: bool = False


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart: a bar from 0 to ``value``, a whisker from ``low`` to ``high``, the same as text."""

    name: str
    value: float
    low: float
    high: float
    figures: str


@dataclass(frozen=True)
class Axis:
    """A linear scale from ``low`` at coordinate ``start`` to ``high`` at ``end``, with a tick every ``step``."""

    low: float
    high: float
    start: float
    end: float
    step: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, *, whole: bool = False) -> Self:
        """Return an axis from a tick below all values to a tick above; ``whole`` makes ticks whole numbers."""
        drawn = list(values) or [0.0, 1.0]
        low, high = min(drawn), max(drawn)
        if high - low <= _LEAST_SPAN * max(abs(low), abs(high), _LEAST_SPAN):
            room = abs(high) / 2 if abs(high) > _LEAST_SPAN else 0.5
            low, high = low - room, high + room
        unit = 10.0 ** math.floor(math.log10((high - low) / 4))
        step = next(size * unit for size in (1.0, 2.0, 5.0, 10.0) if size * unit >= (high - low) / 4 * (1 - 1e-9))
        step = max(1.0, float(math.ceil(step))) if whole else step
        return cls(math.floor(low / step) * step, math.ceil(high / step) * step, start, end, step)

    def at(self, value: float) -> float:
        """Return the coordinate of a value; values off the scale are put at its end."""
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Return coordinate and label of every tick."""
        values = [self.low + number * self.step for number in range(round((self.high - self.low) / self.step) + 1)]
        return [(self.at(value), self._label(value)) for value in values]

    def _label(self, value: float) -> str:
        largest, decimals = max(abs(self.low), abs(self.high)), max(0, -math.floor(math.log10(self.step) + 1e-9))
        if abs(value) < self.step / 2:
            return "0"
        return f"{value:,.{decimals}f}" if largest < 1e6 and decimals < 6 else f"{value:.3g}"


def plot(
    label: str,
    across: str,
    up: str,
    marks: Sequence[PlotMark],
    lines: Sequence[Line] = (),
    *,
    legend: str = "",
    whole: bool = False,
    empty: str = "There is nothing to draw.",
) -> Markup:
    """Return a chart of points and lines between points. Points that are not finite are left out.

    ``label`` describes it for screen readers; ``across`` and ``up`` are the titles of the axes, and ``legend`` is the
    text below. With ``whole`` the horizontal axis has whole numbers. ``empty`` replaces a chart without points.
    """
    drawn = [mark for mark in marks if _drawable(mark.x) and (mark.y is None or _drawable(mark.y))]
    if not drawn:
        return _MISSING.format(empty)
    paths = [(line, [(x, y) for x, y in line.points if _drawable(x) and _drawable(y)]) for line in lines]
    corners = list(itertools.chain.from_iterable(points for _, points in paths))
    heights = [height for mark in drawn for height in (mark.y, mark.low, mark.high) if _drawable(height)]
    horizontal = Axis.over([*(mark.x for mark in drawn), *(x for x, _ in corners)], _LEFT + 8, _RIGHT - 8, whole=whole)
    vertical = Axis.over([*heights, *(y for _, y in corners)], _BOTTOM - 6, _TOP + 6)
    body = [
        *_grid(horizontal, vertical, across, up),
        *(_path(line, points, horizontal, vertical) for line, points in paths if len(points) > 1),
        *(_point(mark, horizontal, vertical) for mark in sorted(drawn, key=lambda mark: mark.look == "best")),
    ]
    return _figure(label, _HEIGHT, body, legend)


def bars(label: str, rows: Sequence[Bar], *, legend: str = "", empty: str = "There is nothing to draw.") -> Markup:
    """Return a chart of horizontal bars with whiskers, from top to bottom; see ``plot``."""
    drawn = [row for row in rows if all(map(_drawable, (row.value, row.low, row.high)))]
    if not drawn:
        return _MISSING.format(empty)
    axis = Axis.over([0.0, *(value for row in drawn for value in (row.value, row.low, row.high))], 24, _WIDTH - 24)
    bottom = _ROW * len(drawn)
    grid = [_rule("grid", x, 0, x, bottom) + _words(text, x, bottom + 18, "middle") for x, text in axis.ticks]
    zero = _rule("axis", axis.at(0.0), 0, axis.at(0.0), bottom)
    body = [*grid, zero, *(_bar(row, axis, _ROW * number) for number, row in enumerate(drawn))]
    return _figure(label, bottom + 26, body, legend)


def _bar(row: Bar, axis: Axis, top: float) -> Markup:
    middle, start, end = top + 28, *sorted((axis.at(0.0), axis.at(row.value)))
    low, high = axis.at(row.low), axis.at(row.high)
    figures = _fitting(row.figures, _WIDTH * 2 / 3)
    room = _WIDTH - 24 - len(figures) * _LETTERS * _LETTER_WIDTH
    body = [
        _words(_fitting(row.name, room), 4, top + 15, "start"),
        _words(figures, _WIDTH - 4, top + 15, "end"),
        _BAR.format("loss" if row.value < 0 else "gain", start, middle - 6, end - start),
        _rule("whisker", low, middle, high, middle),
        *(_rule("whisker", x, middle - _CAP, x, middle + _CAP) for x in (low, high)),
    ]
    return _GROUP.format("row", f"{row.name}: {row.figures}", _NOTHING.join(body))


def _figure(label: str, height: float, body: Iterable[Markup], legend: str) -> Markup:
    return _FIGURE.format(width=_WIDTH, height=height, label=label, legend=legend, body=_NOTHING.join(body))


def _grid(horizontal: Axis, vertical: Axis, across: str, up: str) -> list[Markup]:
    middle = (_TOP + _BOTTOM) / 2
    parts = [_rule("grid", _LEFT, y, _RIGHT, y) + _words(text, _LEFT - 6, y + 4, "end") for y, text in vertical.ticks]
    for x, text in horizontal.ticks:
        parts += [_rule("axis", x, _BOTTOM, x, _BOTTOM + _CAP), _words(text, x, _BOTTOM + 19, "middle")]
    return [
        *parts,
        _rule("axis", _LEFT, _BOTTOM, _RIGHT, _BOTTOM),
        _rule("axis", _LEFT, _TOP, _LEFT, _BOTTOM),
        _words(across, (_LEFT + _RIGHT) / 2, _BOTTOM + 42, "middle"),
        _words(up, 13, middle, "middle", Markup(f' transform="rotate(-90 13 {middle:.1f})"')),  # noqa: S704
    ]


def _path(line: Line, points: Sequence[tuple[float, float]], horizontal: Axis, vertical: Axis) -> Markup:
    spots = [(horizontal.at(x), vertical.at(y)) for x, y in points]
    if line.steps:
        corners = [((after[0], before[1]), after) for before, after in itertools.pairwise(spots)]
        spots = [spots[0], *itertools.chain.from_iterable(corners)]
    return _LINE.format(line.look, " ".join(f"{x:.1f},{y:.1f}" for x, y in spots))


def _point(mark: PlotMark, horizontal: Axis, vertical: Axis) -> Markup:
    x, y = horizontal.at(mark.x), float(_BOTTOM) if mark.y is None else vertical.at(mark.y)
    parts = []
    if _drawable(mark.low) and _drawable(mark.high):
        low, high = vertical.at(mark.low), vertical.at(mark.high)
        ends = (_rule("whisker", x - _CAP, end, x + _CAP, end) for end in (low, high))
        parts += [_rule("whisker", x, low, x, high), *ends]
    if mark.look == "failed":
        parts += [_rule("cross", x - _CAP, y - slope, x + _CAP, y + slope) for slope in (_CAP, -_CAP)]
    else:
        parts.append(_CIRCLE.format(x, y, _RADIUS))
    if mark.label:
        is_right = x > (_LEFT + _RIGHT) / 2
        text = _fitting(mark.label, (_RIGHT - _LEFT) / 2 - 20)
        parts.append(_words(text, x - 7 if is_right else x + 7, max(y - 8, _LETTERS), "end" if is_right else "start"))
    return _GROUP.format(f"mark {mark.look}", mark.title, _NOTHING.join(parts))


def _rule(look: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return _RULE.format(look, x1, y1, x2, y2)


def _words(text: str, x: float, y: float, anchor: Anchor, attributes: Markup = _NOTHING) -> Markup:
    return _TEXT.format(x, y, anchor, attributes, text)


def _drawable(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and abs(value) < _LARGEST


def _fitting(text: str, width: float) -> str:
    """Return ``text`` in one line, cut to about ``width`` units."""
    line, used = " ".join(text.split()), 0.0
    for number, letter in enumerate(line):
        used += _LETTERS * (1.0 if unicodedata.east_asian_width(letter) in "WF" else _LETTER_WIDTH)
        if used > width:
            return f"{line[: max(number - 1, 0)]}…"
    return line
