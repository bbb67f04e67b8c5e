"""Two evaluations of the same items, compared item by item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.records import Record, latest, read_records
from moa_dspy.evaluation.statistics import Gain

__all__ = ["PairedDifference", "compare_files", "paired_difference", "read_other"]


@dataclass(frozen=True)
class PairedDifference:
    """The difference between two evaluations, over the items scored in both.

    Attributes:
        other: name of the other evaluation.
        matched: number of items scored in both.
        only_here: number of items scored in this evaluation only.
        only_there: number of items scored in the other evaluation only.
        difference: mean score of this evaluation minus that of the other, over the matched items.
        low: lower end of the 95 % paired bootstrap interval.
        high: upper end.
        p_value: two-sided p value of the sign-flip permutation test.
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


def paired_difference(
    records: Mapping[str, Record], other_records: Mapping[str, Record], *, other: str = "other", seed: int = 0
) -> PairedDifference:
    """Compare two evaluations on the items scored in both.

    Args:
        records: records by id.
        other_records: records of the other evaluation by id.
        other: name of the other evaluation.
        seed: seed of the resampling.

    Raises:
        ConfigurationError: if no item is scored in both, or if an id has different content in the two.
    """
    mine = {name: record for name, record in records.items() if record.score is not None}
    others = {name: record for name, record in other_records.items() if record.score is not None}
    common = [name for name in mine if name in others]
    changed = [name for name in common if mine[name].content != others[name].content]
    if not common or changed:
        why = f"{len(changed)} of {len(common)} items have another content there" if changed else "no item is in both"
        raise ConfigurationError(f"{other} cannot be compared: {why}; both evaluations must be on the same data")
    before = [others[name].score or 0.0 for name in common]
    after = [mine[name].score or 0.0 for name in common]
    gain = Gain.of(before, after, seed=seed)
    return PairedDifference(
        other=other,
        matched=len(common),
        only_here=len(mine) - len(common),
        only_there=len(others) - len(common),
        difference=gain.value,
        low=gain.low,
        high=gain.high,
        p_value=gain.p,
        better=sum(new > old for old, new in zip(before, after, strict=True)),
        worse=sum(new < old for old, new in zip(before, after, strict=True)),
        equal=sum(new == old for old, new in zip(before, after, strict=True)),
    )


def compare_files(path: str | Path, other: str | Path, *, seed: int = 0) -> PairedDifference:
    """Compare two files of evaluation records.

    Args:
        path: records of one evaluation.
        other: records of the other evaluation.
        seed: seed of the resampling.

    Raises:
        ConfigurationError: if a file cannot be read, or if the two evaluations differ in benchmark, metric or items.
    """
    run, records = read_records(path)
    return paired_difference(latest(records), read_other(other, run), other=Path(other).name, seed=seed)


def read_other(path: str | Path, run: Mapping[str, Any]) -> dict[str, Record]:
    """Read the records that a run is compared with.

    Args:
        path: records of the other evaluation.
        run: fingerprint of this run.

    Raises:
        ConfigurationError: if the file cannot be read, or has another benchmark or metric.
    """
    other, records = read_records(path)
    for part in ("benchmark", "metric"):
        if other.get(part) != run.get(part):
            raise ConfigurationError(
                f"{path} cannot be compared: its {part} is {_words(other.get(part))}, not {_words(run.get(part))}"
            )
    return latest(records)


def _words(part: Any) -> Any:
    return f"another {part.get('name')}" if isinstance(part, Mapping) else part
