"""Values of records as text, and prompts compared word by word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

from moa_dspy.architecture import AgentSpec, Architecture
from moa_dspy.cost.usage import Usage
from moa_dspy.evaluation.statistics import LEVEL, Gain, Score
from moa_dspy.optimizers.report.records import CompileRecord, OptimizeRecord, PredictorChange
from moa_dspy.optimizers.search.objective import Objective
from moa_dspy.run_view import word_diff

__all__ = ["Change", "architecture_rows", "architecture_text", "as_text", "differences", "prompt_changes"]

_UNKNOWN: Final = "not on record"
Pieces: TypeAlias = list[tuple[bool, str]]
"""A text in parts, each with a flag that says whether it differs from the other text."""


def as_text(value: Any) -> Any:
    """Return a value as the page prints it: None, estimates, costs and objectives in words, containers as JSON."""
    if value is None:
        return _UNKNOWN
    if isinstance(value, (Score, Gain)):
        return f"{value}{'' if value.level == LEVEL else f' ({100 * value.level:.3g}%)'}"
    if isinstance(value, Usage):
        dollars = "dollars unknown" if value.cost_usd is None else f"${value.cost_usd:,.6f}"
        return f"{value.paid_calls:,} calls, {value.tokens.total:,} tokens, {dollars}, {value.seconds:.1f} s"
    if isinstance(value, Objective):
        if value.two:
            return f"a high score and a low price, in {value.unit}"
        limit = "" if value.price is None else f" for at most {value.price} {value.unit} per example"
        return f"the best score{limit}"
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (bool, dict, list, tuple)) else value


def architecture_rows(shape: Architecture | None) -> dict[str, str]:
    """Return an architecture as names and values; empty if there is none."""
    if shape is None:
        return {}
    aggregator = "none"
    if shape.aggregates:
        spec = shape.aggregator
        aggregator = f"the model of {shape.agents[0].name}" if spec is None else _agent(spec, spec.model or spec.name)
    return {
        "agents": ", ".join(_agent(spec, spec.name) for spec in shape.agents),
        "models": ", ".join(dict.fromkeys(spec.model or "the model DSPy is configured with" for spec in shape.agents)),
        "aggregator": aggregator,
        **shape.rows(),
    }


def architecture_text(shape: Architecture) -> str:
    """Return the main properties of an architecture in one line."""
    rows = architecture_rows(shape)
    depth = ["residual", "early stop"] if shape.layers > 1 else []
    end = "aggregator" if shape.aggregates else "aggregation"
    return "; ".join(f"{name} {rows[name]}" for name in ["agents", "attention", "layers", *depth, end])


def _agent(spec: AgentSpec, name: str) -> str:
    return name if spec.temperature is None else f"{name} (T={spec.temperature:g})"


class Change(NamedTuple):
    """The instructions of a predictor before and after (None: it is new, or was removed), with notes on its demos."""

    name: str
    before: str | None
    after: str | None
    notes: list[str]

    @property
    def columns(self) -> list[tuple[str, str, Pieces]]:
        """Return title, HTML tag of the differences, and text of each column."""
        if self.before is None or self.after is None:
            title = "new" if self.before is None else "removed"
            return [(f"{self.name}: {title}", "ins", [(False, self.after or self.before or "")])]
        if self.before == self.after:
            return [("before and after", "ins", [(False, self.after)])]
        old, new = differences(self.before, self.after)
        return [("before", "del", old), ("after", "ins", new)]


def prompt_changes(record: CompileRecord | OptimizeRecord) -> tuple[list[Change], list[Change]]:
    """Return the prompts that changed, and those that did not."""
    if isinstance(record, CompileRecord):
        changes = [
            Change(name, entry.instructions.get("before"), entry.instructions.get("after"), list(_notes(entry)))
            for name, entry in record.predictors.items()
        ]
    else:
        before, after = record.baseline.prompts, record.candidate.prompts
        changes = [Change(name, before.get(name), after.get(name), []) for name in {**after, **before}]
    changed = [change for change in changes if change.before != change.after or change.notes]
    return changed, [change for change in changes if change not in changed]


def _notes(entry: PredictorChange) -> Iterator[str]:
    counts = [f"{count} {kind}" for kind in ("bootstrapped", "labeled") if (count := entry.demos.get(kind))]
    if counts:
        yield f"Demos: {', '.join(counts)}."
    if nearest := entry.demos.get("shown"):
        yield f"Each question is shown the {nearest} nearest of them."
    if entry.decisions:
        yield f"Decisions: {as_text(entry.decisions)}."


def differences(before: str, after: str) -> tuple[Pieces, Pieces]:
    """Return both texts in pieces, with the differences marked; see ``word_diff``."""
    pieces = word_diff(before, after)
    return (
        [(kind != "same", text) for kind, text in pieces if kind != "added"],
        [(kind != "same", text) for kind, text in pieces if kind != "removed"],
    )
