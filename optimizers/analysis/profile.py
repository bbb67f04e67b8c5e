"""Profile of a program: the score, the gain and the cost of each stage."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import dspy
import pydantic

from moa_dspy.cost.budget import Budget
from moa_dspy.cost.usage import Price, Usage
from moa_dspy.evaluation.runner import price_of, price_of_steps
from moa_dspy.evaluation.statistics import Gain, Score
from moa_dspy.evaluation.suite import fit_metric, output_fields_of
from moa_dspy.optimizers.analysis.stages import StageScores, attribute_runs
from moa_dspy.optimizers.measuring import Metric, Run, measure
from moa_dspy.optimizers.reported import ReportRow, Tabulated
from moa_dspy.program import AttentionMoA
from moa_dspy.text_table import text_table
from moa_dspy.trace import STAGES, Stage

__all__ = ["Profile", "StageRow", "profile"]


class StageRow(ReportRow):
    """One stage of one layer, over all examples.

    Attributes:
        layer: the layer, from 1.
        stage: the stage.
        agent: the agent; None for all agents together.
        score: mean score of the stage's answers; None for critiques, which do not answer the task.
        gain: mean gain of the stage's answers over the answers that it started from, paired by example; None if there
            are none. A proposal starts from the previous layer's output, a refinement from the agent's
            proposal, an aggregate from the mean of the agents' answers, a synthesis from its layer's aggregate.
        lost: number of steps that lowered the score. If a step starts from several answers, their median counts.
        won: number of steps that raised the score.
        steps: number of steps, failed ones included.
        calls: LM calls, cached ones included.
        tokens: prompt plus completion tokens, those of cached calls included.
        share: share of the program's cost in dollars. It is in tokens if a price is unknown or all prices are zero, and
            in calls if there are no tokens.
    """

    layer: int
    stage: Stage
    agent: str | None = None
    score: Score | None = None
    gain: Gain | None = None
    lost: int = 0
    won: int = 0
    steps: int = 0
    calls: int = 0
    tokens: int = 0
    share: float = 0.0


class Profile(Tabulated):
    """Score and cost of each stage of a program; ``str`` gives a table.

    Attributes:
        program: the program.
        rows: in canonical order; each stage has one row for all agents, then one per agent if there are several.
        score: score of the program's answers; a failed run scores 0.
        cost: cost of all runs.
        examples: number of examples.
        failed: number of failed runs. The rows leave them out.
        unjudged: number of answers, over all stages, on which the metric raised. They score 0.
        shares_of: the unit of ``share``.
    """

    record_kind: ClassVar[str] = "profile"

    program: pydantic.SkipValidation[AttentionMoA] = pydantic.Field(exclude=True, repr=False)
    rows: tuple[StageRow, ...]
    score: Score
    cost: Usage
    examples: int
    failed: int = 0
    unjudged: int = 0
    shares_of: str = "calls"

    def row(self, layer: int, stage: Stage, agent: str | None = None) -> StageRow:
        """Return one row.

        Raises:
            LookupError: if the program has no such stage.
        """
        for row in self.rows:
            if (row.layer, row.stage, row.agent) == (layer, stage, agent):
                return row
        raise LookupError(f"the profile has no row for layer {layer}, {stage}, agent {agent}")

    def to_table(self) -> str:
        """Return the rows as a text table."""
        head = ("layer", "stage", "score", "gain on the stage before", "lost", "won", "calls", "tokens", self.shares_of)
        table = text_table([head, *(_cells(row) for row in self.rows)], left=(0, 1))
        failed = f", {self.failed} failed" if self.failed else ""
        unjudged = f"; the metric raised on {self.unjudged} answers, which count as 0" if self.unjudged else ""
        return f"{table}\n\nanswer {self.score} over {self.examples} examples{failed}{unjudged}"


def profile(
    program: AttentionMoA,
    devset: Sequence[dspy.Example],
    metric: Metric,
    *,
    concurrency: int = 8,
    budget: Budget | None = None,
    progress: Callable[[Run], None] | None = None,
) -> Profile:
    """Run ``program`` on every example and score every stage of every run.

    Args:
        program: the program.
        devset: examples, with their inputs set.
        metric: the task's metric; applied to the answers of each stage.
        concurrency: maximum number of concurrent runs.
        budget: limits.
        progress: called with each finished run.

    Raises:
        ConfigurationError: if there are no examples.
        RunError: if every run fails.
        BudgetExhaustedError: if the budget does not cover all runs.
    """
    metric, _ = fit_metric(metric, output_fields_of(program), devset)
    measured = measure(
        program, devset, metric, concurrency=concurrency, budget=budget, progress=progress, keep_traces=True
    )
    runs = attribute_runs(measured.runs, metric, program, concurrency)
    whole = sum((price_of(run.trace) for run in runs), start=Price())
    unit = "usd" if whole.usd else "tokens" if whole.tokens else "calls"
    rows = [
        _row(runs, (layer, stage, agent), unit, getattr(whole, unit))
        for layer in range(1, max(run.trace.layers for run in runs) + 1)
        for stage in STAGES
        for agent in _agents(runs, layer, stage)
    ]
    return Profile(
        program=program,
        rows=tuple(rows),
        score=measured.score(),
        cost=measured.cost,
        examples=len(measured.runs),
        failed=sum(run.prediction is None for run in measured.runs),
        unjudged=sum(len(run.unjudged) for run in runs),
        shares_of=f"share of {'cost' if unit == 'usd' else unit}",
    )


def _agents(runs: Iterable[StageScores], layer: int, stage: Stage) -> list[str | None]:
    """Return None for all agents, then each agent in program order. Return no entries if no run has the stage."""
    names = dict.fromkeys(step.agent for run in runs for step in run.trace.select(layer=layer, stage=stage))
    apart = list(names) if len(names) > 1 and stage in ("propose", "critique", "refine") else []
    return [None, *apart] if names else []


def _row(runs: Sequence[StageScores], place: tuple[int, Stage, str | None], unit: str, whole: float) -> StageRow:
    layer, stage, agent = place
    steps = [step for run in runs for step in run.trace.select(layer=layer, stage=stage) if agent in (None, step.agent)]
    scores = [mean for run in runs if (mean := run.mean(*place)) is not None]
    pairs = [pair for run in runs for pair in run.pairs(*place)]
    price = price_of_steps(steps)
    return StageRow(
        layer=layer,
        stage=stage,
        agent=agent,
        score=Score.of(scores) if scores else None,
        gain=_gain(runs, place),
        lost=sum(after < before for before, after in pairs),
        won=sum(after > before for before, after in pairs),
        steps=len(steps),
        calls=int(price.calls),
        tokens=int(price.tokens),
        share=getattr(price, unit) / whole if whole else 0.0,
    )


def _gain(runs: Sequence[StageScores], place: tuple[int, Stage, str | None]) -> Gain | None:
    before, after = [], []
    for run in runs:
        made = [(starts, scored.score) for scored in run.select(*place) if (starts := run.given(scored.step))]
        if made:
            before.append(statistics.fmean(statistics.fmean(starts) for starts, _ in made))
            after.append(statistics.fmean(score for _, score in made))
    return Gain.of(before, after) if before else None


def _cells(row: StageRow) -> tuple[str, ...]:
    whole, gain = row.agent is None, row.gain
    return (
        str(row.layer) if whole else "",
        row.stage if whole else f"  {row.agent}",
        "" if row.score is None else str(row.score),
        *(("", "", "") if gain is None else (str(gain), str(row.lost), str(row.won))),
        str(row.calls),
        str(row.tokens),
        f"{row.share:.0%}",
    )
