"""The algorithm: layers of propose, attend, refine and aggregate, joined by residual synthesis with early stopping.

Layers can also be joined by all their answers, as in MoA. Then only the last layer aggregates.

A layer has no barriers. Each step is a task that waits only for the steps whose text it reads. A critique starts as
soon as the two answers it compares exist, even if other agents are still writing. Only a gate, joint critiques, and
attention that depends on the answers wait for all proposals.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import dspy

from moa_dspy.agents import AgentSlot
from moa_dspy.attention import critics_among
from moa_dspy.cost.budget import Amounts
from moa_dspy.errors import AllProposalsFailedError
from moa_dspy.positions import DissentReport, Position, agreement_in
from moa_dspy.protocols import Answer, StopCondition
from moa_dspy.runtime.aggregation import rule_of
from moa_dspy.runtime.agreement import Agreeing
from moa_dspy.runtime.answer_stream import LastCall
from moa_dspy.runtime.call import Reply, ask, write_prompt
from moa_dspy.runtime.critiques import start_critiques
from moa_dspy.runtime.degrade import enough, last_resort, result_of
from moa_dspy.runtime.dissent import positions_of, report_dissent
from moa_dspy.runtime.event_loop import in_thread
from moa_dspy.runtime.failures import OVERFLOW
from moa_dspy.runtime.forecast import forecast
from moa_dspy.runtime.knn_demos import embedding_models
from moa_dspy.runtime.module_call import ModulePredictor
from moa_dspy.runtime.session import Session, StepId
from moa_dspy.trace import Stage, Step, StoppedBy

__all__ = ["Answer", "Outcome", "run_layers"]


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
        layers: the accepted output of each layer, oldest first. The last one is the answer.
        improved, stopped_by, agreement, positions, dissent_report: see ``Trace``.
    """

    layers: tuple[Answer, ...] = ()
    improved: tuple[bool | None, ...] = ()
    stopped_by: StoppedBy = "failure"
    agreement: float | None = None
    positions: tuple[Position, ...] = ()
    dissent_report: DissentReport | None = None


async def run_layers(session: Session) -> Outcome:
    """Run the program on one set of inputs.

    Raises:
        AllProposalsFailedError: if no agent answered in the first layer. Later failures end the run with the last
            accepted output.
        ConfigurationError: if the budget does not cover one proposal, or is in dollars and a price is unknown.
        StepFailedError: if a step failed and the run is strict.
    """
    run, architecture = _Run(session), session.parts.architecture
    first_output, *later = architecture.output_layers
    first, stopped_by = await run.first_output(first_output)
    accepted, improved = [first], list[bool | None]()
    for layer in later:
        if run.agreeing.reached:
            break
        further = await run.further_layer(layer, accepted[-1:])
        answer, decision = await run.aggregate(layer, further) if further else None, None
        if answer is not None and architecture.residual == "synthesis" and not run.agreeing.reached:
            decision, answer = await run.synthesize(layer, [*accepted, answer])
            improved.append(decision)
        if answer is None:
            stopped_by = "failure"
            break
        if not run.agreeing.reached and _stops(architecture.early_stop, accepted, answer, decision):
            stopped_by = "no_improvement"
            break
        accepted.append(answer)
    if run.agreeing.reached:
        stopped_by = "agreement"  # what a budget would have left out was not needed
    elif session.budget.refused:
        stopped_by = "budget"
    positions = positions_of(session)
    agreement = agreement_in(positions, layer=1)
    if run.agreeing.share is None and agreement is not None:
        run.agreeing.share = agreement.share
    report: DissentReport | None = None
    if "dissent" in session.parts.predictors and not run.agreeing.reached:
        report = await report_dissent(session, positions)
    return Outcome(tuple(accepted), tuple(improved), stopped_by, run.agreeing.share, positions, report)


def _stops(early_stop: bool | StopCondition, accepted: Sequence[Answer], newest: Answer, improved: bool | None) -> bool:
    """Return whether the run ends without its newest output."""
    if isinstance(early_stop, bool):
        return early_stop and improved is False
    return early_stop.stops(accepted, newest, improved)


class _Run:
    """A run in progress: its parts, its inputs, and the stages of a layer."""

    def __init__(self, session: Session) -> None:
        parts = session.parts
        self.session, self.inputs = session, session.inputs
        self.architecture, self.roles, self.prompts = parts.architecture, parts.roles, parts.predictors
        self.agents, self.aggregator = parts.agents, parts.aggregator
        self.agreeing = Agreeing(session)
        self._fields = tuple(parts.roles.task.output_fields)
        self._asked = 0  # agents that the budget allowed to propose in the first layer
        self._final = self._may_stream()

    async def first_output(self, output: int) -> tuple[Answer, StoppedBy]:
        """Return the first output of the run, and why no further layer would run if none does.

        In MoA, the layers before that of the output pass all their answers on.
        """
        answers = await self._first_layer()
        if not answers:
            session = self.session
            failures = {step.agent: step.error for step in session.steps if step.error is not None}
            of_agents = [failures.get(agent.name) for agent in self.agents]
            resort = await last_resort(self._propose_again, self._asked, of_agents, session.tolerance, session.budget)
            if resort is not None:
                return resort, "layers"
            not_asked = {agent.name: "budget: it was used up before the agent was asked" for agent in self.agents}
            raise AllProposalsFailedError(_causes(self.session.steps) or not_asked)
        stopped_by: StoppedBy = "layers"
        for layer in range(2, output):
            if self.agreeing.reached:
                break
            further = await self.further_layer(layer, answers)
            if not further:
                stopped_by = "failure"
                break
            answers = further
        return await self.aggregate(output, answers), stopped_by

    async def _first_layer(self) -> list[Answer]:
        """Return the first layer's answers, with as many proposals and refinements as the budget allows."""
        budget, critics = self.session.budget, self.architecture.critics(1)
        at_once = len(critics)
        if budget.limited:
            needs = await self._needs()
            costs = [len(of_one) + bool(of_one) for of_one in critics]
            if self.architecture.critiques == "joint":
                # The first refinement needs all joint calls. Each other one needs one call more.
                costs = [int(bool(of_one)) for of_one in critics]
                costs[0] += self.architecture.critique_calls(critics)
            further = len(embedding_models(self.prompts["propose"])) + self.gate_calls
            proposing, refining = budget.first_layer(costs, self._finals(1), further)
            critics = [critics[j] if j < refining else () for j in range(proposing)]
            at_once = budget.at_once(needs) if needs else proposing
        self._asked = len(critics)
        return await self._layer(1, (), critics, at_once)

    async def further_layer(self, layer: int, previous: Sequence[Answer]) -> list[Answer]:
        """Return a later layer's answers; none if the budget does not cover the layer or no agent answered."""
        critics, budget = self.architecture.critics(layer), self.session.budget
        if budget.limited:
            finals = self._finals(layer)
            calls = len(critics) + self.gate_calls + self.architecture.critique_calls(critics)
            if not budget.further_layer(calls + sum(map(bool, critics)) + len(finals), finals):
                return []
        return await self._layer(layer, previous, critics, len(critics))

    @property
    def gate_calls(self) -> int:
        """Return the largest number of calls in a layer that compare answers."""
        return self.architecture.gate_calls if "agree" in self.prompts else 0

    async def synthesize(self, layer: int, rounds: list[Answer]) -> tuple[bool | None, Answer | None]:
        """Return whether the newest of ``rounds`` improves, and the synthesis. Both are None if all models failed."""
        inputs = self.roles.for_synthesize(self.inputs, [answer.text for answer in rounds])
        last = self.last_call(layer, "synthesize")
        reply = await self.ask_aggregator(layer, "synthesize", inputs, last, itertools.count())
        return None if reply.outputs is None else self.roles.decision_of(reply.outputs), self.answer_in(reply)

    async def ask_aggregator(
        self, layer: int, stage: Stage, inputs: Mapping[str, Any], last: LastCall | None, attempts: Iterator[int]
    ) -> Reply:
        """Return the reply of the aggregator, or of the first substitute (another model or server) that answers."""
        by_model: dict[tuple[str, str | None], AgentSlot] = {}
        for agent in (self.aggregator, *self.agents):
            known = self.session.lms[id(agent)]
            by_model.setdefault((known.lm.model, known.server), agent)
        reply = Reply(None)
        for agent in by_model.values():
            step_id = StepId(layer, stage, -1, agent.name, attempt=next(attempts))
            reply = await ask(self.session, step_id, self.prompts[stage][-1], agent, inputs, last)
            if reply.outputs is not None or reply.failed == "budget":
                break
        return reply

    async def _layer(
        self, layer: int, previous: Sequence[Answer], critics: Sequence[Sequence[int]], at_once: int
    ) -> list[Answer]:
        """Return the layer's answers, in the order of the agents, or the one that ends the run because they agree.

        Args:
            layer: its number.
            previous: the answers of the previous layer that the agents read.
            critics: for each proposing agent, the critics of its answer.
            at_once: number of proposals that start at once. Each other proposal waits for one of them.
        """
        began = asyncio.get_running_loop().time()
        proposals = list[asyncio.Task[Answer | None]]()
        try:
            async with asyncio.TaskGroup() as group:

                def propose(until: int) -> list[asyncio.Task[Answer | None]]:
                    for i in range(len(proposals), until):
                        before = proposals[i % at_once] if i >= at_once else None
                        last = self.last_call(layer, "propose") if not critics[i] else None
                        proposals.append(group.create_task(self._propose(layer, i, previous, before, last)))
                    return proposals

                if (gate := self.architecture.agreement_gate) is not None:
                    answer = await self.agreeing.reach(gate, layer, propose, len(critics), began)
                    if answer is not None:
                        return [answer]
                propose(len(critics))
                if self.architecture.by_answer or "joint_critique" in self.prompts:
                    await self._enough(proposals, began=began)
                    critics = critics_among(self.architecture.attention, critics, self.agreeing.keys(proposals))
                joint, critiques = start_critiques(self.session, group, layer, critics, proposals)
                refined = [
                    group.create_task(self._refine(layer, j, proposals[j], [critiques[i, j] for i in critics[j]]))
                    for j in range(len(critics))
                ]
                cut = await self._enough(refined, began=began)
                for task in (*proposals, *joint, *critiques.values(), *refined):
                    task.cancel(cut)
        except BaseExceptionGroup as group_error:
            raise _first_cause(group_error) from None
        pairs = zip(map(result_of, refined), map(result_of, proposals), strict=True)
        return [answer for refinement, own in pairs if (answer := refinement or own) is not None]

    async def _propose(
        self,
        layer: int,
        agent: int,
        previous: Sequence[Answer],
        before: asyncio.Task[Answer | None] | None,
        last: LastCall | None,
    ) -> Answer | None:
        if before is not None:
            await asyncio.wait({before})
        predictor, inputs = self._proposal(agent, previous)
        slot = self.agents[agent]
        step_id = StepId(layer, "propose", agent, slot.name)
        return self.answer_in(await ask(self.session, step_id, predictor, slot, inputs, last))

    async def _propose_again(self, agent: int) -> tuple[Answer | None, str]:
        predictor, inputs = self._proposal(agent, ())
        slot = self.agents[agent]
        reply = await ask(self.session, StepId(1, "propose", agent, slot.name, attempt=1), predictor, slot, inputs)
        return self.answer_in(reply), reply.failed

    def _proposal(self, agent: int, previous: Sequence[Answer]) -> tuple[dspy.Predict, dict[str, Any]]:
        """Return the predictor and the inputs of a proposal."""
        if not previous:
            predictor, slot = self.prompts["propose"][agent], self.agents[agent]
            module = None if slot.agent.module is None else slot.agent.proposer()
            if module is not None:
                predictor = cast("dspy.Predict", ModulePredictor(module, predictor, self.session.adapter, slot.name))
            return predictor, self.roles.for_propose(self.inputs)
        texts = [answer.text for answer in previous]
        if self.architecture.residual == "answers":
            inputs = self.roles.for_aggregate(self.inputs, texts)
        else:
            inputs = self.roles.for_improve(self.inputs, texts[0])
        return self.prompts["improve"][agent], inputs

    async def _refine(
        self, layer: int, agent: int, proposal: asyncio.Task[Answer | None], tasks: list[asyncio.Task[str | None]]
    ) -> Answer | None:
        """Return the agent's answer after critique, or its proposal if there is no critique or the refinement fails.

        If the prompt is too long for the model, the longest critique is dropped and the call repeated.
        """
        await asyncio.wait({proposal})
        own = proposal.result()
        if own is None or not tasks:
            return own
        absent = len(self.agents) - len(tasks)
        cut = await self._enough(tasks, absent=absent)
        for task in tasks:
            task.cancel(cut)  # later critiques are not read
        texts = [task.result() for task in tasks if task.done() and not task.cancelled()]
        critiques = [text for text in texts if text is not None]
        predictor, slot, last = self.prompts["refine"][agent], self.agents[agent], self.last_call(layer, "refine")
        for attempt in range(len(critiques)):
            inputs = self.roles.for_refine(self.inputs, own.text, critiques)
            step_id = StepId(layer, "refine", agent, slot.name, agent, slot.name, attempt)
            reply = await ask(self.session, step_id, predictor, slot, inputs, last)
            if reply.failed != OVERFLOW:
                return self.answer_in(reply) or own
            critiques.remove(max(critiques, key=len))
        return own

    async def _enough(self, tasks: Sequence[asyncio.Task[Any]], **options: Any) -> str | None:
        """Wait until all tasks are done or ``enough`` says why the others are cancelled."""
        tolerance, budget = self.session.tolerance, self.session.budget
        if tolerance.quorum is None and tolerance.layer_deadline is None and budget.limits.seconds is None:
            await asyncio.wait(tasks)
            return None
        return await enough(tasks, tolerance, budget, **options)

    async def aggregate(self, layer: int, answers: list[Answer]) -> Answer:
        """Return the answer of a layer by the architecture's aggregation rule, or the one that the agents agree on."""
        if self.agreeing.reached:
            return answers[0]
        aggregation, context = self.architecture.aggregation, _Layer(self, layer, len(answers))
        answer = await rule_of(aggregation).aggregate(answers, context)
        if not isinstance(aggregation, (str, int)):
            if not isinstance(answer, Answer):
                raise TypeError(f"{type(aggregation).__name__}.aggregate() must return an Answer, not {answer!r:.100}")
            context.record(type(aggregation).__name__, answer)
        return answer

    def last_call(self, layer: int, stage: Stage) -> LastCall | None:
        """Return how the answer of the run is read from a call while it is written; None if it may not be the answer.

        A proposal or refinement is the answer if it is that of the only agent, which nobody aggregates.
        """
        shape, tolerance, final = self.architecture, self.session.tolerance, self._final
        if final is None or layer != shape.layers or shape.synthesizes != (stage == "synthesize"):
            return None
        if shape.synthesizes:
            return replace(final, decision=self.roles.decision if shape.early_stop else None)
        is_only = shape.aggregation == "none" and tolerance.quorum is tolerance.layer_deadline is None
        return final if stage == "aggregate" or is_only else None

    def _may_stream(self) -> LastCall | None:
        """Return how the answer is read while it is written; None if it is not one text, or another one may follow.

        At the end of a budget's time, a call is cancelled while it writes. Custom rules decide when they have the
        whole text.
        """
        architecture, (field, *others) = self.architecture, self._fields
        is_text = not others and self.roles.task.output_fields[field].annotation is str
        if self.session.answer is None or not is_text or self.session.budget.limits.seconds is not None:
            return None
        custom = not isinstance(architecture.early_stop, bool) or not isinstance(architecture.aggregation, (str, int))
        return None if custom else LastCall(field)

    def answer_in(self, reply: Reply) -> Answer | None:
        """Return the answer of a step; None if it failed."""
        outputs = reply.outputs
        return None if outputs is None else Answer({name: outputs[name] for name in self._fields}, reply.text)

    async def _needs(self) -> list[Amounts]:
        """Return the expected usage of the first proposals; empty if the budget limits neither tokens nor dollars."""
        budget = self.session.budget
        if budget.limits.tokens is None and budget.limits.usd is None:
            return []
        prompts = []
        for number, agent in enumerate(self.agents):
            predictor, inputs = self._proposal(number, ())
            step_id = StepId(1, "propose", number, agent.name)
            prompts.append(await write_prompt(self.session, step_id, predictor, agent, inputs))
        try:
            async with budget.timeout("propose"):
                others = [self.session.lm(self.aggregator).lm, *self.session.extractors]
                return await in_thread(forecast, budget.limits, prompts, others)
        except TimeoutError:
            budget.refused = True
            return []

    def _finals(self, layer: int) -> list[Stage]:
        """Return the stages that write the answer of a layer."""
        aggregated: list[Stage] = ["aggregate"] * self.architecture.aggregate_calls
        return [*aggregated, "synthesize"] if layer > 1 and self.architecture.synthesizes else aggregated


class _Layer:
    """The layer being aggregated; see ``AggregationContext``."""

    def __init__(self, run: _Run, layer: int, answers: int) -> None:
        self.layer, self.inputs = layer, run.inputs
        self._run, self._attempts = run, itertools.count()
        self._left = run.architecture.calls_to_aggregate(answers)  # texts that the rule may still ask for

    async def synthesize(self, answers: Sequence[Answer]) -> Answer | None:
        run = self._run
        inputs = run.roles.for_aggregate(self.inputs, [answer.text for answer in answers])
        self._left -= 1
        last = run.last_call(self.layer, "aggregate") if self._left == 0 else None
        return run.answer_in(await run.ask_aggregator(self.layer, "aggregate", inputs, last, self._attempts))

    def vote_key(self, answer: Answer) -> str:
        return self._run.roles.vote_key(answer.outputs)

    def record(self, name: str, answer: Answer) -> None:
        step_id = StepId(self.layer, "aggregate", -1, name, attempt=next(self._attempts))
        self._run.session.record_text(step_id, answer.text, self._run.roles.jsonable(answer.outputs))


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    cause: BaseException = group
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause


def _causes(steps: tuple[Step, ...]) -> dict[str, str]:
    """Return each agent's distinct failures in order. An exhausted budget counts only if nothing else failed."""
    causes: dict[str, dict[str, None]] = {}
    for step in steps:
        for failure in step.failures or ((step.error,) if step.error is not None else ()):
            causes.setdefault(step.agent, {})[f"{failure.kind}: {failure.message}"] = None
    texts = {agent: list(failures) for agent, failures in causes.items()}
    own = {agent: [text for text in failures if not text.startswith("budget:")] for agent, failures in texts.items()}
    return {agent: ", then ".join(own[agent] or failures) for agent, failures in texts.items()}
