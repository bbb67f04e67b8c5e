"""The critiques of a layer: one call for each, or one call for all critiques of a critic."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from moa_dspy.protocols import Answer
from moa_dspy.runtime.call import ask
from moa_dspy.runtime.degrade import result_of
from moa_dspy.runtime.failures import OVERFLOW, UNREADABLE
from moa_dspy.runtime.session import Session, StepId
from moa_dspy.signatures import split_critiques

__all__ = ["start_critiques"]


def start_critiques(
    session: Session,
    group: asyncio.TaskGroup,
    layer: int,
    critics: Sequence[Sequence[int]],
    proposals: list[asyncio.Task[Answer | None]],
) -> tuple[list[asyncio.Task[Any]], dict[tuple[int, int], asyncio.Task[str | None]]]:
    """Start the critiques of a layer. Return the joint calls, and each critique by critic and target."""
    agents, joint = range(len(critics)), dict[int, asyncio.Task[dict[int, str] | None]]()
    for i in agents if "joint_critique" in session.parts.predictors else ():
        targets = [j for j in agents if i in critics[j]]
        if len(targets) > 1:
            joint[i] = group.create_task(_joint(session, layer, i, targets, proposals))
    critiques = {
        (i, j): group.create_task(_one(session, layer, i, j, proposals, joint.get(i)))
        for j in agents
        for i in critics[j]
    }
    return list(joint.values()), critiques


async def _joint(
    session: Session, layer: int, critic: int, targets: Sequence[int], proposals: Sequence[asyncio.Task[Answer | None]]
) -> dict[int, str] | None:
    """Return an agent's critiques of several answers, by target; None if single critiques would fail, too."""
    parts, own = session.parts, result_of(proposals[critic])
    peers = [target for target in targets if target != critic]
    texts = [answer.text for target in peers if (answer := result_of(proposals[target]))]
    if own is None:
        return {}
    order = [*([critic] if critic in targets else []), *peers]
    inputs = parts.roles.for_joint_critique(session.inputs, own.text, texts, own_too=critic in targets)
    agent, predictor = parts.agents[critic], parts.predictors["joint_critique"][critic]
    reply = await ask(session, StepId(layer, "critique", critic, agent.name), predictor, agent, inputs)
    if reply.outputs is None:
        return {} if reply.failed in (OVERFLOW, UNREADABLE) else None
    written = split_critiques(reply.text, len(order))
    return {target: written[number] for number, target in enumerate(order, 1) if number in written}


async def _one(
    session: Session,
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
    parts, roles, agent = session.parts, session.parts.roles, session.parts.agents[critic]
    step_id = StepId(layer, "critique", critic, agent.name, target, parts.agents[target].name)
    if joint is not None:
        await asyncio.wait({joint})
        written = joint.result()
        if written is None:
            return None
        if target in written:
            session.record_text(step_id, written[target], {roles.names["critique"]: written[target]})
            return written[target]
    if critic == target:
        predictor = parts.predictors["self_critique"][critic]
        inputs = roles.for_self_critique(session.inputs, own.text)
    else:
        predictor = parts.predictors["critique"][critic]
        inputs = roles.for_critique(session.inputs, own.text, peer.text)
    reply = await ask(session, step_id, predictor, agent, inputs)
    return None if reply.outputs is None else reply.text
