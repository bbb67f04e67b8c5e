"""The agreement of a layer's proposals, and the gate that ends a run if it suffices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moa_dspy.gate import Agreement, Gate, agreement_of
from moa_dspy.protocols import Answer
from moa_dspy.runtime.call import ask
from moa_dspy.runtime.degrade import enough, result_of
from moa_dspy.runtime.session import Session, StepId

__all__ = ["Agreeing"]


@dataclass
class Agreeing:
    """Measures how far the proposals of a run's layers agree.

    Attributes:
        share: share of equal proposals when they were last measured; None if fewer than two agents had answered.
        reached: whether the newest layer's proposals agree so far that the run ends with them.
    """

    session: Session
    share: float | None = None
    reached: bool = False

    def keys(self, proposals: Sequence[asyncio.Task[Answer | None]]) -> list[str | None]:
        """Return a key of each agent's answer, equal for equal answers; None if there is no answer."""
        answers = [result_of(task) for task in proposals]
        parts = self.session.parts
        key_of = parts.key_of or (lambda _, answer: parts.roles.vote_key(answer.outputs))
        return [None if answer is None else key_of(agent, answer) for agent, answer in enumerate(answers)]

    async def reach(
        self,
        gate: Gate,
        layer: int,
        propose: Callable[[int], Sequence[asyncio.Task[Answer | None]]],
        agents: int,
        began: float,
    ) -> Answer | None:
        """Ask the agents in the rounds of the gate. Return the answer that stands if they agree, else None.

        ``propose`` starts the proposals of agents up to a number, and returns all proposals. The layer ``began`` at
        that time of the event loop.
        """
        tolerance = self.session.tolerance
        for turn, asked in enumerate(gate.rounds(agents)):
            proposals = propose(asked)
            cut = await enough(proposals, tolerance, self.session.budget, began=began)
            agreement = agreement_of(self.keys(proposals))
            self.share = None if agreement is None else agreement.share
            if agreement is None:
                continue
            if not gate.accepts(agreement, asked):
                same = Agreement(1.0, agreement.first, sum(result_of(task) is not None for task in proposals))
                if gate.accepts(same, asked) and await self._say_the_same(layer, turn, proposals, began):
                    agreement = same
            if gate.accepts(agreement, asked):
                for task in proposals:
                    task.cancel(cut or "the other answers agree")
                self.reached, self.share = True, agreement.share
                return result_of(proposals[agreement.first])
        return None

    async def _say_the_same(
        self, layer: int, turn: int, proposals: Sequence[asyncio.Task[Answer | None]], began: float
    ) -> bool:
        """Return whether all answers say the same, by the aggregator's model; False if it fails or time is up.

        Without a role that compares texts, only equal ones do.
        """
        parts, roles, agent = self.session.parts, self.session.parts.roles, self.session.parts.aggregator
        if "agree" not in parts.predictors:
            return False
        pairs = zip(self.keys(proposals), map(result_of, proposals), strict=True)
        distinct = {key: answer.text for key, answer in pairs if answer is not None}
        inputs = roles.for_agree(self.session.inputs, list(distinct.values()))
        step_id, predictor = StepId(layer, "agree", -1, agent.name, attempt=turn), parts.predictors["agree"][0]
        deadline = self.session.tolerance.layer_deadline
        try:
            async with asyncio.timeout_at(None if deadline is None else began + deadline):
                reply = await ask(self.session, step_id, predictor, agent, inputs)
        except TimeoutError:
            return False
        return reply.outputs is not None and bool(reply.outputs[roles.sameness])
