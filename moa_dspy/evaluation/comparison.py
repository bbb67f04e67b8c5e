"""Two runs on the same items, compared item by item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.records import Record, latest, read_records
from moa_dspy.evaluation.statistics import paired_interval, paired_p_value

__all__ = ["Comparison", "compare", "compare_files"]


@dataclass(frozen=True)
class Comparison:
    """What two runs say of the items that both have a score for.

    Attributes:
        other: name of the other run.
        matched: items with a score in both.
        only_here: items scored here alone.
        only_there: items scored there alone.
        difference: mean score here minus there, over the matched items.
        low: lower end of the 95 % paired bootstrap interval; None for a single item.
        high: upper end.
        p_value: two-sided, of the sign-flip permutation test.
        better: items with a higher score here.
        worse: items with a lower score here.
        equal: items with the same score.
    """

    other: str
    matched: int
    only_here: int
    only_there: int
    difference: float
    low: float | None
    high: float | None
    p_value: float
    better: int
    worse: int
    equal: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def compare(here: Mapping[str, Record], there: Mapping[str, Record], other: str = "other", seed: int = 0) -> Comparison:
    """Compare two runs by the items that both have scored.

    Args:
        here: records by id.
        there: the other run's.
        other: its name.
        seed: of the resampling.

    Raises:
        ConfigurationError: no item is in both, or the same id is another item there.
    """
    ours, theirs = _scored(here), _scored(there)
    common = [name for name in ours if name in theirs]
    foreign = [name for name in common if ours[name].content != theirs[name].content]
    if not common or foreign:
        what = f"{len(foreign)} of {len(common)} items have another content there" if foreign else "no item is in both"
        raise ConfigurationError(f"{other} cannot be compared: {what}; both runs must be on the same data")
    differences = [(ours[name].score or 0.0) - (theirs[name].score or 0.0) for name in common]
    low, high = paired_interval(differences, seed)
    return Comparison(
        other=other,
        matched=len(common),
        only_here=len(ours) - len(common),
        only_there=len(theirs) - len(common),
        difference=sum(differences) / len(differences),
        low=low,
        high=high,
        p_value=paired_p_value(differences, seed),
        better=sum(difference > 0 for difference in differences),
        worse=sum(difference < 0 for difference in differences),
        equal=sum(difference == 0 for difference in differences),
    )


def compare_files(here: str | Path, there: str | Path, seed: int = 0) -> Comparison:
    """Compare two files of records.

    Raises:
        ConfigurationError: see ``compare`` and ``read_other``.
    """
    run, records = read_records(here)
    return compare(latest(records), read_other(there, run), Path(there).name, seed)


def read_other(path: str | Path, run: Mapping[str, Any]) -> dict[str, Record]:
    """Read the records that a run is to be compared with.

    Args:
        path: of the other run's records.
        run: the fingerprint of this run.

    Raises:
        ConfigurationError: the file cannot be read, or is of another benchmark or metric.
    """
    other, records = read_records(path)
    for part in ("benchmark", "metric"):
        if other.get(part) != run.get(part):
            raise ConfigurationError(
                f"{path} cannot be compared: its {part} is {_said(other.get(part))}, not {_said(run.get(part))}"
            )
    return latest(records)


def _scored(records: Mapping[str, Record]) -> dict[str, Record]:
    return {name: record for name, record in records.items() if record.status == "scored"}


def _said(part: Any) -> Any:
    return f"another {part.get('name')}" if isinstance(part, Mapping) else part
