"""The result of an evaluation, and the list of recipes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from moa_dspy.cli.console import table_text
from moa_dspy.cli.views.progress import dollars
from moa_dspy.evaluation.recipes import RECIPES

if TYPE_CHECKING:
    from moa_dspy.cost.usage import Usage
    from moa_dspy.evaluation import EvaluateResult, PairedDifference, Score

__all__ = ["recipes_as_json", "recipes_as_text", "result_text"]

_ALMOST: Final = 0.001


def result_text(result: EvaluateResult, published: Mapping[str, Any] | None = None) -> str:
    """Return the result of an evaluation as text.

    Args:
        result: the result.
        published: the paper's figures, by the name of the official figure.
    """
    rows = list(_scores(result))
    lines = [_title(result), f"program  {result.program}", "", table_text(rows)]
    if figures := list(_figures(result.figures, published or {})):
        lines += ["", table_text(figures)]
    if result.comparison is not None:
        lines += ["", *_compared(result.comparison)]
    return "\n".join([*lines, "", *_costs(result)])


def recipes_as_text() -> str:
    """Return the recipes as a table, with their configuration files."""
    rows = [("recipe", "benchmark", "agents", "layers", "judge", "settings", "file")]
    for each in RECIPES.values():
        agents = f"{each.ensemble}, aggregator {each.aggregator}"
        rows.append((each.name, each.benchmark, agents, str(each.layers), each.judge, each.origin, str(each.file)))
    return table_text(rows, left=range(len(rows[0])))


def recipes_as_json() -> str:
    """Return the recipes as a JSON list."""
    listed = [
        {
            "name": each.name,
            "benchmark": each.benchmark,
            "split": each.split,
            "ensemble": each.ensemble,
            "aggregator": each.aggregator,
            "layers": each.layers,
            "judge": each.judge,
            "settings": each.origin,
            "published": dict(each.published),
            "file": str(each.file),
        }
        for each in RECIPES.values()
    ]
    return json.dumps(listed, indent=2)


def _title(result: EvaluateResult) -> str:
    split = "" if result.split == "all" else f", {result.split}"
    return f"{result.benchmark}{split}: {result.items} items, scored by {result.metric}"


def _scores(result: EvaluateResult) -> Iterator[tuple[str, ...]]:
    yield ("", "score", "95 % interval", "scored", "errors", "unparsed", "not run")
    counts = (result.errors, result.unparsed, result.pending)
    yield ("all", *_score(result.score), *map(str, counts))
    if result.errors and result.errors_as_wrong is not None:
        yield ("errors as wrong", _percent(result.errors_as_wrong), "", str(result.scored + result.errors), "", "", "")
    for name, part in result.categories.items():
        failed = [record.status for record in result.records if record.category == name]
        yield (name, *_score(part), str(failed.count("error")), str(failed.count("unparsed")), "")


def _score(part: Score | None) -> tuple[str, str, str]:
    if part is None:
        return ("none", "", "0")
    return (_percent(part.value), f"{_percent(part.low)} to {_percent(part.high)}", str(part.examples))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _figures(figures: Mapping[str, Any], published: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the official figures. Nested ones are indented."""
    if not figures:
        return
    yield ("official figures", "here", *(["paper"] if published else []))
    for name, value in figures.items():
        label = name.replace("_", " ")
        if isinstance(value, Mapping):
            if value:
                yield (label, "", *([""] if published else []))
            for part, number in value.items():
                yield (f"  {part}", _number(number), *([""] if published else []))
        else:
            yield (label, _number(value), *([_number(published.get(name, ""))] if published else []))


def _number(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_number(part) for part in value) or "none"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _compared(comparison: PairedDifference) -> Iterator[str]:
    between = f" (95 % interval {100 * comparison.low:+.1f} to {100 * comparison.high:+.1f})"
    p_value = f"p < {_ALMOST}" if comparison.p_value < _ALMOST else f"p = {comparison.p_value:.3f}"
    yield f"against {comparison.other}: {100 * comparison.difference:+.1f} points{between}, {p_value}"
    yield (
        f"{comparison.matched} items in both: {comparison.better} better, {comparison.worse} worse, "
        f"{comparison.equal} equal; {comparison.only_here} only here, {comparison.only_there} only there"
    )


def _costs(result: EvaluateResult) -> Iterator[str]:
    yield f"program  {_usage(result.program_usage)}"
    if result.judge_usage.calls:
        yield f"judge    {_usage(result.judge_usage)}"
    each = result.seconds_per_item
    yield f"time     {result.seconds:.1f} s{'' if each is None else f', {each:.2f} s an item (median)'}"


def _usage(usage: Usage) -> str:
    cached = f" ({usage.cached_calls:,} cached)" if usage.cached_calls else ""
    cost = "cost unknown" if usage.cost_usd is None else dollars(usage.cost_usd)
    return f"{usage.calls:,} calls{cached}, {usage.tokens.total:,} tokens, {cost}"
