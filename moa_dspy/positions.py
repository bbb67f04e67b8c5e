"""The positions of the agents: whose answers are equal, who changed its answer, and who disagreed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pydantic

from moa_dspy.gate import Agreement, agreement_of

if TYPE_CHECKING:
    from moa_dspy.trace import Step

__all__ = ["Dissent", "DissentPoint", "DissentReport", "Position", "agreement_in", "dissent_in"]


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Position(_Record):
    """An agent's answers in one layer, as numbers of groups of equal answers. Equal numbers are equal answers.

    Answers are equal as in votes. Long free texts say the same in many words: one that equals no other text has no
    number.

    Attributes:
        layer: from 1.
        agent: the agent's name.
        proposal: group of its proposal; None without a proposal or a number.
        answer: group of its refinement, or of its proposal if it has no refinement; None without a number.
    """

    layer: int
    agent: str
    proposal: int | None = None
    answer: int | None = None

    @property
    def changed(self) -> bool:
        """Return whether the agent gave up its proposal for another answer."""
        return None not in (self.proposal, self.answer) and self.proposal != self.answer


class Dissent(_Record):
    """A proposal that the largest group of agents did not make.

    Attributes:
        text: the answer, as other agents read it.
        agents: the agents that gave it.
        outputs: its output fields as JSON values, the reasoning among them; empty if a model reported the dissent.
        critiques: what these agents wrote about the answers of others, in the same layer.
        convinced: those of the agents that gave another answer after the critiques.
    """

    text: str
    agents: tuple[str, ...]
    outputs: dict[str, Any] = pydantic.Field(default_factory=dict)
    critiques: tuple[str, ...] = ()
    convinced: tuple[str, ...] = ()


class DissentPoint(_Record):
    """A statement, and the agents that make it.

    Attributes:
        point: the statement.
        agents: names of the agents.
    """

    point: str
    agents: tuple[str, ...] = ()


class DissentReport(_Record):
    """What a model said about the agents' last answers, see ``AttentionMoA(dissent=True)``.

    Attributes:
        consensus: what most or all answers say.
        contradictions: statements that contradict another answer.
        unique_points: what only one answer says.
        blind_spots: what matters and is missing, with the agents in whose answers it is missing.
    """

    consensus: tuple[DissentPoint, ...] = ()
    contradictions: tuple[DissentPoint, ...] = ()
    unique_points: tuple[DissentPoint, ...] = ()
    blind_spots: tuple[DissentPoint, ...] = ()


def agreement_in(positions: Iterable[Position], layer: int) -> Agreement | None:
    """Return how far the proposals of one layer agree.

    It is None if fewer than two agents answered, or if a proposal is a long text that equals no other.
    """
    proposals = [position.proposal for position in positions if position.layer == layer]
    return None if None in proposals else agreement_of(map(str, proposals))


def dissent_in(
    positions: Sequence[Position], steps: Iterable[Step], report: DissentReport | None
) -> tuple[Dissent, ...]:
    """Return the minority proposals of one layer, in order of the agents.

    If the proposals are texts that cannot be compared, these are the contradictions of ``report``.

    Args:
        positions: the agents' positions in the layer.
        steps: the steps of the layer.
        report: what a model said about the agents' answers.
    """
    agreement = agreement_in(positions, positions[0].layer)
    if agreement is None:
        points = () if report is None else report.contradictions
        return tuple(Dissent(text=point.point, agents=point.agents) for point in points)
    groups: dict[int | None, list[Position]] = {}
    for position in positions:
        groups.setdefault(position.proposal, []).append(position)
    del groups[positions[agreement.first].proposal]
    answered = [step for step in steps if step.status == "ok"]
    return tuple(_dissent(group, answered) for group in groups.values())


def _dissent(group: Sequence[Position], steps: Sequence[Step]) -> Dissent:
    agents = tuple(position.agent for position in group)
    proposal = next(step for step in steps if step.stage == "propose" and step.agent == agents[0])
    critiques = [step for step in steps if step.stage == "critique" and step.agent in agents and step.text]
    return Dissent(
        text=proposal.text,
        agents=agents,
        outputs=proposal.outputs,
        critiques=tuple(step.text for step in critiques if step.target not in (None, *agents)),
        convinced=tuple(position.agent for position in group if position.changed),
    )
