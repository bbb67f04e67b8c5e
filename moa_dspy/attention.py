"""The attention pattern of a layer: which agents criticise which answers.

A pattern is ``"full"`` (the one of arXiv 2601.16596), ``"cross"``, ``"disagreeing"``, ``"self"``, ``"none"``, a number
k of peers, or a custom object. Agents are numbered from 0, layers from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from moa_dspy.errors import ConfigurationError
from moa_dspy.protocols import AnswerPattern, AttentionPattern, is_object_of

__all__ = ["PATTERN_NAMES", "Attention", "check_attention", "critics_among", "critics_of", "pattern_of"]

Attention: TypeAlias = Literal["full", "cross", "self", "none", "disagreeing"] | int
"""The built-in patterns by name, as stored in program files."""


@dataclass(frozen=True)
class _Everyone:
    including_self: bool

    def critics(self, target: int, agents: int, layer: int) -> Sequence[int]:  # noqa: ARG002 (the protocol's)
        return [agent for agent in range(agents) if self.including_self or agent != target]


class _OnlySelf:
    def critics(self, target: int, agents: int, layer: int) -> Sequence[int]:  # noqa: ARG002 (the protocol's)
        return (target,)


class _Nobody:
    def critics(self, target: int, agents: int, layer: int) -> Sequence[int]:  # noqa: ARG002 (the protocol's)
        return ()


class _Disagreeing(_Everyone):
    """One peer for each other answer. Of agents with equal answers, the first criticises."""

    def among(self, target: int, critics: Sequence[int], keys: Sequence[str | None]) -> Sequence[int]:
        first: dict[str | None, int] = {keys[target]: target}
        for critic in sorted(critics):
            first.setdefault(keys[critic], critic)
        return [critic for critic in critics if critic in first.values() and critic != target]


@dataclass(frozen=True)
class _Peers:
    """The agent itself and k peers.

    The window of peers moves by k in each layer, so every pair meets within ceil((N - 1) / k) layers. In each layer
    every agent writes as many critiques as it receives.
    """

    k: int

    def critics(self, target: int, agents: int, layer: int) -> Sequence[int]:
        start = (layer - 1) * self.k
        offsets = ((start + step) % (agents - 1) + 1 for step in range(self.k))
        return [target, *((target + offset) % agents for offset in offsets)]


_NAMED: Final[dict[str, AttentionPattern]] = {
    "full": _Everyone(including_self=True),
    "cross": _Everyone(including_self=False),
    "self": _OnlySelf(),
    "none": _Nobody(),
    "disagreeing": _Disagreeing(including_self=False),
}
PATTERN_NAMES: Final = tuple(_NAMED)


def pattern_of(attention: Attention | AttentionPattern) -> AttentionPattern:
    """Return the pattern for ``attention``, which is a name, a number of peers or a pattern."""
    if isinstance(attention, str):
        return _NAMED[attention]
    return _Peers(attention) if isinstance(attention, int) else attention


def critics_of(target: int, attention: Attention | AttentionPattern, agents: int, layer: int) -> tuple[int, ...]:
    """Return the agents that may criticise ``target``'s answer in a layer, in ascending order."""
    return tuple(sorted(set(pattern_of(attention).critics(target, agents, layer))))


def critics_among(
    attention: Attention | AttentionPattern, critics: Sequence[Sequence[int]], keys: Sequence[str | None]
) -> list[tuple[int, ...]]:
    """Return the critics of each answer, now that the answers are known.

    Args:
        attention: the pattern.
        critics: for each agent, those that may criticise its answer.
        keys: a key of each agent's answer, equal for equal answers; None if the agent has no answer.
    """
    pattern, narrowed = pattern_of(attention), list[tuple[int, ...]]()
    for target, of_one in enumerate(critics):
        known = [critic for critic in of_one if critic < len(keys) and keys[critic] is not None]
        if keys[target] is None:
            known = []
        elif isinstance(pattern, AnswerPattern):
            known = sorted(set(pattern.among(target, known, keys)) & set(known))
        narrowed.append(tuple(known))
    return narrowed


def check_attention(attention: Any, agents: int) -> Any:
    """Return ``attention`` if it is a pattern that fits the number of agents.

    Args:
        attention: the caller's value. A string of digits counts as a number.
        agents: number of agents in a layer, at least 1.

    Raises:
        ConfigurationError: if it is not a pattern, or asks for more peers than an agent has.
    """
    if isinstance(attention, str) and attention.strip().isdecimal():
        attention = int(attention)
    if isinstance(attention, str) and attention in PATTERN_NAMES:
        return attention
    if isinstance(attention, bool) or not (isinstance(attention, int) or is_object_of(attention, AttentionPattern)):
        raise ConfigurationError(
            f"attention={attention!r} is not a pattern; use {', '.join(PATTERN_NAMES)} or a number of peers, or an "
            "object with a method critics()"
        )
    if isinstance(attention, int) and not 1 <= attention <= agents - 1:
        peers = agents - 1
        possible = "1" if peers == 1 else f"1 to {peers}"
        raise ConfigurationError(
            f"attention={attention} asks for {attention} peers of each answer, but {agents} agent(s) have {peers}; "
            + (f"use {possible}, or 'full'" if peers else "add agents, or use 'self' or 'none'")
        )
    return attention
