"""A run as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from moa_dspy.text_table import table
from moa_dspy.trace import STAGES, GroupUsage, Step, Trace, group_usage

__all__ = ["summary_of"]

_FIGURES: Final = ("calls", "cached", "prompt", "(cached)", "completion", "cost", "seconds", "queued")
_SUMS: Final = ("steps", "failed", *_FIGURES)
_CAUSE: Final = 100  # characters of a failure's message


def summary_of(trace: Trace, *, steps: bool) -> str:
    """Return ``trace`` as text: a table of stages, one of agents, what failed, and how the run ended."""
    tables = [*([table(_steps(trace.steps), left=(1, 2, 3, 4))] if steps else []), table(_stages(trace), left=(1,))]
    agents = table(_agents(trace), left=(0,))
    return "\n\n".join([*tables, agents, "\n".join([*_failures(trace.steps), *_cut(trace.steps), _ending(trace)])])


def _stages(trace: Trace) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("layer", "stage", *_SUMS)]
    for layer in range(1, trace.layers + 1):
        for stage in STAGES:
            steps = list(trace.select(layer=layer, stage=stage))
            if steps:
                rows.append((str(layer), stage, *_sums(group_usage(stage, steps))))
    return [*rows, ("all", "", *_sums(trace.total))]


def _agents(trace: Trace) -> list[tuple[str, ...]]:
    return [("agent", *_SUMS), *((sums.name, *_sums(sums)) for sums in trace.by("agent"))]


def _steps(steps: Sequence[Step]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("layer", "stage", "agent", "target", "status", *_FIGURES)]
    for step in steps:
        where = str(step.layer), step.stage, step.agent, step.target or "", step.status
        rows.append((*where, *_figures(group_usage(step.agent, [step]))))
    return rows


def _sums(sums: GroupUsage) -> tuple[str, ...]:
    return str(sums.steps), str(sums.failed), *_figures(sums)


def _figures(sums: GroupUsage) -> tuple[str, ...]:
    used = sums.usage
    counts = used.calls, used.cached_calls, used.tokens.prompt, used.tokens.cached, used.tokens.completion
    cost = sums.dollars.replace("at least", ">=")
    return *map(str, counts), cost, f"{used.seconds:.2f}", f"{sums.queued:.2f}"


def _failures(steps: Sequence[Step]) -> Iterator[str]:
    """Yield a line for each cause, with the steps it affected."""
    affected: dict[str, list[str]] = {}
    for step in steps:
        if step.error is not None:
            message = step.error.message
            cause = f"{step.error.kind}: {message if len(message) <= _CAUSE else f'{message[: _CAUSE - 1]}…'}"
            affected.setdefault(cause, []).append(f"{step.stage} by {step.agent}")
    for cause, names in affected.items():
        yield f"failed: {cause} ({', '.join(dict.fromkeys(names))})"


def _cut(steps: Sequence[Step]) -> Iterator[str]:
    cut = dict.fromkeys(f"{step.stage} by {step.agent}" for step in steps if step.truncated)
    if cut:
        yield f"cut at max_tokens: {', '.join(cut)}"


def _ending(trace: Trace) -> str:
    total, used = trace.total, trace.usage
    cost = "cost unknown" if total.usage.cost_usd is None else total.dollars
    unanswered = f", {used.unanswered} call(s) cut short, which may be billed" if used.unanswered else ""
    return f"stopped by {trace.stopped_by} after {trace.layers} layer(s), {trace.seconds:.2f} s, {cost}{unanswered}"
