"""Contribution of each agent to a program's score and price, by leave-one-out runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import dspy

from moa_dspy.agents import Agent
from moa_dspy.architecture import AgentSpec
from moa_dspy.cost.budget import Budget
from moa_dspy.cost.usage import Price, Usage
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.statistics import LEVEL, Gain, Score
from moa_dspy.optimizers.measuring import Measurement, Metric, failures_of, guard_of, run_examples
from moa_dspy.optimizers.reported import ReportRow, Tabulated, price_cells
from moa_dspy.program import AttentionMoA
from moa_dspy.text_table import text_table

__all__ = ["Contribution", "Contributions", "contributions", "without"]


class Contribution(ReportRow):
    """The contribution of one agent.

    Attributes:
        agent: name of the agent.
        model: model of the agent.
        score: score of the program without the agent.
        adds: paired gain of the whole program over the program without the agent. Negative if the agent does harm.
            Its interval leaves out 0 if and only if ``p`` is at most 0.05.
        p: two-sided p value of ``adds``, times the number of agents (Bonferroni).
        price: what the agent adds to the mean price of an example, without the response cache. It includes calls of
            other agents that the agent causes. Negative if the program costs more without the agent.
        failed: number of failed runs without the agent. They score 0.
    """

    agent: str
    model: str | None
    score: Score
    adds: Gain
    p: float
    price: Price
    failed: int = 0


class Contributions(Tabulated):
    """The contributions of all agents of a program; ``str`` gives a table, ``report`` JSON values.

    Attributes:
        rows: one per agent, by decreasing ``adds``, then by increasing price.
        score: score of the whole program.
        price: mean price of an example for the whole program, without the response cache.
        examples: number of examples.
        cost: amount paid.
    """

    record_kind: ClassVar[str] = "contributions"

    rows: tuple[Contribution, ...]
    score: Score
    price: Price
    examples: int
    cost: Usage

    def row(self, agent: str) -> Contribution:
        """Return the row of one agent.

        Raises:
            LookupError: if there is no such agent.
        """
        for row in self.rows:
            if row.agent == agent:
                return row
        raise LookupError(f"agent {agent!r} is unknown; use one of: {', '.join(row.agent for row in self.rows)}")

    def to_table(self) -> str:
        """Return the rows as a text table."""
        head = ("agent", "model", "adds to the score", "p", "score without", "calls", "tokens", "usd")
        rows = [
            (row.agent, row.model or "", str(row.adds), f"{row.p:.3g}", str(row.score), *price_cells(row.price, "+"))
            for row in self.rows
        ]
        whole = ("all", "", "", "", str(self.score), *price_cells(self.price))
        note = (
            f"{self.examples} examples; calls, tokens and dollars for an example where nothing is cached; "
            f"p and intervals adjusted for {len(self.rows)} agents (Bonferroni)"
        )
        return f"{text_table([head, *rows, whole], left=(0, 1))}\n\n{note}"


def contributions(
    program: AttentionMoA,
    devset: Sequence[dspy.Example],
    metric: Metric,
    *,
    concurrency: int = 8,
    budget: Budget | None = None,
    progress: Callable[[str], None] | None = None,
) -> Contributions:
    """Run the whole ``program``, then run it without each of its agents. The arguments are those of ``profile``.

    The other agents keep their prompts. Calls that do not depend on the removed agent come from the response cache. If
    several agents are samples of one model, the last sample is removed. The aggregator stays. ``progress`` is called
    with a description of the next run.

    Raises:
        ConfigurationError: if there is only one agent, or if there are no examples.
        AllRunsFailedError: if every run of the whole program, or every run without one agent, fails.
        BudgetExhaustedError: if the budget does not cover all runs.
    """
    specs = program.architecture.agents
    if len(specs) < 2:
        raise ConfigurationError("the program has one agent, and nothing is left without it; give two or more agents")

    guard = guard_of(budget, program)

    def measured(what: str, one: AttentionMoA) -> Measurement:
        if progress is not None:
            progress(f"{what}: {len(devset)} examples")
        with failures_of(what):
            return run_examples(one, devset, metric, concurrency=concurrency, guard=guard)

    whole = measured("the whole program", program)
    parts = [measured(f"without {spec.name}", without(program, index)) for index, spec in enumerate(specs)]
    return Contributions(
        rows=_rows(specs, whole, parts),
        score=whole.score(),
        price=whole.known_price,
        examples=len(devset),
        cost=sum((part.cost for part in parts), start=whole.cost),
    )


def _rows(specs: Sequence[AgentSpec], whole: Measurement, parts: Sequence[Measurement]) -> tuple[Contribution, ...]:
    level = 1 - (1 - LEVEL) / len(parts)
    gains = [Gain.of(part.scores, whole.scores, level=level) for part in parts]
    rows = [
        Contribution(
            agent=spec.name,
            model=spec.model,
            score=part.score(),
            adds=gain,
            p=min(1.0, len(parts) * gain.p),
            price=whole.known_price - part.known_price,
            failed=part.errors,
        )
        for spec, part, gain in zip(specs, parts, gains, strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: (-row.adds.value, row.price.tokens)))


def without(program: AttentionMoA, *left_out: int, aggregator: Agent | None = None) -> AttentionMoA:
    """Return the program without the agents at some indices. Prompts stay, and k peers become at most all others.

    ``aggregator`` aggregates; default: the program's own, even if it is left out as an agent.
    """
    kept = [agent for number, agent in enumerate(program.named_agents) if number not in left_out]
    attention = program.architecture.attention
    if isinstance(attention, int):
        attention = min(attention, len(kept) - 1) or "self"
    return program.replace(agents=kept, aggregator=aggregator or program._aggregator.agent, attention=attention)
