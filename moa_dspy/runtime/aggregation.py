"""The built-in aggregation rules: how a layer's answers become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from moa_dspy.architecture import new_in_window
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


@dataclass(frozen=True)
class _Window:
    """An LM reads ``size`` answers at a time. Half of each later window is the answer so far, repeated.

    This is Self-MoA-Seq (arXiv 2502.00674). If the LM fails, the answer so far stays.
    """

    size: int

    async def aggregate(self, answers: Sequence[Answer], context: AggregationContext) -> Answer:
        best = await _SYNTHESIS.aggregate(answers[: self.size], context)
        new = new_in_window(self.size)
        for start in range(self.size, len(answers), new):
            window = [best] * (self.size - new) + list(answers[start : start + new])
            newer = await context.synthesize(window)
            if newer is None:
                return best
            best = newer
        return best


class _Single:
    """The only agent's answer."""

    async def aggregate(self, answers: Sequence[Answer], context: AggregationContext) -> Answer:  # noqa: ARG002
        return answers[0]


_VOTE: Final = _Vote()
_SYNTHESIS: Final = _Synthesis()
_RULES: Final[Mapping[Any, AggregationRule]] = {"synthesis": _SYNTHESIS, "vote": _VOTE, "none": _Single()}


def rule_of(aggregation: str | int | AggregationRule) -> AggregationRule:
    """Return the rule for ``aggregation``, which is a name, the size of a window, or a rule."""
    if isinstance(aggregation, int):
        return _Window(aggregation)
    return _RULES[aggregation] if isinstance(aggregation, str) else aggregation
