"""The best that any selection among a program's agents can reach, before anything is built.

No vote, route or cascade can be right where all agents are wrong (the co-failure ceiling, arXiv 2606.27288). The rate
of such examples, with an exact bound, therefore limits all of them. Synthesis may write an answer that no agent gave,
so recorded runs of the whole program also show how often that happened, and how often a right answer was lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import dspy

from moa_dspy.cost.budget import Budget
from moa_dspy.cost.usage import Price, Usage
from moa_dspy.display import Displayed
from moa_dspy.errors import AllRunsFailedError, ConfigurationError
from moa_dspy.evaluation.runner import price_of, price_of_steps
from moa_dspy.evaluation.statistics import Score, check_share
from moa_dspy.optimizers.analysis.stages import StageScores, attribute_runs
from moa_dspy.optimizers.leakage import deduplicate, distinct_runs
from moa_dspy.optimizers.measuring import Metric, Run, check_program, measure
from moa_dspy.optimizers.reported import ReportRow, Tabulated, price_cells
from moa_dspy.program import AttentionMoA
from moa_dspy.text_table import text_table

__all__ = ["Ceiling", "Way", "ceiling", "ceiling_of", "known_ceiling", "proposals_of"]

_ROUNDING: Final = 1e-9


class Way(ReportRow):
    """One way to answer: an agent alone, the vote, the best selection, or the whole program.

    Attributes:
        name: name of the agent; ``vote``, ``best selection`` or ``program``.
        right: the rate of right answers.
        price: mean price of an example without the response cache.
    """

    name: str
    right: Score
    price: Price

    @property
    def usd_per_right(self) -> float | None:
        """Return the dollars for a right answer; None if a price is unknown or no answer is right."""
        return None if self.price.usd is None or not self.right.value else self.price.usd / self.right.value


class Ceiling(Displayed, Tabulated):
    """What the agents of a program can reach; ``str`` gives a table, ``report`` JSON values.

    Attributes:
        examples: number of examples. Of a repeated question the first counts.
        all_wrong: number of examples on which all agents are wrong.
        most: upper bound of the accuracy of any vote, route or cascade of these agents on further examples: 1 minus the
            exact (Clopper-Pearson) lower bound of the rate of examples on which all are wrong.
        confidence: probability that the bound holds.
        agents: each agent alone.
        vote: the vote of all agents; None for one agent.
        selection: a selection that always finds a right answer if an agent gave one.
        program: the whole program, if its runs were given.
        found: number of examples on which all agents were wrong and the program right; None without the whole program.
        lost: number of examples on which an agent was right and the program wrong; None without the whole program.
        right: the score from which an answer counts as right.
        partly: number of examples on which an answer scores above 0 and below ``right``. It counts as wrong, so the
            ceiling says little about such scores.
        failed: number of failed runs, which are left out.
        room: upper bound of the gain of any selection over the best single agent on further examples, see
            ``most_gain``.
        cost: amount paid.
    """

    record_kind: ClassVar[str] = "ceiling"

    examples: int
    all_wrong: int
    most: float
    confidence: float
    agents: tuple[Way, ...]
    vote: Way | None = None
    selection: Way
    program: Way | None = None
    found: int | None = None
    lost: int | None = None
    right: float = 1.0
    partly: int = 0
    failed: int = 0
    room: float = 1.0
    cost: Usage = Usage()

    def _facts(self) -> Mapping[str, Any]:
        return {"examples": self.examples, "all_wrong": self.all_wrong, "most": self.most, "best": self.best.name}

    @property
    def ways(self) -> list[Way]:
        """Return all ways to answer: each agent, the vote, the best selection and the program."""
        return [*(self.agents or ()), *(way for way in (self.vote, self.selection, self.program) if way is not None)]

    @property
    def best(self) -> Way:
        """Return the best single agent, and the cheapest on a tie. An unknown price is above every known one."""
        usd = {way.name: math.inf if way.price.usd is None else way.price.usd for way in self.agents}
        return min(self.agents, key=lambda way: (-way.right.value, usd[way.name], way.price.tokens))

    @property
    def sentence(self) -> str:
        """Return the ceiling in words."""
        many = len(self.agents) > 1
        who = f"all {len(self.agents)} agents are" if many else "the agent is"
        gain = ""
        if many and self.room:  # records of older versions have none
            gain = f"; a selection gains at most {self.room:.1%} on the best one ({self.confidence:.0%})"
        return (
            f"{who} wrong on {self.all_wrong} of {self.examples} examples: no vote, route or cascade of them is right "
            f"on more than {self.most:.1%} ({self.confidence:.0%} confidence; {self.selection.right.value:.1%} here). "
            f"The best single agent, {self.best.name}, is right on {self.best.right.value:.1%}"
            + gain
            + (f". Scores below {self.right:g} count as wrong, also those above 0" if self.partly else "")
        )

    def to_table(self) -> str:
        """Return the ceiling as text for people."""
        head = ("", "right", "calls", "tokens", "usd", "usd per right answer")
        rows = [
            (way.name, str(way.right), *price_cells(way.price), "unknown" if each is None else f"{each:.6f}")
            for way, each in ((way, way.usd_per_right) for way in self.ways)
        ]
        table = text_table([head, *rows], left=(0,))
        lines = [f"{self.sentence}."]
        if self.found is not None:
            lines.append(
                f"The program is right on {self.found} of the {self.all_wrong} examples on which all agents are wrong, "
                f"and wrong on {self.lost} of the {self.examples - self.all_wrong} on which one is right."
            )
        if self.failed:
            lines.append(f"{self.failed} failed runs are left out.")
        return "\n".join([table, "", *lines])

    def __str__(self) -> str:
        return self.to_table()


def ceiling(
    program: AttentionMoA,
    devset: Sequence[dspy.Example],
    metric: Metric,
    *,
    whole: bool = False,
    right: float = 1.0,
    confidence: float = 0.95,
    concurrency: int = 8,
    budget: Budget | None = None,
    progress: Callable[[Run], None] | None = None,
) -> Ceiling:
    """Ask every agent once for every example, and return what a selection among their answers can reach.

    These are the proposals of the program's first layer. The response cache answers them when the program, or a search
    that starts from it, asks for them again.

    Args:
        program: the program.
        devset: examples with their inputs set.
        metric: the task's metric; applied to every proposal.
        whole: whether to run the whole program, which shows what synthesis finds and loses.
        right: the score from which an answer counts as right.
        confidence: probability that the bound holds.
        concurrency: maximum number of concurrent examples.
        budget: limits.
        progress: called with each finished run.

    Raises:
        ConfigurationError: if there are no examples, or an argument is out of range.
        AllRunsFailedError: if every run fails.
        BudgetExhaustedError: if the budget does not cover all runs.
    """
    check_program(program)
    check_share("confidence", confidence)
    if not 0 < right <= 1:
        raise ConfigurationError(f"right={right!r} is out of range; it must be above 0 and at most 1")
    asked = program if whole else proposals_of(program)
    measured = measure(
        asked, deduplicate(devset), metric, concurrency=concurrency, budget=budget, progress=progress, keep_traces=True
    )
    found = ceiling_of(
        asked,
        measured.runs,
        metric,
        whole=whole,
        right=right,
        confidence=confidence,
        concurrency=concurrency,
    )
    return found.model_copy(update={"cost": measured.cost})


def proposals_of(program: AttentionMoA) -> AttentionMoA:
    """Return the program that asks each agent once, with the same prompts, and counts votes without a call."""
    how = "vote" if len(program.agents) > 1 else "none"
    return program.replace(layers=1, attention="none", aggregation=how, gate="off")


def known_ceiling(program: AttentionMoA, runs: Sequence[Run], metric: Metric, **options: Any) -> Ceiling | None:
    """Return ``ceiling_of`` where it costs nothing and is complete, else None.

    A metric that calls models would judge every proposal. A gate may have left agents out.
    """
    if any(run.metric_usage.calls for run in runs) or not all(map(_asked_all(program), runs)):
        return None
    return ceiling_of(program, runs, metric, **options)


def _asked_all(program: AttentionMoA) -> Callable[[Run], bool]:
    names = {spec.name for spec in program.architecture.agents}
    return lambda run: run.trace is None or names <= {step.agent for step in run.trace.select(layer=1, stage="propose")}


def ceiling_of(
    program: AttentionMoA,
    runs: Sequence[Run],
    metric: Metric,
    *,
    whole: bool = True,
    right: float = 1.0,
    confidence: float = 0.95,
    concurrency: int = 8,
) -> Ceiling:
    """Return the ceiling from recorded runs with traces, without a call of a program's model; see ``ceiling``.

    ``program`` made the runs. ``whole`` says that it is a whole program, and not one of ``proposals_of``.

    Raises:
        AllRunsFailedError: if no run has a trace.
        ConfigurationError: if a run did not ask every agent.
    """
    if not all(map(_asked_all(program), runs)):
        raise ConfigurationError("a gate left agents out, so their answers are not known; give the program gate='off'")
    distinct = distinct_runs(runs)
    scored = attribute_runs(distinct, metric, program, concurrency)
    if not scored:
        raise AllRunsFailedError("no run can show the ceiling: all of them failed")
    names = [spec.name for spec in program.architecture.agents]
    least = right - _ROUNDING
    first = [{one.step.agent: one.score for one in run.select(1, "propose")} for run in scored]
    table = [[scores.get(name, 0.0) >= least for name in names] for scores in first]  # a failed proposal is wrong
    alone = [_way(name, [row[number] for row in table], _prices(scored, name)) for number, name in enumerate(names)]
    any_right, answers = [any(row) for row in table], [run.answer >= least for run in scored]
    asking_all = _prices(scored, None)
    wrong = any_right.count(False)
    last = _way("program" if whole else "vote", answers, [price_of(run.trace) for run in scored])
    pairs = list(zip(any_right, answers, strict=True))
    return Ceiling(
        examples=len(table),
        all_wrong=wrong,
        most=1 - least_rate(wrong, len(table), confidence),
        confidence=confidence,
        agents=tuple(alone),
        vote=last if not whole and len(names) > 1 else None,
        selection=_way("best selection", any_right, asking_all),
        program=last if whole else None,
        found=pairs.count((False, True)) if whole else None,
        lost=pairs.count((True, False)) if whole else None,
        right=right,
        partly=sum(any(0 < one.score < least for one in run.select(1, "propose")) for run in scored),
        failed=sum(run.trace is None for run in runs),
        room=most_gain(table, confidence),
    )


def least_rate(count: int, of: int, confidence: float) -> float:
    """Return Clopper and Pearson's exact lower bound of a rate, of which ``count`` in ``of`` draws are a sample."""
    from scipy.stats import beta  # takes most of a second to import

    return float(beta.ppf(1 - confidence, count, of - count + 1)) if count else 0.0


def most_gain(table: Sequence[Sequence[bool]], confidence: float) -> float:
    """Return an upper bound of what a selection gains over the best agent, from who is right on each example.

    Over one agent, a selection gains at most the rate of examples on which it is wrong and another one right. Clopper
    and Pearson's exact bounds of these rates share the level and hold together. So the smallest one holds, whichever
    agent is the best.
    """
    agents = len(table[0])
    no_gain = [sum(row[number] or not any(row) for row in table) for number in range(agents)]
    return min(1 - least_rate(count, len(table), 1 - (1 - confidence) / agents) for count in no_gain)


def _prices(runs: Sequence[StageScores], agent: str | None) -> list[Price]:
    return [price_of_steps(run.trace.select(layer=1, stage="propose", agent=agent)) for run in runs]


def _way(name: str, answers: Sequence[bool], prices: Sequence[Price]) -> Way:
    mean = sum(prices, start=Price()).per(len(prices))
    return Way(name=name, right=Score.of([float(answer) for answer in answers]), price=mean)
