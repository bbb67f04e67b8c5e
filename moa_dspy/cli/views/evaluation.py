"""The result of an evaluation, and the list of recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import RenderableType
from rich.table import Table

from moa_dspy.cli.output import table
from moa_dspy.cli.views.progress import usage_line
from moa_dspy.evaluation.recipes import RECIPES

if TYPE_CHECKING:
    from moa_dspy.evaluation import EvaluateResult, PairedDifference, Score

__all__ = ["recipe_table", "recipe_values", "result_parts"]

_ALMOST: Final = 0.001


def result_parts(result: EvaluateResult, published: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield the result of an evaluation, beside the ``published`` figures of the paper, for ``write_parts``."""
    split = "" if result.split == "all" else f", {result.split}"
    yield f"{result.benchmark}{split}: {result.items} items, scored by {result.metric}"
    yield f"program  {result.program}\n"
    yield table(list(_scores(result)))
    if result.figures:
        yield ""
        yield table(list(_figures(result.figures, published)))
    if result.comparison is not None:
        yield f"\n{_compared(result.comparison)}"
    yield f"\nprogram  {usage_line(result.program_usage)}"
    if result.program_usage.remark is not None:
        yield f"         {result.program_usage.remark}"
    if result.judge_usage.calls:
        yield f"judge    {usage_line(result.judge_usage)}"
    each = result.seconds_per_item
    yield f"time     {result.seconds:.1f} s{'' if each is None else f', {each:.2f} s an item (median)'}"


def recipe_table() -> Table:
    """Return the recipes as a table, with their configuration files."""
    rows = [("recipe", "benchmark", "agents", "layers", "judge", "settings", "file")]
    for each in RECIPES.values():
        agents = f"{each.ensemble}, aggregator {each.aggregator}"
        rows.append((each.name, each.benchmark, agents, str(each.layers), each.judge, each.origin, str(each.file)))
    return table(rows, left=range(len(rows[0])))


def recipe_values() -> list[dict[str, Any]]:
    """Return the recipes as JSON values."""
    names = ("name", "benchmark", "split", "ensemble", "aggregator", "layers", "judge")
    return [
        {name: getattr(each, name) for name in names}
        | {"settings": each.origin, "published": dict(each.published), "file": str(each.file)}
        for each in RECIPES.values()
    ]


def _scores(result: EvaluateResult) -> Iterator[tuple[str, ...]]:
    yield ("", "score", "95 % interval", "scored", "errors", "unparsed", "unread", "not run")
    yield (
        "all",
        *_score(result.score),
        str(result.errors),
        str(result.unparsed),
        str(result.unread),
        str(result.pending),
    )
    if result.errors and result.errors_as_wrong is not None:
        yield (
            "errors as wrong",
            _percent(result.errors_as_wrong),
            "",
            str(result.scored + result.errors),
            "",
            "",
            "",
            "",
        )
    for name, part in result.categories.items():
        records = [record for record in result.records if record.category == name]
        failed = [record.status for record in records]
        unread = sum(record.unread for record in records)
        yield (name, *_score(part), str(failed.count("error")), str(failed.count("unparsed")), str(unread), "")


def _score(part: Score | None) -> tuple[str, str, str]:
    if part is None:
        return ("none", "", "0")
    return (_percent(part.value), f"{_percent(part.low)} to {_percent(part.high)}", str(part.examples))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _figures(figures: Mapping[str, Any], published: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the official figures. Nested ones are indented. The paper's have a column if there are any."""
    width = 3 if published else 2
    yield ("official figures", "here", "paper")[:width]
    for name, value in figures.items():
        label = name.replace("_", " ")
        if not isinstance(value, Mapping):
            yield (label, _number(value), _number(published.get(name, "")))[:width]
        elif value:
            yield (label, "", "")[:width]
            yield from ((f"  {part}", _number(number), "")[:width] for part, number in value.items())


def _number(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_number(part) for part in value) or "none"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _compared(comparison: PairedDifference) -> str:
    between = f" (95 % interval {100 * comparison.low:+.1f} to {100 * comparison.high:+.1f})"
    p_value = f"p < {_ALMOST}" if comparison.p_value < _ALMOST else f"p = {comparison.p_value:.3f}"
    return (
        f"against {comparison.other}: {100 * comparison.difference:+.1f} points{between}, {p_value}\n"
        f"{comparison.matched} items in both: {comparison.better} better, {comparison.worse} worse, "
        f"{comparison.equal} equal; {comparison.only_here} only here, {comparison.only_there} only there"
    )
