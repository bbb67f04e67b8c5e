"""A saved program on the page, as ``moa-dspy show`` describes it: task, agents, architecture, provenance, prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moa_dspy.optimizers.report.blocks import Section, facts, fold, missing, part, table
from moa_dspy.optimizers.report.markup import Child, el
from moa_dspy.optimizers.report.values import Record, given, inner, listed

__all__ = ["program_section"]


def program_section(record: Record) -> Section:
    """Return the section of a program.

    Args:
        record: ``name``; ``sections``, each with ``title``, ``text`` and ``rows`` of name and value; ``predictors`` by
            name, each with ``instructions`` and ``demos``.
    """
    nodes: list[Child] = []
    for section in listed(record, "sections"):
        text = section.get("text")
        nodes += part(given(section.get("title")), el("p", text, cls="prompt") if text else None, _rows(section))
    prompts = list(_prompts(inner(record, "predictors")))
    nodes += part("Prompts", *(prompts or [missing("The program has no prompts.")]))
    return Section(f"Program: {given(record.get('name'))}", nodes)


def _rows(section: Record) -> Child:
    rows = section.get("rows")
    pairs = [row for row in rows if isinstance(row, Sequence)] if isinstance(rows, Sequence) else []
    return facts((given(name), given(value)) for name, value in pairs) if pairs else None


def _prompts(predictors: Record) -> Iterator[Child]:
    for name, predictor in predictors.items():
        demos = listed(inner(predictor), "demos")
        count = f"{len(demos)} demo{'' if len(demos) == 1 else 's'}" if demos else "no demos"
        instructions = el("div", given(inner(predictor).get("instructions")), cls="prompt")
        yield fold(f"{name} ({count})", instructions, *map(_demo, demos), unfolded=not demos)


def _demo(demo: Record) -> Child:
    values = ([str(name), given(value)] for name, value in demo.items() if name != "augmented")
    return table(("demo", ""), values, words=2)
