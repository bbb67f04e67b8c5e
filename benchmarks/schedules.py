"""The same algorithm under other schedules, on the same models, predictors and adapters, to compare with.

Nothing is recorded, limited or retried here, so what they cost is the least that such a schedule can cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from moa_dspy import Agent, AttentionMoA
from moa_dspy.agents import AgentSlot, slots_of
from moa_dspy.runtime.formats import adapters_for

__all__ = ["Schedule"]


class Schedule:
    """Barriers: a stage starts when the one before it has ended for all agents.

    Args:
        moa: whose models, predictors and roles are used; full attention, shared prompts, no early stop.
        in_sequence: each agent writes its critiques one after the other, as in the authors' code; else all N x N
            critiques are asked for at once.
    """

    def __init__(self, moa: AttentionMoA, *, in_sequence: bool) -> None:
        self._moa = moa
        self._in_sequence = in_sequence
        self._slots = slots_of(moa.agents)
        self._aggregator = AgentSlot("aggregator", Agent(moa.agents[0].lm), 0)

    async def acall(self, **inputs: Any) -> Mapping[str, Any]:
        """Return the outputs of the last layer's synthesis."""
        moa, roles = self._moa, self._moa.roles
        rounds: list[Mapping[str, Any]] = []
        for layer in range(moa.architecture.layers):
            proposals = await self.propose(inputs, None if layer == 0 else roles.answer_text(rounds[-1]))
            refined = await self.refine(inputs, proposals, await self.critiques(inputs, proposals))
            aggregate = await self._ask(moa.aggregate, self._aggregator, roles.for_aggregate(inputs, refined))
            rounds.append(aggregate)
            if layer > 0:
                texts = [roles.answer_text(outputs) for outputs in rounds]
                rounds[-1] = await self._ask(moa.synthesize, self._aggregator, roles.for_synthesize(inputs, texts))
        return rounds[-1]

    async def propose(self, inputs: Mapping[str, Any], previous: str | None = None) -> list[str]:
        """Return one proposal for each agent."""
        moa, roles = self._moa, self._moa.roles
        values = roles.for_propose(inputs) if previous is None else roles.for_improve(inputs, previous)
        predictor = moa.propose if previous is None else moa.improve
        outputs = await asyncio.gather(*(self._ask(predictor, voice, values) for voice in self._slots))
        return [roles.answer_text(each) for each in outputs]

    async def critiques(self, inputs: Mapping[str, Any], proposals: Sequence[str]) -> list[list[str]]:
        """Return for each critic its critiques, by target."""
        return await asyncio.gather(*(self._critiques_by(critic, inputs, proposals) for critic in self._agents))

    async def refine(
        self, inputs: Mapping[str, Any], proposals: Sequence[str], critiques: Sequence[Sequence[str]]
    ) -> list[str]:
        """Return one refined answer for each agent."""
        roles = self._moa.roles
        received = [[written[target] for written in critiques] for target in self._agents]
        values = [roles.for_refine(inputs, proposals[target], received[target]) for target in self._agents]
        asked = (self._ask(self._moa.refine, self._slots[target], values[target]) for target in self._agents)
        return [roles.answer_text(outputs) for outputs in await asyncio.gather(*asked)]

    @property
    def _agents(self) -> range:
        return range(len(self._slots))

    async def _critiques_by(self, critic: int, inputs: Mapping[str, Any], proposals: Sequence[str]) -> list[str]:
        asked = (self._critique(critic, target, inputs, proposals) for target in self._agents)
        if self._in_sequence:
            return [await each for each in asked]
        return await asyncio.gather(*asked)

    async def _critique(self, critic: int, target: int, inputs: Mapping[str, Any], proposals: Sequence[str]) -> str:
        roles, own = self._moa.roles, proposals[critic]
        if critic == target:
            predictor, values = self._moa.self_critique, roles.for_self_critique(inputs, own)
        else:
            predictor, values = self._moa.critique, roles.for_critique(inputs, own, proposals[target])
        outputs = await self._ask(predictor, self._slots[critic], values)
        return str(outputs[roles.names["critique"]])

    async def _ask(
        self, predictor: dspy.Predict | list[dspy.Predict], voice: AgentSlot, values: Mapping[str, Any]
    ) -> dict[str, Any]:
        assert isinstance(predictor, dspy.Predict)
        lm = voice.lm()
        signature: Any = predictor.signature
        with dspy.context(adapter=adapters_for(signature, lm, None)[0]):
            return dict(await predictor.acall(lm=lm, config=voice.config(lm, None), **values))
