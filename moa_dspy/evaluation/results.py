"""The result of an evaluation."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from moa_dspy.cost.usage import Tokens, Usage
from moa_dspy.evaluation.paired import PairedDifference
from moa_dspy.evaluation.records import Record
from moa_dspy.evaluation.statistics import Score

__all__ = ["EvaluateResult", "by_category"]


@dataclass(frozen=True)
class EvaluateResult:
    """The result of ``evaluate``.

    Attributes:
        benchmark: name of the benchmark.
        split: split of the benchmark.
        program: the program's name.
        metric: the metric's name.
        items: number of items.
        score: mean over the scored items, with its 95 % interval; None without a scored item.
        categories: score by category, if there are several.
        errors: number of failed items. They count in no score.
        unparsed: number of items whose verdict could not be read. They count in no score.
        pending: number of items not run because of the budget.
        ended_by: ``items`` (all were run) or ``budget``.
        figures: the benchmark's official figures, if there are any.
        program_usage: usage of the program's calls, earlier starts included.
        judge_usage: usage of the metric's calls, earlier starts included.
        seconds: wall time of this start.
        records: the last record of each item, in the order of the examples.
        comparison: the paired difference to the run given as ``against``.
        path: the file of records.
        remarks: remarks for the reader of the figures, such as deviations from the official protocol.
    """

    benchmark: str
    split: str
    program: str
    metric: str
    items: int
    score: Score | None
    categories: Mapping[str, Score | None]
    errors: int
    unparsed: int
    pending: int
    ended_by: Literal["items", "budget"]
    figures: Mapping[str, Any]
    program_usage: Usage
    judge_usage: Usage
    seconds: float
    records: Sequence[Record] = field(repr=False)
    comparison: PairedDifference | None = None
    path: Path | None = None
    remarks: Sequence[str] = ()

    @property
    def scored(self) -> int:
        """Return the number of items with a score."""
        return 0 if self.score is None else self.score.examples

    @property
    def usage(self) -> Usage:
        """Return the usage of program and metric together."""
        return self.program_usage + self.judge_usage

    @property
    def cost_usd(self) -> float | None:
        """Return the dollars paid; None if the price of a call is unknown."""
        return self.usage.cost_usd

    @property
    def tokens(self) -> Tokens:
        """Return the paid tokens."""
        return self.usage.tokens

    @property
    def calls(self) -> int:
        """Return the number of LM calls, cached ones included."""
        return self.usage.calls

    @property
    def errors_as_wrong(self) -> float | None:
        """Return the mean score with failed items counted as 0."""
        counted = self.scored + self.errors
        return (self.score.value if self.score else 0.0) * self.scored / counted if counted else None

    @property
    def seconds_per_item(self) -> float | None:
        """Return the median wall time of an item."""
        seconds = [record.seconds for record in self.records if record.status != "error"]
        return statistics.median(seconds) if seconds else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the records, as JSON values. NaN becomes None."""
        names = (
            "benchmark", "split", "program", "metric", "items", "scored", "errors", "unparsed", "pending", "ended_by",
            "errors_as_wrong", "calls", "cost_usd", "seconds_per_item",
        )  # fmt: skip
        values = {name: getattr(self, name) for name in names} | {
            "score": _values(self.score),
            "categories": {name: _values(score) for name, score in self.categories.items()},
            "figures": dict(self.figures),
            "cached_calls": self.usage.cached_calls,
            "tokens": {**self.tokens.model_dump(), "total": self.tokens.total},
            "judge": {
                "calls": self.judge_usage.calls,
                "tokens": self.judge_usage.tokens.total,
                "cost_usd": self.judge_usage.cost_usd,
            },
            "seconds": round(self.seconds, 3),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "records": None if self.path is None else str(self.path),
            "remarks": list(self.remarks),
        }
        content: dict[str, Any] = _finite(values)
        return content

    def to_json(self, indent: int | None = 2) -> str:
        """Return ``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent, allow_nan=False)


def by_category(records: Sequence[Record], seed: int) -> dict[str, Score | None]:
    """Return the score of each category by name; empty if there is at most one category."""
    scores: dict[str, list[float]] = {}
    for record in records:
        if record.category is not None:
            scores.setdefault(record.category, []).extend([] if record.score is None else [record.score])
    if len(scores) < 2:
        return {}
    return {name: Score.of(scores[name], seed=seed) if scores[name] else None for name in sorted(scores)}


def _values(score: Score | None) -> dict[str, Any] | None:
    return None if score is None else score.model_dump()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
