"""The cost of an optimization before it is paid: an upper bound on its calls, and a guess.

Programs are planned on a few examples. The plans are multiplied by the number of runs of each part. No LM is called.
The response cache, which answers calls that parts have in common, is not considered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any, Final

import dspy

from moa_dspy.cost.budget import Budget
from moa_dspy.optimizers.measuring import Metric
from moa_dspy.optimizers.optimize_plan import bind_space
from moa_dspy.optimizers.prompts.compile import split_off
from moa_dspy.optimizers.prompts.method import Effort, PromptJob, PromptMethod
from moa_dspy.optimizers.prompts.methods import most_runs
from moa_dspy.optimizers.prompts.student import ambient_lm, student_of
from moa_dspy.optimizers.search.space import SearchSpace
from moa_dspy.planning import CostEstimate, PartEstimate, WorkEstimate, evenly_spaced, total
from moa_dspy.presets import single_model
from moa_dspy.program import AttentionMoA

__all__ = ["Work", "estimate"]

_PLANNED: Final = 3
"""Number of examples that are planned."""
_DESIGN: Final = 0.5
"""Guess: the cost of a usual design as a share of the most expensive one's."""
_RUN: Final = 0.5
"""Guess: the share of the examples that a trial runs before it is pruned."""
_TRIED: Final = 0.5
"""Guess: the runs of a prompt optimizer as a share of its maximum."""


@dataclass(frozen=True)
class Work:
    """What an optimization does.

    Attributes:
        parts: some of ``architecture``, ``prompts`` and ``stop``.
        rounds: how often the parts are repeated.
        trials: number of trials of each search.
        space: what a search may choose.
        method: tunes the prompts.
        effort: of the method.
        explain: whether stages and agents are analysed.
        budget: of the optimization.
    """

    parts: Sequence[str]
    rounds: int
    trials: int
    space: SearchSpace
    method: PromptMethod
    effort: Effort
    explain: bool
    budget: Budget | None = None


@dataclass(frozen=True)
class _Prices:
    """The cost of one example with three programs.

    Attributes:
        own: the program that is optimized.
        largest: the most expensive program that may result.
        usual: a usual result.
    """

    own: CostEstimate
    largest: CostEstimate
    usual: CostEstimate


def estimate(
    program: AttentionMoA, tune: Sequence[dspy.Example], held: Sequence[dspy.Example], metric: Metric, work: Work
) -> WorkEstimate:
    """Return the estimated cost of an optimization.

    Args:
        program: is optimized.
        tune: examples to tune on.
        held: examples that decide.
        metric: of the task. It is not called.
        work: what is done.

    Raises:
        ConfigurationError: if the method does not have one of the options.
    """
    prices = _prices(program, tune, work)
    later = replace(prices, own=prices.largest)
    parts: dict[str, Callable[[_Prices], PartEstimate]] = {
        "architecture": lambda at: _architecture(work, len(tune), at),
        "prompts": lambda at: _prompts(program, tune, metric, work, at),
        "stop": lambda at: _stop(program, work, len(tune), at),
    }
    rounds = [prices, *[later] * (work.rounds - 1)]
    rows = [row(at) for at in rounds for part, row in parts.items() if part in work.parts]
    rows.append(_acceptance(len(held), prices))
    if work.explain:
        rows.append(_explanation(program, work, len(held), prices))
    return WorkEstimate(parts=tuple(rows), notes=tuple(_notes(work)))


def _architecture(work: Work, tuning: int, prices: _Prices) -> PartEstimate:
    """The program and each trial run on all examples."""
    itself, trials = prices.own.times(tuning), prices.largest.times(work.trials * tuning)
    return _row("architecture", itself + trials, itself + trials.times(_DESIGN * _RUN))


def _prompts(
    program: AttentionMoA, tune: Sequence[dspy.Example], metric: Metric, work: Work, prices: _Prices
) -> PartEstimate:
    """The program is measured before and after, and the method states its maximum number of runs."""
    learn, hold = split_off(tune, 0)
    lm, ambient = program.get_lm(), ambient_lm(program)
    job = PromptJob(student_of(program), learn, hold, metric, 0, work.effort, lm, ambient, 1)
    measured, tried = 2 * len(hold), most_runs(work.method, job)
    return _row("prompts", prices.largest.times(measured + tried), prices.usual.times(measured + tried * _TRIED))


def _stop(program: AttentionMoA, work: Work, tuning: int, prices: _Prices) -> PartEstimate:
    """One pass over the examples, and a second one that repeats the syntheses and what follows them."""
    if program.architecture.layers < 2 and "architecture" not in work.parts:
        return _row("stop", CostEstimate(), CostEstimate())
    return _row("stop", prices.largest.times(2 * tuning), prices.usual.times(1.5 * tuning))


def _acceptance(held: int, prices: _Prices) -> PartEstimate:
    """The original program and the candidate run on the held-out examples."""
    return _row("acceptance", (prices.own + prices.largest).times(held), (prices.own + prices.usual).times(held))


def _explanation(program: AttentionMoA, work: Work, held: int, prices: _Prices) -> PartEstimate:
    """The result runs twice, and once without each of its agents. The cache holds the runs of the acceptance test."""
    own = len(program.agents)
    most = max(own, work.space.max_agents) if "architecture" in work.parts else own
    return _row("explanation", prices.largest.times(held * (most + 2)), prices.usual.times(held * own))


def _row(part: str, most: CostEstimate, expected: CostEstimate) -> PartEstimate:
    return PartEstimate(part=part, most=most, expected=expected)


def _notes(work: Work) -> list[str]:
    notes = ["calls that the response cache answers are included, and cost nothing; retries and judges are not"]
    if "prompts" in work.parts:
        notes.append("the model that writes prompts comes on top: some calls for each new prompt")
        notes.append("demos and longer instructions make later prompts longer than estimated")
    if work.budget is not None:
        limits = [f"{value:g} {name}" for name, value in asdict(work.budget).items() if value is not None]
        notes.append(f"the budget ends it at {', '.join(limits)}")
    return notes


def _prices(program: AttentionMoA, tune: Sequence[dspy.Example], work: Work) -> _Prices:
    sample = evenly_spaced(tune, _PLANNED)
    own = _price(program, sample)
    if "architecture" not in work.parts:
        return _Prices(own, own, own)
    designs = (_price(design, sample) for design in _largest_designs(program, work.space, sample[0]))
    largest = reduce(CostEstimate.largest, designs, own)
    return _Prices(own, largest, own.largest(largest.times(_DESIGN)))


def _price(program: AttentionMoA, sample: Sequence[dspy.Example]) -> CostEstimate:
    """Return the mean cost of an example."""
    return total(program.plan(example).full for example in sample).times(1 / len(sample))


def _largest_designs(program: AttentionMoA, space: SearchSpace, example: dspy.Example) -> Iterator[AttentionMoA]:
    """Yield the largest designs of a space: as many as possible of the most expensive agents, in every shape.

    The agents with the most dollars and those with the most tokens may differ, so both are taken. Temperatures do not
    change the cost. At a temperature above 0 an agent may occur several times.
    """
    bound = bind_space(program, replace(space, temperatures=(1.0,)))
    prices = {name: _price(single_model(bound.task, bound.models[name]), [example]) for name in bound.names}
    by_usd = sorted(prices, key=lambda name: -prices[name].usd_at_least)
    by_tokens = sorted(prices, key=lambda name: -prices[name].tokens)
    for order, aggregator, attention, residual in itertools.product(
        sorted({tuple(by_usd), tuple(by_tokens)}), bound.aggregators, space.attention, space.residual
    ):
        choices: dict[str, Any] = {"aggregator": aggregator, "attention": str(attention), "residual": residual}
        choices |= {f"samples.{name}": count for name, count in _samples(space, order).items()}
        design = bound.design({name: choices.get(name, values[0]) for name, values in bound.choices.items()})
        if design is not None:
            yield bound.program(design)


def _samples(space: SearchSpace, order: Sequence[str]) -> dict[str, int]:
    """Return how often each agent occurs if the first in ``order`` occur as often as possible."""
    return {
        name: min(space.samples, max(0, space.max_agents - space.samples * place)) for place, name in enumerate(order)
    }
