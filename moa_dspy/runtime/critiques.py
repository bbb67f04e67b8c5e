"""The critiques of a layer: one call for each, or one call for all critiques of a critic."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from moa_dspy.agents import AgentSlot
from moa_dspy.protocols import Answer
from moa_dspy.runtime.call import ask
from moa_dspy.runtime.degrade import result_of
from moa_dspy.runtime.failures import OVERFLOW, UNREADABLE
from moa_dspy.runtime.session import Session, StepId
from moa_dspy.signatures import Roles, split_critiques

__all__ = ["Critiques"]


@dataclass(frozen=True)
class Critiques:
    """Writes the critiques of a run.

    Args:
        session: the run.
        roles: the signature of each role.
        prompts: the predictor of each agent, by role.
        agents: the critics.
        inputs: the task's inputs.
    """

    session: Session
    roles: Roles
    prompts: Mapping[str, Sequence[dspy.Predict]]
    agents: Sequence[AgentSlot]
    inputs: Mapping[str, Any]

    def start(
        self,
        group: asyncio.TaskGroup,
        layer: int,
        critics: Sequence[Sequence[int]],
        proposals: list[asyncio.Task[Answer | None]],
    ) -> tuple[list[asyncio.Task[Any]], dict[tuple[int, int], asyncio.Task[str | None]]]:
        """Start the critiques of a layer. Return the joint calls, and each critique by critic and target."""
        agents, joint = range(len(critics)), dict[int, asyncio.Task[dict[int, str] | None]]()
        for i in agents if "joint_critique" in self.prompts else ():
            targets = [j for j in agents if i in critics[j]]
            if len(targets) > 1:
                joint[i] = group.create_task(self._joint(layer, i, targets, proposals))
        critiques = {
            (i, j): group.create_task(self._one(layer, i, j, proposals, joint.get(i)))
            for j in agents
            for i in critics[j]
        }
        return list(joint.values()), critiques

    async def _joint(
        self, layer: int, critic: int, targets: Sequence[int], proposals: Sequence[asyncio.Task[Answer | None]]
    ) -> dict[int, str] | None:
        """Return an agent's critiques of several answers, by target; None if single critiques would fail, too."""
        own, agent = result_of(proposals[critic]), self.agents[critic]
        peers = [target for target in targets if target != critic]
        texts = [answer.text for target in peers if (answer := result_of(proposals[target]))]
        if own is None:
            return {}
        roles, order = self.roles, [*([critic] if critic in targets else []), *peers]
        inputs = roles.for_joint_critique(self.inputs, own.text, texts, own_too=critic in targets)
        predictor, step_id = self.prompts["joint_critique"][critic], StepId(layer, "critique", critic, agent.name)
        visible = (roles.names["critiques"],)
        reply = await ask(self.session, step_id, predictor, agent, inputs, roles.critiques_of, visible)
        if reply.outputs is None:
            kind = "" if reply.failure is None else reply.failure.kind
            return {} if kind in (OVERFLOW, UNREADABLE) else None
        written = split_critiques(reply.text, len(order))
        return {target: written[number] for number, target in enumerate(order, 1) if number in written}

    async def _one(
        self,
        layer: int,
        critic: int,
        target: int,
        proposals: list[asyncio.Task[Answer | None]],
        joint: asyncio.Task[dict[int, str] | None] | None,
    ) -> str | None:
        """Return a critique from the critic's joint call, or from a call of its own; None if there is none."""
        await asyncio.wait({proposals[critic], proposals[target]})
        own, peer = proposals[critic].result(), proposals[target].result()
        if own is None or peer is None:
            return None
        roles, agent = self.roles, self.agents[critic]
        step_id = StepId(layer, "critique", critic, agent.name, target, self.agents[target].name)
        if joint is not None:
            await asyncio.wait({joint})
            written = joint.result()
            if written is None:
                return None
            if target in written:
                self.session.record_text(step_id, written[target], {roles.names["critique"]: written[target]})
                return written[target]
        if critic == target:
            predictor = self.prompts["self_critique"][critic]
            inputs = roles.for_self_critique(self.inputs, own.text)
        else:
            predictor = self.prompts["critique"][critic]
            inputs = roles.for_critique(self.inputs, own.text, peer.text)
        visible = (roles.names["critique"],)
        reply = await ask(self.session, step_id, predictor, agent, inputs, roles.critique_of, visible)
        return None if reply.outputs is None else reply.text
