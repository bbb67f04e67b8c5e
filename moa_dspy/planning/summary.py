"""A plan as text: its tables, and the lines below them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moa_dspy.cost.prices import ModelPrice
    from moa_dspy.planning.estimate import CostEstimate
    from moa_dspy.planning.plan import Plan, RunEstimate

__all__ = ["model_rows", "stage_rows", "summary_lines"]


def stage_rows(plan: Plan) -> list[tuple[str, ...]]:
    """Return the header and the rows of the stage table, for one question and a full run."""
    rows = [(str(share.layer), share.stage, *_cells(share)) for share in plan.full.stages]
    return [("layer", "stage", "calls", "prompt", "completion", "cost"), *rows, ("all", "", *_cells(plan.full))]


def model_rows(plan: Plan) -> list[tuple[str, ...]]:
    """Return the header and the rows of the model table, for one question and a full run."""
    rows = [(share.model, *_cells(share), *_prices(share.price)) for share in plan.full.models]
    return [("model", "calls", "prompt", "completion", "cost", "$/M prompt", "$/M completion"), *rows]


def summary_lines(plan: Plan) -> list[str]:
    """Return the lines below the tables: totals, assumptions and notes."""
    lines = [f"full run: {_run_line(plan.full)}"]
    if plan.minimum.calls != plan.full.calls:
        lines.append(f"early stop after layer {plan.minimum.layers}: {_run_line(plan.minimum)}")
    if plan.times > 1:
        least, most = plan.total_minimum, plan.total
        calls = f"{most.calls:,}" if least.calls == most.calls else f"{least.calls:,} to {most.calls:,}"
        cost = most.dollars if least.dollars == most.dollars else f"{least.dollars} to {most.dollars}"
        lines.append(f"{plan.times:,} times: {calls} calls, cost {cost}")
    if plan.left_out:
        lines.append(f"left out for the budget: {', '.join(_left_out(plan))}")
    assumed = plan.lengths
    thinking = f", {assumed.thinking} of hidden thinking in each call" if assumed.thinking else ""
    lines.append(
        f"assumed tokens: {assumed.answer} in an answer, {assumed.critique} in a critique, "
        f"{assumed.reasoning} in a reasoning field{thinking}; no call fails, nothing is cached"
    )
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def _left_out(plan: Plan) -> Iterator[str]:
    for layer in sorted({share.layer for share in plan.left_out}):
        parts = [share for share in plan.left_out if share.layer == layer]
        if layer > plan.full.layers:
            yield f"layer {layer} ({sum(share.calls for share in parts):,} calls)"
        else:
            yield from (f"{share.calls:,} to {share.stage} in layer {layer}" for share in parts)


def _run_line(run: RunEstimate) -> str:
    seconds = "" if run.seconds is None else f", about {run.seconds:g} s"
    tokens = f"{run.prompt_tokens:,} prompt and {run.completion_tokens:,} completion tokens"
    return f"{run.calls:,} calls, {run.depth} of them in sequence{seconds}, {tokens}, cost {run.dollars}"


def _cells(cost: CostEstimate) -> tuple[str, ...]:
    return f"{cost.calls:,}", f"{cost.prompt_tokens:,}", f"{cost.completion_tokens:,}", cost.dollars


def _prices(price: ModelPrice | None) -> tuple[str, str]:
    if price is None:
        return "unknown", "unknown"
    return ("free", "free") if price.source == "free" else (f"{price.input:g}", f"{price.output:g}")
