"""What an optimization will take, before anything is paid: a bound, and a guess.

Nothing is asked: programs are rehearsed on a few examples (``moa_dspy.planning``), and their prices multiplied by the
runs that each part makes. Neither figure knows of the response cache, which answers what trials and parts have in
common.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import dspy

from moa_dspy.evaluation.estimates import Cost
from moa_dspy.limits import Budget
from moa_dspy.optimizers.compiling import split_off
from moa_dspy.optimizers.jobs import Effort, Job
from moa_dspy.optimizers.measuring import Metric
from moa_dspy.optimizers.methods import MethodName, method_of
from moa_dspy.optimizers.purse import Purse
from moa_dspy.optimizers.rebuilding import named_agents
from moa_dspy.optimizers.space import SearchSpace
from moa_dspy.optimizers.spending import count_spending
from moa_dspy.optimizers.students import ambient_lm, student_of
from moa_dspy.optimizers.tables import aligned
from moa_dspy.presets import single_model
from moa_dspy.program import AttentionMoA

__all__ = ["Estimate", "PartEstimate", "Work", "estimate"]

_PLANNED: Final = 3
"""So many examples are planned; the rest are taken to be like them."""
_DESIGN: Final = 0.5
_RUN: Final = 0.5
_TRIED: Final = 0.5
"""Guesses: the price of a design as a share of the dearest one's, the examples that a trial runs before it is given up,
and the runs of a prompt optimizer as a share of its own limit."""


@dataclass(frozen=True)
class Work:
    """What an optimization is to do.

    Attributes:
        parts: of ``architecture``, ``prompts`` and ``stop``.
        rounds: how often.
        trials: of each search.
        space: what a search may choose.
        method: that tunes prompts.
        effort: of that.
        options: of that.
        explain: whether stages and agents are looked into.
        budget: that ends it.
    """

    parts: Sequence[str]
    rounds: int
    trials: int
    space: SearchSpace
    method: MethodName
    effort: Effort
    options: Mapping[str, Any]
    explain: bool
    budget: Budget | None = None


@dataclass(frozen=True)
class PartEstimate:
    """What one part takes at most, and what it may be expected to take."""

    part: str
    most: Cost
    expected: Cost


@dataclass(frozen=True)
class Estimate:
    """What an optimization takes; ``str`` gives a table.

    Attributes:
        parts: each part, in order.
        notes: what is not in it.
    """

    parts: tuple[PartEstimate, ...]
    notes: tuple[str, ...]

    @property
    def most(self) -> Cost:
        """Return a bound on everything: dearest designs, no example left out, nothing cached; retries aside."""
        return sum((part.most for part in self.parts), start=Cost())

    @property
    def expected(self) -> Cost:
        """Return a guess at everything."""
        return sum((part.expected for part in self.parts), start=Cost())

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        rows = (*self.parts, PartEstimate("all", self.most, self.expected))
        return {
            "kind": "estimate",
            "parts": [{"part": row.part, "most": _values(row.most), "expected": _values(row.expected)} for row in rows],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        head = ("", "at most: calls", "tokens", "dollars", "a guess: calls", "tokens", "dollars")
        rows = [*self.parts, PartEstimate("all", self.most, self.expected)]
        cells = [(row.part, *_cells(row.most), *_cells(row.expected)) for row in rows]
        return "\n".join([aligned([head, *cells]), *self.notes])


@dataclass(frozen=True)
class _Prices:
    """What an example takes with the program, with the dearest program that may come of it, and with a usual one."""

    own: Cost
    dearest: Cost
    usual: Cost


def estimate(
    program: AttentionMoA, tune: Sequence[dspy.Example], held: Sequence[dspy.Example], metric: Metric, work: Work
) -> Estimate:
    """Estimate what an optimization takes.

    Args:
        program: to be optimized.
        tune: examples to tune on.
        held: examples that decide.
        metric: the task's; it is not called.
        work: what is to be done.

    Raises:
        ConfigurationError: the method has no such option.
    """
    prices = _prices(program, tune, work)
    parts: dict[str, Callable[[], PartEstimate]] = {
        "architecture": lambda: _architecture(work, len(tune), prices),
        "prompts": lambda: _prompts(program, tune, metric, work, prices),
        "stop": lambda: _stop(program, work, len(tune), prices),
    }
    tuned = [make() for _ in range(work.rounds) for part, make in parts.items() if part in work.parts]
    last = [_acceptance(len(held), prices)]
    if work.explain:
        last.append(_explanation(program, work, len(held), prices))
    return Estimate((*tuned, *last), tuple(_notes(work)))


def _prices(program: AttentionMoA, tune: Sequence[dspy.Example], work: Work) -> _Prices:
    sample = list(tune[:: max(1, len(tune) // _PLANNED)])[:_PLANNED]
    own = _price(program, sample)
    if "architecture" not in work.parts:
        return _Prices(own, own, own)
    dearest = _largest(own, _price(_dearest(program, work.space, sample), sample))
    return _Prices(own, dearest, _largest(own, dearest.scaled(_DESIGN)))


def _architecture(work: Work, tuning: int, prices: _Prices) -> PartEstimate:
    """The program itself and the trials, on all examples."""
    itself, trials = prices.own.scaled(tuning), prices.dearest.scaled(work.trials * tuning)
    return PartEstimate("architecture", itself + trials, itself + trials.scaled(_DESIGN * _RUN))


def _prompts(
    program: AttentionMoA, tune: Sequence[dspy.Example], metric: Metric, work: Work, prices: _Prices
) -> PartEstimate:
    """The program before and after, and as many runs as the method says that it makes."""
    method = method_of(work.method, work.options)
    learn, hold = split_off(tune, 0)
    lm, ambient = program.get_lm(), ambient_lm(program)
    with count_spending([]) as spending:
        purse = Purse(Budget(), spending)
        job = Job(student_of(program), learn, hold, metric, 0, work.effort, lm, ambient, 1, purse)
        measured, tried = 2 * len(hold), method.expected_runs(job)
    return PartEstimate(
        "prompts", prices.dearest.scaled(measured + tried), prices.usual.scaled(measured + tried * _TRIED)
    )


def _stop(program: AttentionMoA, work: Work, tuning: int, prices: _Prices) -> PartEstimate:
    """One pass, and a second one that asks the syntheses anew and whatever follows them."""
    if program.architecture.layers < 2 and "architecture" not in work.parts:
        return PartEstimate("stop", Cost(), Cost())
    return PartEstimate("stop", prices.dearest.scaled(2 * tuning), prices.usual.scaled(1.5 * tuning))


def _acceptance(held: int, prices: _Prices) -> PartEstimate:
    """The program as it was given, and the candidate."""
    return PartEstimate(
        "acceptance", (prices.own + prices.dearest).scaled(held), (prices.own + prices.usual).scaled(held)
    )


def _explanation(program: AttentionMoA, work: Work, held: int, prices: _Prices) -> PartEstimate:
    """The result, twice, and without each of its agents; what was run for the acceptance is in the cache."""
    own = len(program.agents)
    most = max(own, work.space.max_agents) if "architecture" in work.parts else own
    return PartEstimate("explanation", prices.dearest.scaled(held * (most + 2)), prices.usual.scaled(held * own))


def _notes(work: Work) -> list[str]:
    notes = ["calls that the response cache answers are among these, and cost nothing; retries and judges are not"]
    if "prompts" in work.parts:
        notes.append("the model that writes prompts comes on top: some calls for each new prompt")
    if work.budget is not None:
        limits = [f"{value:g} {name}" for name, value in asdict(work.budget).items() if value is not None]
        notes.append(f"the budget ends it at {', '.join(limits)}")
    return notes


def _dearest(program: AttentionMoA, space: SearchSpace, sample: Sequence[dspy.Example]) -> AttentionMoA:
    """The design with the most calls that a space holds, of the dearest agent alone."""
    agents = named_agents(program)
    prices = [_price(single_model(program.task, agent), sample[:1]) for agent in agents]
    agent = max(zip(prices, agents, strict=True), key=lambda pair: (pair[0].usd, pair[0].tokens))[1]
    count = min(space.max_agents, space.samples * len(agents))
    shapes = [
        AttentionMoA(
            program.task,
            [replace(agent, name=None)] * count,
            max(space.layers),
            attention=attention,
            residual=residual,
            early_stop=False,
            reasoning=program.architecture.reasoning,
        )
        for attention, residual in itertools.product(space.attention, space.residual)
        if not isinstance(attention, int) or attention < count
    ]
    return max(shapes or [program], key=lambda shape: shape.architecture.max_calls)


def _price(program: AttentionMoA, sample: Sequence[dspy.Example]) -> Cost:
    """What an example takes, as a mean over a few."""
    plans = [program.plan(example).full for example in sample]
    costs = [
        Cost(plan.calls, plan.prompt_tokens + plan.completion_tokens, plan.usd_at_least, plan.usd is not None)
        for plan in plans
    ]
    return sum(costs, start=Cost()).scaled(1 / len(costs))


def _largest(one: Cost, other: Cost) -> Cost:
    return max(one, other, key=lambda cost: (cost.calls, cost.tokens))


def _values(cost: Cost) -> dict[str, Any]:
    return {"calls": cost.calls, "tokens": cost.tokens, "usd_at_least": cost.usd, "priced": cost.priced}


def _cells(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.calls:,}", f"{cost.tokens:,}", cost.dollars
