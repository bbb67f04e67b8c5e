"""The provenance of a program: data, method, metric, results and cost.

The record is saved in the program's file. It contains digests and figures, but no example, path or key.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import PurePath
from typing import Annotated, Any, Final, TypeAlias

import pydantic

__all__ = ["CostRecord", "Data", "Figure", "Provenance"]

_LONGEST: Final = 1000


def _bare(text: str) -> str:
    """Return the text on one line. A path becomes the name of its file."""
    line = " ".join(text.split())[:_LONGEST]
    return PurePath(line.replace("\\", "/")).name if line.startswith(("/", "~")) or line[1:3] in (":\\", ":/") else line


def _bare_values(values: dict[str, pydantic.JsonValue]) -> dict[str, pydantic.JsonValue]:
    """Return the settings without paths."""

    def bare(value: pydantic.JsonValue) -> pydantic.JsonValue:
        if isinstance(value, str):
            return _bare(value)
        if isinstance(value, list):
            return [bare(item) for item in value]
        return {name: bare(item) for name, item in value.items()} if isinstance(value, dict) else value

    return {name: bare(value) for name, value in values.items()}


Text: TypeAlias = Annotated[str, pydantic.AfterValidator(_bare)]


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Data(_Record):
    """The examples that were used for one purpose.

    Attributes:
        use: ``train``, ``validation``, ``held-out`` or ``test``.
        name: name of the data, if known.
        examples: number of examples.
        digest: digest of their content and order.
    """

    use: Text
    name: Text | None = None
    examples: int = pydantic.Field(ge=0)
    digest: Text

    def __str__(self) -> str:
        name = f" of {self.name}" if self.name else ""
        return f"{self.examples} example{'' if self.examples == 1 else 's'}{name}, digest {self.digest}"


class Figure(_Record):
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
    data: tuple[Data, ...] = ()
    seeds: dict[str, int] = pydantic.Field(default_factory=dict)
    settings: Annotated[dict[str, pydantic.JsonValue], pydantic.AfterValidator(_bare_values)] = pydantic.Field(
        default_factory=dict
    )
    scores: tuple[Figure, ...] = ()
    verdict: Text | None = None
    cost: CostRecord | None = None
    versions: dict[str, str] = pydantic.Field(default_factory=dict)
    date: datetime.datetime
    program: Text | None = None
    earlier: Provenance | None = None

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield names and values as text, without the earlier record."""
        yield "method", self.method
        yield from _row("metric", self.metric)
        yield from ((f"{data.use} data", str(data)) for data in self.data)
        yield from _row("seeds", ", ".join(f"{name} {seed}" for name, seed in self.seeds.items()))
        yield from _row("settings", ", ".join(f"{name} {_as_text(value)}" for name, value in self.settings.items()))
        yield from ((figure.what, str(figure)) for figure in self.scores)
        yield from _row("verdict", self.verdict)
        yield from _row("cost of the last call", self.cost)
        yield from _row("versions", ", ".join(f"{name} {version}" for name, version in self.versions.items()))
        yield "date", f"{self.date:%Y-%m-%d %H:%M} UTC"


def _as_text(value: pydantic.JsonValue) -> str:
    """Return a setting as text."""
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {_as_text(item)}' for name, item in value.items())})"
    if isinstance(value, list):
        return "+".join(map(_as_text, value))
    return str(value)


def _row(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if value not in (None, ""):
        yield name, str(value)
