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

import dspy
import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from moa_dspy.agents import Agent, AgentLike, agent_of, slots_of
from moa_dspy.architecture import Aggregation, Critiques, Residual
from moa_dspy.attention import Attention
from moa_dspy.errors import ConfigurationError
from moa_dspy.files.program_file import digest_of
from moa_dspy.gate import gate_of
from moa_dspy.model_limits import takes_temperature
from moa_dspy.optimizers.search.space import SearchSpace
from moa_dspy.optimizers.stop_fitting.replay import StopRule, grade, stop_rules
from moa_dspy.program import AttentionMoA
from moa_dspy.signatures import TaskSignature, task_signature

__all__ = ["ENUMERABLE", "BoundSpace", "Design", "Params"]

Params: TypeAlias = dict[str, Any]
"""Values of Optuna parameters by name."""

ENUMERABLE: Final = 4096
"""Spaces with at most this many combinations of parameters are listed in full."""

_CHOSEN: Final = {"agents", "aggregator", "budget", *SearchSpace.__dataclass_fields__}
"""Options that the search sets. A run ended by its budget would lower the architecture's score."""


class _Asked(dict[str, Any]):
    """Parameters that ``ask`` gives when they are read."""

    def __init__(self, ask: Callable[[str], Any]) -> None:
        super().__init__()
        self._ask = ask

    def __missing__(self, name: str) -> Any:
        self[name] = value = self._ask(name)
        return value


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
        critiques: as for ``AttentionMoA``.
        tuned: whether the design takes the tuned prompts.
    """

    samples: tuple[int, ...]
    temperatures: tuple[float | None, ...]
    attention: Attention
    residual: Residual
    aggregation: Aggregation
    aggregator: str | None
    shared_prompts: bool = True
    critiques: Critiques = "single"
    tuned: bool = False

    @property
    def features(self) -> tuple[Any, ...]:
        """Return the choices as a tuple. Its length is the same for all designs of a space."""
        samples, temperatures, *shape = vars(self).values()
        return (*samples, *temperatures, *shape)


class BoundSpace:
    """A search space for given agents and a task.

    Args:
        space: the allowed choices.
        task: any DSPy signature.
        agents: at least one.
        options: further arguments of ``AttentionMoA``, the same for all designs.
        aggregators: further models that may aggregate but do not propose.
        prompts: programs of the same task. All designs take their prompts and demos; later programs take precedence.
        tuned: a further program of the task, whose prompts and demos a design may take or not.

    Attributes:
        names: names of the agents.
        aggregators: the names of the agents whose model may aggregate.
        models: all agents and the models that only aggregate, by name.
        sample_names: names of the settings of samples, in the order of the agents.
        temperature_names: the same for temperatures; all equal if the agents share one.
        choices: the choices of every setting, fixed ones included.
        distributions: Optuna's parameters, which are the settings with several choices.

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
        prompts: AttentionMoA | Sequence[AttentionMoA] = (),
        tuned: AttentionMoA | None = None,
    ) -> None:
        chosen = sorted(_CHOSEN & options.keys())
        if chosen:
            raise ConfigurationError(f"the search chooses {chosen[0]}; list its choices in SearchSpace instead")
        if isinstance(agents, str) or not agents:
            raise ConfigurationError(f"agents={agents!r} must list at least one model, for example agents=['local']")
        named = slots_of([agent_of(agent) for agent in (*agents, *aggregators)])
        self.space, self.task, self.options = space, task_signature(task), dict(options)
        self.prompts = (prompts,) if isinstance(prompts, AttentionMoA) else tuple(prompts)
        self.tuned = tuned
        self.models = {one.name: replace(one.agent, name=one.name) for one in named}
        self.names = tuple(self.models)[: len(agents)]
        self.sample_names = [f"samples.{name}" for name in self.names]
        shared = space.shared_temperature
        self.temperature_names = ["temperature" if shared else f"temperature.{name}" for name in self.names]
        self.aggregators = space.aggregators or tuple(self.models)
        _check_names("aggregators", self.aggregators, tuple(self.models))
        if isinstance(space.temperatures, Mapping):
            _check_names("temperatures", tuple(space.temperatures), self.names)
        self.choices = self._choices()
        self.distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(values[0], values[-1])
            if name in self.sample_names
            else CategoricalDistribution(values)
            for name, values in self.choices.items()
            if len(values) > 1
        }
        self._designs: dict[Design, Params] | None = None

    @property
    def layers(self) -> int:
        """Return the depth at which trials run."""
        return max(self.space.layers)

    @property
    def size(self) -> int:
        """Return the number of combinations of parameters. Several may give the same design."""
        return math.prod(len(values) for values in self.choices.values())

    def suggest(self, ask: Callable[[str], Any]) -> Params:
        """Return the parameters that ``ask`` gives. Only parameters that affect the design are requested.

        Args:
            ask: returns a value for a parameter of ``distributions``.
        """
        params = _Asked(ask)
        self.design(params)
        return dict(params)

    def checked(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return parameters that a sampler proposes.

        Raises:
            ConfigurationError: if these are no parameters, or if one or its value is not among the choices.
        """
        if not isinstance(params, Mapping):
            raise ConfigurationError(f"a sampler proposes {params!r} in place of a mapping of parameters to values")
        for name, value in params.items():
            if name not in self.choices:
                raise ConfigurationError(f"a sampler proposes {name!r}; the parameters are {', '.join(self.choices)}")
            if value not in self.choices[name]:
                choices = ", ".join(map(repr, self.choices[name]))
                raise ConfigurationError(f"a sampler proposes {name}={value!r}; the choices are {choices}")
        return params

    def design(self, params: Mapping[str, Any]) -> Design | None:
        """Return the design of the parameters; None if they are incompatible. Equal architectures give equal designs.

        Raises:
            KeyError: if a required parameter is missing.
        """
        counts = tuple(self._value(params, name) for name in self.sample_names)
        agents = sum(counts)
        if not 1 <= agents <= self.space.max_agents:
            return None
        temperatures = tuple(
            self._value(params, name) if count and self._takes_temperature(agent) else None
            for agent, name, count in zip(self.names, self.temperature_names, counts, strict=True)
        )
        if self._has_equal_samples(counts, temperatures):
            return None
        aggregation: Aggregation = self._value(params, "aggregation") if agents > 1 else "none"
        attention = _simplest(self._value(params, "attention"), agents)
        critiques: Critiques = self._value(params, "critiques") if _has_peers(attention, agents) else "single"
        residual: Residual = self._value(params, "residual")
        if agents == 1 and residual == "answers":
            residual = "none"  # the only answer is passed on
        shared, tuned = self._value(params, "shared_prompts"), self._value(params, "tuned")
        aggregates = aggregation == "synthesis" or (residual == "synthesis" and self.layers > 1)
        aggregator = self._value(params, "aggregator") if aggregates else None
        return Design(counts, temperatures, attention, residual, aggregation, aggregator, shared, critiques, tuned)

    def design_of(self, trial: FrozenTrial) -> Design | None:
        """Return the design of a trial, or None if the trial failed permanently or has no parameters yet.

        A trial whose runs all failed still counts, because its design is tried again later.
        """
        if trial.state == TrialState.FAIL and not trial.user_attrs.get("failing"):
            return None
        try:
            return self.design({**trial.system_attrs.get("fixed_params", {}), **trial.params})
        except KeyError:
            return None

    def designs(self) -> dict[Design, Params]:
        """Return every design with its parameters. Only for spaces of at most ``ENUMERABLE`` combinations."""
        if self._designs is None:
            names = list(self.distributions)
            combinations = itertools.product(*(self.choices[name] for name in names))
            self._designs = self.unique(dict(zip(names, values, strict=True)) for values in combinations)
        return dict(self._designs)

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
        params = {name: self.pick(name, generator) for name in self.distributions}
        counted = [name for name in self.sample_names if name in self.distributions]
        samples = [name for name in counted for _ in range(self.space.samples)]
        if samples:
            agents = int(generator.integers(1, min(self.space.max_agents, len(samples)) + 1))
            chosen = Counter(samples[index] for index in generator.permutation(len(samples))[:agents])
            params.update({name: chosen[name] for name in counted})
        return params

    def pick(self, name: str, generator: np.random.Generator) -> Any:
        """Return a random value of one parameter."""
        values = self.choices[name]
        return values[int(generator.integers(len(values)))]

    def richest(self) -> Design:
        """Return a design of one sample of each agent with all roles of a layer, as far as the space has them."""
        counts = {name: int(number < self.space.max_agents) for number, name in enumerate(self.sample_names)}
        counts = {name: max(count, self.choices[name][0]) for name, count in counts.items()}
        rank = {"none": 0, "self": 1}
        chosen = {**counts, "attention": max(self.choices["attention"], key=lambda pattern: rank.get(pattern, 2))}
        design = self.design({name: chosen.get(name, values[0]) for name, values in self.choices.items()})
        assert design is not None
        return design

    def rules(self, design: Design) -> tuple[StopRule, ...]:
        """Return the stop rules of a design. Without residual synthesis there is no early stopping.

        A design that passes all answers on has an output only in its last layer.
        """
        space = self.space
        if design.residual == "synthesis":
            return space.rules
        return stop_rules([self.layers] if design.residual == "answers" else space.layers, [False], gates=space.gates)

    def program(self, design: Design, rule: StopRule | None = None) -> AttentionMoA:
        """Return the program of a design; without a rule, with the largest depth and without early stopping."""
        rule = rule or StopRule(self.layers)
        owners = [name for name, count in zip(self.names, design.samples, strict=True) for _ in range(count)]
        program = AttentionMoA(
            self.task,
            self._ensemble(design),
            layers=rule.layers,
            aggregator=self._aggregator(design.aggregator),
            attention=design.attention,
            residual=design.residual if rule.layers > 1 else "synthesis",
            early_stop=rule.early_stop,
            gate=gate_of(rule.gate),
            critiques=design.critiques,
            shared_prompts=design.shared_prompts,
            aggregation=design.aggregation,
            **self.options,
        )
        for prompts in (*self.prompts, *([self.tuned] if design.tuned and self.tuned is not None else [])):
            known = [spec.name for spec in prompts.architecture.agents]
            program.take_prompts(prompts, [known.index(name) if name in known else None for name in owners])
        if self.space.thresholds and program.architecture.synthesizes:
            grade(program, rule.threshold)
        return program

    def to_dict(self) -> dict[str, Any]:
        """Return space, agents and options as JSON values. They are equal if trials are comparable."""
        specs = {name: agent.spec(name).model_dump(mode="json") for name, agent in self.models.items()}
        return {
            "space": self.space.to_dict(),
            "agents": [specs[name] for name in self.names],
            "options": {name: repr(value) for name, value in sorted(self.options.items())},
            "aggregators": [spec for name, spec in specs.items() if name not in self.names],
            "prompts": [digest_of(prompts) for prompts in self.prompts],
            **({} if self.tuned is None else {"tuned": digest_of(self.tuned)}),
        }

    def _choices(self) -> dict[str, Sequence[Any]]:
        space = self.space
        typed = all(field.annotation is not str for field in self.task.output_fields.values())
        least = int(len(self.names) == 1)
        taking = [name for name in self.names if self._takes_temperature(name)]
        shared = {"temperature": space.temperatures_of(taking[0]) if taking else (None,)}
        apart = {
            f"temperature.{name}": space.temperatures_of(name) if name in taking else (None,) for name in self.names
        }
        return {
            **dict.fromkeys(self.sample_names, range(least, space.samples + 1)),
            **(shared if space.shared_temperature else apart),
            "attention": tuple(str(pattern) for pattern in space.patterns(typed=typed)),
            "critiques": space.critiques if self._has_peers else space.critiques[:1],
            "residual": self._joins(),
            "aggregation": space.aggregation or (("synthesis", "vote") if typed else ("synthesis",)),
            "aggregator": self.aggregators,
            "shared_prompts": space.shared_prompts or (True,),
            "tuned": (True, False) if self.tuned is not None else (False,),
        }

    @property
    def _has_peers(self) -> bool:
        most = min(self.space.max_agents, self.space.samples * len(self.names))
        return any(_has_peers(_simplest(pattern, most), most) for pattern in self.space.patterns(typed=True))

    def _joins(self) -> tuple[Residual, ...]:
        """Return how layers may be joined. With two layers, passing all answers on is the same as one layer."""
        if self.layers == 1:
            return ("synthesis",)
        joins = self.space.residual
        return tuple(join for join in joins if join != "answers" or self.layers > 2) or joins

    def _value(self, params: Mapping[str, Any], name: str) -> Any:
        return params[name] if name in self.distributions else self.choices[name][0]

    def _ensemble(self, design: Design) -> list[Agent]:
        """Return the samples of all agents. Their names differ from those of all agents."""
        members = []
        for name, count, temperature in zip(self.names, design.samples, design.temperatures, strict=True):
            agent = self.models[name]
            chosen = agent if temperature is None else replace(agent, temperature=temperature)
            for number in range(1, count + 1):
                plain = name if number == 1 else f"{name}-{number}"
                taken = number > 1 and plain in self.names
                members.append(replace(chosen, name=f"{name}-sample-{number}" if taken else plain))
        return members

    def _aggregator(self, name: str | None) -> Agent | None:
        if name is None:
            return None
        agent = self.models[name]
        if name not in self.names:
            return replace(agent, name="aggregator")
        return Agent(agent.lm, "aggregator", agent.temperature, agent.max_tokens, price=agent.price)

    @property
    def notes(self) -> list[str]:
        """Return remarks on choices that do not apply."""
        fixed = ", ".join(name for name in self.names if not self._takes_temperature(name))
        return [f"the temperature of {fixed} is not varied, because the model does not accept one"] if fixed else []

    def _takes_temperature(self, name: str) -> bool:
        return takes_temperature(getattr(self.models[name].lm or dspy.settings.lm, "model", None))

    def _has_equal_samples(self, counts: Sequence[int], temperatures: Sequence[float | None]) -> bool:
        """Return whether an agent has several samples at temperature 0. They would be equal."""
        return any(
            count > 1 and (self.models[name].is_cold if chosen is None else chosen == 0)
            for name, count, chosen in zip(self.names, counts, temperatures, strict=True)
        )


def _check_names(what: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(f"{what} names {unknown[0]!r}, but the agents are: {', '.join(known)}")


def _has_peers(attention: Attention, agents: int) -> bool:
    """Return whether a critic may have several critiques to write."""
    return attention not in ("self", "none") and (agents > 2 or attention in ("full", 1))


def _simplest(pattern: Any, agents: int) -> Attention:
    """Return the attention pattern in its simplest form for a number of agents."""
    if str(pattern).isdigit():
        peers = int(pattern)
        pattern = peers if peers < agents - 1 else "full"
    if agents == 1:
        return "self" if pattern in ("full", "self") else "none"
    return cast("Attention", pattern)
