"""What can be exchanged in a program: any object with the one method of a protocol replaces the built-in variants.

The built-in variants are in ``attention.py``, ``runtime/aggregation.py`` and ``runtime/layers.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

__all__ = [
    "AggregationContext",
    "AggregationRule",
    "Answer",
    "AnswerPattern",
    "AttentionPattern",
    "StopCondition",
    "is_object_of",
]


@runtime_checkable
class AttentionPattern(Protocol):
    """Choose the critics of each answer. Any object with this method can be used as ``attention``.

    Example::

        class Ring:
            def critics(self, target: int, agents: int, layer: int) -> Sequence[int]:
                return [(target + 1) % agents]
    """

    def critics(self, target: int, agents: int, layer: int) -> Sequence[int]:
        """Return the agents that criticise an agent's answer.

        Args:
            target: the agent whose answer is criticised, from 0 to ``agents - 1``. It may criticise itself.
            agents: N, the number of agents.
            layer: number of the layer, from 1.
        """
        ...


@runtime_checkable
class AnswerPattern(AttentionPattern, Protocol):
    """Choose the critics of each answer when the answers are known. Use it as ``attention``, too.

    A layer with such a pattern waits for all proposals before its first critique. Plans and budgets count the critics
    that ``critics`` returns.
    """

    def among(self, target: int, critics: Sequence[int], keys: Sequence[str | None]) -> Sequence[int]:
        """Return those critics that are needed.

        Args:
            target: the agent whose answer is criticised.
            critics: its critics without knowledge of the answers, all of which have an answer.
            keys: a key of each agent's answer, equal for equal answers; None if the agent has no answer.
        """
        ...


@dataclass(frozen=True)
class Answer:
    """The task's outputs, and their text for other agents."""

    outputs: Mapping[str, Any]
    text: str


class AggregationContext(Protocol):
    """The layer whose answers are aggregated.

    Attributes:
        layer: number of the layer, from 1.
        inputs: the task's inputs.
    """

    layer: int
    inputs: Mapping[str, Any]

    async def synthesize(self, answers: Sequence[Answer]) -> Answer | None:
        """Return the answer that the aggregator's LM writes, or None if all models failed or the budget is spent.

        A budget reserves at most one such call per layer.
        """
        ...

    def vote_key(self, answer: Answer) -> str:
        """Return a key that is equal for equal answers. A reasoning field does not count."""
        ...

    def record(self, name: str, answer: Answer) -> None:
        """Record a step that made the layer's answer without a call."""
        ...


@runtime_checkable
class AggregationRule(Protocol):
    """Make one answer of a layer's answers. Any object with this method can be used as ``aggregation``.

    Example::

        class Longest:
            async def aggregate(self, answers: Sequence[Answer], context: AggregationContext) -> Answer:
                return max(answers, key=lambda answer: len(answer.text))
    """

    async def aggregate(self, answers: Sequence[Answer], context: AggregationContext) -> Answer:
        """Return the layer's answer.

        Args:
            answers: the available answers, in the order of the agents; at least one.
            context: the layer.
        """
        ...


@runtime_checkable
class StopCondition(Protocol):
    """Decide after each further layer whether the run ends. Any object with this method can be used as ``early_stop``.

    Example::

        class OnAgreement:
            def stops(self, accepted: Sequence[Answer], newest: Answer, improved: bool | None) -> bool:
                return newest.text == accepted[-1].text
    """

    def stops(self, accepted: Sequence[Answer], newest: Answer, improved: bool | None) -> bool:
        """Return whether the run ends, with the last accepted output as its answer.

        Args:
            accepted: the outputs of the earlier layers, oldest first.
            newest: the output of this layer. It is accepted if the run continues.
            improved: the decision of the residual synthesis; None without one.
        """
        ...


def is_object_of(value: Any, protocol: type) -> bool:
    """Return whether a value is an object with the method of a protocol, and not a class of such objects."""
    return isinstance(value, protocol) and not isinstance(value, type)
