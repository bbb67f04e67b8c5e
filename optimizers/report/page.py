"""One HTML page from the records of searches, tunings, measurements, evaluations, traces and programs.

::

    page = render([found.report, compiled.report, outcome.report])
    Path("report.html").write_text(page, encoding="utf-8")
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import jinja2

import moa_dspy
from moa_dspy.display import environment
from moa_dspy.optimizers.report import figures
from moa_dspy.optimizers.report.records import DamagedRecord, OptimizeRecord, ReportRecord, parse
from moa_dspy.optimizers.report.text import architecture_rows, architecture_text, as_text, prompt_changes
from moa_dspy.run_view import RunView, visible_signs

__all__ = ["render"]

_SHOWN_RUNS: Final = 50  # of an evaluation: each has all texts of its run
_TITLES: Final = {
    "stop": "Depth and stop rule",
    "gate": "Agreement gate: loss against savings",
    "acceptance": "Held-out acceptance",
    "compare": "Comparison at matched spend",
    "profile": "Stage profile",
    "contributions": "What each agent adds",
    "ceiling": "Ceiling of the agents",
}


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
    template = _environment().get_template("report.html.j2")
    page = template.render(
        title=title or (f"Optimization of {tasks[0]}" if tasks else "Report of moa-dspy"),
        sections=[section for record in parsed for section in _sections(record)],
        version=moa_dspy.__version__,
    )
    return visible_signs(page)


class _Section(NamedTuple):
    """A part of the page; ``body`` is a macro of sections.html.j2."""

    title: str
    body: str
    record: Any


def _sections(record: ReportRecord | DamagedRecord) -> Iterator[_Section]:
    if isinstance(record, DamagedRecord):
        yield _Section(f"Unreadable: {record.kind}", "damaged", record)
    elif isinstance(record, OptimizeRecord):
        yield from _optimize_sections(record)
    elif record.kind in _TITLES:
        yield _Section(_TITLES[record.kind], record.kind, record)
    else:
        name = getattr(record, {"search": "study", "compile": "method"}.get(record.kind, "name"))
        kind = "Prompts" if record.kind == "compile" else record.kind.capitalize()
        yield _Section(f"{kind}: {as_text(name)}", record.kind, record)


def _optimize_sections(record: OptimizeRecord) -> Iterator[_Section]:
    yield _Section("Verdict", "verdict", record)
    yield _Section("Cost by stage", "cost", record)
    if record.ceiling is not None:
        yield _Section(_TITLES["ceiling"], "ceiling", record.ceiling)
    for number, done in enumerate(record.rounds, 1):
        prefix = f"Round {number}: " if len(record.rounds) > 1 else ""
        tuned = done.prompts or done.block
        method = tuned.method if tuned else None
        parts = [
            (f"prompts before the search, by {as_text(method)}", "compile", done.block, ""),
            ("optimization history and Pareto front", "search", done.search, "architecture"),
            (f"prompts, by {as_text(method)}", "compile", done.prompts, "" if done.block else "prompts"),
            ("depth curve and stop rule", "stop", done.stop, "a fit of depth and stop rule of its own"),
        ]
        sections = [_Section(title, body, part) for title, body, part, _ in parts if part is not None]
        absent = ", ".join(what for *_, part, what in parts if part is None and what)
        if absent:
            sections.append(_Section("what is absent", "absent", f"Not done, or not reached: {absent}."))
        for title, body, part in sections:
            yield _Section(f"{prefix}{title}" if prefix else f"{title[0].upper()}{title[1:]}", body, part)
    if not record.rounds:
        yield _Section("Rounds", "absent", "No round of the optimization is on record.")
    if record.gate is not None:
        yield _Section(_TITLES["gate"], "gate", record.gate)
    for kind, measured in (("profile", record.profile), ("contributions", record.contributions)):
        yield _Section(_TITLES[kind], kind if measured else "absent", measured or "It was not measured.")
    yield _Section("What changed, before and after", "differences", record)
    yield _Section("About this optimization", "about", record)


@functools.cache
def _environment() -> jinja2.Environment:
    made = environment(["moa_dspy.optimizers.report", "moa_dspy.run_view"], as_text)
    made.filters["as_text"] = as_text
    made.globals.update(
        charts=figures,
        architecture_rows=architecture_rows,
        architecture_text=architecture_text,
        prompt_changes=prompt_changes,
        run_view=RunView.of,
        shown_runs=_SHOWN_RUNS,
    )
    return made
