"""The algorithm: layers of propose, attend, refine and aggregate, joined by residual synthesis with early stopping.

Layers can also be joined by all their answers, as in MoA. Then only the last layer aggregates.

A layer has no barriers. Each step is a task that waits only for the steps whose text it reads. A critique starts as
soon as the two answers it compares exist, even if other agents are still writing. Only a gate, joint critiques, and
attention that depends on the answers wait for all proposals.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import dspy

from moa_dspy.agents import AgentSlot
from moa_dspy.attention import critics_among, critics_of
from moa_dspy.cost.budget import Amounts
from moa_dspy.errors import AllProposalsFailedError
from moa_dspy.positions import DissentReport, Position, agreement_in
from moa_dspy.protocols import Answer
from moa_dspy.runtime.aggregation import rule_of
from moa_dspy.runtime.agreement import Agreeing
from moa_dspy.runtime.answer_stream import LastCall
from moa_dspy.runtime.call import ask, write_prompt
from moa_dspy.runtime.critiques import Critiques
from moa_dspy.runtime.degrade import enough, last_resort
from moa_dspy.runtime.dissent import positions_of, report_dissent
from moa_dspy.runtime.event_loop import in_thread
from moa_dspy.runtime.failures import OVERFLOW
from moa_dspy.runtime.forecast import forecast
from moa_dspy.runtime.knn_demos import embedding_models
from moa_dspy.runtime.module_call import ModulePredictor
from moa_dspy.runtime.parts import ROLES, Predictors, RunParts
from moa_dspy.runtime.session import Session, StepId
from moa_dspy.runtime.shared_prefix import are_long, rereading
from moa_dspy.runtime.stopping import condition_of
from moa_dspy.trace import Failure, Stage, Step, StoppedBy

__all__ = ["ROLES", "Answer", "Outcome", "Predictors", "RunParts", "run_layers"]

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
        answer: the last accepted output.
        layers: the accepted output of each layer, oldest first.
        improved: the decision of each residual synthesis; None if it failed.
        stopped_by: why no further layer ran.
        agreement: share of the agents in the largest group of equal proposals, in the last layer with a gate, else in
            the first; None if unknown.
        positions: the agents' positions in each layer.
        dissent_report: what a model stated about the agents' last answers, if it was asked.
    """

    answer: Answer
    layers: tuple[Answer, ...]
    improved: tuple[bool | None, ...]
    stopped_by: StoppedBy
    agreement: float | None = None
    positions: tuple[Position, ...] = ()
    dissent_report: DissentReport | None = None


async def run_layers(parts: RunParts, inputs: Mapping[str, Any], session: Session) -> Outcome:
    """Run the program on one set of inputs.

    Raises:
        AllProposalsFailedError: if no agent answered in the first layer. Later failures end the run with the last
            accepted output.
        ConfigurationError: if the budget does not cover one proposal, or is in dollars and a price is unknown.
        StepFailedError: if a step failed and the run is strict.
    """
    run, architecture = _Run(parts, inputs, session), parts.architecture
    if are_long(inputs):
        models = [session.lm(agent).lm.model for agent in (*parts.agents, parts.aggregator)]
        session.rereading = rereading(architecture, models[:-1], models[-1])
    first_output, *later = architecture.output_layers
    first, stopped_by = await run.first_output(first_output)
    accepted, improved = [first], list[bool | None]()
    for layer in later:
        if run.agreeing.reached:
            break
        further = await run.further_layer(layer, accepted[-1:])
        if not further:
            stopped_by = "failure"
            break
        aggregate = await run.aggregate(layer, further)
        if run.agreeing.reached:
            accepted.append(aggregate)
            break
        decision: bool | None = None
        answer: Answer | None = aggregate
        if architecture.residual == "synthesis":
            decision, answer = await run.synthesize(layer, [*accepted, aggregate])
            improved.append(decision)
        if answer is None:
            stopped_by = "failure"
            break
        if condition_of(architecture.early_stop).stops(accepted, answer, decision):
            stopped_by = "no_improvement"
            break
        accepted.append(answer)
    if run.agreeing.reached:
        stopped_by = "agreement"  # what a budget would have left out was not needed
    elif session.budget.refused:
        stopped_by = "budget"
    positions = positions_of(session, parts.roles, parts.key_of)
    agreement = agreement_in(positions, layer=1)
    if run.agreeing.share is None and agreement is not None:
        run.agreeing.share = agreement.share
    report = await run.report_dissent(positions)
    return Outcome(accepted[-1], tuple(accepted), tuple(improved), stopped_by, run.agreeing.share, positions, report)


class _Run:
    """A run in progress: its parts, its inputs, and the stages of a layer."""

    def __init__(self, parts: RunParts, inputs: Mapping[str, Any], session: Session) -> None:
        self.architecture, self.roles, self.predictors = parts.architecture, parts.roles, parts.predictors
        self.agents, self.aggregator = parts.agents, parts.aggregator
        self.prompts = parts.predictors.by_agent(len(parts.agents))
        self.inputs, self.session = inputs, session
        self._fields, self._voted = tuple(parts.roles.task.output_fields), parts.roles.voted
        gate, predictor = parts.architecture.agreement_gate, parts.predictors.agree
        self.critiques = Critiques(session, self.roles, self.prompts, self.agents, inputs)
        self.agreeing = Agreeing(session, self.roles, inputs, gate, predictor, self.aggregator, parts.key_of)
        self._asked = 0  # agents that the budget allowed to propose in the first layer
        self._final = self._may_stream()

    async def first_output(self, output: int) -> tuple[Answer, StoppedBy]:
        """Return the first output of the run, and why no further layer would run if none does.

        Args:
            output: number of its layer. In MoA, the layers before it pass all their answers on.
        """
        answers = await self._first_layer()
        if not answers:
            resort = await self._last_resort()
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
        session, critics = self.session, self._critics(1)
        needs = await self._needs()
        further = len(embedding_models(self.predictors.propose)) + self.gate_calls if session.budget.limited else 0
        costs = [len(of_one) + bool(of_one) for of_one in critics]
        if self.architecture.critiques == "joint":
            # The first refinement needs all joint calls. Each other one needs one call more.
            costs = [int(bool(of_one)) for of_one in critics]
            costs[0] += self.architecture.critique_calls(critics)
        proposing, refining = session.budget.first_layer(costs, self._finals(1), further)
        kept = [critics[j] if j < refining else () for j in range(proposing)]
        at_once = session.budget.at_once(needs) if needs else proposing
        self._asked = proposing
        return await self._layer(1, (), kept, at_once)

    async def _last_resort(self) -> Answer | None:
        """Return an answer that an agent can still give after a first layer without answers."""
        session = self.session
        failures = {step.agent: step.error for step in session.steps if step.error is not None}
        of_agents = [failures.get(agent.name) for agent in self.agents]
        return await last_resort(self._propose_again, self._asked, of_agents, session.tolerance, session.budget)

    async def further_layer(self, layer: int, previous: Sequence[Answer]) -> list[Answer]:
        """Return a later layer's answers. There are none if the budget does not cover the layer or no agent answered.

        Args:
            layer: its number.
            previous: the answers that its agents read.
        """
        critics, finals = self._critics(layer), self._finals(layer)
        calls = len(critics) + self.gate_calls + self.architecture.critique_calls(critics)
        calls += sum(map(bool, critics)) + len(finals)
        if not self.session.budget.further_layer(calls, finals):
            return []
        return await self._layer(layer, previous, critics, len(critics))

    @property
    def gate_calls(self) -> int:
        """Return the largest number of calls in a layer that compare answers."""
        return 0 if self.predictors.agree is None else self.architecture.gate_calls

    async def synthesize(self, layer: int, rounds: list[Answer]) -> tuple[bool | None, Answer | None]:
        """Return whether the newest of ``rounds`` improves, and the synthesis. Both are None if all models failed."""
        inputs = self.roles.for_synthesize(self.inputs, [answer.text for answer in rounds])
        predictor, last = self.prompts["synthesize"][-1], self.last_call(layer, decides=True)
        for attempt, agent in enumerate(self._aggregators()):
            step_id = StepId(layer, "synthesize", -1, agent.name, attempt=attempt)
            reply = await ask(
                self.session, step_id, predictor, agent, inputs, self.roles.answer_text, self._voted, last
            )
            if reply.outputs is not None:
                answer = self._as_answer(reply.outputs, reply.text)
                return self.roles.decision_of(reply.outputs), answer
            if reply.failure is not None and reply.failure.kind == "budget":
                break
        return None, None

    async def report_dissent(self, positions: Sequence[Position]) -> DissentReport | None:
        """Return what the aggregator states about the agents' last answers; None if it is not asked."""
        predictor = self.predictors.dissent
        if predictor is None or self.agreeing.reached:
            return None
        return await report_dissent(self.session, self.roles, predictor, self.aggregator, self.inputs, positions)

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
        agents, tolerance = range(len(critics)), self.session.tolerance
        began = asyncio.get_running_loop().time()
        proposals = list[asyncio.Task[Answer | None]]()
        try:
            async with asyncio.TaskGroup() as group:

                def propose(until: int) -> list[asyncio.Task[Answer | None]]:
                    for i in range(len(proposals), until):
                        before = proposals[i % at_once] if i >= at_once else None
                        last = self._only_call(layer) if not critics[i] else None
                        proposals.append(group.create_task(self._propose(layer, i, previous, before, last)))
                    return proposals

                if self.agreeing.gate is not None:
                    answer = await self.agreeing.reach(layer, propose, len(critics), began)
                    if answer is not None:
                        return [answer]
                propose(len(critics))
                if self.architecture.by_answer or self.predictors.joint_critique is not None:
                    await self._enough(proposals, deadline=tolerance.layer_deadline, began=began)
                    critics = critics_among(self.architecture.attention, critics, self.agreeing.keys(proposals))
                joint, critiques = self.critiques.start(group, layer, critics, proposals)
                refined = [
                    group.create_task(self._refine(layer, j, proposals[j], [critiques[i, j] for i in critics[j]]))
                    for j in agents
                ]
                cut = await self._enough(refined, deadline=tolerance.layer_deadline, began=began)
                for task in (*proposals, *joint, *critiques.values(), *refined):
                    task.cancel(cut)
        except BaseExceptionGroup as group_error:
            raise _first_cause(group_error) from None
        answers, own = ([None if one.cancelled() else one.result() for one in tasks] for tasks in (refined, proposals))
        return [answer for pair in zip(answers, own, strict=True) if (answer := pair[0] or pair[1]) is not None]

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
        answer, _ = await self._answer(self._id(layer, "propose", agent), predictor, inputs, last=last)
        return answer

    async def _propose_again(self, agent: int) -> tuple[Answer | None, Failure | None]:
        predictor, inputs = self._proposal(agent, ())
        return await self._answer(replace(self._id(1, "propose", agent), attempt=1), predictor, inputs)

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
        attempt = 0
        while critiques:
            inputs = self.roles.for_refine(self.inputs, own.text, critiques)
            step_id = replace(self._id(layer, "refine", agent, agent), attempt=attempt)
            answer, failure = await self._answer(
                step_id, self.prompts["refine"][agent], inputs, last=self._only_call(layer)
            )
            if answer is not None:
                return answer
            if failure is None or failure.kind != OVERFLOW:
                break
            critiques.remove(max(critiques, key=len))
            attempt += 1
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
            context.record(type(aggregation).__name__, answer)
        return answer

    def last_call(self, layer: int, *, decides: bool = False) -> LastCall | None:
        """Return how the answer of the run is read from a call that ends a layer; None if it may not be the answer.

        Args:
            layer: its number.
            decides: whether the call is a residual synthesis, and not an aggregation.
        """
        architecture = self.architecture
        if self._final is None or layer != architecture.layers:
            return None
        if decides:
            return replace(self._final, decision=self.roles.decision if architecture.early_stop else None)
        return None if architecture.synthesizes and layer > 1 else self._final

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

    def _only_call(self, layer: int) -> LastCall | None:
        """Return the same for a call of the only agent, whose answer nobody aggregates."""
        tolerance = self.session.tolerance
        is_last = self.architecture.aggregation == "none" and tolerance.quorum is tolerance.layer_deadline is None
        return self.last_call(layer) if is_last else None

    async def _answer(
        self,
        step_id: StepId,
        predictor: dspy.Predict,
        inputs: Mapping[str, Any],
        agent: AgentSlot | None = None,
        last: LastCall | None = None,
    ) -> tuple[Answer | None, Failure | None]:
        agent = agent or self.agents[step_id.agent]
        reply = await ask(self.session, step_id, predictor, agent, inputs, self.roles.answer_text, self._voted, last)
        if reply.outputs is None:
            return None, reply.failure
        return self._as_answer(reply.outputs, reply.text), None

    def _as_answer(self, outputs: Mapping[str, Any], text: str) -> Answer:
        return Answer({name: outputs[name] for name in self._fields}, text)

    async def _needs(self) -> list[Amounts]:
        """Return the expected usage of the first proposals; empty if the budget limits neither tokens nor dollars."""
        budget = self.session.budget
        if budget.limits.tokens is None and budget.limits.usd is None:
            return []
        prompts = []
        for number, agent in enumerate(self.agents):
            predictor, inputs = self._proposal(number, ())
            step_id = self._id(1, "propose", number)
            prompts.append(await write_prompt(self.session, step_id, predictor, agent, inputs))
        seconds = budget.seconds_left("propose")
        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                others = [self.session.lm(self.aggregator).lm, *self.session.extractors]
                return await in_thread(forecast, budget.limits, prompts, others)
        except TimeoutError:
            budget.refused = True
            return []

    def _critics(self, layer: int) -> list[tuple[int, ...]]:
        agents = len(self.agents)
        return [critics_of(target, self.architecture.attention, agents, layer) for target in range(agents)]

    def _finals(self, layer: int) -> list[Stage]:
        """Return the stages that write the answer of a layer."""
        aggregated: list[Stage] = ["aggregate"] * self.architecture.aggregate_calls
        return [*aggregated, "synthesize"] if layer > 1 and self.architecture.synthesizes else aggregated

    def _aggregators(self) -> Iterator[AgentSlot]:
        """Yield the aggregator, then its substitutes: agents on other models or servers."""
        yield self.aggregator
        tried = {self._model_of(self.aggregator)}
        for agent in self.agents:
            if self._model_of(agent) not in tried:
                tried.add(self._model_of(agent))
                yield agent

    def _model_of(self, agent: AgentSlot) -> tuple[str, str | None]:
        known = self.session.lm(agent)
        return known.lm.model, known.server

    def _id(self, layer: int, stage: Stage, agent: int, target: int | None = None) -> StepId:
        name = self.agents[agent].name
        if target is None:
            return StepId(layer, stage, agent, name)
        return StepId(layer, stage, agent, name, target, self.agents[target].name)


class _Layer:
    """The layer being aggregated; see ``AggregationContext``."""

    def __init__(self, run: _Run, layer: int, answers: int) -> None:
        self.layer, self.inputs = layer, run.inputs
        self._run, self._attempts = run, 0
        self._left = run.architecture.calls_to_aggregate(answers)  # texts that the rule may still ask for

    async def synthesize(self, answers: Sequence[Answer]) -> Answer | None:
        run = self._run
        inputs = run.roles.for_aggregate(self.inputs, [answer.text for answer in answers])
        predictor = run.prompts["aggregate"][-1]
        self._left -= 1
        last = run.last_call(self.layer) if self._left == 0 else None
        for agent in run._aggregators():
            step_id = StepId(self.layer, "aggregate", -1, agent.name, attempt=self._attempts)
            self._attempts += 1
            answer, failure = await run._answer(step_id, predictor, inputs, agent, last)
            if answer is not None or (failure is not None and failure.kind == "budget"):
                return answer
        return None

    def vote_key(self, answer: Answer) -> str:
        return self._run.roles.vote_key(answer.outputs)

    def record(self, name: str, answer: Answer) -> None:
        step_id = StepId(self.layer, "aggregate", -1, name, attempt=self._attempts)
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
