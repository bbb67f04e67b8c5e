"""Quarantine: agents whose answers are shown to be much worse than those of the others are left out.

An agent that is wrong on purpose is the case in point. It is recognised by the scores of its proposals on examples with
known answers. Recorded runs of the whole program have them, so no call is made.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.runner import Run
from moa_dspy.evaluation.scoring import Metric
from moa_dspy.evaluation.statistics import check_share, improvement_p_value
from moa_dspy.optimizers.analysis.contributions import without
from moa_dspy.optimizers.analysis.stages import attribute_runs
from moa_dspy.optimizers.leakage import distinct_runs
from moa_dspy.program import AttentionMoA

__all__ = ["QUARANTINE_LEVEL", "Quarantine", "drop", "p_values", "quarantine"]

QUARANTINE_LEVEL: Final = 0.02
_SHARE: Final = 0.5
"""An agent may be as bad as this share of the others' mean score."""
_LEAST_AGENTS: Final = 3


@dataclass(frozen=True)
class Quarantine:
    """The agents that recorded runs show to be much worse than the others.

    Attributes:
        program: the program without them; the program itself if there are none.
        agents: their names.
        scores: mean score of each agent's first proposals.
        p: for each agent, the p value of "it scores at least half of what the others score on average".
        level: the largest p value for quarantine, divided among the agents.
        examples: number of runs, one of each question.
    """

    program: AttentionMoA
    agents: tuple[str, ...]
    scores: Mapping[str, float]
    p: Mapping[str, float]
    level: float
    examples: int

    def __str__(self) -> str:
        if not self.agents:
            return "no agent is shown to be much worse than the others"
        figures = ", ".join(f"{name} (score {self.scores[name]:.2f}, p = {self.p[name]:.2g})" for name in self.agents)
        others = statistics.fmean(score for name, score in self.scores.items() if name not in self.agents)
        return f"left out, since they score less than half of the others' {others:.2f}: {figures}"


def quarantine(
    program: AttentionMoA,
    runs: Sequence[Run],
    metric: Metric,
    *,
    level: float = QUARANTINE_LEVEL,
    concurrency: int = 1,
) -> Quarantine:
    """Return the agents that are shown to be much worse than the others. No model is called.

    The test of each agent is one-sided and paired: does it score less than half of what the others score on average?
    The level is divided among the agents (Bonferroni). So the probability that any agent that scores at least half of
    that is left out is at most ``level``. With fewer than three agents nobody is.

    Args:
        program: the program that made the runs.
        runs: runs with traces, on independent examples. Of several runs of a question, the first counts. An agent is
            compared on those in which it proposed. A failed proposal shows nothing about what an agent answers.
        metric: the task's metric, with scores from 0 to 1.
        level: see above.
        concurrency: number of runs scored at once.

    Raises:
        ConfigurationError: if no run has a trace, or ``level`` is out of range.
    """
    check_share("level", level)
    scored = attribute_runs(distinct_runs(runs), metric, program, concurrency)
    if not scored:
        raise ConfigurationError("no run has a trace; make the runs with measure(..., keep_traces=True)")
    known = [{one.step.agent: one.score for one in run.select(1, "propose")} for run in scored]
    names = [spec.name for spec in program.architecture.agents]
    p = p_values(names, known)
    worse = tuple(name for name in names if p[name] <= level / len(names))
    columns = {name: [scores[name] for scores in known if name in scores] for name in names}
    means = {name: statistics.fmean(column) if column else 0.0 for name, column in columns.items()}
    return Quarantine(drop(program, worse, means), worse, means, p, level, len(scored))


def p_values(names: Sequence[str], scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the p value of each agent, from the scores of those that proposed, by example.

    It is 1 for fewer than three agents, and for one that was never scored with another one.
    """
    p = dict.fromkeys(names, 1.0)
    for name in names if len(names) >= _LEAST_AGENTS else ():
        compared = [row for row in scores if name in row and len(row) > 1]
        others = [(math.fsum(row.values()) - row[name]) / (len(row) - 1) for row in compared]
        if compared:
            p[name] = improvement_p_value([row[name] for row in compared], [_SHARE * mean for mean in others])
    return p


def drop(program: AttentionMoA, names: Collection[str], scores: Mapping[str, float]) -> AttentionMoA:
    """Return the program without some agents; the program itself if there are none.

    Prompts stay. If one of them aggregates, the remaining agent with the highest score does instead.
    """
    if not names:
        return program
    agents, aggregator = program.named_agents, None
    out = [number for number, agent in enumerate(agents) if agent.name in names]
    if program.aggregator is None:
        aggregates = 0 in out
    else:
        aggregates = program._aggregator.agent.identity in {agents[number].identity for number in out}
    if aggregates:
        kept = (agent for number, agent in enumerate(agents) if number not in out)
        best = max(kept, key=lambda agent: scores.get(agent.name or "", 0.0))
        aggregator = replace(best, name="aggregator", persona=None)
    return without(program, *out, aggregator=aggregator)
