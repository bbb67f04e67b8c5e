"""What came of an evaluation."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from moa_dspy.evaluation.paired import PairedDifference
from moa_dspy.evaluation.records import Record
from moa_dspy.evaluation.spending import Spending
from moa_dspy.evaluation.statistics import Score
from moa_dspy.trace import Tokens

__all__ = ["Evaluation", "Progress"]

EndedBy = Literal["items", "budget"]


@dataclass(frozen=True)
class Progress:
    """Where an evaluation stands.

    Attributes:
        total: items in all.
        done: items with a record, those of earlier starts included.
        scored: items with a score.
        errors: items that failed.
        unparsed: items whose verdict could not be read.
        mean: mean score so far, None without any.
        spent: what all of them took.
        seconds: since this start.
        record: the item that has just ended; None at the beginning.
    """

    total: int
    done: int
    scored: int
    errors: int
    unparsed: int
    mean: float | None
    spent: Spending
    seconds: float
    record: Record | None = None


@dataclass(frozen=True)
class Evaluation:
    """The result of ``evaluate``.

    Attributes:
        benchmark: its name.
        split: of the benchmark.
        program: what was evaluated, in a few words.
        metric: what scored.
        items: items in all.
        score: mean over the scored items, from 0 to 1, with its 95 % bootstrap interval.
        categories: the same for each category, where there are several; without a score where no item has one.
        errors: items that failed; they are in no score.
        unparsed: items whose verdict could not be read; they are in no score.
        pending: items that the budget did not allow.
        ended_by: ``items`` (all were run) or ``budget``.
        figures: the benchmark's official figures, where it has some.
        program_spent: what the program's calls took, earlier starts included.
        judge_spent: what the metric's calls took.
        seconds: wall time of this start.
        records: the last record of each item, in the order of the examples.
        comparison: with the run of ``against``.
        path: the file of records.
        remarks: what a reader of the figures should know, such as what the official protocol was not followed in.
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
    ended_by: EndedBy
    figures: Mapping[str, Any]
    program_spent: Spending
    judge_spent: Spending
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
    def spent(self) -> Spending:
        """Return what program and metric took together."""
        return self.program_spent + self.judge_spent

    @property
    def cost_usd(self) -> float | None:
        """Return the dollars paid, None where a price is not known."""
        return self.spent.cost_usd

    @property
    def tokens(self) -> Tokens:
        """Return the tokens paid for."""
        return self.spent.tokens

    @property
    def calls(self) -> int:
        """Return the number of LM calls, cached ones included."""
        return self.spent.calls

    @property
    def errors_as_wrong(self) -> float | None:
        """Return the mean score if every failed item counted as 0; equal to the score where none failed."""
        counted = self.scored + self.errors
        return (self.score.value if self.score else 0.0) * self.scored / counted if counted else None

    @property
    def seconds_per_item(self) -> float | None:
        """Return the median wall time of an item."""
        times = [record.seconds for record in self.records if record.status != "error"]
        return statistics.median(times) if times else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the records, as JSON values; a figure that there is not (NaN) is None."""
        content: dict[str, Any] = _finite(self._values())
        return content

    def to_json(self, indent: int | None = 2) -> str:
        """Return ``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent, allow_nan=False)

    def _values(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "split": self.split,
            "program": self.program,
            "metric": self.metric,
            "items": self.items,
            "scored": self.scored,
            "errors": self.errors,
            "unparsed": self.unparsed,
            "pending": self.pending,
            "ended_by": self.ended_by,
            "score": _score_values(self.score),
            "errors_as_wrong": self.errors_as_wrong,
            "categories": {name: _score_values(part) for name, part in self.categories.items()},
            "figures": dict(self.figures),
            "calls": self.calls,
            "cached_calls": self.spent.cached_calls,
            "tokens": {**self.tokens.model_dump(), "total": self.tokens.total},
            "cost_usd": self.cost_usd,
            "judge": {
                "calls": self.judge_spent.calls,
                "tokens": self.judge_spent.tokens.total,
                "cost_usd": self.judge_spent.cost_usd,
            },
            "seconds": round(self.seconds, 3),
            "seconds_per_item": self.seconds_per_item,
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "records": None if self.path is None else str(self.path),
            "remarks": list(self.remarks),
        }


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _score_values(score: Score | None) -> dict[str, Any] | None:
    return None if score is None else score.model_dump()


def by_category(records: Sequence[Record], seed: int) -> dict[str, Score | None]:
    """Return the estimate of each category, in the order of their names; empty where there is only one."""
    scores: dict[str, list[float]] = {}
    for record in records:
        if record.category is not None:
            scores.setdefault(record.category, []).extend([] if record.score is None else [record.score])
    if len(scores) < 2:
        return {}
    return {name: Score.of(scores[name], seed=seed) if scores[name] else None for name in sorted(scores)}
