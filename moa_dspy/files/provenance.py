"""The provenance of a program: data, method, metric, results and cost.

The record is saved in the program's file. It contains digests and figures, but no example, path or key.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Final, TypeAlias

import pydantic

__all__ = ["CostRecord", "DataRecord", "Provenance", "ScoreRecord"]

_LONGEST: Final = 1000


def _without_paths(value: Any) -> Any:
    """Return JSON values with each text on one line. A path becomes the name of its file."""
    if isinstance(value, dict):
        return {name: _without_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    line = " ".join(value.split())[:_LONGEST]
    return PurePath(line.replace("\\", "/")).name if line.startswith(("/", "~")) or line[1:3] in (":\\", ":/") else line


Text: TypeAlias = Annotated[str, pydantic.AfterValidator(_without_paths)]
Settings: TypeAlias = Annotated[dict[str, pydantic.JsonValue], pydantic.AfterValidator(_without_paths)]


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, defer_build=True)


class DataRecord(_Record):
    """The examples that were used for one purpose.

    Attributes:
        use: ``train``, ``validation``, ``held-out`` or ``test``.
        name: name of the data, if known.
        examples: number of examples.
        digest: digest of their content, in any order.
        decisions: the number of other decisions that were taken on them before; None if they decided nothing.
    """

    use: Text
    name: Text | None = None
    examples: int = pydantic.Field(ge=0)
    digest: Text
    decisions: int | None = None

    def __str__(self) -> str:
        name = f" of {self.name}" if self.name else ""
        reuse = f", which decided {self.decisions} times before" if self.decisions else ""
        return f"{self.examples} example{'' if self.examples == 1 else 's'}{name}, digest {self.digest}{reuse}"


class ScoreRecord(_Record):
    """A score or a difference of scores, with its interval.

    Attributes:
        what: the measured quantity.
        value: the mean.
        low: lower end of the interval.
        high: upper end of the interval.
        level: coverage of the interval.
        examples: number of examples.
        p: p-value, if a difference was tested.
    """

    what: Text
    value: float
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    examples: int = pydantic.Field(ge=0)
    p: float | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        p = "" if self.p is None else f", p = {self.p:.3g}"
        return f"{self.value:.3f}{interval} on {self.examples} examples{p}"


class CostRecord(_Record):
    """The amounts paid in the call that made the record. Results from the cache or the study cost nothing.

    Attributes:
        calls: LM calls.
        tokens: prompt plus completion.
        usd: dollars, or None if a price is unknown.
        seconds: wall time.
    """

    calls: int = 0
    tokens: int = 0
    usd: float | None = None
    seconds: float = 0.0

    def __str__(self) -> str:
        usd = "dollars unknown" if self.usd is None else f"${self.usd:.4f}"
        return f"{self.calls} calls, {self.tokens} tokens, {usd}, {self.seconds:.0f} s"


class Provenance(_Record):
    """The record of how a program was made.

    Attributes:
        method: how the program was made or chosen.
        metric: name of the metric.
        data: the examples it was tuned and measured on.
        seeds: seeds by purpose.
        settings: trials, objective, the model that writes prompts, and options of the method.
        scores: scores with intervals.
        verdict: one sentence on a held-out acceptance test or a comparison.
        cost: cost of the call that made the record.
        versions: versions of the libraries.
        date: date in UTC.
        program: digest of the program that was measured.
        earlier: the previous record of the program, such as that of its tuning.
    """

    method: Text
    metric: Text | None = None
    data: tuple[DataRecord, ...] = ()
    seeds: dict[str, int] = pydantic.Field(default_factory=dict)
    settings: Settings = pydantic.Field(default_factory=dict)
    scores: tuple[ScoreRecord, ...] = ()
    verdict: Text | None = None
    cost: CostRecord | None = None
    versions: dict[str, str] = pydantic.Field(default_factory=dict)
    date: datetime.datetime
    program: Text | None = None
    earlier: Provenance | None = None

    def rows(self) -> list[tuple[str, str]]:
        """Return names and values as text, without the earlier record."""
        rows = [
            ("method", self.method),
            ("metric", self.metric or ""),
            *((f"{data.use} data", str(data)) for data in self.data),
            ("seeds", _listed(self.seeds)),
            ("settings", _listed(self.settings)),
            *((figure.what, str(figure)) for figure in self.scores),
            ("verdict", self.verdict or ""),
            ("cost of the last call", str(self.cost or "")),
            ("versions", _listed(self.versions)),
            ("date", f"{self.date:%Y-%m-%d %H:%M} UTC"),
        ]
        return [(name, value) for name, value in rows if value]


def _listed(values: Mapping[str, Any]) -> str:
    """Return names with values as text, without empty values."""
    return ", ".join(f"{name} {text}" for name, value in values.items() if (text := _as_text(value)))


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return f"({listed})" if (listed := _listed(value)) else ""
    if value is None:
        return ""
    return "+".join(map(_as_text, value)) if isinstance(value, list) else str(value)
