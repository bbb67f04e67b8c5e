"""What a search may choose from.

``SearchSpace`` is data: what the user allows. ``BoundSpace`` is the same for given agents and a given task: it names
the parameters of an Optuna trial, turns them into a ``Design``, and a design into a program. Depth and stop rule are no
parameters, since every trial tells how all of them would have done.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias, cast

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from moa_dspy.agents import Agent, AgentLike, agent_of, slots_of
from moa_dspy.architecture import Aggregation, Residual
from moa_dspy.attention import Attention, check_attention
from moa_dspy.errors import ConfigurationError
from moa_dspy.files.program_file import digest_of
from moa_dspy.optimizers.stopping.rules import StopRule, grade, stop_rules
from moa_dspy.program import AttentionMoA
from moa_dspy.signatures import TaskSignature, task_signature

__all__ = ["BoundSpace", "Design", "SearchSpace", "Suggest", "values_of"]

Temperatures: TypeAlias = tuple[float | None, ...]
Suggest: TypeAlias = Callable[[str, BaseDistribution], Any]


@dataclass(frozen=True)
class SearchSpace:
    """What the search may choose; every field holds the choices, and one choice alone is a fixed setting.

    Args:
        samples: how often an agent may be in the ensemble at most; 0 to that many are tried, at least one agent stays.
        max_agents: N at most, all samples counted.
        temperatures: of every agent, or by agent name; None leaves an agent's own.
        shared_temperature: one temperature for all agents instead of one for each.
        attention: patterns; numbers of peers may be among them.
        residual: how layers are joined.
        aggregation: None is synthesis, and the vote as well where every output of the task is typed.
        aggregators: names of the agents whose model may aggregate; None is all of them.
        shared_prompts: one prompt per role, one per role and agent, or both; None is one per role, and in ``optimize``
            what the program has.
        layers: depths. A trial runs the largest once and tells how all of them would have done.
        early_stop: stop rules.
        thresholds: least probabilities of an improvement from which a run goes on. With any, every trial asks its
            synthesis for that probability instead of yes or no, and tells how all of them would have done.

    Raises:
        ConfigurationError: a field has no choice, or one that cannot be.
    """

    samples: int = 2
    max_agents: int = 5
    temperatures: Temperatures | Mapping[str, Temperatures] = (0.3, 0.7, 1.0)
    shared_temperature: bool = False
    attention: tuple[Attention, ...] = ("full", "cross", "self", "none")
    residual: tuple[Residual, ...] = ("synthesis", "none")
    aggregation: tuple[Aggregation, ...] | None = None
    aggregators: tuple[str, ...] | None = None
    shared_prompts: tuple[bool, ...] | None = None
    layers: tuple[int, ...] = (1, 2, 3)
    early_stop: tuple[bool, ...] = (True, False)
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("attention", "residual", "aggregation", "aggregators", "shared_prompts", "layers", "early_stop"):
            object.__setattr__(self, name, _choices(name, getattr(self, name)))
        object.__setattr__(self, "temperatures", _temperatures(self.temperatures))
        object.__setattr__(self, "thresholds", _thresholds(self.thresholds))
        for name, value in (("samples", self.samples), ("max_agents", self.max_agents), *_depths(self.layers)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{name}={value!r} must be a whole number from 1")
        for name, allowed in _ALLOWED.items():
            odd = [value for value in getattr(self, name) or () if value not in allowed]
            if odd:
                raise ConfigurationError(
                    f"{name}={odd[0]!r} cannot be searched; use some of {', '.join(map(repr, allowed))}"
                )
        for pattern in self.attention:
            check_attention(pattern, max(self.max_agents, 2))

    @property
    def rules(self) -> tuple[StopRule, ...]:
        """Return the stop rules that a program whose layers are joined by synthesis may have."""
        return stop_rules(self.layers, self.early_stop, self.thresholds)

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON values."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the space that ``to_dict`` wrote, or that a configuration file says.

        Raises:
            ConfigurationError: a name is unknown, or a value cannot be.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ConfigurationError(f"a search space has no {unknown[0]!r}; it has: {', '.join(known)}")
        return cls(**values)


@dataclass(frozen=True)
class Design:
    """One choice out of a space, but for depth and stop rule.

    Attributes:
        samples: of each agent; 0 leaves it out.
        temperatures: of each agent; None is its own, or none where the agent is left out.
        attention: a pattern that fits the number of agents.
        residual: how layers are joined.
        aggregation: how a layer's answers become one.
        aggregator: name of the agent whose model aggregates; None where no model does.
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
        """Return the choices one by one, the same ones of every design of a space."""
        shape = (self.attention, self.residual, self.aggregation, self.aggregator, self.shared_prompts)
        return (*self.samples, *self.temperatures, *shape)


class BoundSpace:
    """A search space for given agents and a task.

    Args:
        space: what is allowed.
        task: any DSPy signature.
        agents: at least one.
        options: further arguments of ``AttentionMoA``, the same for all designs.
        aggregators: further models that may aggregate, and propose nothing.
        prompts: programs of the same task, whose prompts and demos all designs have; later ones go before earlier ones.

    Raises:
        ConfigurationError: the space does not fit the agents, or an option is the search's to choose.
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
        taken = sorted(_CHOSEN & options.keys())
        if taken:
            raise ConfigurationError(f"{taken[0]} is the search's to choose; say what it may be in SearchSpace")
        if isinstance(agents, str) or not agents:
            raise ConfigurationError("there is no agent; give at least one model, for example agents=['local']")
        voices = slots_of([agent_of(agent) for agent in (*agents, *aggregators)])
        self.space, self.task, self.options, self.prompts = space, task_signature(task), dict(options), tuple(prompts)
        self.names = tuple(voice.name for voice in voices[: len(agents)])
        self.agents = tuple(replace(voice.agent, name=voice.name) for voice in voices[: len(agents)])
        self._writers = {voice.name: voice.agent for voice in voices}
        self.aggregators = space.aggregators or tuple(self._writers)
        _refuse_unknown(self.aggregators, tuple(self._writers), "aggregators")
        if isinstance(space.temperatures, Mapping):
            _refuse_unknown(tuple(space.temperatures), self.names, "temperatures")
        typed = all(field.annotation is not str for field in self.task.output_fields.values())
        self.aggregations: tuple[Aggregation, ...] = space.aggregation or (
            ("synthesis", "vote") if typed else ("synthesis",)
        )
        self.distributions = self._distributions()

    @property
    def writers(self) -> tuple[Agent, ...]:
        """Return all models that take part in some design: the agents, and those that only aggregate."""
        return tuple(self._writers.values())

    @property
    def layers(self) -> int:
        """Return the depth at which trials run."""
        return max(self.space.layers)

    def suggest(self, ask: Suggest) -> dict[str, Any]:
        """Return the parameters that ``ask`` gives, asking only for those that matter together.

        Args:
            ask: gives a value for a parameter's name and distribution.
        """
        params: dict[str, Any] = {}

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
        if self._asks_aggregator(self._design(params, None)):
            take("aggregator")
        return params

    def design(self, params: Mapping[str, Any]) -> Design | None:
        """Return what ``params`` mean, in one spelling for each architecture; None where they do not fit together.

        Raises:
            KeyError: a parameter that matters is missing.
        """
        design = self._design(params, None)
        if not 1 <= sum(design.samples) <= self.space.max_agents or self._repeats(design):
            return None
        if self._asks_aggregator(design):
            name = params["aggregator"] if "aggregator" in self.distributions else self.aggregators[0]
            design = replace(design, aggregator=name)
        return design

    def rules(self, design: Design) -> tuple[StopRule, ...]:
        """Return the stop rules that there are for ``design``: without residual synthesis nothing decides."""
        return self.space.rules if design.residual == "synthesis" else stop_rules(self.space.layers, [False])

    def program(self, design: Design, rule: StopRule | None = None) -> AttentionMoA:
        """Return the program of ``design``; without a rule, as deep as can be and without early stopping."""
        rule = rule or StopRule(self.layers)
        residual: Residual = design.residual if rule.layers > 1 else "synthesis"
        made = AttentionMoA(
            self.task,
            self._ensemble(design),
            layers=rule.layers,
            aggregator=None if design.aggregator is None else self._aggregator(design.aggregator),
            attention=design.attention,
            residual=residual,
            early_stop=rule.early_stop,
            shared_prompts=design.shared_prompts,
            aggregation=design.aggregation,
            **self.options,
        )
        for prompts in self.prompts:
            made.take_prompts(prompts, self._places(design, prompts))
        if self.space.thresholds and made.architecture.synthesizes:
            grade(made, rule.threshold)
        return made

    def baselines(self) -> list[dict[str, Any]]:
        """Return the parameters of the usual ensembles, as far as the space holds them.

        Every agent alone, self-consistency, MoA, Attention-MoA, and every agent with its own critiques (Self-Refine,
        Madaan et al. 2023).
        """
        most, agents = self.space.samples, len(self.names)
        single = [tuple(int(i == j) for j in range(agents)) for i in range(agents)]
        every = tuple(int(i < self.space.max_agents) for i in range(agents)) if agents > 1 else (most,)
        repeated = (min(most, self.space.max_agents), *[0] * (agents - 1))
        plain = "none" if "none" in self.space.residual else "synthesis"
        alone = "self" if "self" in self.space.attention else "full"  # the same where there is one agent
        wanted = [
            *((counts, "none", plain) for counts in single),
            (repeated, "none", plain),
            (every, "none", plain),
            (every, "full", "synthesis"),
            *((counts, alone, plain) for counts in single),
        ]
        found: dict[Design, dict[str, Any]] = {}
        for counts, attention, residual in wanted:
            params = self._params(counts, {"attention": attention, "residual": residual})
            design = None if params is None else self.design(params)
            if design is not None and params is not None:
                found.setdefault(design, params)
        return list(found.values())

    def designs(self) -> Iterator[Design]:
        """Yield every design once; for spaces small enough to be looked at as a whole."""
        seen: set[Design] = set()
        for params in self.combinations():
            design = self.design(params)
            if design is not None and design not in seen:
                seen.add(design)
                yield design

    @property
    def size(self) -> int:
        """Return how many combinations of parameters there are, those included that come to the same design."""
        return math.prod(len(values_of(distribution)) for distribution in self.distributions.values())

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Yield every combination of parameters."""
        names = list(self.distributions)
        for values in itertools.product(*(values_of(self.distributions[name]) for name in names)):
            yield dict(zip(names, values, strict=True))

    def draw(self, generator: np.random.Generator) -> dict[str, Any]:
        """Return parameters drawn evenly, with samples of at most ``max_agents`` agents in all."""
        choices = {name: values_of(distribution) for name, distribution in self.distributions.items()}
        drawn = {name: values[int(generator.integers(len(values)))] for name, values in choices.items()}
        counted = [name for name in self.names if f"samples.{name}" in choices]
        places = [name for name in counted for _ in range(self.space.samples)]
        if places:
            agents = int(generator.integers(1, min(self.space.max_agents, len(places)) + 1))
            taken = Counter(places[index] for index in generator.permutation(len(places))[:agents])
            drawn.update({f"samples.{name}": taken[name] for name in counted})
        return drawn

    def to_dict(self) -> dict[str, Any]:
        """Return space, agents and options as JSON values; equal where trials may be compared."""
        return {
            "space": self.space.to_dict(),
            "agents": [
                agent.spec(name).model_dump(mode="json") for agent, name in zip(self.agents, self.names, strict=True)
            ],
            "options": {name: repr(value) for name, value in sorted(self.options.items())},
            "aggregators": [self._writers[name].spec(name).model_dump(mode="json") for name in self._further()],
            "prompts": [digest_of(prompts) for prompts in self.prompts],
        }

    def _distributions(self) -> dict[str, BaseDistribution]:
        space = self.space
        least = int(len(self.names) == 1)
        found: dict[str, BaseDistribution] = {}
        for name in self.names:
            if space.samples > least:
                found[f"samples.{name}"] = IntDistribution(least, space.samples)
        if space.shared_temperature:
            _add(found, "temperature", self._temperatures(self.names[0]))
        else:
            for name in self.names:
                _add(found, f"temperature.{name}", self._temperatures(name))
        _add(found, "attention", [str(pattern) for pattern in space.attention])
        if self.layers > 1:
            _add(found, "residual", space.residual)
        _add(found, "aggregation", self.aggregations)
        _add(found, "aggregator", self.aggregators)
        _add(found, "shared_prompts", space.shared_prompts or (True,))
        return found

    def _design(self, params: Mapping[str, Any], aggregator: str | None) -> Design:
        def value(name: str, only: Any) -> Any:
            return params[name] if name in self.distributions else only

        samples = tuple(value(f"samples.{name}", 1) for name in self.names)
        shared = self.space.shared_temperature
        temperatures = tuple(
            None
            if not count
            else value("temperature" if shared else f"temperature.{name}", self._temperatures(name)[0])
            for name, count in zip(self.names, samples, strict=True)
        )
        total = sum(samples)
        return Design(
            samples=samples,
            temperatures=temperatures,
            attention=_fitting(value("attention", str(self.space.attention[0])), max(total, 1)),
            residual=value("residual", self.space.residual[0]) if self.layers > 1 else "synthesis",
            aggregation=value("aggregation", self.aggregations[0]) if total > 1 else "none",
            aggregator=aggregator,
            shared_prompts=value("shared_prompts", (self.space.shared_prompts or (True,))[0]),
        )

    def _params(self, counts: tuple[int, ...], wanted: dict[str, Any]) -> dict[str, Any] | None:
        """The parameters with these counts, the ``wanted`` values, and the middle of what there is elsewhere."""
        given = {f"samples.{name}": count for name, count in zip(self.names, counts, strict=True)}
        wanted = {**wanted, **given}
        only: dict[str, Any] = {"attention": str(self.space.attention[0]), **dict.fromkeys(given, 1)}
        if self.layers > 1:
            only["residual"] = self.space.residual[0]
        for name, value in wanted.items():
            dist = self.distributions.get(name)
            if not (_holds(dist, value) if dist is not None else only.get(name, value) == value):
                return None
        return self.suggest(lambda name, dist: wanted.get(name, _default(name, dist)))

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
        agent = self._writers[name]
        if name not in self.names:
            return replace(agent, name="aggregator")
        return Agent(agent.lm, "aggregator", agent.temperature, agent.max_tokens)

    def _further(self) -> list[str]:
        return [name for name in self._writers if name not in self.names]

    def _places(self, design: Design, prompts: AttentionMoA) -> list[int | None]:
        """For each member of the ensemble, its number among the agents of ``prompts``, where it is one of them."""
        known = [spec.name for spec in prompts.architecture.agents]
        counted = zip(self.names, design.samples, strict=True)
        return [known.index(name) if name in known else None for name, count in counted for _ in range(count)]

    def _asks_aggregator(self, design: Design) -> bool:
        return design.aggregation == "synthesis" or (design.residual == "synthesis" and self.layers > 1)

    def _repeats(self, design: Design) -> bool:
        """Whether several samples are taken at temperature 0, and so would all be the same."""
        own = [agent.spec("-").temperature for agent in self.agents]
        return any(
            count > 1 and (mine if chosen is None else chosen) == 0
            for count, chosen, mine in zip(design.samples, design.temperatures, own, strict=True)
        )

    def _temperatures(self, name: str) -> Temperatures:
        choices = self.space.temperatures
        return choices.get(name, (None,)) if isinstance(choices, Mapping) else choices


def values_of(distribution: BaseDistribution) -> Sequence[Any]:
    """Return the values that a parameter may have."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1)
    raise TypeError(f"{type(distribution).__name__} is not used here")


_CHOSEN = frozenset(
    {
        *("agents", "layers", "aggregator", "attention", "residual", "early_stop", "shared_prompts", "aggregation"),
        "budget",  # a run cut short would be scored as if it were the architecture's fault
    }
)
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "residual": ("synthesis", "none"),
    "aggregation": ("synthesis", "vote"),
    "shared_prompts": (True, False),
    "early_stop": (True, False),
}


def _refuse_unknown(names: tuple[str, ...], known: tuple[str, ...], what: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigurationError(f"{what} names {unknown[0]!r}, but the agents are: {', '.join(known)}")


def _thresholds(value: Any) -> tuple[float, ...]:
    choices = _choices("thresholds", value) if value else ()
    for choice in choices:
        if isinstance(choice, bool) or not isinstance(choice, (int, float)) or not 0 <= choice <= 1:
            raise ConfigurationError(f"thresholds has {choice!r}; a threshold is a probability from 0 to 1")
    return tuple(float(choice) for choice in choices)


def _choices(name: str, value: Any) -> Any:
    if value is None and name in ("aggregation", "aggregators", "shared_prompts"):
        return None
    if isinstance(value, str) or not isinstance(value, (list, tuple)) or not value:
        raise ConfigurationError(
            f"{name}={value!r} must be a list of choices, for example {name}=[...], with at least one"
        )
    if len({(type(choice), choice) for choice in value}) < len(value):
        raise ConfigurationError(f"{name}={value!r} has a choice twice")
    return tuple(value)


def _temperatures(value: Any) -> Temperatures | dict[str, Temperatures]:
    if isinstance(value, Mapping):
        return {name: cast("Temperatures", _temperatures(choices)) for name, choices in value.items()}
    choices: Temperatures = _choices("temperatures", value)
    for choice in choices:
        number = isinstance(choice, (int, float)) and not isinstance(choice, bool)
        if choice is not None and not (number and 0 <= choice <= 2):
            raise ConfigurationError(f"temperatures has {choice!r}; a temperature is a number from 0 to 2, or None")
    return tuple(None if choice is None else float(choice) for choice in choices)


def _depths(layers: Sequence[Any]) -> list[tuple[str, Any]]:
    return [("layers", depth) for depth in layers]


def _fitting(pattern: Any, agents: int) -> Attention:
    """The pattern in its plainest form for this many agents."""
    if str(pattern).isdigit():
        peers = int(pattern)
        pattern = peers if peers < agents - 1 else "full"
    if agents == 1:
        return "self" if pattern in ("full", "self") else "none"
    return cast("Attention", pattern)


def _add(found: dict[str, BaseDistribution], name: str, choices: Sequence[Any]) -> None:
    if len(choices) > 1:
        found[name] = CategoricalDistribution(tuple(choices))


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    return value in values_of(distribution)


def _default(name: str, distribution: BaseDistribution) -> Any:
    values = values_of(distribution)
    return values[(len(values) - 1) // 2] if name.startswith("temperature") else values[0]
