"""A whole optimization on the page: the verdict first, then what it cost, what was done, and what it changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.report.blocks import Cell, Section, facts, missing, part, table
from moa_dspy.optimizers.report.markup import Child, el
from moa_dspy.optimizers.report.prompts import prompt_changes, prompts_of
from moa_dspy.optimizers.report.results import (
    acceptance_nodes,
    compile_section,
    contributions_section,
    profile_section,
)
from moa_dspy.optimizers.report.search import depth_nodes, rule_text, search_section
from moa_dspy.optimizers.report.values import (
    Record,
    architecture_of,
    architecture_rows,
    cost_text,
    given,
    inner,
    listed,
    price_cells,
    reading,
    with_interval,
)
from moa_dspy.optimizers.results import Cost
from moa_dspy.optimizers.stopping.depth import Price

__all__ = ["optimize_sections", "stop_section"]


def optimize_sections(record: Record) -> list[Section]:
    """Return the sections of an optimization, the verdict first."""
    return [_verdict(record), _cost(record), *_rounds(record), *_measured(record), _changes(record), _about(record)]


def stop_section(record: Record, title: str = "Depth and stop rule") -> Section:
    """Return the section of the depth and stop rule that were fitted."""
    chosen = inner(record, "chosen")
    score = with_interval(reading(Score, chosen.get("score")))
    rows: list[tuple[str, Cell]] = [
        ("before", given(record.get("before"))),
        ("after", f"{rule_text(chosen)}: {score}" if chosen else given(None)),
    ]
    return Section(title, [facts(rows), *depth_nodes(listed(record, "curve"), chosen)])


def _verdict(record: Record) -> Section:
    acceptance = inner(record, "acceptance")
    if acceptance:
        return Section("Verdict", acceptance_nodes(acceptance))
    said = el("p", given(record["verdict"]), cls="verdict") if record.get("verdict") else None
    score = reading(Score, record.get("score"))
    reached = "" if score is None else f" The program that is kept scores {with_interval(score)} on held-out examples."
    absent = f"No candidate was tested on held-out examples; other scores are of data that it was chosen on.{reached}"
    return Section("Verdict", [said, missing(absent)])


def _cost(record: Record) -> Section:
    whole = reading(Cost, record.get("cost"))
    stages = [(given(entry.get("stage")), reading(Cost, entry.get("cost"))) for entry in listed(record, "spent")]
    rows = [_cost_row(stage, cost, whole) for stage, cost in stages]
    if rows and whole is not None:
        rows.append(_cost_row("all", whole, whole))
    head = ("stage", "calls", "tokens", "dollars", "seconds", "share of tokens")
    return Section(
        "Cost by stage",
        [
            el("p", f"Paid in all: {cost_text(whole)}."),
            table(head, rows, empty="The cost of the stages is not on record."),
        ],
    )


def _cost_row(stage: str, cost: Cost | None, whole: Cost | None) -> list[Cell]:
    if cost is None:
        return [stage, *[given(None)] * 5]
    calls, tokens, usd = price_cells(Price(calls=cost.calls, tokens=cost.tokens, usd=cost.usd))
    share = f"{cost.tokens / whole.tokens:.0%}" if whole is not None and whole.tokens else ""
    return [stage, calls.removesuffix(".0"), tokens, usd, f"{cost.seconds:.1f}", share]


def _rounds(record: Record) -> Iterator[Section]:
    rounds = listed(record, "rounds")
    if not rounds:
        yield Section("Rounds", [missing("No round of the optimization is on record.")])
    for number, done in enumerate(rounds, 1):
        name = f"Round {number}: " if len(rounds) > 1 else ""
        search, prompts, stop = inner(done, "search"), inner(done, "prompts"), inner(done, "stop")
        if search:
            yield search_section(search, _titled(name, "optimization history and Pareto front"))
        if prompts:
            yield compile_section(prompts, _titled(name, f"prompts, by {given(prompts.get('method'))}"))
        if stop:
            yield stop_section(stop, _titled(name, "depth curve and stop rule"))
        steps = {"architecture": search, "prompts": prompts, "depth and stop rule": stop}
        absent = ", ".join(what for what, there in steps.items() if not there)
        if absent:
            yield Section(_titled(name, "what is absent"), [missing(f"Not done, or not reached: {absent}.")])


def _titled(prefix: str, title: str) -> str:
    return f"{prefix}{title}" if prefix else f"{title[0].upper()}{title[1:]}"


def _measured(record: Record) -> Iterator[Section]:
    profile, contributions = inner(record, "profile"), inner(record, "contributions")
    nothing = [missing("It was not measured.")]
    yield profile_section(profile) if profile else Section("Stage profile", nothing)
    yield contributions_section(contributions) if contributions else Section("What each agent adds", nothing)


def _changes(record: Record) -> Section:
    before, after = inner(record, "baseline"), inner(record, "candidate")
    old = dict(architecture_rows(architecture_of(before.get("architecture"))))
    new = dict(architecture_rows(architecture_of(after.get("architecture"))))
    names = dict.fromkeys([*old, *new])
    rows = [_compared(name, old.get(name), new.get(name)) for name in names]
    changes = prompts_of(inner(before, "prompts"), inner(after, "prompts"))
    return Section(
        "What changed, before and after",
        [
            *part("Architecture", table(("", "before", "after"), rows, words=3, empty="No architecture is on record.")),
            *part("Prompts", *prompt_changes(changes)),
        ],
    )


def _compared(name: str, before: str | None, after: str | None) -> list[Cell]:
    old, new = given(before), given(after)
    return [name, old, new] if before == after else [name, el("del", old), el("ins", new)]


def _about(record: Record) -> Section:
    data = inner(record, "data")
    used = [
        (f"{use} data", f"{given(inner(entry).get('examples'))} examples, digest {given(inner(entry).get('digest'))}")
        for use, entry in data.items()
    ]
    rows: list[tuple[str, Cell]] = [
        ("task", given(record.get("task"))),
        ("metric", given(record.get("metric"))),
        ("method", given(record.get("method"))),
        *used,
        ("seed", given(record.get("seed"))),
        ("ended by", given(record.get("ended_by"))),
    ]
    return Section("About this optimization", [facts(rows), *_notes(record.get("notes"))])


def _notes(notes: Any) -> list[Child]:
    lines = [el("li", given(note)) for note in notes] if isinstance(notes, (list, tuple)) else []
    return [el("ul", *lines)] if lines else []
