"""The built-in aggregation rules: how a layer's answers become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from moa_dspy.protocols import AggregationContext, AggregationRule, Answer

__all__ = ["rule_of"]


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


def rule_of(aggregation: str | AggregationRule) -> AggregationRule:
    """Return the rule for ``aggregation``, which is a name or a rule."""
    return _RULES[aggregation] if isinstance(aggregation, str) else aggregation
