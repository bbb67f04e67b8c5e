"""Results that are written as JSON and shown as a table."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pydantic

from moa_dspy.cost.usage import Price

__all__ = ["ReportRow", "Reported", "Tabulated", "price_cells"]


class ReportRow(pydantic.BaseModel):
    """A part of a result."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Reported(ReportRow):
    """A result as JSON values. Programs in it are no part of them.

    Attributes:
        record_kind: the kind of record that the values are, for ``moa-dspy report``.
    """

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    record_kind: ClassVar[str]

    @property
    def report(self) -> dict[str, Any]:
        """Return all fields but programs, as JSON values."""
        return {"kind": self.record_kind, **self.model_dump(mode="json")}

    def to_json(self, indent: int | None = None) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.report, ensure_ascii=False, indent=indent)


class Tabulated(Reported, ABC):
    """A result that is a table for people."""

    @abstractmethod
    def to_table(self) -> str:
        """Return the result as text for people."""

    def __str__(self) -> str:
        return self.to_table()


def price_cells(price: Price, sign: str = "") -> tuple[str, str, str]:
    """Return calls, tokens and dollars as cells of a table; ``sign="+"`` shows the sign of positive numbers, too."""
    usd = "unknown" if price.usd is None else format(price.usd, f"{sign}.6f")
    return format(price.calls, f"{sign}.1f"), format(price.tokens, f"{sign}.0f"), usd
