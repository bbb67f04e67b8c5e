"""Where a program comes from: on what data, by which method and metric, with what result, at what cost.

The record travels in the program's file. It holds digests and figures: no example, no path, no key.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import PurePath
from typing import Annotated, Any, Final, TypeAlias

import pydantic

__all__ = ["Data", "Figure", "Outlay", "Provenance"]

_LONGEST: Final = 1000


def _bare(text: str) -> str:
    """The name of a file without its folders, and any text without line breaks."""
    line = " ".join(text.split())[:_LONGEST]
    return PurePath(line.replace("\\", "/")).name if line.startswith(("/", "~")) or line[1:3] in (":\\", ":/") else line


def _bare_values(values: dict[str, pydantic.JsonValue]) -> dict[str, pydantic.JsonValue]:
    """Settings of which no text is a path."""

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
    """Examples that were used.

    Attributes:
        use: what for: ``train``, ``validation``, ``held-out``, ``test``.
        name: of the data, where it has one.
        examples: how many.
        digest: of their content; the same for the same examples in the same order.
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
        what: it is of.
        value: the mean.
        low: lower end of the interval.
        high: upper end.
        level: coverage of the interval.
        examples: how many it is the mean of.
        p: of a test, where it is a difference that was tested.
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


class Outlay(_Record):
    """What was paid in the call that made the record; what earlier calls had paid for came from cache and study.

    Attributes:
        calls: LM calls.
        tokens: prompt plus completion.
        usd: dollars; None where a price is unknown.
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
    """The record.

    Attributes:
        method: how the program was made or chosen.
        metric: by what it was measured.
        data: what it was tuned and measured on.
        seeds: by what they are for.
        settings: what else the method was told: trials, objective, the model that writes prompts, options.
        scores: with intervals.
        verdict: of a held-out acceptance or a comparison, in a sentence.
        cost: of the call that made the record.
        versions: of the libraries that took part.
        date: when, in UTC.
        program: digest of the program that the figures are of.
        earlier: the record that the program carried before, such as that of its tuning.
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
    cost: Outlay | None = None
    versions: dict[str, str] = pydantic.Field(default_factory=dict)
    date: datetime.datetime
    program: Text | None = None
    earlier: Provenance | None = None

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the record as names and values for a reader, without the earlier one."""
        yield "method", self.method
        yield from _given("metric", self.metric)
        yield from ((f"{data.use} data", str(data)) for data in self.data)
        yield from _given("seeds", ", ".join(f"{name} {seed}" for name, seed in self.seeds.items()))
        yield from _given("settings", ", ".join(f"{name} {_said(value)}" for name, value in self.settings.items()))
        yield from ((figure.what, str(figure)) for figure in self.scores)
        yield from _given("verdict", self.verdict)
        yield from _given("cost of the last call", self.cost)
        yield from _given("versions", ", ".join(f"{name} {version}" for name, version in self.versions.items()))
        yield "date", f"{self.date:%Y-%m-%d %H:%M} UTC"


def _said(value: pydantic.JsonValue) -> str:
    """A setting in words: lists and options in brackets."""
    if isinstance(value, dict):
        return f"({', '.join(f'{name} {_said(item)}' for name, item in value.items())})"
    if isinstance(value, list):
        return "+".join(map(_said, value))
    return str(value)


def _given(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if value not in (None, ""):
        yield name, str(value)
