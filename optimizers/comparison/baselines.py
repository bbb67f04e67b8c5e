"""Baselines of a comparison: simpler ensembles of the program's agents, of any size.

They use the tuned prompts of the roles that they share with the program. The comparison then shows the effect of the
ensemble, not of tuning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias, get_args

from moa_dspy.agents import Agent
from moa_dspy.presets import mixture_of_agents, self_moa, single_model
from moa_dspy.program import AttentionMoA

__all__ = ["NAMES", "BaselineName", "Ensemble", "Single", "ensemble_of", "singles_of"]

BaselineName: TypeAlias = Literal["single", "self-consistency", "self-moa", "moa"]
NAMES: Final[tuple[BaselineName, ...]] = get_args(BaselineName)

_WARM: Final = 0.7
"""The temperature of samples of an agent at 0. At 0 all samples would be equal."""


@dataclass(frozen=True)
class Single:
    """A single agent of a program.

    Attributes:
        name: name of the agent.
        agent: the agent. One that only aggregates has no name, because an agent may not have the aggregator's name.
        place: index among the program's agents; 0 for the aggregator, which has no proposal prompt.
        program: a program with one call of this agent.
    """

    name: str
    agent: Agent
    place: int
    program: AttentionMoA


@dataclass(frozen=True)
class Ensemble:
    """A baseline that can be made larger.

    Attributes:
        name: the name of the baseline.
        smallest: its smallest size.
        build: returns the program of a size.
        describe: describes a size.
    """

    name: BaselineName
    smallest: int
    build: Callable[[int], AttentionMoA]
    describe: Callable[[int], str]


def singles_of(program: AttentionMoA) -> list[Single]:
    """Return each agent and the aggregator as a single model. Agents that differ only in name count once."""
    agents = [(agent.name or "", agent) for agent in program.named_agents]
    if program.aggregator is not None:
        agents.append((program.aggregator.name or "aggregator", replace(program.aggregator, name=None)))
    found: dict[str, Single] = {}
    for number, (name, agent) in enumerate(agents):
        key = agent.spec("-").model_dump_json()
        if key not in found:
            place = number if number < len(program.agents) else 0
            made = single_model(program.task, agent, **_options(program))
            made.take_prompts(program, [place])
            found[key] = Single(name, agent, place, made)
    return list(found.values())


def ensemble_of(name: BaselineName, program: AttentionMoA, single: Single) -> Ensemble:
    """Return a baseline of several calls.

    Args:
        name: any name except ``single``.
        program: provides agents and prompts.
        single: the best single agent, which is sampled.
    """
    if name == "moa":
        names = ", ".join(spec.name for spec in program.architecture.agents)
        return Ensemble(name, 1, lambda size: _mixture(program, size), lambda size: f"{_layers(size)} of {names}")
    vote = name == "self-consistency"
    warmth = f" at temperature {_WARM}" if single.agent.spec("-").temperature == 0 else ""
    return Ensemble(
        name,
        2,
        lambda size: _samples(program, single, size, vote=vote),
        lambda size: f"{size} samples of {single.name}{warmth}{', vote' if vote else ''}",
    )


def _options(program: AttentionMoA) -> dict[str, Any]:
    return {"reasoning": program.architecture.reasoning, "tolerance": program.tolerance}


def _mixture(program: AttentionMoA, layers: int) -> AttentionMoA:
    shared = program.architecture.shared_prompts
    agents = program.named_agents
    made = mixture_of_agents(
        program.task, agents, layers=layers, aggregator=program.aggregator, shared_prompts=shared, **_options(program)
    )
    made.take_prompts(program, list(range(len(agents))))
    return made


def _samples(program: AttentionMoA, single: Single, samples: int, *, vote: bool) -> AttentionMoA:
    agent = single.agent
    if agent.spec("-").temperature == 0:
        agent = replace(agent, temperature=_WARM)
    made = self_moa(program.task, agent, samples=samples, **_options(program))
    if vote:
        made = AttentionMoA(
            program.task, made.agents, layers=1, attention="none", aggregation="vote", **_options(program)
        )
    made.take_prompts(program, [single.place] * samples)
    return made


def _layers(size: int) -> str:
    return f"{size} layer{'' if size == 1 else 's'}"
