"""One page out of the records of searches, tunings, measurements and programs: plain HTML that needs nothing else.

::

    Path("report.html").write_text(render([found.report, compiled.report, outcome.report]), encoding="utf-8")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import moa_dspy
from moa_dspy.optimizers.report.blocks import Section, missing
from moa_dspy.optimizers.report.markup import Node, add, document, el
from moa_dspy.optimizers.report.optimization import optimize_sections, stop_section
from moa_dspy.optimizers.report.program import program_section
from moa_dspy.optimizers.report.results import (
    acceptance_section,
    compare_section,
    compile_section,
    contributions_section,
    profile_section,
)
from moa_dspy.optimizers.report.search import search_section
from moa_dspy.optimizers.report.style import STYLE
from moa_dspy.optimizers.report.values import Record, given

__all__ = ["KINDS", "records_in", "render"]

_SECTIONS: Final[Mapping[str, Callable[[Record], list[Section]]]] = {
    "optimize": optimize_sections,
    "search": lambda record: [search_section(record)],
    "compile": lambda record: [compile_section(record)],
    "stop": lambda record: [stop_section(record)],
    "acceptance": lambda record: [acceptance_section(record)],
    "compare": lambda record: [compare_section(record)],
    "profile": lambda record: [profile_section(record)],
    "contributions": lambda record: [contributions_section(record)],
    "program": lambda record: [program_section(record)],
}

KINDS: Final = tuple(_SECTIONS)
"""The kinds of records that a page can show."""


def records_in(value: Any) -> list[Record]:
    """Return the records in a JSON value, in their order: mappings with a ``kind`` that a page can show.

    What is inside a record belongs to it, and is none of its own.
    """
    found, ahead = [], [value]
    while ahead:
        here = ahead.pop()
        if isinstance(here, Mapping):
            if here.get("kind") in KINDS:
                found.append(here)
            else:
                ahead.extend(reversed(list(here.values())))
        elif isinstance(here, Sequence) and not isinstance(here, str):
            ahead.extend(reversed(here))
    return found


def render(records: Sequence[Record], title: str | None = None) -> str:
    """Return a page that shows the records.

    The same records give the same page. What a record lacks, its section says.

    Args:
        records: as the optimizers' ``report`` has them.
        title: of the page; default: the task of an optimization, where there is one.

    Raises:
        ValueError: a record is of no known kind.
    """
    sections = [section for record in records for section in _sections_of(record)]
    name = title or _title(records)
    body = [_shown(section, number) for number, section in enumerate(sections, 1)]
    foot = el("footer", f"Written by moa-dspy {moa_dspy.__version__}. {_FOOTNOTE}")
    nothing = None if sections else missing("There is no record to show.")
    main = el("main", *body, nothing)
    contents = _contents(sections) if len(sections) > 1 else None
    return document(name, STYLE, el("header", el("h1", name)), contents, main, foot)


_FOOTNOTE: Final = (
    "Square brackets hold 95 % bootstrap intervals over examples, unless another coverage is given. Prices are those "
    "of a run with an empty cache; what was paid leaves out what the cache answered."
)


def _sections_of(record: Record) -> list[Section]:
    kind = record.get("kind")
    if kind not in KINDS:
        raise ValueError(f"there is no page for a record of kind {kind!r}; there is for: {', '.join(KINDS)}")
    try:
        return _SECTIONS[kind](record)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        return [Section(f"Damaged: {kind}", [missing(f"This record cannot be read: {type(error).__name__}: {error}.")])]


def _shown(section: Section, number: int) -> Node:
    return add(el("section", el("h2", section.title), id=f"part-{number}"), *section.nodes)


def _contents(sections: Sequence[Section]) -> Node:
    links = (el("a", section.title, href=f"#part-{number}") for number, section in enumerate(sections, 1))
    return el("nav", el("ol", *(el("li", link) for link in links)), aria_label="Contents")


def _title(records: Sequence[Record]) -> str:
    tasks = [given(record["task"]) for record in records if record.get("task")]
    return f"Optimization of {tasks[0]}" if tasks else "Report of moa-dspy"
