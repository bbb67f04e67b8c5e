"""The choices of a search, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias, cast, get_args

from moa_dspy.architecture import Aggregation, Critiques, Residual
from moa_dspy.attention import Attention, check_attention
from moa_dspy.errors import ConfigurationError
from moa_dspy.gate import Gate, gate_of
from moa_dspy.optimizers.measuring import check_count
from moa_dspy.optimizers.stop_fitting.replay import StopRule, stop_rules

__all__ = ["SearchSpace", "Temperatures"]

Temperatures: TypeAlias = tuple[float | None, ...]

_OPTIONAL: Final = ("attention", "aggregation", "aggregators", "shared_prompts", "gate")
_CHOICES: Final = ("critiques", "residual", *_OPTIONAL, "layers", "early_stop")
_PATTERNS: Final[tuple[Attention, ...]] = ("full", "cross", "self", "none")
_BY_ANSWER: Final[tuple[Attention, ...]] = ("disagreeing",)
_GATES: Final = ("off", "unanimous")
_ALLOWED: Final[Mapping[str, tuple[Any, ...]]] = {
    "critiques": get_args(Critiques),
    "residual": get_args(Residual),
    "aggregation": ("synthesis", "vote"),
    "shared_prompts": (True, False),
    "early_stop": (True, False),
}


@dataclass(frozen=True)
class SearchSpace:
    """The choices of a search. Every field lists choices; a single choice is a fixed setting.

    Args:
        samples: maximum number of samples of one agent. 0 to that many are tried; at least one agent remains.
        max_agents: the largest N, all samples counted.
        temperatures: temperatures of every agent, or by agent name. None is the agent's own temperature.
        shared_temperature: one temperature for all agents, instead of one for each.
        attention: attention patterns; a number is a number of peers. None is full, cross, self and none, and also
            disagreeing if every output of the task is typed. Free text is seldom equal.
        critiques: one call for each critique (``"single"``), or for all critiques of a critic (``"joint"``).
        residual: how layers are joined.
        aggregation: how the answers of a layer are combined. None is synthesis, and also vote if every output of the
            task is typed.
        aggregators: names of the agents whose model may aggregate. None is all of them.
        shared_prompts: one prompt per role (True), one per role and agent (False), or both. None is one per role; in
            ``optimize`` it is the program's setting.
        layers: depths. A trial runs the largest depth once and returns the scores of all depths.
        early_stop: whether to stop early.
        thresholds: minimum probabilities of an improvement at which a run continues. If there are any, every trial asks
            its synthesis for that probability instead of yes or no, and returns the scores of all thresholds.
        gate: gates that compare texts. A trial runs without a gate and returns the scores of all gates. A search picks
            the best score; ``fit_gate`` bounds what a gate loses. None is off and unanimous; in ``optimize`` it is off
            if the gate is fitted afterwards.

    Raises:
        ConfigurationError: if a field has no choice, or an invalid one.
    """

    samples: int = 2
    max_agents: int = 5
    temperatures: Temperatures | Mapping[str, Temperatures] = (0.3, 0.7, 1.0)
    shared_temperature: bool = False
    attention: tuple[Attention, ...] | None = None
    critiques: tuple[Critiques, ...] = ("single", "joint")
    residual: tuple[Residual, ...] = get_args(Residual)
    aggregation: tuple[Aggregation, ...] | None = None
    aggregators: tuple[str, ...] | None = None
    shared_prompts: tuple[bool, ...] | None = None
    layers: tuple[int, ...] = (1, 2, 3)
    early_stop: tuple[bool, ...] = (True, False)
    thresholds: tuple[float, ...] = ()
    gate: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in _CHOICES:
            object.__setattr__(self, name, _choices(name, getattr(self, name)))
        gates = [gate_of(gate) for gate in self.gate or ()]
        if any(isinstance(gate, Gate) and gate.compare == "meaning" for gate in gates):
            raise ConfigurationError(
                "a gate with compare='meaning' cannot be searched, because runs record no such calls"
            )
        object.__setattr__(self, "gate", tuple(map(str, gates)) or None)
        object.__setattr__(self, "temperatures", _temperatures(self.temperatures))
        object.__setattr__(self, "thresholds", _numbers("thresholds", self.thresholds, 1) if self.thresholds else ())
        sizes = [("samples", self.samples), ("max_agents", self.max_agents), *(("layers", n) for n in self.layers)]
        for name, value in sizes:
            check_count(name, value)
        for name, allowed in _ALLOWED.items():
            for value in getattr(self, name) or ():
                if value not in allowed:
                    listed = ", ".join(map(repr, allowed))
                    raise ConfigurationError(f"{name}={value!r} cannot be searched; use some of {listed}")
        for pattern in self.attention or ():
            if not isinstance(pattern, (str, int)):
                raise ConfigurationError(
                    f"attention={pattern!r} cannot be searched; use built-in patterns, such as 'full'"
                )
            check_attention(pattern, max(self.max_agents, 2))

    @classmethod
    def of(cls, value: Any) -> SearchSpace:
        """Return ``value`` if it is a space, and the default one for None.

        Raises:
            ConfigurationError: if it has another type.
        """
        if value is None:
            return cls()
        if not isinstance(value, cls):
            raise ConfigurationError(f"space={value!r} is not a SearchSpace; pass SearchSpace(...)")
        return value

    @property
    def rules(self) -> tuple[StopRule, ...]:
        """Return the stop rules of a program whose layers are joined by synthesis."""
        return stop_rules(self.layers, self.early_stop, self.thresholds, self.gates)

    @property
    def gates(self) -> tuple[str, ...]:
        """Return the gates."""
        return self.gate or _GATES

    def patterns(self, *, typed: bool) -> tuple[Attention, ...]:
        """Return the attention patterns for a task whose outputs are all typed, or not."""
        return self.attention or (*_PATTERNS, *(_BY_ANSWER if typed else ()))

    def without(self, agents: Collection[str]) -> Self:
        """Return the space without the choices of some agents."""
        temperatures, aggregators = self.temperatures, self.aggregators
        if isinstance(temperatures, Mapping):
            temperatures = {name: values for name, values in temperatures.items() if name not in agents}
        if aggregators is not None:
            aggregators = tuple(name for name in aggregators if name not in agents) or None
        return dataclasses.replace(self, temperatures=temperatures, aggregators=aggregators)

    def temperatures_of(self, agent: str) -> Temperatures:
        """Return the possible temperatures of an agent."""
        choices = self.temperatures
        return choices.get(agent, (None,)) if isinstance(choices, Mapping) else choices

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON values."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the space described by ``to_dict`` or by a configuration file.

        Raises:
            ConfigurationError: if a name is unknown or a value is invalid.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ConfigurationError(f"a search space has no {unknown[0]!r}; use some of: {', '.join(known)}")
        return cls(**values)


def _choices(name: str, value: Any) -> Any:
    if value is None and name in _OPTIONAL:
        return None
    if isinstance(value, str) or not isinstance(value, (list, tuple)) or not value:
        raise ConfigurationError(f"{name}={value!r} must be a list of choices with at least one, as in {name}=[...]")
    if len({(type(choice), choice) for choice in value}) < len(value):
        raise ConfigurationError(f"{name}={value!r} has a choice twice")
    return tuple(value)


def _temperatures(value: Any) -> Temperatures | dict[str, Temperatures]:
    if isinstance(value, Mapping):
        return {name: cast("Temperatures", _temperatures(choices)) for name, choices in value.items()}
    return _numbers("temperatures", value, 2, optional=True)


def _numbers(name: str, value: Any, most: float, *, optional: bool = False) -> tuple[Any, ...]:
    choices = _choices(name, value)
    for choice in choices:
        number = isinstance(choice, (int, float)) and not isinstance(choice, bool)
        if not (number and 0 <= choice <= most) and not (optional and choice is None):
            none = ", or None" if optional else ""
            raise ConfigurationError(f"{name} has {choice!r}; expected a number from 0 to {most}{none}")
    return tuple(None if choice is None else float(choice) for choice in choices)
