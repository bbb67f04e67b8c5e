"""What an optimization does: its checked arguments, its examples, and the cost of its parts before they are paid."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypedDict, get_args

import dspy
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from moa_dspy.agents import Agent
from moa_dspy.cost.budget import Budget
from moa_dspy.cost.usage import Usage
from moa_dspy.data.splitting import unit_hash
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.statistics import check_alpha, check_gain, check_share, sensitivity
from moa_dspy.optimizers.analysis.ceiling import proposals_of
from moa_dspy.optimizers.leakage import check_examples, deduplicate, demo_questions, question_of, refuse_overlap
from moa_dspy.optimizers.measuring import (
    Metric,
    check_budget,
    check_concurrency,
    check_count,
    check_program,
    check_seed,
    fit_metric,
    models_of,
    output_fields_of,
)
from moa_dspy.optimizers.optimize_budget import (
    CACHED_NOTE,
    LEAST_HELD,
    budget_notes,
    least_calls,
    least_paid,
    limits_of,
    mean_cost,
    smallest_calls,
)
from moa_dspy.optimizers.prompts.compile import split_off
from moa_dspy.optimizers.prompts.method import Effort, PromptJob, PromptMethod, check_effort, check_prompt_lm
from moa_dspy.optimizers.prompts.methods import check_method, method_name, method_options, most_runs
from moa_dspy.optimizers.prompts.student import ambient_lm, student_of
from moa_dspy.optimizers.search.designs import BoundSpace
from moa_dspy.optimizers.search.objective import Objective, Unit, Wanted, check_unit
from moa_dspy.optimizers.search.samplers import DesignSampler, check_sampler
from moa_dspy.optimizers.search.search import search
from moa_dspy.optimizers.search.space import SearchSpace
from moa_dspy.optimizers.search.storage import check_storage
from moa_dspy.optimizers.search.warm_start import WarmStart, warm_designs
from moa_dspy.optimizers.stop_fitting.replay import StopRule
from moa_dspy.planning import CostEstimate, PartEstimate, WorkEstimate, evenly_spaced
from moa_dspy.presets import single_model
from moa_dspy.program import AttentionMoA

__all__ = ["PARTS", "OptimizePlan", "OptimizeProgress", "Part", "SearchOptions", "estimate", "like", "search_arguments"]

Part: TypeAlias = Literal["prompts", "architecture", "stop", "gate"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)

_PLANNED: Final = 3
"""Number of examples that are planned."""
_DESIGN: Final = 0.5
"""Guess: the cost of a usual design as a share of the most expensive one's."""
_RUN: Final = 0.5
"""Guess: the share of the examples that a trial runs before it is pruned."""
_TRIED: Final = 0.5
"""Guess: the runs of a prompt optimizer as a share of its maximum."""


class SearchOptions(TypedDict, total=False):
    """Options of the architecture search; ``search`` describes the others.

    Attributes:
        space: the choices of the search and of the stop rule; default: everything. If it does not set
            ``shared_prompts``, prompts are shared or not as in the program.
        n_trials: the number of trials of each search.
        storage: with it, and with DSPy's disk cache, an interrupted optimization continues.
        study_name: default: ``moa-dspy``. Later rounds append their number and a digest of their starting program.
    """

    space: SearchSpace | None
    n_trials: int
    objective: Wanted
    price: float | None
    unit: Unit
    storage: str | Path | BaseStorage | None
    study_name: str
    warm_start: WarmStart | Sequence[WarmStart]
    sampler: DesignSampler | BaseSampler | None


_DEFAULTS: Final = {name: inspect.signature(search).parameters[name].default for name in SearchOptions.__annotations__}


@dataclass
class OptimizePlan:
    """The arguments of ``optimize``, checked, with the examples split.

    Attributes:
        search: the options of the search, with their defaults.
        tune: the examples to tune on.
        held: the held-out examples for the final test.
        notes: remarks on the examples.
        bound: the space of the search; None if the architecture is not searched.

    Raises:
        ConfigurationError: if an argument is invalid.
        TypeError: if an option of the search is unknown.
    """

    program: AttentionMoA
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example] | None
    metric: Metric
    parts: Sequence[Part]
    rounds: int
    method: PromptMethod
    effort: Effort
    prompt_lm: dspy.BaseLM | None
    budget: Budget | None
    alpha: float
    gain: float | None
    explain: bool
    seed: int
    concurrency: int
    least_gain: float | None
    max_loss: float
    search: Mapping[str, Any]
    tune: list[dspy.Example] = field(init=False)
    held: list[dspy.Example] = field(init=False)
    notes: list[str] = field(init=False)
    bound: BoundSpace | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        for name in self.search.keys() - _DEFAULTS.keys():
            raise TypeError(f"optimize() got an unexpected keyword argument {name!r}")
        self.search = {**_DEFAULTS, "study_name": "moa-dspy", **self.search}
        check_program(self.program)
        every = [*self.trainset, *(self.valset or ())]
        self.metric, _ = fit_metric(self.metric, output_fields_of(self.program), every)
        check_alpha(self.alpha)
        check_gain(self.gain)
        check_concurrency(self.concurrency)
        check_seed(self.seed)
        if self.least_gain is not None:
            check_share("least_gain", self.least_gain)
        check_share("max_loss", self.max_loss)
        once = [part for part in PARTS if list(self.parts).count(part) == 1]
        if isinstance(self.parts, str) or not self.parts or len(once) < len(self.parts):
            raise ConfigurationError(f"parts={self.parts!r} must be some of {', '.join(PARTS)}, each once")
        check_count("rounds", self.rounds)
        check_effort(self.effort)
        check_prompt_lm(self.prompt_lm)
        self.tune, self.held, self.notes = _split(self.program, self.trainset, self.valset, self.seed)
        self.notes.append(self.sensitivity)
        custom = self.program.architecture.custom_parts
        if custom:
            self.notes.append(
                f"{', '.join(custom)} of the program is a custom object: a search tries the built-in variants "
                "only, and neither the report nor a program file can hold it"
            )
        if "prompts" in self.parts:
            check_method(self.method, self.program, self.tune, final="architecture" not in self.parts)
        check_storage(self.search["storage"])
        if "architecture" in self.parts:
            warm_designs(bind_space(self.program, self.search["space"]), self.search["warm_start"])
            check_count("n_trials", self.search["n_trials"])
            check_sampler(self.search["sampler"])
            self.bound = bind_space(self.program, self.space)
            self.notes += self.bound.notes
        check_budget(self.budget, self.lms)
        check_unit(self.objective, self.lms)
        self._check_calls()

    def _check_calls(self) -> None:
        """Raise ConfigurationError if no part can start with the budget's calls."""
        calls = None if self.budget is None else self.budget.calls
        if calls is not None and calls < min(self.needs.values()):
            raise ConfigurationError(
                f"a budget of {calls:,} calls covers no part of the optimization, so nothing was paid; the smallest "
                f"for one part and a test of its result is {self.smallest_calls:,} calls; or give fewer examples"
            )

    @cached_property
    def needs(self) -> dict[str, int]:
        """Return the calls that each part has to pay for at least, by stage. Without them it finds nothing."""
        needs: dict[str, int] = {}
        if self.only_gate:
            return {"gate": least_paid(self.program, [*self.tune, *self.held])}
        if "prompts" in self.parts:
            first = self.start_of(self.program, first="prompts again" in self.stages)
            needs["prompts"] = least_paid(first, split_off(self.tune, self.seed)[1])
        if "architecture" in self.parts:  # the program itself, and a trial of one call
            needs["architecture"] = least_paid(self.program, self.tune, len(self.tune))
        if "stop" in self.parts and (len(self.program.architecture.output_layers) > 1 or not needs):
            needs["stop"] = least_paid(self.program, self.tune, of=self.program.replace(early_stop=False))
        return needs

    @property
    def smallest_calls(self) -> int:
        """Return the smallest number of calls that covers one part, and a test of its result."""
        least = 0 if self.only_gate else 2 * least_calls(self.program, self.held[:LEAST_HELD])  # a candidate like it
        before = 0 if self.least_gain is None else least_calls(proposals_of(self.program), self.tune)
        return before + smallest_calls(self.stages, self.needs, self.test_cost, least)

    def start_of(self, program: AttentionMoA, *, first: bool) -> AttentionMoA:
        """Return the program whose prompts are tuned. Before a search it has critics, whose prompts count, too."""
        if not first or self.bound is None or program.architecture.critique_count:
            return program
        return self.bound.program(self.bound.richest(), StopRule(1))

    @cached_property
    def test_cost(self) -> CostEstimate:
        """Return a guess at the cost of the test on all held-out examples."""
        own, _, usual = _prices(self)
        return (own + usual).times(len(self.held))

    @property
    def stages(self) -> list[str]:
        """Return the names of all parts, in order."""
        tuned = [part for number in range(self.rounds) for part in self.order(first=not number)]
        first = [] if self.least_gain is None else ["ceiling"]
        last = [part for part, wanted in (("gate", "gate" in self.parts), ("explanation", self.explain)) if wanted]
        return [*first, *tuned, "acceptance", *last]

    def order(self, *, first: bool) -> list[str]:
        """Return the parts of a round in order.

        Prompts that are tuned before the search may be tuned again after it. Later rounds start with the search.
        """
        tuned: list[str] = [part for part in self.parts if part in ("prompts", "architecture")]
        if tuned == ["prompts", "architecture"]:
            tuned = ["prompts", "architecture", "prompts again"] if first else ["architecture", "prompts"]
        return [*tuned, *(["stop"] if "stop" in self.parts else [])]

    @property
    def only_gate(self) -> bool:
        """Return whether the gate is the only part. Only then are runs made for it."""
        return set(self.parts) == {"gate"}

    @property
    def space(self) -> SearchSpace:
        """Return the space of the search. It leaves the gate to ``fit_gate``, unless the price matters."""
        space = SearchSpace.of(self.search["space"])
        fitted = "gate" in self.parts and self.search["objective"] == "score"
        return replace(space, gate=("off",)) if fitted and space.gate is None else space

    @property
    def sensitivity(self) -> str:
        """Return the smallest gain that the held-out examples can show, in words."""
        return sensitivity(len(self.held), self.alpha, self.gain)

    @property
    def objective(self) -> Objective:
        """Return the objective of the search."""
        return Objective(self.search["objective"], self.search["price"], self.search["unit"])

    @property
    def lms(self) -> list[dspy.BaseLM]:
        """Return all models that may be called."""
        return [*models_of(self.program), self.program.get_lm(), *([] if self.prompt_lm is None else [self.prompt_lm])]

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings for the record."""
        settings: dict[str, Any] = {"parts": list(self.parts), "rounds": self.rounds, "alpha": self.alpha}
        settings["budget"] = limits_of(self.budget)
        if "gate" in self.parts:
            settings["max_loss"] = self.max_loss
        if "architecture" in self.parts:
            settings |= {"trials": self.search["n_trials"], "objective": self.objective.to_dict()}
        if "prompts" in self.parts:
            writer = self.prompt_lm or self.program.get_lm()
            settings |= {"effort": self.effort, "prompt model": writer.model}
            settings[method_name(self.method)] = method_options(self.method, changed_only=True)
        return settings


@dataclass(frozen=True)
class OptimizeProgress:
    """The progress of ``optimize``.

    Attributes:
        part: the current part, as in ``OptimizePlan.stages``.
        number: the number of the part, from 1.
        of: the number of parts.
        done: the share of the part that is done.
        detail: the progress within the part, in words.
        best: the best score on the training examples so far, if there is one.
        cost: cost of all parts so far.
    """

    part: str
    number: int
    of: int
    done: float
    detail: str
    best: float | None
    cost: Usage


def bind_space(program: AttentionMoA, space: SearchSpace | None) -> BoundSpace:
    """Return a search space for the program's task, agents and prompts.

    If the space does not set ``shared_prompts``, the program's setting is used. The program's aggregator is a further
    choice, unless it equals an agent, which may aggregate anyway.

    Raises:
        ConfigurationError: if the space and the program do not fit.
    """
    space, shape, aggregator = SearchSpace.of(space), program.architecture, program.aggregator
    if space.shared_prompts is None:
        space = replace(space, shared_prompts=(shape.shared_prompts,))
    aggregators: list[Agent] = []
    if aggregator is not None and all(aggregator.identity != agent.identity for agent in program.agents):
        taken = aggregator.name in [spec.name for spec in shape.agents]
        aggregators = [replace(aggregator, name="aggregator") if taken else aggregator]
    options = {"reasoning": shape.reasoning, "tolerance": program.tolerance}
    return BoundSpace(space, program.task, program.named_agents, options, aggregators, [program])


def search_arguments(program: AttentionMoA, space: SearchSpace | None) -> dict[str, Any]:
    """Return the arguments of ``search`` for a program's task and agents, except prompts; see ``bind_space``."""
    bound = bind_space(program, space)
    models, count = list(bound.models.values()), len(bound.names)
    agents, further = models[:count], models[count:]
    return {"task": bound.task, "agents": agents, "space": bound.space, "aggregators": further, **bound.options}


def like(program: AttentionMoA, found: AttentionMoA) -> AttentionMoA:
    """Return a program that a search found, with what a search does not choose: dissent, budget and provenance."""
    kept: AttentionMoA = found.replace(dissent=program.architecture.dissent, budget=program.budget)
    kept.provenance = program.provenance
    if "dissent" in vars(kept) and "dissent" in vars(program):
        kept.dissent = program.dissent.deepcopy()
    return kept


def _split(
    program: AttentionMoA, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example] | None, seed: int
) -> tuple[list[dspy.Example], list[dspy.Example], list[str]]:
    """Return the examples to tune on, the held-out examples, and notes on both."""
    check_examples(trainset)
    demos, notes = demo_questions(program), []
    if valset is not None:
        refuse_overlap(valset, map(question_of, trainset), "held-out", "that are tuned on")
        refuse_overlap(valset, demos, "held-out", "that the program shows its models as demos")
        tune, held = deduplicate(trainset), deduplicate(valset)
    else:
        every = deduplicate(trainset)
        free = [example for example in every if question_of(example) not in demos]
        drawn = sorted(free, key=lambda example: unit_hash(example, seed), reverse=True)[: len(every) // 3]
        out = set(map(question_of, drawn))
        held = [example for example in every if question_of(example) in out]
        tune = [example for example in every if question_of(example) not in out]
        if program.provenance is not None:
            notes.append(
                "the program was tuned on examples before (see its provenance); some of them may be among those held "
                "out now: give examples that it never saw as valset="
            )
    repeated = len(trainset) + len(valset or ()) - len(tune) - len(held)
    if repeated:
        notes.append(f"{repeated} examples repeat the question of another one, and are left out")
    if len(tune) < 3 or len(held) < 2:
        raise ConfigurationError(
            f"{len(tune)} examples to tune on and {len(held)} held-out ones are too few; give more, at least 3 and 2"
        )
    return tune, held, notes


def estimate(plan: OptimizePlan) -> WorkEstimate:
    """Return the estimated cost of an optimization: an upper bound on its calls, and a guess. No LM is called.

    Programs are planned on a few examples, and multiplied by the number of runs of each part. The response cache, which
    answers calls that parts have in common, is not considered.
    """
    parts = [PartEstimate(part=part, most=most.at_most, expected=expected) for part, most, expected in _costs(plan)]
    notes = [plan.sensitivity, *([] if plan.bound is None else plan.bound.notes), CACHED_NOTE]
    if "prompts" in plan.parts:
        notes.append("the model that writes prompts is not included: it makes some calls for each new prompt")
        notes.append("demos and longer instructions make later prompts longer than estimated")
    notes += budget_notes(plan.budget)
    if plan.budget is not None:
        notes.append(f"the smallest budget for one part and a test of its result is {plan.smallest_calls:,} calls")
    return WorkEstimate(parts=tuple(parts), notes=tuple(notes))


_Row: TypeAlias = tuple[str, CostEstimate, CostEstimate]


def _costs(plan: OptimizePlan) -> Iterator[_Row]:
    """Yield each part with the upper bound and the guess, in the order of the run."""
    program, tuning, held = plan.program, len(plan.tune), len(plan.held)
    own, largest, usual = _prices(plan)
    if plan.least_gain is not None:  # every agent is asked once for each example
        asked = mean_cost(proposals_of(program), evenly_spaced(plan.tune, _PLANNED)).times(tuning)
        yield "ceiling", asked, asked
    for number, start in enumerate([own, *[largest] * (plan.rounds - 1)]):
        rows = {row[0]: row for row in _round_costs(plan, start, largest, usual)}
        yield from (rows[part] for part in plan.order(first=not number))
    if plan.only_gate:
        yield "gate", own.times(tuning + held), own.times(tuning + held)
    else:
        yield "acceptance", (own + largest).times(held), plan.test_cost
        if "gate" in plan.parts:  # fitted on runs that were made anyway
            yield "gate", CostEstimate(), CostEstimate()
    if plan.explain:  # the result runs twice, and once without each agent; the cache holds the runs of the acceptance
        agents = len(program.agents)
        most = agents if plan.bound is None else max(agents, plan.bound.space.max_agents)
        yield "explanation", largest.times(held * (most + 2)), usual.times(held * agents)


def _round_costs(plan: OptimizePlan, start: CostEstimate, largest: CostEstimate, usual: CostEstimate) -> Iterator[_Row]:
    """Yield the tuned parts of a round that starts with a program of a given cost."""
    tuning = len(plan.tune)
    if "architecture" in plan.parts:  # the program so far and each trial run on all examples
        itself, trials = start.times(tuning), largest.times(plan.search["n_trials"] * tuning)
        yield "architecture", itself + trials, itself + trials.times(_DESIGN * _RUN)
    if "prompts" in plan.parts:  # measured before and after; the method states its maximum number of runs
        learn, hold = split_off(plan.tune, 0)
        lm, ambient = plan.program.get_lm(), ambient_lm(plan.program)
        job = PromptJob(student_of(plan.program), learn, hold, plan.metric, 0, plan.effort, lm, ambient, 1)
        measured, tried = 2 * len(hold), most_runs(plan.method, job)
        yield "prompts", largest.times(measured + tried), usual.times(measured + tried * _TRIED)
        # if the search did not take the tuned prompts
        yield "prompts again", largest.times(measured + tried), usual.times(0)
    if "stop" in plan.parts:  # a pass over the examples, and one that repeats the syntheses and what follows them
        passes = 2 * tuning if plan.program.architecture.layers > 1 or plan.bound is not None else 0
        yield "stop", largest.times(passes), usual.times(0.75 * passes)


def _prices(plan: OptimizePlan) -> tuple[CostEstimate, CostEstimate, CostEstimate]:
    """Return the cost of one example with the program, the most expensive possible result, and a usual result."""
    sample = evenly_spaced(plan.tune, _PLANNED)
    own = mean_cost(plan.program, sample)
    if plan.bound is None:
        return own, own, own
    designs = (mean_cost(design, sample) for design in _largest_designs(plan.program, plan.bound.space, sample[0]))
    largest = reduce(CostEstimate.largest, designs, own)
    return own, largest, own.largest(largest.times(_DESIGN))


def _largest_designs(program: AttentionMoA, space: SearchSpace, example: dspy.Example) -> Iterator[AttentionMoA]:
    """Yield the largest designs of a space: as many as possible of the most expensive agents, in every shape.

    The agents with the most dollars and those with the most tokens may differ, so both are taken. Temperatures do not
    change the cost. At a temperature above 0 an agent may occur several times.
    """
    bound = bind_space(program, replace(space, temperatures=(1.0,)))
    prices = {name: mean_cost(single_model(bound.task, bound.models[name]), [example]) for name in bound.names}
    by_usd = sorted(prices, key=lambda name: -prices[name].usd_at_least)
    by_tokens = sorted(prices, key=lambda name: -prices[name].tokens)
    for order, aggregator, attention, residual in itertools.product(
        sorted({tuple(by_usd), tuple(by_tokens)}), bound.aggregators, bound.choices["attention"], space.residual
    ):
        choices: dict[str, Any] = {"aggregator": aggregator, "attention": attention, "residual": residual}
        for place, name in enumerate(order):  # the first agents as often as possible
            choices[f"samples.{name}"] = min(space.samples, max(0, space.max_agents - space.samples * place))
        design = bound.design({name: choices.get(name, values[0]) for name, values in bound.choices.items()})
        if design is not None:
            yield bound.program(design)
