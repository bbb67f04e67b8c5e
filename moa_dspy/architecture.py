"""The architecture of a program: agents, layers, attention and aggregation.

An ``Architecture`` is data: frozen, validated, compared by value, and stored as JSON. It names models but holds no
connection, key or prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self, TypeVar, get_args

import pydantic

from moa_dspy.attention import Attention, check_attention, critics_of, pattern_of
from moa_dspy.errors import ConfigurationError
from moa_dspy.gate import Gate, GateChoice, gate_of, rule_of
from moa_dspy.protocols import AggregationRule, AnswerPattern, AttentionPattern, StopCondition, is_object_of

__all__ = [
    "RESERVED_NAMES",
    "AgentSpec",
    "Aggregation",
    "Architecture",
    "Critiques",
    "Residual",
    "new_in_window",
    "validated",
]

Aggregation = Literal["synthesis", "vote", "none"]
Residual = Literal["synthesis", "answers", "none"]
Critiques = Literal["single", "joint"]

RESERVED_NAMES: Final = frozenset({"aggregator", "vote"})
"""Names that a trace uses for the aggregator and for a vote. Agents cannot have them."""

_LAYERS_MAX: Final = 100
"""More layers are a slip, or a file that is meant to stop its reader."""


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class AgentSpec(_Frozen):
    """One agent of the program, without its connection.

    Attributes:
        name: unique within the program. Agents cannot be called ``aggregator`` or ``vote``.
        model: LiteLLM or DSPy model string, or ``local...``; None for the LM that DSPy is configured with.
        temperature: sampling temperature; None leaves it to the model.
        max_tokens: longest completion, in tokens; None leaves it to the model.
        persona: text put before the agent's instructions.
        options: further sampling options, such as ``top_p`` or ``seed``.
        module: where the DSPy module is that writes the agent's first proposals, as ``package.module:name``; None if
            its model writes them. An object without such a place has the name of its class here.
    """

    name: str = pydantic.Field(min_length=1)
    model: str | None = None
    temperature: float | None = pydantic.Field(default=None, ge=0, le=2, strict=False)
    max_tokens: int | None = pydantic.Field(default=None, ge=1)
    persona: str | None = None
    options: dict[str, Any] = pydantic.Field(default_factory=dict)
    module: str | None = pydantic.Field(default=None, exclude_if=lambda module: module is None)


class Architecture(_Frozen):
    """The architecture that Optuna searches and a program file stores.

    Attributes:
        agents: the proposers, at least one.
        layers: L, from 1 to 100.
        aggregator: the agent that aggregates and synthesizes; None for the first agent's model.
        attention, residual, early_stop, shared_prompts, aggregation, reasoning, gate, critiques, dissent: as in
            ``AttentionMoA``. Files without the last three mean ``"off"``, ``"single"`` and False.
    """

    agents: tuple[AgentSpec, ...] = pydantic.Field(strict=False)
    layers: int = pydantic.Field(default=2, ge=1, le=_LAYERS_MAX)
    aggregator: AgentSpec | None = None
    attention: Annotated[Attention | AttentionPattern, pydantic.SkipValidation] = "full"
    residual: Residual = "synthesis"
    early_stop: Annotated[bool | StopCondition, pydantic.SkipValidation] = True
    shared_prompts: bool = True
    aggregation: Annotated[Aggregation | int | AggregationRule, pydantic.SkipValidation] = "synthesis"
    reasoning: bool = True
    # A gate that is off is left out of files and digests, which therefore are those of programs without gates.
    gate: Annotated[GateChoice, pydantic.PlainValidator(gate_of), pydantic.PlainSerializer(str)] = pydantic.Field(
        default="off", exclude_if=lambda gate: gate == "off"
    )

    critiques: Critiques = pydantic.Field(default="single", exclude_if=lambda critiques: critiques == "single")
    dissent: bool = pydantic.Field(default=False, exclude_if=lambda dissent: not dissent)

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [agent.name for agent in self.agents]
        if not names:
            raise ValueError("agents is empty; give at least one model")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"agent names must differ, but {', '.join(twice)} is used more than once")
        if taken := RESERVED_NAMES & set(names):
            raise ValueError(
                f"an agent cannot be called {min(taken)!r}, because a trace calls another step so; give another name"
            )
        check_attention(self.attention, len(names))
        if self.aggregation == "none" and len(names) > 1:
            raise ValueError(f"aggregation='none' takes one agent, not {len(names)}")
        if self.residual == "answers":
            if self.layers < 2:
                raise ValueError(
                    "residual='answers' takes 2 layers or more, because the last layer is the aggregator alone; give "
                    "layers=2, or another residual"
                )
            if not isinstance(self.early_stop, bool):
                raise ValueError("residual='answers' has no output to compare between layers; give early_stop=False")
        return self

    @pydantic.field_validator("aggregation")
    @classmethod
    def _check_aggregation(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 2:
            return value
        if value in get_args(Aggregation) if isinstance(value, str) else is_object_of(value, AggregationRule):
            return value
        raise ValueError(
            "input should be 'synthesis', 'vote', 'none', a window of 2 or more answers, or an object with a method "
            "aggregate()"
        )

    @pydantic.field_validator("early_stop")
    @classmethod
    def _check_early_stop(cls, value: Any) -> Any:
        if isinstance(value, bool) or is_object_of(value, StopCondition):
            return value
        raise ValueError("input should be a valid boolean, or an object with a method stops()")

    @pydantic.field_serializer("attention", "aggregation", "early_stop")
    def _name_custom(self, value: Any) -> str | int | bool:
        # A custom object is code. A record holds only its name.
        return value if isinstance(value, (str, int)) else f"{type(value).__module__}.{type(value).__name__}"

    @property
    def custom_parts(self) -> tuple[str, ...]:
        """Return the names of the arguments that are custom objects, which a file cannot store."""
        names = ("attention", "aggregation", "early_stop")
        return tuple(name for name in names if not isinstance(getattr(self, name), (str, int)))

    @property
    def aggregates(self) -> bool:
        """Return whether an LM may be asked to aggregate a layer's answers."""
        return self.aggregation not in ("vote", "none")

    def critics(self, layer: int) -> list[tuple[int, ...]]:
        """Return the critics of each agent's answer in a layer, in ascending order.

        Raises:
            ConfigurationError: if a custom pattern names an agent that does not exist.
        """
        agents = len(self.agents)
        critics = [critics_of(target, self.attention, agents, layer) for target in range(agents)]
        unknown = {critic for of_one in critics for critic in of_one} - set(range(agents))
        if unknown:
            raise ConfigurationError(
                f"attention={self.attention!r} names the critics {sorted(unknown)}; the agents are 0 to {agents - 1}"
            )
        return critics

    @property
    def critics_by_layer(self) -> list[list[tuple[int, ...]]]:
        """Return the critics of each agent's answer, for each layer in which agents propose."""
        return [self.critics(layer) for layer in range(1, self.proposing_layers + 1)]

    @property
    def critique_count(self) -> int:
        """Return C, the largest number of critiques in the first layer."""
        return sum(map(len, self.critics(1)))

    @property
    def by_answer(self) -> bool:
        """Return whether the answers decide who criticises whom."""
        return isinstance(pattern_of(self.attention), AnswerPattern)

    def critique_calls(self, critics: Sequence[Sequence[int]]) -> int:
        """Return the number of calls that write the critiques of a layer, given the critics of each answer."""
        writers = [critic for of_one in critics for critic in of_one]
        return len(set(writers) if self.critiques == "joint" else writers)

    @property
    def synthesizes(self) -> bool:
        """Return whether layers are joined by residual synthesis calls."""
        return self.residual == "synthesis" and self.layers > 1

    @property
    def agreement_gate(self) -> Gate | None:
        """Return the gate, or None if it is off."""
        return rule_of(self.gate)

    @property
    def gate_calls(self) -> int:
        """Return the largest number of calls in a layer that compare free texts for the gate."""
        gate = self.agreement_gate
        return 0 if gate is None or gate.compare == "text" else len(gate.rounds(len(self.agents)))

    @property
    def reports_dissent(self) -> bool:
        """Return whether a last call may state where the agents' answers agree and differ."""
        return self.dissent and len(self.agents) > 1

    @property
    def proposing_layers(self) -> int:
        """Return the number of layers in which agents propose: all, or all but the last."""
        return self.layers - (self.residual == "answers")

    @property
    def output_layers(self) -> range:
        """Return the layers that have an output of their own: all, or only the last."""
        return range(self.layers if self.residual == "answers" else 1, self.layers + 1)

    @property
    def aggregate_calls(self) -> int:
        """Return the number of LM calls that make one answer of all agents' answers."""
        return self.calls_to_aggregate(len(self.agents))

    def calls_to_aggregate(self, answers: int) -> int:
        """Return the number of LM calls that make one answer of so many."""
        window = self.aggregation
        if not isinstance(window, int):
            return int(self.aggregates)
        return 1 + max(0, -(-(answers - window) // new_in_window(window)))

    @property
    def calls_per_role(self) -> dict[str, int]:
        """Return the largest number of calls of each role in a run in which no call fails or is repeated.

        A role stands for all that write the same: ``propose`` for ``improve``, and ``critique`` for other critiques.
        """
        critics = self.critics_by_layer
        return {
            "propose": self.proposing_layers * len(self.agents),
            "agree": self.proposing_layers * self.gate_calls,
            "critique": sum(map(self.critique_calls, critics)),
            "refine": sum(bool(of_one) for layer in critics for of_one in layer),
            "aggregate": len(self.output_layers) * self.aggregate_calls,
            "synthesize": (self.layers - 1) * self.synthesizes,
            "dissent": int(self.reports_dissent),
        }

    @property
    def max_calls(self) -> int:
        """Return the largest number of LM calls of a run in which every reply can be read at once.

        ``AttentionMoA.most_calls`` also counts what is asked a second time.
        """
        return sum(self.calls_per_role.values())

    @property
    def spare_critiques(self) -> int:
        """Return the largest number of critiques that are asked for singly because a joint reply lacks them."""
        if self.critiques != "joint":
            return 0
        written = (Counter(critic for of_one in layer for critic in of_one) for layer in self.critics_by_layer)
        return sum(count for layer in written for count in layer.values() if count > 1)  # one alone is no joint call

    @property
    def depth(self) -> int:
        """Return the number of LM calls on the longest sequential path of such a run."""
        gate = self.agreement_gate
        proposals = 1 if gate is None else max(1, len(gate.rounds(len(self.agents))))
        proposed = self.proposing_layers * (proposals + self.gate_calls + (2 if self.critique_count else 0))
        final = len(self.output_layers) * self.aggregate_calls + (self.layers - 1) * self.synthesizes
        return proposed + final + self.reports_dissent

    def rows(self, most_calls: int = 0) -> dict[str, str]:
        """Return the properties of a run, apart from its models, as names and texts for people.

        Args:
            most_calls: calls of a run in which no reply can be read at once, if known.
        """
        further = f"; {at_most(self.max_calls, most_calls)}" if most_calls > self.max_calls else ""
        words = {True: "yes", False: "no"}
        most = "at most " if self.by_answer else ""
        joint = f", in {self.critique_calls(self.critics(1))} joint calls" if self.critiques == "joint" else ""
        return {
            "layers": str(self.layers),
            "attention": f"{self.attention} ({most}{self.critique_count} critiques in each layer{joint})",
            "residual": self.residual,
            "aggregation": str(self.aggregation),
            "gate": str(self.gate),
            "early stop": words[bool(self.early_stop) and self.synthesizes],
            "shared prompts": words[self.shared_prompts],
            "reasoning": words[self.reasoning],
            **({"dissent": "reported"} if self.dissent else {}),
            "calls": f"{self.max_calls}, of which {self.depth} follow one another{further}",
        }


def at_most(calls: int, most: int, what: str = "") -> str:
    """Return the bound of a run's calls in words, with what the excess over the usual number is."""
    if most <= calls:
        return f"at most {calls:,}{what}"
    return f"at most {most:,}{what}, if no reply can be read and each is asked for again in another form"


def new_in_window(window: int) -> int:
    """Return how many new answers a later window reads. The answer so far fills its other half."""
    return window - window // 2


Spec = TypeVar("Spec", bound=_Frozen)


def validated(model: type[Spec], values: dict[str, Any]) -> Spec:
    """Build ``model`` from plain values. Report pydantic's errors in one line.

    Raises:
        ConfigurationError: if a value is missing, unknown or out of range. The message names it.
    """
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        problems = error.errors(include_url=False)
    lines = []
    for problem in problems:
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{where}={problem['input']!r}: {message[:1].lower()}{message[1:]}" if where else message)
    raise ConfigurationError("; ".join(lines))
