"""Baselines of a comparison: simpler ensembles of the program's agents, of any size.

They use the tuned prompts of the roles that they share with the program. The comparison then shows the effect of the
ensemble, not of tuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias, get_args

from moa_dspy.agents import Agent
from moa_dspy.presets import mixture_of_agents, self_moa, single_model
from moa_dspy.program import AttentionMoA

__all__ = ["NAMES", "SMALLEST", "BaselineName", "Ensemble", "Single", "singles_of"]

BaselineName: TypeAlias = Literal["single", "self-consistency", "self-moa", "moa"]
NAMES: Final[tuple[BaselineName, ...]] = get_args(BaselineName)

_TITLES: Final[Mapping[str, str]] = {"self-consistency": "self-consistency", "self-moa": "Self-MoA", "moa": "MoA"}
SMALLEST: Final = 2
"""The smallest size of an ensemble: two layers, of which the last is the aggregator alone, or two samples."""
_WARM: Final = 0.7
"""The temperature of samples of an agent at 0. At 0 all samples would be equal."""


@dataclass(frozen=True)
class Single:
    """A single agent of a program, and a program with one call of it.

    An agent that only aggregates has no name, because an agent may not have the aggregator's name. Its ``place`` among
    the program's agents is 0, because it has no proposal prompt.
    """

    name: str
    agent: Agent
    place: int
    program: AttentionMoA


def singles_of(program: AttentionMoA) -> list[Single]:
    """Return each agent and the aggregator as a single model. Agents that differ only in name count once."""
    agents = [(agent.name or "", agent) for agent in program.named_agents]
    if program.aggregator is not None:
        agents.append((program.aggregator.name or "aggregator", replace(program.aggregator, name=None)))
    found: dict[str, Single] = {}
    for number, (name, agent) in enumerate(agents):
        key = agent.identity
        if key not in found:
            place = number if number < len(program.agents) else 0
            made = single_model(program.task, agent, **_options(program))
            made.take_prompts(program, [place])
            found[key] = Single(name, agent, place, made)
    return list(found.values())


@dataclass(frozen=True)
class Ensemble:
    """A baseline of several calls, in any size. All but ``moa`` sample the best single agent."""

    name: BaselineName
    whole: AttentionMoA
    single: Single

    @property
    def title(self) -> str:
        """Return the name for people."""
        return _TITLES[self.name]

    def build(self, size: int) -> AttentionMoA:
        """Return the program with this number of layers or samples."""
        program, task, options = self.whole, self.whole.task, _options(self.whole)
        if self.name == "moa":
            agents, shared = program.named_agents, program.architecture.shared_prompts
            made = mixture_of_agents(
                task, agents, layers=size, aggregator=program.aggregator, shared_prompts=shared, **options
            )
            made.take_prompts(program, list(range(len(agents))))
            return made
        agent = replace(self.single.agent, temperature=_WARM) if self.single.agent.is_cold else self.single.agent
        made = self_moa(task, agent, samples=size, **options)
        if self.name == "self-consistency":
            made = AttentionMoA(task, made.agents, layers=1, attention="none", aggregation="vote", **options)
        made.take_prompts(program, [self.single.place] * size)
        return made

    def describe(self, size: int) -> str:
        """Return the size in words."""
        if self.name == "moa":
            names = ", ".join(spec.name for spec in self.whole.architecture.agents)
            return f"{size} layers of {names}"
        warmth = f" at temperature {_WARM}" if self.single.agent.is_cold else ""
        vote = ", vote" if self.name == "self-consistency" else ""
        return f"{size} samples of {self.single.name}{warmth}{vote}"


def _options(program: AttentionMoA) -> dict[str, Any]:
    return {"reasoning": program.architecture.reasoning, "tolerance": program.tolerance}
