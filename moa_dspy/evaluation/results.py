"""The result of an evaluation, and two evaluations of the same items compared item by item."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_jsonable_python

from moa_dspy.cost.usage import Tokens, Usage
from moa_dspy.display import Displayed, Table
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.records import Record, difference, latest, read_records
from moa_dspy.evaluation.statistics import Gain, Score

__all__ = ["EvaluateResult", "PairedDifference", "by_category", "compare_files", "paired_difference", "read_other"]


@dataclass(frozen=True)
class PairedDifference:
    """The difference between two evaluations, over the items scored in both.

    Attributes:
        other: name of the other evaluation.
        matched: number of items scored in both.
        only_here: number of items scored in this evaluation only.
        only_there: number of items scored in the other evaluation only.
        difference: mean score of this evaluation minus that of the other, over the matched items.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: two-sided p value of the paired test; see ``Gain``.
        better: number of items with a higher score here.
        worse: number of items with a lower score here.
        equal: number of items with equal scores.
    """

    other: str
    matched: int
    only_here: int
    only_there: int
    difference: float
    low: float
    high: float
    p_value: float
    better: int
    worse: int
    equal: int

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, repr=False)
class EvaluateResult(Displayed):
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
        unparsed: number of items of which a verdict could not be read. They count in no score.
        unread: number of scored items whose answer the metric could not read. They count as wrong.
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
    unread: int
    pending: int
    ended_by: Literal["items", "budget"]
    figures: Mapping[str, Any]
    program_usage: Usage
    judge_usage: Usage
    seconds: float
    records: Sequence[Record]
    comparison: PairedDifference | None = None
    path: Path | None = None
    remarks: Sequence[str] = ()

    def _facts(self) -> Mapping[str, Any]:
        cost = self.usage.cost_usd
        return {
            "program": self.program,
            "benchmark": self.benchmark,
            "metric": self.metric,
            "score": self.score,
            "items": self.items,
            "errors": self.errors or None,
            "unparsed": self.unparsed or None,
            "unread": self.unread or None,
            "pending": self.pending or None,
            "calls": self.calls,
            "tokens": self.tokens.total,
            "cost": "unknown" if cost is None else f"${cost:.6f}",
            "remarks": "; ".join(self.remarks) or None,
        }

    def _tables(self) -> Sequence[Table]:
        rows = [
            (record.id, record.category, record.status, record.score, record.outputs or record.error)
            for record in self.records
        ]
        return [
            Table("categories", ("category", "score"), list(self.categories.items())),
            Table("items", ("item", "category", "status", "score", "outputs"), rows),
        ]

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
            "benchmark", "split", "program", "metric", "items", "scored", "errors", "unparsed", "unread", "pending",
            "ended_by", "errors_as_wrong", "calls", "cost_usd", "seconds_per_item",
        )  # fmt: skip
        values = {name: getattr(self, name) for name in names} | {
            "score": self.score,
            "categories": dict(self.categories),
            "figures": dict(self.figures),
            "cached_calls": self.usage.cached_calls,
            "tokens": {**self.tokens.model_dump(), "total": self.tokens.total},
            "judge": {
                "calls": self.judge_usage.calls,
                "tokens": self.judge_usage.tokens.total,
                "cost_usd": self.judge_usage.cost_usd,
            },
            "seconds": round(self.seconds, 3),
            "comparison": self.comparison,
            "records": self.path,
            "remarks": list(self.remarks),
        }
        content: dict[str, Any] = to_jsonable_python(values, inf_nan_mode="null", fallback=str)
        return content

    def to_json(self, indent: int | None = 2) -> str:
        """Return ``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent, allow_nan=False)


def by_category(records: Sequence[Record]) -> dict[str, Score | None]:
    """Return the score of each category by name; empty if there is at most one category."""
    scores: dict[str, list[float]] = {}
    for record in records:
        if record.category is not None:
            scores.setdefault(record.category, []).extend([] if record.score is None else [record.score])
    if len(scores) < 2:
        return {}
    return {name: Score.of(scores[name]) if scores[name] else None for name in sorted(scores)}


def paired_difference(
    records: Mapping[str, Record], other_records: Mapping[str, Record], *, other: str = "other"
) -> PairedDifference:
    """Compare the records of two evaluations, by id, on the items scored in both.

    Raises:
        ConfigurationError: if no item is scored in both, or if an id has different content in the two.
    """
    mine, others = (
        {name: record.score for name, record in some.items() if record.score is not None}
        for some in (records, other_records)
    )
    common = [name for name in mine if name in others]
    changed = [name for name in common if records[name].content != other_records[name].content]
    if not common or changed:
        why = f"{len(changed)} of {len(common)} items have another content there" if changed else "no item is in both"
        raise ConfigurationError(f"{other} cannot be compared: {why}; both evaluations must be on the same data")
    before, after = [others[name] for name in common], [mine[name] for name in common]
    gain = Gain.of(before, after)
    pairs = list(zip(before, after, strict=True))
    return PairedDifference(
        other=other,
        matched=len(common),
        only_here=len(mine) - len(common),
        only_there=len(others) - len(common),
        difference=gain.value,
        low=gain.low,
        high=gain.high,
        p_value=gain.p,
        better=sum(new > old for old, new in pairs),
        worse=sum(new < old for old, new in pairs),
        equal=sum(new == old for old, new in pairs),
    )


def compare_files(path: str | Path, other: str | Path) -> PairedDifference:
    """Compare two files of evaluation records.

    Raises:
        ConfigurationError: if a file cannot be read, or if the two evaluations differ in benchmark, metric or items.
    """
    run, records = read_records(path)
    return paired_difference(latest(records), read_other(other, run), other=Path(other).name)


def read_other(path: str | Path, run: Mapping[str, Any]) -> dict[str, Record]:
    """Read the records that a run is compared with.

    Raises:
        ConfigurationError: if the file cannot be read, or has another benchmark or metric.
    """
    other, records = read_records(path)
    for part in ("benchmark", "metric"):
        if other.get(part) != run.get(part):
            raise ConfigurationError(f"{path} cannot be compared: {difference(part, other.get(part), run.get(part))}")
    return latest(records)
