"""What an optimization will take, before anything is paid: a bound, and a guess.

Nothing is asked: programs are rehearsed on a few examples (``moa_dspy.planning``), and their prices multiplied by the
runs that each part makes. Neither figure knows of the response cache, which answers what trials and parts have in
common.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any, Final

import dspy

from moa_dspy.cost.budget import Budget
from moa_dspy.evaluation.estimates import Cost
from moa_dspy.optimizers.measuring import Metric
from moa_dspy.optimizers.optimize_run import bind_space
from moa_dspy.optimizers.prompts.compile import split_off
from moa_dspy.optimizers.prompts.jobs import Effort, Job
from moa_dspy.optimizers.prompts.methods import MethodName, method_of
from moa_dspy.optimizers.prompts.student import ambient_lm, student_of
from moa_dspy.optimizers.purse import Purse
from moa_dspy.optimizers.search.space import SearchSpace, Suggest, values_of
from moa_dspy.optimizers.spending import count_spending
from moa_dspy.optimizers.text_table import aligned
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
    """What one part takes at most (in calls; about, in tokens and dollars), and what it may be expected to take."""

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
        """Return a bound on all calls: dearest designs, no example left out, nothing cached; retries aside.

        Tokens and dollars are those of texts of the assumed lengths, so they are no bound.
        """
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
        head = ("", "at most: calls", "about: tokens", "dollars", "a guess: calls", "tokens", "dollars")
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
    later = replace(prices, own=prices.dearest)
    parts: dict[str, Callable[[_Prices], PartEstimate]] = {
        "architecture": lambda at: _architecture(work, len(tune), at),
        "prompts": lambda at: _prompts(program, tune, metric, work, at),
        "stop": lambda at: _stop(program, work, len(tune), at),
    }
    rounds = [prices, *[later] * (work.rounds - 1)]
    tuned = [make(at) for at in rounds for part, make in parts.items() if part in work.parts]
    last = [_acceptance(len(held), prices)]
    if work.explain:
        last.append(_explanation(program, work, len(held), prices))
    return Estimate((*tuned, *last), tuple(_notes(work)))


def _prices(program: AttentionMoA, tune: Sequence[dspy.Example], work: Work) -> _Prices:
    sample = list(tune[:: max(1, len(tune) // _PLANNED)])[:_PLANNED]
    own = _price(program, sample)
    if "architecture" not in work.parts:
        return _Prices(own, own, own)
    dearest = reduce(
        _largest, (_price(shape, sample) for shape in _largest_designs(program, work.space, sample[0])), own
    )
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
        measured, tried = 2 * len(hold), method.most_runs(job)
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
        notes.append("demos and longer instructions make later prompts longer than these")
    if work.budget is not None:
        limits = [f"{value:g} {name}" for name, value in asdict(work.budget).items() if value is not None]
        notes.append(f"the budget ends it at {', '.join(limits)}")
    return notes


def _largest_designs(program: AttentionMoA, space: SearchSpace, example: dspy.Example) -> Iterator[AttentionMoA]:
    """The designs of a space that take most: as many as there may be of the dearest agents, in every shape.

    What is dearest in dollars may not be so in tokens, so there are both. Temperatures change no price; at one above 0
    every agent may be there several times.
    """
    bound = bind_space(program, replace(space, temperatures=(1.0,)))
    alone = [_price(single_model(bound.task, agent), [example]) for agent in bound.agents]
    prices = dict(zip(bound.names, alone, strict=True))
    orders = {tuple(sorted(prices, key=lambda name: -key(prices[name]))) for key in (_dollars, _tokens)}
    for order, aggregator, attention, residual in itertools.product(
        sorted(orders), bound.aggregators, space.attention, space.residual
    ):
        wanted = {"aggregator": aggregator, "attention": str(attention), "residual": residual}
        design = bound.design(bound.suggest(_wish({**wanted, **_counts(space, order)})))
        if design is not None:
            yield bound.program(design)


def _counts(space: SearchSpace, order: Sequence[str]) -> dict[str, int]:
    """How often each agent is there, where those that come first are there as often as they may."""
    taken = [min(space.samples, max(0, space.max_agents - space.samples * place)) for place in range(len(order))]
    return {f"samples.{name}": count for name, count in zip(order, taken, strict=True)}


def _wish(wanted: Mapping[str, Any]) -> Suggest:
    return lambda name, distribution: wanted.get(name, values_of(distribution)[0])


def _dollars(cost: Cost) -> float:
    return cost.usd


def _tokens(cost: Cost) -> float:
    return cost.tokens


def _price(program: AttentionMoA, sample: Sequence[dspy.Example]) -> Cost:
    """What an example takes, as a mean over a few."""
    plans = [program.plan(example).full for example in sample]
    costs = [
        Cost(plan.calls, plan.prompt_tokens + plan.completion_tokens, plan.usd_at_least, plan.usd is not None)
        for plan in plans
    ]
    return sum(costs, start=Cost()).scaled(1 / len(costs))


def _largest(one: Cost, other: Cost) -> Cost:
    """The larger calls, tokens and dollars, which need not be one program's."""
    return Cost(
        max(one.calls, other.calls), max(one.tokens, other.tokens), max(one.usd, other.usd), one.priced and other.priced
    )


def _values(cost: Cost) -> dict[str, Any]:
    return {"calls": cost.calls, "tokens": cost.tokens, "usd_at_least": cost.usd, "priced": cost.priced}


def _cells(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.calls:,}", f"{cost.tokens:,}", cost.dollars
