"""The ensembles that Attention-MoA is compared with. Each is ``AttentionMoA`` with parts switched off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from moa_dspy.agents import AgentLike, agent_of
from moa_dspy.errors import ConfigurationError
from moa_dspy.program import AttentionMoA
from moa_dspy.signatures import TaskSignature

__all__ = ["attention_moa", "mixture_of_agents", "self_consistency", "self_moa", "single_model"]


def single_model(signature: str | TaskSignature, agent: AgentLike, **options: Any) -> AttentionMoA:
    """Return a program that makes one call to one model: the baseline for every ensemble.

    Args:
        signature: the task.
        agent: the model.
        **options: further arguments of ``AttentionMoA``, such as ``reasoning``.
    """
    return AttentionMoA(signature, [agent], layers=1, attention="none", aggregation="none", **options)


def self_consistency(
    signature: str | TaskSignature, agent: AgentLike, *, samples: int = 5, **options: Any
) -> AttentionMoA:
    """Return self-consistency (arXiv 2203.11171): a vote of several samples of one model.

    The method is for answers that can be equal: typed outputs, or short texts. Case, spacing, and markup and
    punctuation around a text do not count. If no two samples are equal, the first one is the answer. For longer texts
    use ``self_moa``.

    Args:
        signature: the task.
        agent: the model; its temperature must not be 0.
        samples: number of samples, at least 2.
        **options: further arguments of ``AttentionMoA``.

    Raises:
        ConfigurationError: if there are fewer than 2 samples, or the temperature is 0.
    """
    agents = _samples(agent, samples)
    return AttentionMoA(signature, agents, layers=1, attention="none", aggregation="vote", **options)


def mixture_of_agents(
    signature: str | TaskSignature, agents: Sequence[AgentLike], *, layers: int = 3, **options: Any
) -> AttentionMoA:
    """Return MoA as published (arXiv 2406.04692).

    Every agent of a later layer reads all answers of the layer before. The last layer is the aggregator alone, so N
    agents make N(L - 1) + 1 calls.

    Args:
        signature: the task.
        agents: the models.
        layers: L, at least 2. The published one has 3, MoA-Lite has 2.
        **options: further arguments of ``AttentionMoA``, such as ``aggregator``.
    """
    return AttentionMoA(signature, agents, layers=layers, attention="none", residual="answers", **options)


def self_moa(
    signature: str | TaskSignature,
    agent: AgentLike,
    *,
    samples: int = 5,
    layers: int = 2,
    window: int | None = None,
    **options: Any,
) -> AttentionMoA:
    """Return Self-MoA (arXiv 2502.00674): MoA over several samples of one model, which also aggregates.

    Args:
        signature: the task.
        agent: the model; its temperature must not be 0.
        samples: number of samples in each layer but the last, at least 2.
        layers: L, at least 2; the last layer is the aggregator alone.
        window: number of answers that the aggregator reads at a time, for Self-MoA-Seq; None is all of them. Half of
            each later window is the answer so far.
        **options: further arguments of ``AttentionMoA``, such as another ``aggregator``.

    Raises:
        ConfigurationError: if there are fewer than 2 samples, or the temperature is 0.
    """
    if window is not None:
        options["aggregation"] = window
    return mixture_of_agents(signature, _samples(agent, samples), layers=layers, **options)


def attention_moa(signature: str | TaskSignature, agents: Sequence[AgentLike], **options: Any) -> AttentionMoA:
    """Return Attention-MoA (arXiv 2601.16596) with every part switched on.

    Args:
        signature: the task.
        agents: the models.
        **options: further arguments of ``AttentionMoA``, such as ``layers`` and ``attention``.
    """
    return AttentionMoA(signature, agents, **options)


def _samples(agent: AgentLike, samples: int) -> list[AgentLike]:
    if samples < 2:
        raise ConfigurationError(f"samples={samples} is too few; give at least 2, or use single_model")
    one = agent_of(agent)
    if one.is_cold:
        raise ConfigurationError("samples at temperature 0 are all the same; give the agent a higher temperature")
    return [replace(one, name=f"{one.name}-{number}" if one.name else None) for number in range(1, samples + 1)]
