"""Who criticises whom: the attention pattern of a layer.

A pattern is ``"full"``, ``"cross"``, ``"self"``, ``"none"``, a number k of peers (arXiv 2601.16596 describes the full
one), or an object of your own. Agents are numbered from 0, layers from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias, runtime_checkable

from moa_dspy.errors import ConfigurationError

__all__ = ["Attention", "AttentionPattern", "check_attention", "critics_of", "pattern_of"]

Attention: TypeAlias = Literal["full", "cross", "self", "none"] | int
"""The built-in patterns by name. This is what program files contain."""


@runtime_checkable
class AttentionPattern(Protocol):
    """Decides who criticises whom. Any object with this method can be used as ``attention``.

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


@dataclass(frozen=True)
class _Everyone:
    """All peers, and the agent itself if ``including_self``."""

    including_self: bool

    def critics(self, target: int, agents: int, layer: int) -> Sequence[int]:  # noqa: ARG002 (the protocol's)
        return [agent for agent in range(agents) if self.including_self or agent != target]


@dataclass(frozen=True)
class _OnlySelf:
    def critics(self, target: int, agents: int, layer: int) -> Sequence[int]:  # noqa: ARG002 (the protocol's)
        return (target,)


@dataclass(frozen=True)
class _Nobody:
    def critics(self, target: int, agents: int, layer: int) -> Sequence[int]:  # noqa: ARG002 (the protocol's)
        return ()


@dataclass(frozen=True)
class _Peers:
    """The agent itself and k peers.

    The window moves on by k from layer to layer, so that every pair meets after ceil((N - 1) / k) layers. In each layer
    every agent writes as many critiques as it gets.
    """

    k: int

    def critics(self, target: int, agents: int, layer: int) -> Sequence[int]:
        start = (layer - 1) * self.k
        offsets = ((start + step) % (agents - 1) + 1 for step in range(self.k))
        return sorted({target, *((target + offset) % agents for offset in offsets)})


_NAMED: Final[dict[Any, AttentionPattern]] = {
    "full": _Everyone(including_self=True),
    "cross": _Everyone(including_self=False),
    "self": _OnlySelf(),
    "none": _Nobody(),
}


def pattern_of(attention: Attention | AttentionPattern) -> AttentionPattern:
    """Return the pattern that ``attention`` names, or is; ``check_attention`` has accepted it."""
    if isinstance(attention, str):
        return _NAMED[attention]
    return _Peers(attention) if isinstance(attention, int) else attention


def critics_of(target: int, attention: Attention | AttentionPattern, agents: int, layer: int) -> tuple[int, ...]:
    """Return the agents that criticise ``target``'s answer in a layer, in ascending order."""
    return tuple(sorted(set(pattern_of(attention).critics(target, agents, layer))))


def check_attention(attention: Any, agents: int) -> Any:
    """Return ``attention`` if it is a pattern that fits the number of agents.

    Args:
        attention: what the caller wrote. Digits in a string count as a number.
        agents: how many agents a layer has, at least 1.

    Raises:
        ConfigurationError: if it is no pattern, or asks for more peers than there are.
    """
    if isinstance(attention, str) and attention.strip().isdecimal():
        attention = int(attention)
    if isinstance(attention, str) and attention in _NAMED:
        return attention
    if isinstance(attention, bool) or not isinstance(attention, (int, AttentionPattern)):
        raise ConfigurationError(
            f"attention={attention!r} is not a pattern; use one of {', '.join(_NAMED)} or a number"
        )
    if isinstance(attention, int) and not 1 <= attention <= agents - 1:
        peers = agents - 1
        raise ConfigurationError(
            f"attention={attention} asks for {attention} peers of each answer, but {agents} agent(s) have {peers}; "
            + (f"use 1 to {peers}, or 'full'" if peers else "add agents, or use 'self' or 'none'")
        )
    return attention
