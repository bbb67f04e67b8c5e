"""The agents' positions at the end of a run, and the call that reports consensus and dissent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from moa_dspy.json_safe import json_safe
from moa_dspy.positions import DissentPoint, DissentReport, Position
from moa_dspy.protocols import Answer
from moa_dspy.runtime.call import ask
from moa_dspy.runtime.session import Session, StepId
from moa_dspy.signatures import NumberedPoint
from moa_dspy.trace import Step

__all__ = ["positions_of", "report_dissent"]

_SHORT: Final = 100
"""Free texts of up to so many characters are compared like values."""


def positions_of(session: Session) -> tuple[Position, ...]:
    """Return the position of every agent that answered, by layer."""
    roles, key_of = session.parts.roles, session.parts.key_of
    keys: dict[tuple[int, int, str], dict[str, str]] = {}
    short: set[str] = set()
    for step_id, step in _answers(session):
        key = roles.vote_key(step.outputs) if key_of is None else key_of(step_id.agent, Answer(step.outputs, step.text))
        keys.setdefault((step_id.layer, step_id.agent, step_id.agent_name), {})[step.stage] = key
        if not roles.compares_text or len(step.text) <= _SHORT:
            short.add(key)
    owners = Counter(key for _, key in {(agent, key) for (_, agent, _), own in keys.items() for key in own.values()})
    comparable = dict.fromkeys(key for own in keys.values() for key in own.values() if key in short or owners[key] > 1)
    numbers = {key: number for number, key in enumerate(comparable)}
    return tuple(
        Position(
            layer=layer,
            agent=name,
            proposal=numbers.get(own.get("propose", "")),
            answer=numbers.get(own.get("refine") or own["propose"]),
        )
        for (layer, _, name), own in keys.items()
    )


async def report_dissent(session: Session, positions: Sequence[Position]) -> DissentReport | None:
    """Ask the aggregator's model what the agents' last answers have in common, and where they differ.

    Return None without a call if fewer than two agents answered or all answers are equal, and if the call fails.
    """
    roles, agent = session.parts.roles, session.parts.aggregator
    last = [position for position in positions if position.layer == positions[-1].layer]
    groups = {position.answer for position in last}
    if len(last) < 2 or (len(groups) == 1 and None not in groups):
        return None
    texts = {step.agent: step.text for step_id, step in _answers(session) if step_id.layer == last[0].layer}
    names = list(texts)
    step_id = StepId(max(step.layer for step in session.steps), "dissent", -1, agent.name)
    inputs = roles.for_dissent(session.inputs, list(texts.values()))
    reply = await ask(session, step_id, session.parts.predictors["dissent"][0], agent, inputs)
    if reply.outputs is None:
        return None
    points = {
        field: tuple(_point(value, names) for value in _values(reply.outputs[roles.names[field]]))
        for field in DissentReport.model_fields
    }
    return DissentReport(**points)


def _answers(session: Session) -> list[tuple[StepId, Step]]:
    """Return the proposals and refinements that succeeded, in canonical order: refinements after proposals."""
    recorded = session.recorded_in_order
    return [(step_id, step) for step_id, step in recorded if step.stage in _ANSWERS and step.status == "ok"]


_ANSWERS: Final = ("propose", "refine")


def _values(reported: Any) -> list[NumberedPoint]:
    """Return the points of a field. A rehearsal has a text in place of them."""
    return [] if isinstance(reported, str) else list(reported)


def _point(value: NumberedPoint, names: Sequence[str]) -> DissentPoint:
    """Return a point of the reply, with names instead of the numbers of the answers."""
    numbers = dict.fromkeys(number for number in value.answers if 1 <= number <= len(names))
    return DissentPoint(point=json_safe(value.point), agents=tuple(names[number - 1] for number in numbers))
