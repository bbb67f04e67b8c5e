"""Aggregation rules: make one answer of a layer's answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

__all__ = ["AggregationContext", "AggregationRule", "Answer", "rule_of"]


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


class _Synthesis:
    """An LM writes the answer. If it cannot, the answers are put to the vote."""

    async def aggregate(self, answers: Sequence[Answer], context: AggregationContext) -> Answer:
        return await context.synthesize(answers) or await _VOTE.aggregate(answers, context)


class _Vote:
    """The most frequent answer. In a tie, the answer of the first agent wins."""

    async def aggregate(self, answers: Sequence[Answer], context: AggregationContext) -> Answer:
        keys = [context.vote_key(answer) for answer in answers]
        winner = answers[keys.index(Counter(keys).most_common(1)[0][0])]
        context.record("vote", winner)
        return winner


class _Single:
    """The only agent's answer."""

    async def aggregate(self, answers: Sequence[Answer], context: AggregationContext) -> Answer:  # noqa: ARG002
        return answers[0]


_VOTE: Final = _Vote()
_RULES: Final[Mapping[Any, AggregationRule]] = {"synthesis": _Synthesis(), "vote": _VOTE, "none": _Single()}


def rule_of(aggregation: Any) -> AggregationRule:
    """Return the rule for ``aggregation``, which is a name or a rule."""
    return _RULES[aggregation] if isinstance(aggregation, str) else aggregation
