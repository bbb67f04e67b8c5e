"""The plan of an optimization, checked before anything is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypedDict, Unpack, get_args

import dspy
from optuna.storages import BaseStorage

from moa_dspy.agents import Agent
from moa_dspy.cost.budget import Budget
from moa_dspy.data.splitting import split
from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.comparison.matching import check_budget
from moa_dspy.optimizers.leakage import deduplicate, demo_questions, question_of, refuse_overlap
from moa_dspy.optimizers.measuring import Metric, check_metric, models_of
from moa_dspy.optimizers.prompts.method import Effort, PromptMethod, check_effort
from moa_dspy.optimizers.prompts.methods import check_method, method_name, method_options, resolve_method
from moa_dspy.optimizers.search.designs import BoundSpace
from moa_dspy.optimizers.search.objective import Objective, Unit, Wanted, check_unit
from moa_dspy.optimizers.search.search import check_trials
from moa_dspy.optimizers.search.space import SearchSpace
from moa_dspy.optimizers.search.storage import check_storage
from moa_dspy.program import AttentionMoA

__all__ = [
    "PARTS",
    "OptimizePlan",
    "Part",
    "SearchOptions",
    "bind_space",
    "make_plan",
    "search_defaults",
    "search_space",
]

Part: TypeAlias = Literal["architecture", "prompts", "stop"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


class SearchOptions(TypedDict, total=False):
    """Options of the architecture search; see ``search``.

    Attributes:
        space: the choices of the search and of the stop rule; default: everything. If it does not set
            ``shared_prompts``, prompts are shared or not as in the program.
        n_trials: the number of trials of each search; default: 40.
        objective: ``score`` (default), ``score_at_price`` or ``("score", "cost")``.
        price: with ``score_at_price``, the maximum mean price of an example.
        unit: unit of the price: ``usd`` (default), ``tokens`` or ``calls``.
        storage: storage of the studies. With it, and with DSPy's disk cache, an interrupted optimization continues.
        study_name: the name of the study; default: ``moa-dspy``. Later rounds append their number and a digest of
            their starting program.
    """

    space: SearchSpace | None
    n_trials: int
    objective: Wanted
    price: float | None
    unit: Unit
    storage: str | Path | BaseStorage | None
    study_name: str


@dataclass(frozen=True)
class SearchSettings:
    """``SearchOptions`` with their defaults."""

    space: SearchSpace | None = None
    n_trials: int = 40
    objective: Wanted = "score"
    price: float | None = None
    unit: Unit = "usd"
    storage: str | Path | BaseStorage | None = None
    study_name: str = "moa-dspy"


@dataclass(frozen=True)
class OptimizePlan:
    """A checked optimization.

    Attributes:
        program: the original program.
        tune: the examples to tune on.
        held: the held-out examples for the final test.
        notes: remarks on the examples.
        metric: the caller's metric.
        parts: the parts to tune.
        rounds: number of rounds.
        method: the prompt method.
        effort: effort of the method.
        prompt_lm: the model that writes prompts; None for the aggregator's model.
        budget: limits of the whole call.
        explain: whether the result is explained.
        seed: seed of everything random.
        search: the options of the search.
        bound: the space of the search; None if the architecture is not searched.
    """

    program: AttentionMoA
    tune: list[dspy.Example]
    held: list[dspy.Example]
    notes: list[str]
    metric: Metric
    parts: Sequence[Part]
    rounds: int
    method: PromptMethod
    effort: Effort
    prompt_lm: dspy.BaseLM | None
    budget: Budget | None
    explain: bool
    seed: int
    search: SearchSettings
    bound: SearchSpace | None

    @property
    def stages(self) -> list[str]:
        """Return the names of all parts, in order."""
        tuned = [part for part in PARTS if part in self.parts] * self.rounds
        return [*tuned, "acceptance", *(["explanation"] if self.explain else [])]

    @property
    def objective(self) -> Objective:
        """Return the objective of the search."""
        return Objective(self.search.objective, self.search.price, self.search.unit)

    @property
    def lms(self) -> list[dspy.BaseLM]:
        """Return all models that may be called."""
        return [*models_of(self.program), self.program.get_lm(), *([] if self.prompt_lm is None else [self.prompt_lm])]

    def settings(self, alpha: float) -> dict[str, Any]:
        """Return the settings for the record."""
        limits = {} if self.budget is None else asdict(self.budget)
        settings: dict[str, Any] = {
            "parts": list(self.parts),
            "rounds": self.rounds,
            "alpha": alpha,
            "budget": {name: value for name, value in limits.items() if value is not None},
        }
        if "architecture" in self.parts:
            settings |= {"trials": self.search.n_trials, "objective": self.objective.to_dict()}
        if "prompts" in self.parts:
            writer = self.prompt_lm or self.program.get_lm()
            settings |= {"effort": self.effort, "prompt model": writer.model}
            settings[method_name(self.method)] = method_options(self.method, changed_only=True)
        return settings


def make_plan(
    program: AttentionMoA,
    *,
    trainset: Sequence[dspy.Example],
    metric: Metric,
    valset: Sequence[dspy.Example] | None,
    parts: Sequence[Part],
    rounds: int,
    method: str | PromptMethod,
    effort: Effort,
    prompt_lm: dspy.BaseLM | None,
    budget: Budget | None,
    explain: bool,
    seed: int,
    **search: Unpack[SearchOptions],
) -> OptimizePlan:
    """Check the arguments of ``optimize``, split the examples, and return the plan.

    Raises:
        ConfigurationError: if an argument is invalid.
        TypeError: if an option of the search is unknown.
    """
    _check(program, metric, parts, rounds, effort)
    settings = SearchSettings(**search)
    tuner = resolve_method(method)
    tune, held, notes = _split(program, trainset, valset, seed)
    if "prompts" in parts:
        check_method(tuner, program, final="architecture" not in parts)
    check_storage(settings.storage)
    if "architecture" in parts:
        check_trials(settings.n_trials)
    bound = search_space(program, settings.space) if "architecture" in parts else None
    plan = OptimizePlan(
        program, tune, held, notes, metric, parts, rounds, tuner, effort, prompt_lm, budget, explain, seed, settings,
        bound,
    )  # fmt: skip
    check_budget(budget, plan.lms)
    check_unit(plan.objective, plan.lms)
    return plan


def bind_space(program: AttentionMoA, space: SearchSpace) -> BoundSpace:
    """Return the space for the program's task, agents, prompts and demos.

    Raises:
        ConfigurationError: if the space and the program do not fit.
    """
    options = search_defaults(program)
    aggregators = options.pop("aggregators")
    return BoundSpace(space, program.task, program.named_agents, options, aggregators, [program])


def search_defaults(program: AttentionMoA) -> dict[str, Any]:
    """Return the arguments of a search that come from the program, except its task and its agents."""
    return {
        "aggregators": _further_aggregators(program),
        "reasoning": program.architecture.reasoning,
        "tolerance": program.tolerance,
    }


def _check(program: AttentionMoA, metric: Metric, parts: Sequence[Part], rounds: int, effort: Effort) -> None:
    if not isinstance(program, AttentionMoA):
        raise ConfigurationError(f"program is an AttentionMoA, not {type(program).__name__}")
    check_metric(metric)
    unknown = [part for part in parts if part not in PARTS]
    if isinstance(parts, str) or unknown or not parts:
        raise ConfigurationError(f"parts={parts!r} must be some of {', '.join(PARTS)}")
    if rounds < 1:
        raise ConfigurationError(f"rounds={rounds!r} must be at least 1")
    check_effort(effort)


def search_space(program: AttentionMoA, space: SearchSpace | None) -> SearchSpace:
    """Return the space of a search. If it does not set ``shared_prompts``, the program's setting is used.

    Raises:
        ConfigurationError: if the space and the program do not fit.
    """
    space = space or SearchSpace()
    if space.shared_prompts is None:
        space = replace(space, shared_prompts=(program.architecture.shared_prompts,))
    bind_space(program, space)
    return space


def _split(
    program: AttentionMoA, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example] | None, seed: int
) -> tuple[list[dspy.Example], list[dspy.Example], list[str]]:
    """Return the examples to tune on, the held-out examples, and notes on both."""
    questions, demos, notes = [question_of(example) for example in trainset], demo_questions(program), []
    if valset is not None:
        refuse_overlap(valset, questions, "held-out", "that are tuned on")
        refuse_overlap(valset, demos, "held-out", "that the program shows its models as demos")
        tune, held = deduplicate(trainset), deduplicate(valset)
    else:
        drawn = split(trainset, train=2 / 3, val=0, test=1 / 3, seed=seed).test
        held = [example for example in deduplicate(drawn) if question_of(example) not in demos]
        out = set(map(question_of, held))
        tune = deduplicate(example for example, asked in zip(trainset, questions, strict=True) if asked not in out)
        if program.provenance is not None:
            notes.append(
                "the program was made from examples before (see its provenance); if these are the same, some that are "
                "held out now may have been tuned on then: give examples that it never saw as valset="
            )
    repeated = len(trainset) + len(valset or ()) - len(tune) - len(held)
    if repeated:
        notes.append(f"{repeated} examples ask what another one asks, and are left out")
    if len(tune) < 3 or len(held) < 2:
        raise ConfigurationError(
            f"{len(tune)} examples to tune on and {len(held)} held-out ones are too few; give more, at least 3 and 2"
        )
    return tune, held, notes


def _further_aggregators(program: AttentionMoA) -> tuple[Agent, ...]:
    """Return the program's aggregator, unless it equals one of its agents, which may aggregate anyway."""
    aggregator, names = program.aggregator, [spec.name for spec in program.architecture.agents]
    if aggregator is None or any(_are_equal(aggregator, agent) for agent in program.agents):
        return ()
    return (replace(aggregator, name="aggregator") if aggregator.name in names else aggregator,)


def _are_equal(one: Agent, other: Agent) -> bool:
    """Return whether two agents have the same model, address and settings. Names may differ."""
    addresses = [getattr(agent.lm, "kwargs", {}).get("api_base") for agent in (one, other)]
    return one.spec("-") == other.spec("-") and addresses[0] == addresses[1]
