"""Axes of charts: which values go where, and where the ticks are."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self, TypeGuard

__all__ = ["Axis", "drawable", "fitting", "place"]

_LARGEST: Final = 1e15
_LEAST_SPAN: Final = 1e-9
_DECIMALS: Final = 10
_MANY_DIGITS: Final = 1e6


@dataclass(frozen=True)
class Axis:
    """A straight scale.

    Attributes:
        low: the value at ``start``.
        high: the value at ``end``, above ``low``.
        start: coordinate, in units of the drawing.
        end: coordinate; below ``start`` where the axis goes up.
        step: between two ticks.
    """

    low: float
    high: float
    start: float
    end: float
    step: float

    @classmethod
    def over(
        cls,
        values: Iterable[float],
        start: float,
        end: float,
        *,
        whole: bool = False,
        ticks: int = 5,
        zero: bool = False,
    ) -> Self:
        """Return an axis from a tick below the values to one above.

        Args:
            values: what is to be shown; those that cannot be drawn do not count.
            start: coordinate of the lowest.
            end: coordinate of the highest.
            whole: ticks are whole numbers.
            ticks: about so many steps.
            zero: 0 is on the axis as well.
        """
        given = [*(value for value in values if drawable(value)), *([0.0] if zero else [])] or [0.0, 1.0]
        low, high = min(given), max(given)
        if high - low <= _LEAST_SPAN * max(abs(low), abs(high)) or high - low < _LEAST_SPAN**2:
            room = abs(high) / 2 if abs(high) > _LEAST_SPAN else 0.5
            low, high = low - room, high + room
        step = _round_step((high - low) / ticks)
        if whole:
            step = max(1.0, float(math.ceil(step)))
        return cls(math.floor(low / step) * step, math.ceil(high / step) * step, start, end, step)

    def at(self, value: float) -> float:
        """Return the coordinate of a value; what is off the scale is put at its end."""
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Return the values that have a tick."""
        return [self.low + number * self.step for number in range(round((self.high - self.low) / self.step) + 1)]

    def label(self, value: float) -> str:
        """Return a tick's value with as many digits as the step needs."""
        if abs(value) < self.step / 2:
            return "0"
        if max(abs(self.low), abs(self.high)) >= _MANY_DIGITS:
            return f"{value:.3g}"
        decimals = max(0, -math.floor(math.log10(self.step) + 1e-9))
        return f"{value:,.{decimals}f}" if decimals < _DECIMALS else f"{value:.2g}"


def drawable(value: object) -> TypeGuard[float]:
    """Return whether a value is a number that has a place on an axis."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


def place(coordinate: float) -> str:
    """Return a coordinate as it is written into a drawing."""
    return f"{coordinate:.1f}".removesuffix(".0")


def fitting(text: str, width: float, size: float = 12) -> str:
    """Return ``text`` in one line, cut so that it is about as wide as ``width`` at most.

    Args:
        text: any.
        width: in units of the drawing.
        size: of the letters, in the same units.
    """
    line = " ".join(text.split())
    used, room = 0.0, width / size
    for number, letter in enumerate(line):
        used += 1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.58
        if used > room:
            return f"{line[: max(number - 1, 0)]}…"
    return line


def _round_step(span: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is not below ``span``."""
    unit = 10.0 ** math.floor(math.log10(span))
    return next(factor * unit for factor in (1.0, 2.0, 5.0, 10.0) if factor * unit >= span * (1 - 1e-9))
