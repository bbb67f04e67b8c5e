"""Estimated calls, tokens and dollars of a run, an evaluation or an optimization."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import pydantic

from moa_dspy.text_table import text_table

__all__ = ["CostEstimate", "PartEstimate", "WorkEstimate", "evenly_spaced", "total"]

T = TypeVar("T")
_ROUNDING: Final = 1e-9


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)


class CostEstimate(_Record):
    """Calls, tokens and dollars.

    Attributes:
        calls: LM calls. Exact if every reply can be read, and no call fails or is repeated.
        most_calls: LM calls if no reply can be read at once, and each is asked for in another form; without repeated
            calls. The other figures do not include these.
        prompt_tokens: estimated, without any prefix cache of a provider.
        completion_tokens: estimated.
        usd: estimated dollars, or None if the price of a model is unknown.
        usd_at_least: dollars of the calls whose price is known.
    """

    calls: int = 0
    most_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0
    usd_at_least: float = 0.0

    def __add__(self, other: CostEstimate) -> CostEstimate:
        """Return the sum. Its ``usd`` is None if either one is."""
        return self._combined(other, operator.add)

    def __sub__(self, other: CostEstimate) -> CostEstimate:
        """Return the difference. Its ``usd`` is None if either one is."""
        return self._combined(other, operator.sub)

    def largest(self, other: CostEstimate) -> CostEstimate:
        """Return the larger value of each figure."""
        return self._combined(other, max)

    def at_price(self, share: float) -> CostEstimate:
        """Return the same cost with dollars multiplied by ``share``."""
        usd = None if self.usd is None else self.usd * share
        return self.model_copy(update={"usd": usd, "usd_at_least": self.usd_at_least * share})

    def times(self, factor: float) -> CostEstimate:
        """Return the cost multiplied by ``factor``, in whole calls and tokens."""
        return CostEstimate(
            calls=round(self.calls * factor),
            most_calls=math.ceil(self.most_calls * factor - _ROUNDING),
            prompt_tokens=round(self.prompt_tokens * factor),
            completion_tokens=round(self.completion_tokens * factor),
            usd=None if self.usd is None else self.usd * factor,
            usd_at_least=self.usd_at_least * factor,
        )

    @property
    def at_most(self) -> CostEstimate:
        """Return the same cost with the bound as its calls."""
        return self.model_copy(update={"calls": max(self.calls, self.most_calls)})

    @property
    def calls_in_words(self) -> str:
        """Return the calls as text, with the bound if it is larger."""
        bound = f" (at most {self.most_calls:,})" if self.most_calls > self.calls else ""
        return f"{self.calls:,} calls{bound}"

    @property
    def tokens(self) -> int:
        """Return prompt tokens plus completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def dollars(self) -> str:
        """Return the dollars as text: ``$0.1234``, ``at least $0.1234`` or ``unknown``."""
        if self.usd is not None:
            return _dollars(self.usd)
        return f"at least {_dollars(self.usd_at_least)}" if self.usd_at_least else "unknown"

    def _combined(self, other: CostEstimate, join: Callable[[Any, Any], Any]) -> CostEstimate:
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in CostEstimate.model_fields}
        values: dict[str, Any] = {name: None if None in pair else join(*pair) for name, pair in pairs.items()}
        return CostEstimate(**values)


class PartEstimate(_Record):
    """The cost of one part of an optimization.

    Attributes:
        part: its name.
        most: an upper bound on calls, if there is one (``WorkEstimate.bounded``), with estimated tokens and dollars.
        expected: a rough estimate of the likely cost.
    """

    part: str
    most: CostEstimate
    expected: CostEstimate


class WorkEstimate(_Record):
    """The cost of an optimization. ``str`` returns a table.

    Attributes:
        parts: each part, in order.
        notes: costs that the figures do not include.
        bounded: whether the calls of ``most`` are an upper bound.
    """

    parts: tuple[PartEstimate, ...]
    notes: tuple[str, ...]
    bounded: bool = True

    @property
    def most(self) -> CostEstimate:
        """Return an upper bound on all calls, if there is one, without retries.

        It assumes the largest architectures, all examples and an empty response cache. Tokens and dollars assume texts
        of typical length, so they are not bounds.
        """
        return total(part.most for part in self.parts)

    @property
    def expected(self) -> CostEstimate:
        """Return a rough estimate of the likely cost of all parts."""
        return total(part.expected for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        parts = [{"part": row.part, "most": _values(row.most), "expected": _values(row.expected)} for row in self._rows]
        return {"kind": "estimate", "parts": parts, "bounded": self.bounded, "notes": list(self.notes)}

    def __str__(self) -> str:
        if all(part.most == part.expected for part in self.parts):
            rows = self._rows if len(self.parts) > 1 else self.parts
            calls = "calls" if self.bounded else "no bound: calls"
            known = [("", calls, "tokens", "dollars"), *((row.part, *_cells(row.most)) for row in rows)]
            return "\n".join([text_table(known, left=(0,)), *self.notes])
        limit = "at most" if self.bounded else "no bound"
        head = ("", f"{limit}: calls", "about: tokens", "dollars", "a guess: calls", "tokens", "dollars")
        cells = [(row.part, *_cells(row.most), *_cells(row.expected)) for row in self._rows]
        return "\n".join([text_table([head, *cells], left=(0,)), *self.notes])

    @property
    def _rows(self) -> tuple[PartEstimate, ...]:
        return (*self.parts, PartEstimate(part="all", most=self.most, expected=self.expected))


def total(estimates: Iterable[CostEstimate]) -> CostEstimate:
    """Return the sum of ``estimates``."""
    return sum(estimates, start=CostEstimate())


def evenly_spaced(items: Sequence[T], number: int) -> list[T]:
    """Return at most ``number`` evenly spaced ``items``. Plans use them as a sample of all items."""
    return list(items[:: max(1, len(items) // number)])[:number]


def _values(cost: CostEstimate) -> dict[str, Any]:
    return {
        "calls": cost.calls,
        "tokens": cost.tokens,
        "usd_at_least": cost.usd_at_least,
        "priced": cost.usd is not None,
    }


def _cells(cost: CostEstimate) -> tuple[str, str, str]:
    return f"{cost.calls:,}", f"{cost.tokens:,}", cost.dollars


def _dollars(usd: float) -> str:
    """Return dollars with four significant digits, and at least cents."""
    if usd == 0:
        return "$0"
    return f"${usd:,.{max(2, 3 - math.floor(math.log10(usd)))}f}"
