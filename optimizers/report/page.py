"""One HTML page from the records of searches, tunings, measurements, evaluations, traces and programs.

::

    page = render([found.report, compiled.report, outcome.report])
    Path("report.html").write_text(page, encoding="utf-8")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jinja2
import pydantic

import moa_dspy
from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.report import figures
from moa_dspy.optimizers.report.records import KINDS, MODELS, OptimizeRecord, ReportRecord
from moa_dspy.optimizers.report.text import architecture_rows, architecture_text, printable, prompt_changes, shown

__all__ = ["KINDS", "DamagedRecord", "parse", "records_in", "render"]


@dataclass(frozen=True)
class DamagedRecord:
    """A record that cannot be shown.

    Attributes:
        kind: kind of the record.
        source: the file that contains it; may be empty.
        problem: the wrong field, and the reason.
    """

    kind: str
    source: str
    problem: str

    def __str__(self) -> str:
        return f"{f'{self.source}: ' if self.source else ''}{self.kind} record: {self.problem}"


def records_in(value: Any) -> list[Mapping[str, Any]]:
    """Return the records in a JSON value, in order: mappings with a ``kind`` that a page can show.

    Records inside a record are part of it and are not returned.
    """
    found, rest = [], [value]
    while rest:
        item = rest.pop()
        if isinstance(item, Mapping):
            if item.get("kind") in KINDS:
                found.append(item)
            else:
                rest.extend(reversed(list(item.values())))
        elif isinstance(item, Sequence) and not isinstance(item, str):
            rest.extend(reversed(item))
    return found


def parse(record: Mapping[str, Any], source: str = "") -> ReportRecord | DamagedRecord:
    """Return a record as a typed value, or a description of its damage.

    Args:
        record: JSON values with a ``kind``.
        source: the file that contains it, for the message.

    Raises:
        ConfigurationError: if a page cannot show records of this kind.
    """
    kind = str(record.get("kind"))
    if kind not in MODELS:
        raise ConfigurationError(f"a report cannot show a record of kind {kind!r}; it shows: {', '.join(KINDS)}")
    try:
        return MODELS[kind].model_validate(record)
    except pydantic.ValidationError as error:
        first, *others = error.errors(include_url=False)
        field = ".".join(map(str, first["loc"])) or "record"
        return DamagedRecord(kind, source, f"{field}: {first['msg']}{f' (and {len(others)} more)' if others else ''}")


def render(records: Sequence[Mapping[str, Any] | ReportRecord | DamagedRecord], title: str | None = None) -> str:
    """Return a page that shows the records.

    Equal records give an equal page. The page names missing fields. A record with a field of the wrong type is replaced
    by a message; the others are shown.

    Args:
        records: results' ``report``, as JSON values or typed values.
        title: title of the page; default: the task of an optimization or search, if there is one.

    Raises:
        ConfigurationError: if a page cannot show records of this kind.
    """
    parsed = [parse(record) if isinstance(record, Mapping) else record for record in records]
    tasks = [task for record in parsed if (task := getattr(record, "task", None))]
    name = title or (f"Optimization of {tasks[0]}" if tasks else "Report of moa-dspy")
    sections = [section for record in parsed for section in _sections(record)]
    page = _ENVIRONMENT.get_template("report.html.j2").render(
        title=name, sections=sections, version=moa_dspy.__version__
    )
    return printable(page)


class _Section(NamedTuple):
    """A part of the page; ``body`` is a macro of sections.html.j2."""

    title: str
    body: str
    record: Any


_TITLES = {
    "stop": "Depth and stop rule",
    "acceptance": "Held-out acceptance",
    "compare": "Comparison at matched spend",
    "profile": "Stage profile",
    "contributions": "What each agent adds",
}


def _sections(record: ReportRecord | DamagedRecord) -> Iterator[_Section]:
    if isinstance(record, OptimizeRecord):
        yield from _optimize_sections(record)
    elif isinstance(record, DamagedRecord):
        yield _Section(f"Unreadable: {record.kind}", "damaged", record)
    else:
        names = {"search": "study", "compile": "method"}
        name = getattr(record, names.get(record.kind, "name"), None)
        kind = "Prompts" if record.kind == "compile" else record.kind.capitalize()
        yield _Section(_TITLES.get(record.kind) or f"{kind}: {shown(name)}", record.kind, record)


def _optimize_sections(record: OptimizeRecord) -> Iterator[_Section]:
    yield _Section("Verdict", "verdict", record)
    yield _Section("Cost by stage", "cost", record)
    for number, done in enumerate(record.rounds, 1):
        prefix = f"Round {number}: " if len(record.rounds) > 1 else ""
        method = None if done.prompts is None else done.prompts.method
        parts = [
            ("optimization history and Pareto front", "search", done.search, "architecture"),
            (f"prompts, by {shown(method)}", "compile", done.prompts, "prompts"),
            ("depth curve and stop rule", "stop", done.stop, "depth and stop rule"),
        ]
        for title, body, part, _ in parts:
            if part is not None:
                yield _Section(_titled(prefix, title), body, part)
        absent = ", ".join(what for *_, part, what in parts if part is None)
        if absent:
            yield _Section(_titled(prefix, "what is absent"), "absent", f"Not done, or not reached: {absent}.")
    if not record.rounds:
        yield _Section("Rounds", "absent", "No round of the optimization is on record.")
    for kind in ("profile", "contributions"):
        measured = getattr(record, kind)
        yield _Section(_TITLES[kind], "absent" if measured is None else kind, measured or "It was not measured.")
    yield _Section("What changed, before and after", "differences", record)
    yield _Section("About this optimization", "about", record)


def _titled(prefix: str, title: str) -> str:
    return f"{prefix}{title}" if prefix else f"{title[0].upper()}{title[1:]}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("moa_dspy.optimizers.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.globals.update(
        charts=figures,
        architecture_rows=architecture_rows,
        architecture_text=architecture_text,
        prompt_changes=prompt_changes,
    )
    return environment


_ENVIRONMENT = _environment()
