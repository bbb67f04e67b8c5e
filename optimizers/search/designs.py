"""Designs: choices from a search space for given agents and a task, as Optuna parameters and as programs.

Depth and stop rule are not parameters. Every trial runs the largest depth and returns the scores of all depths and
rules.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from moa_dspy.agents import Agent, AgentLike, agent_of, slots_of
from moa_dspy.architecture import Aggregation, Residual
from moa_dspy.attention import Attention
from moa_dspy.errors import ConfigurationError
from moa_dspy.files.program_file import digest_of
from moa_dspy.optimizers.search.space import SearchSpace
from moa_dspy.optimizers.stop_fitting.replay import StopRule, grade, stop_rules
from moa_dspy.program import AttentionMoA
from moa_dspy.signatures import TaskSignature, task_signature

__all__ = ["ENUMERABLE", "BoundSpace", "Design", "Params", "Suggest", "values_of"]

Params: TypeAlias = dict[str, Any]
"""Values of Optuna parameters by name."""
Suggest: TypeAlias = Callable[[str, BaseDistribution], Any]

ENUMERABLE: Final = 4096
"""Spaces with at most this many combinations of parameters are listed in full."""

_CHOSEN: Final = frozenset(
    {
        *("agents", "layers", "aggregator", "attention", "residual", "early_stop", "shared_prompts", "aggregation"),
        "budget",  # a run ended by its budget would lower the architecture's score
    }
)


@dataclass(frozen=True)
class Design:
    """An architecture, except for depth and stop rule.

    Attributes:
        samples: number of samples of each agent; 0 leaves it out.
        temperatures: temperature of each agent. None is its own temperature. It is also None if the agent is left out.
        attention: a pattern that fits the number of agents.
        residual: how layers are joined.
        aggregation: how the answers of a layer are combined.
        aggregator: the name of the agent whose model aggregates; None if no model does.
        shared_prompts: as for ``AttentionMoA``.
    """

    samples: tuple[int, ...]
    temperatures: tuple[float | None, ...]
    attention: Attention
    residual: Residual
    aggregation: Aggregation
    aggregator: str | None
    shared_prompts: bool = True

    @property
    def features(self) -> tuple[Any, ...]:
        """Return the choices as a tuple. Its length is the same for all designs of a space."""
        shape = (self.attention, self.residual, self.aggregation, self.aggregator, self.shared_prompts)
        return (*self.samples, *self.temperatures, *shape)


class BoundSpace:
    """A search space for given agents and a task.

    Args:
        space: the allowed choices.
        task: any DSPy signature.
        agents: at least one.
        options: further arguments of ``AttentionMoA``, the same for all designs.
        aggregators: further models that may aggregate but do not propose.
        prompts: programs of the same task. All designs take their prompts and demos; later programs take precedence.

    Attributes:
        names: names of the agents.
        aggregators: the names of the agents whose model may aggregate.
        distributions: Optuna's parameters.

    Raises:
        ConfigurationError: if the space does not fit the agents, or if the search itself chooses an option.
    """

    def __init__(
        self,
        space: SearchSpace,
        task: str | TaskSignature,
        agents: Sequence[AgentLike],
        options: Mapping[str, Any],
        aggregators: Sequence[AgentLike] = (),
        prompts: Sequence[AttentionMoA] = (),
    ) -> None:
        chosen = sorted(_CHOSEN & options.keys())
        if chosen:
            raise ConfigurationError(f"the search chooses {chosen[0]}; list its choices in SearchSpace instead")
        if isinstance(agents, str) or not agents:
            raise ConfigurationError("there is no agent; give at least one model, for example agents=['local']")
        named = slots_of([agent_of(agent) for agent in (*agents, *aggregators)])
        self.space, self.task, self.options, self.prompts = space, task_signature(task), dict(options), tuple(prompts)
        self.names = tuple(one.name for one in named[: len(agents)])
        self.agents = tuple(replace(one.agent, name=one.name) for one in named[: len(agents)])
        self._models = {one.name: one.agent for one in named}
        self.aggregators = space.aggregators or tuple(self._models)
        _check_names("aggregators", self.aggregators, tuple(self._models))
        if isinstance(space.temperatures, Mapping):
            _check_names("temperatures", tuple(space.temperatures), self.names)
        typed = all(field.annotation is not str for field in self.task.output_fields.values())
        default: tuple[Aggregation, ...] = ("synthesis", "vote") if typed else ("synthesis",)
        self.aggregations = space.aggregation or default
        self._shared_prompts = space.shared_prompts or (True,)
        self.distributions = self._distributions()

    @property
    def models(self) -> tuple[Agent, ...]:
        """Return all agents and the models that only aggregate."""
        return tuple(self._models.values())

    @property
    def layers(self) -> int:
        """Return the depth at which trials run."""
        return max(self.space.layers)

    @property
    def size(self) -> int:
        """Return the number of combinations of parameters. Several may give the same design."""
        return math.prod(len(values_of(distribution)) for distribution in self.distributions.values())

    def suggest(self, ask: Suggest) -> Params:
        """Return the parameters that ``ask`` gives. Only parameters that affect the design are requested.

        Args:
            ask: returns a value for a parameter's name and distribution.
        """
        params: Params = {}

        def take(name: str) -> Any:
            if name in self.distributions:
                params[name] = ask(name, self.distributions[name])
            return params.get(name)

        counts = [take(f"samples.{name}") for name in self.names]
        for name, count in zip(self.names, counts, strict=True):
            if count != 0:
                take(f"temperature.{name}")
        take("temperature")
        if sum(1 if count is None else count for count in counts) > 1:
            take("aggregation")
        for name in ("attention", "residual", "shared_prompts"):
            take(name)
        if self._needs_aggregator(self._design(params)):
            take("aggregator")
        return params

    def design(self, params: Mapping[str, Any]) -> Design | None:
        """Return the design of the parameters; None if they are incompatible. Equal architectures give equal designs.

        Raises:
            KeyError: if a required parameter is missing.
        """
        design = self._design(params)
        if not 1 <= sum(design.samples) <= self.space.max_agents or self._has_equal_samples(design):
            return None
        if self._needs_aggregator(design):
            name = params["aggregator"] if "aggregator" in self.distributions else self.aggregators[0]
            design = replace(design, aggregator=name)
        return design

    def designs(self) -> dict[Design, Params]:
        """Return every design with its parameters. Only for spaces of at most ``ENUMERABLE`` combinations."""
        names = list(self.distributions)
        combinations = itertools.product(*(values_of(self.distributions[name]) for name in names))
        return self.unique(dict(zip(names, values, strict=True)) for values in combinations)

    def unique(self, candidates: Iterable[Params]) -> dict[Design, Params]:
        """Return the distinct designs of ``candidates``, each with its first parameters."""
        designs: dict[Design, Params] = {}
        for params in candidates:
            design = self.design(params)
            if design is not None:
                designs.setdefault(design, params)
        return designs

    def draw(self, generator: np.random.Generator) -> Params:
        """Return random parameters, uniformly drawn. The number of agents is drawn first."""
        choices = {name: values_of(distribution) for name, distribution in self.distributions.items()}
        params = {name: values[int(generator.integers(len(values)))] for name, values in choices.items()}
        counted = [name for name in self.names if f"samples.{name}" in choices]
        samples = [name for name in counted for _ in range(self.space.samples)]
        if samples:
            agents = int(generator.integers(1, min(self.space.max_agents, len(samples)) + 1))
            chosen = Counter(samples[index] for index in generator.permutation(len(samples))[:agents])
            params.update({f"samples.{name}": chosen[name] for name in counted})
        return params

    def rules(self, design: Design) -> tuple[StopRule, ...]:
        """Return the stop rules of a design. Without residual synthesis there is no early stopping."""
        return self.space.rules if design.residual == "synthesis" else stop_rules(self.space.layers, [False])

    def program(self, design: Design, rule: StopRule | None = None) -> AttentionMoA:
        """Return the program of a design; without a rule, with the largest depth and without early stopping."""
        rule = rule or StopRule(self.layers)
        program = AttentionMoA(
            self.task,
            self._ensemble(design),
            layers=rule.layers,
            aggregator=None if design.aggregator is None else self._aggregator(design.aggregator),
            attention=design.attention,
            residual=design.residual if rule.layers > 1 else "synthesis",
            early_stop=rule.early_stop,
            shared_prompts=design.shared_prompts,
            aggregation=design.aggregation,
            **self.options,
        )
        for prompts in self.prompts:
            program.take_prompts(prompts, self._agents_in(prompts, design))
        if self.space.thresholds and program.architecture.synthesizes:
            grade(program, rule.threshold)
        return program

    def baselines(self) -> list[Params]:
        """Return the parameters of the usual ensembles, if the space has them.

        Every agent alone, self-consistency, MoA, Attention-MoA, and every agent with its own critiques (Self-Refine,
        Madaan et al. 2023).
        """
        samples, most, count = self.space.samples, self.space.max_agents, len(self.names)
        alone = [tuple(int(i == j) for j in range(count)) for i in range(count)]
        every = tuple(int(i < most) for i in range(count)) if count > 1 else (samples,)
        repeated = (min(samples, most), *[0] * (count - 1))
        plain = "none" if "none" in self.space.residual else "synthesis"
        own = "self" if "self" in self.space.attention else "full"  # the same with one agent
        wanted = [
            *((counts, "none", plain) for counts in alone),
            (repeated, "none", plain),
            (every, "none", plain),
            (every, "full", "synthesis"),
            *((counts, own, plain) for counts in alone),
        ]
        params = (self._params(counts, {"attention": att, "residual": res}) for counts, att, res in wanted)
        return list(self.unique(one for one in params if one is not None).values())

    def to_dict(self) -> dict[str, Any]:
        """Return space, agents and options as JSON values. They are equal if trials are comparable."""
        specs = {name: agent.spec(name).model_dump(mode="json") for name, agent in self._models.items()}
        return {
            "space": self.space.to_dict(),
            "agents": [
                agent.spec(name).model_dump(mode="json") for agent, name in zip(self.agents, self.names, strict=True)
            ],
            "options": {name: repr(value) for name, value in sorted(self.options.items())},
            "aggregators": [spec for name, spec in specs.items() if name not in self.names],
            "prompts": [digest_of(prompts) for prompts in self.prompts],
        }

    def _distributions(self) -> dict[str, BaseDistribution]:
        space = self.space
        least = int(len(self.names) == 1)
        distributions: dict[str, BaseDistribution] = {}
        if space.samples > least:
            distributions = {f"samples.{name}": IntDistribution(least, space.samples) for name in self.names}
        choices: dict[str, Sequence[Any]] = (
            {"temperature": space.temperatures_of(self.names[0])}
            if space.shared_temperature
            else {f"temperature.{name}": space.temperatures_of(name) for name in self.names}
        )
        choices["attention"] = [str(pattern) for pattern in space.attention]
        if self.layers > 1:
            choices["residual"] = space.residual
        choices |= {
            "aggregation": self.aggregations,
            "aggregator": self.aggregators,
            "shared_prompts": self._shared_prompts,
        }
        categorical = {name: CategoricalDistribution(tuple(one)) for name, one in choices.items() if len(one) > 1}
        return {**distributions, **categorical}

    def _design(self, params: Mapping[str, Any]) -> Design:
        """Return the design without its aggregator."""

        def value(name: str, only: Any) -> Any:
            return params[name] if name in self.distributions else only

        space = self.space
        samples = tuple(value(f"samples.{name}", 1) for name in self.names)
        parameters = ["temperature" if space.shared_temperature else f"temperature.{name}" for name in self.names]
        temperatures = tuple(
            value(parameter, space.temperatures_of(name)[0]) if count else None
            for parameter, name, count in zip(parameters, self.names, samples, strict=True)
        )
        total = sum(samples)
        return Design(
            samples=samples,
            temperatures=temperatures,
            attention=_simplest(value("attention", str(space.attention[0])), max(total, 1)),
            residual=value("residual", space.residual[0]) if self.layers > 1 else "synthesis",
            aggregation=value("aggregation", self.aggregations[0]) if total > 1 else "none",
            aggregator=None,
            shared_prompts=value("shared_prompts", self._shared_prompts[0]),
        )

    def _params(self, counts: tuple[int, ...], wanted: Mapping[str, Any]) -> Params | None:
        """Return parameters with these samples, ``wanted`` values and defaults; None if the space forbids them."""
        samples = {f"samples.{name}": count for name, count in zip(self.names, counts, strict=True)}
        wanted = {**wanted, **samples}
        fixed: Params = {"attention": str(self.space.attention[0]), **dict.fromkeys(samples, 1)}
        if self.layers > 1:
            fixed["residual"] = self.space.residual[0]
        for name, value in wanted.items():
            distribution = self.distributions.get(name)
            allowed = [fixed.get(name, value)] if distribution is None else values_of(distribution)
            if value not in allowed:
                return None
        return self.suggest(lambda name, distribution: wanted.get(name, _default(name, distribution)))

    def _ensemble(self, design: Design) -> list[Agent]:
        members = []
        for agent, name, count, temperature in zip(
            self.agents, self.names, design.samples, design.temperatures, strict=True
        ):
            chosen = agent if temperature is None else replace(agent, temperature=temperature)
            members += [replace(chosen, name=self._sample_name(name, k)) for k in range(1, count + 1)]
        return members

    def _sample_name(self, name: str, number: int) -> str:
        """Return the name of an agent's sample, different from those of all agents."""
        if number == 1:
            return name
        plain = f"{name}-{number}"
        return plain if plain not in self.names else f"{name}-sample-{number}"

    def _aggregator(self, name: str) -> Agent:
        agent = self._models[name]
        if name not in self.names:
            return replace(agent, name="aggregator")
        return Agent(agent.lm, "aggregator", agent.temperature, agent.max_tokens)

    def _agents_in(self, prompts: AttentionMoA, design: Design) -> list[int | None]:
        """Return, for each member of the ensemble, its index among the agents of ``prompts``, or None."""
        known = [spec.name for spec in prompts.architecture.agents]
        counted = zip(self.names, design.samples, strict=True)
        return [known.index(name) if name in known else None for name, count in counted for _ in range(count)]

    def _needs_aggregator(self, design: Design) -> bool:
        return design.aggregation == "synthesis" or (design.residual == "synthesis" and self.layers > 1)

    def _has_equal_samples(self, design: Design) -> bool:
        """Return whether an agent has several samples at temperature 0. They would be equal."""
        own = [agent.spec("-").temperature for agent in self.agents]
        return any(
            count > 1 and (default if chosen is None else chosen) == 0
            for count, chosen, default in zip(design.samples, design.temperatures, own, strict=True)
        )


def values_of(distribution: BaseDistribution) -> Sequence[Any]:
    """Return the possible values of a parameter."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1)
    raise TypeError(f"{type(distribution).__name__} is not used here")


def _check_names(what: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(f"{what} names {unknown[0]!r}, but the agents are: {', '.join(known)}")


def _simplest(pattern: Any, agents: int) -> Attention:
    """Return the attention pattern in its simplest form for a number of agents."""
    if str(pattern).isdigit():
        peers = int(pattern)
        pattern = peers if peers < agents - 1 else "full"
    if agents == 1:
        return "self" if pattern in ("full", "self") else "none"
    return cast("Attention", pattern)


def _default(name: str, distribution: BaseDistribution) -> Any:
    """Return the middle temperature, and the first choice of everything else."""
    values = values_of(distribution)
    return values[(len(values) - 1) // 2] if name.startswith("temperature") else values[0]
