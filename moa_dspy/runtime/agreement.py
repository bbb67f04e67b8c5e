"""The agreement of a layer's proposals, and the gate that ends a run if it suffices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from moa_dspy.agents import AgentSlot
from moa_dspy.gate import Agreement, Gate, agreement_of
from moa_dspy.protocols import Answer
from moa_dspy.runtime.call import ask
from moa_dspy.runtime.degrade import enough, result_of
from moa_dspy.runtime.session import Session, StepId
from moa_dspy.signatures import Roles

__all__ = ["Agreeing"]


@dataclass
class Agreeing:
    """Measures how far the proposals of a run's layers agree.

    Args:
        session: the run.
        roles: the signature of each role.
        inputs: the task's inputs.
        gate: the agreement that ends the run; None if none does.
        predictor: the role that compares texts; None if only equal texts agree.
        aggregator: the agent in that role.
        key_of: returns a key of an agent's answer, equal for equal answers; None uses the vote's.

    Attributes:
        share: share of equal proposals when they were last measured; None if fewer than two agents had answered.
        reached: whether the newest layer's proposals agree so far that the run ends with them.
    """

    session: Session
    roles: Roles
    inputs: Mapping[str, Any]
    gate: Gate | None
    predictor: dspy.Predict | None
    aggregator: AgentSlot
    key_of: Callable[[int, Answer], str] | None = None
    share: float | None = None
    reached: bool = False

    def keys(self, proposals: Sequence[asyncio.Task[Answer | None]]) -> list[str | None]:
        """Return a key of each agent's answer, equal for equal answers; None if there is no answer."""
        answers = [result_of(task) for task in proposals]
        key_of = self.key_of or (lambda _, answer: self.roles.vote_key(answer.outputs))
        return [None if answer is None else key_of(agent, answer) for agent, answer in enumerate(answers)]

    def measure(self, proposals: Sequence[asyncio.Task[Answer | None]]) -> Agreement | None:
        """Return how far the proposals that are there agree, and note the share."""
        agreement = agreement_of(self.keys(proposals))
        self.share = None if agreement is None else agreement.share
        return agreement

    async def reach(
        self, layer: int, propose: Callable[[int], Sequence[asyncio.Task[Answer | None]]], agents: int, began: float
    ) -> Answer | None:
        """Ask the agents in the rounds of the gate. Return the answer that stands if they agree, else None.

        Args:
            layer: its number.
            propose: starts the proposals of agents up to a number, and returns all proposals.
            agents: number of agents that propose in this layer.
            began: start of the layer, by the clock of the event loop.
        """
        gate, tolerance = self.gate, self.session.tolerance
        for turn, asked in enumerate(() if gate is None else gate.rounds(agents)):
            proposals, deadline = propose(asked), tolerance.layer_deadline
            cut = await enough(proposals, tolerance, self.session.budget, deadline=deadline, began=began)
            agreement = self.measure(proposals)
            if gate is None or agreement is None:
                continue
            if self.predictor is not None and not gate.accepts(agreement, asked):
                answered = sum(result_of(task) is not None for task in proposals)
                same = Agreement(1.0, agreement.first, answered)
                if gate.accepts(same, asked) and await self._say_the_same(
                    self.predictor, layer, turn, proposals, began
                ):
                    agreement = same
            if gate.accepts(agreement, asked):
                for task in proposals:
                    task.cancel(cut or "the other answers agree")
                self.reached, self.share = True, agreement.share
                return result_of(proposals[agreement.first])
        return None

    async def _say_the_same(
        self,
        predictor: dspy.Predict,
        layer: int,
        turn: int,
        proposals: Sequence[asyncio.Task[Answer | None]],
        began: float,
    ) -> bool:
        """Return whether all answers say the same, by the aggregator's model; False if it fails or time is up."""
        pairs = zip(self.keys(proposals), map(result_of, proposals), strict=True)
        distinct = {key: answer.text for key, answer in pairs if answer is not None}
        inputs, name = self.roles.for_agree(self.inputs, list(distinct.values())), self.roles.sameness
        step_id = StepId(layer, "agree", -1, self.aggregator.name, attempt=turn)
        deadline = self.session.tolerance.layer_deadline
        try:
            async with asyncio.timeout_at(None if deadline is None else began + deadline):
                reply = await ask(self.session, step_id, predictor, self.aggregator, inputs, str, (name,))
        except TimeoutError:
            return False
        return reply.outputs is not None and bool(reply.outputs[name])
