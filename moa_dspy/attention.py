"""Who criticises whom: the attention pattern of a layer.

A pattern is ``"full"``, ``"cross"``, ``"self"``, ``"none"`` or a number k of peers (arXiv 2601.16596 describes the full
one). Agents are numbered from 0, layers from 1.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from moa_dspy.errors import ConfigurationError

__all__ = ["Attention", "check_attention", "critics_of", "critique_count"]

Attention: TypeAlias = Literal["full", "cross", "self", "none"] | int

_NAMED: Final[tuple[Literal["full", "cross", "self", "none"], ...]] = ("full", "cross", "self", "none")


def check_attention(attention: object, agents: int) -> Attention:
    """Return ``attention`` if it is a pattern that fits the number of agents.

    Args:
        attention: what the caller wrote; digits in a string count as a number.
        agents: how many agents a layer has, at least 1.

    Raises:
        ConfigurationError: it is no pattern, or asks for more peers than there are.
    """
    if isinstance(attention, str) and attention.strip().isdecimal():
        attention = int(attention)
    for name in _NAMED:
        if attention == name:
            return name
    if isinstance(attention, bool) or not isinstance(attention, int):
        raise ConfigurationError(
            f"attention={attention!r} is not a pattern; use one of {', '.join(_NAMED)} or a number"
        )
    if not 1 <= attention <= agents - 1:
        peers = agents - 1
        raise ConfigurationError(
            f"attention={attention} asks for {attention} peers of each answer, but {agents} agent(s) have {peers}; "
            + (f"use 1 to {peers}, or 'full'" if peers else "add agents, or use 'self' or 'none'")
        )
    return attention


def critics_of(target: int, attention: Attention, agents: int, layer: int) -> tuple[int, ...]:
    """Return the agents that criticise ``target``'s answer in ``layer``, in ascending order.

    With k peers the window moves on by k from layer to layer, so that every pair meets after ceil((N - 1) / k) layers,
    and in each layer every agent writes as many critiques as it gets.

    Args:
        target: agent whose answer is criticised, 0 to ``agents - 1``.
        attention: a pattern that ``check_attention`` has accepted.
        agents: N, the number of agents.
        layer: number of the layer, from 1.
    """
    if attention == "none":
        return ()
    if attention == "self":
        return (target,)
    if isinstance(attention, int):
        start = (layer - 1) * attention
        offsets = ((start + step) % (agents - 1) + 1 for step in range(attention))
        return tuple(sorted({target, *((target + offset) % agents for offset in offsets)}))
    return tuple(agent for agent in range(agents) if attention == "full" or agent != target)


def critique_count(attention: Attention, agents: int) -> int:
    """Return how many critiques one layer has: C in N + C + (N if C else 0) + 1 calls."""
    return sum(len(critics_of(target, attention, agents, 1)) for target in range(agents))
