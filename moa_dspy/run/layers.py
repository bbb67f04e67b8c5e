"""The algorithm: layers of propose, attend, refine and aggregate, joined by residual synthesis with early stopping.

Inside a layer there are no barriers. Each step is a task that waits for exactly the steps whose text it reads, so a
critique starts as soon as the two answers it compares exist, whoever else is still writing.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import dspy

from moa_dspy.agents import Voice
from moa_dspy.architecture import Architecture
from moa_dspy.attention import critics_of
from moa_dspy.cost.guard import Spending
from moa_dspy.errors import AllProposalsFailedError
from moa_dspy.run.call import Place, Session, ask, written
from moa_dspy.run.failures import OVERFLOW, TRANSIENT
from moa_dspy.run.forecast import forecast
from moa_dspy.run.reading import is_visible
from moa_dspy.run.threads import in_thread
from moa_dspy.signatures import Roles
from moa_dspy.trace import Failure, Stage, Step, StoppedBy

__all__ = ["Answer", "Outcome", "Predictors", "run_layers"]

T = TypeVar("T")


@dataclass(frozen=True)
class Predictors:
    """The role predictors of a program: a single one where agents share it, else one per agent.

    A role that the architecture never plays has none.
    """

    propose: dspy.Predict | list[dspy.Predict]
    improve: dspy.Predict | list[dspy.Predict] | None = None
    critique: dspy.Predict | list[dspy.Predict] | None = None
    self_critique: dspy.Predict | list[dspy.Predict] | None = None
    refine: dspy.Predict | list[dspy.Predict] | None = None
    aggregate: dspy.Predict | None = None
    synthesize: dspy.Predict | None = None


@dataclass(frozen=True)
class Answer:
    """The task's outputs, and the text of them that other agents read."""

    outputs: Mapping[str, Any]
    text: str


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        answer: the last accepted output.
        layers: the accepted output of each layer, oldest first.
        improved: the decision of each residual synthesis; None where it failed.
        stopped_by: why no further layer was run.
    """

    answer: Answer
    layers: tuple[Answer, ...]
    improved: tuple[bool | None, ...]
    stopped_by: StoppedBy


@dataclass(frozen=True)
class _Run:
    """What stays the same over all layers of a run."""

    architecture: Architecture
    roles: Roles
    predictors: Predictors
    voices: tuple[Voice, ...]
    aggregator: Voice
    inputs: Mapping[str, Any]
    session: Session

    def finals(self, layer: int) -> list[Stage]:
        """Return the stages whose calls write the answer of a layer."""
        aggregated: list[Stage] = ["aggregate"] if self.architecture.aggregation == "synthesis" else []
        return [*aggregated, "synthesize"] if layer > 1 and self.architecture.synthesizes else aggregated

    def answer_text(self, outputs: Mapping[str, Any]) -> str:
        """Return the task's outputs as the text that other agents read; nothing where none of them can be seen."""
        answers = [outputs[name] for name in self.roles.voted if name in outputs]
        if all(isinstance(value, str) and not is_visible(value) for value in answers):
            return ""
        return self.roles.answer_text(outputs)


async def run_layers(
    architecture: Architecture,
    roles: Roles,
    predictors: Predictors,
    voices: tuple[Voice, ...],
    aggregator: Voice,
    inputs: Mapping[str, Any],
    session: Session,
) -> Outcome:
    """Run the program on one set of inputs.

    Raises:
        AllProposalsFailedError: in the first layer no agent answered. Later failures end the run with what there is.
        ConfigurationError: the budget is too small for a single proposal, or in dollars where a price is not known.
        StepFailedError: a step failed, and the run is strict.
    """
    run = _Run(architecture, roles, predictors, voices, aggregator, inputs, session)
    first = await _first_layer(run)
    if first is None:
        unasked = dict.fromkeys((voice.name for voice in voices), "budget: it was used up before the agent was asked")
        raise AllProposalsFailedError(_causes(session.recorder.steps) or unasked)
    accepted, improved = [first], list[bool | None]()
    stopped_by: StoppedBy = "layers"
    for layer in range(2, architecture.layers + 1):
        aggregate = await _further_layer(run, layer, accepted[-1].text)
        if aggregate is None:
            stopped_by = "failure"
            break
        if architecture.residual == "none":
            accepted.append(aggregate)
            continue
        decision, answer = await _synthesize(run, layer, [*accepted, aggregate])
        improved.append(decision)
        if answer is None:
            stopped_by = "failure"
            break
        if architecture.early_stop and not decision:
            stopped_by = "no_improvement"
            break
        accepted.append(answer)
    if session.ledger.refused:
        stopped_by = "budget"
    return Outcome(accepted[-1], tuple(accepted), tuple(improved), stopped_by)


async def _first_layer(run: _Run) -> Answer | None:
    """Return the first layer's output, with as many proposals and refinements as the budget allows."""
    agents = len(run.voices)
    critics = [critics_of(j, run.architecture.attention, agents, 1) for j in range(agents)]
    needs = await _needs(run)
    proposing, refining = run.session.ledger.first_layer([len(of_one) for of_one in critics], run.finals(1))
    kept = [critics[j] if j < refining else () for j in range(proposing)]
    at_once = run.session.ledger.at_once(needs) if needs else agents
    return await _layer(run, 1, None, kept, at_once) or await _last_resort(run, proposing)


async def _needs(run: _Run) -> list[Spending]:
    """Return what the first proposals are expected to use; nothing where the budget does not ask for it."""
    ledger = run.session.ledger
    if ledger.budget.tokens is None and ledger.budget.usd is None:
        return []
    prompts = [
        await written(run.session, _place(run, 1, "propose", agent), *_proposal(run, agent, None))
        for agent in range(len(run.voices))
    ]
    others = [run.aggregator.lm(), *run.session.recorder.lms_of_adapter]
    seconds = ledger.seconds_left("propose")
    try:
        async with asyncio.timeout(None if seconds == math.inf else seconds):
            return await in_thread(forecast, ledger.budget, prompts, others)
    except TimeoutError:
        ledger.refused = True
        return []


async def _last_resort(run: _Run, asked: int) -> Answer | None:
    """Return the first answer that an agent can still give for what the budget has left, where it is to blame.

    Agents that were not asked come first, then those whose failure may have passed, when their providers ask for it.
    """
    if not run.session.ledger.refused:
        return None
    run.session.ledger.release()
    failures = {step.agent: step.error for step in run.session.recorder.steps if step.error is not None}
    waits = {j: _wait(run, failures.get(run.voices[j].name)) for j in range(asked)}
    again = sorted((j for j in waits if waits[j] is not None), key=lambda j: waits[j] or 0.0)
    for agent in (*range(asked, len(run.voices)), *again):
        await asyncio.sleep(waits.get(agent) or 0.0)
        place = replace(_place(run, 1, "propose", agent), attempt=1)
        predictor, voice, inputs = _proposal(run, agent, None)
        answer, failure = await _answer(run, place, predictor, inputs, voice)
        if answer is not None or (failure is not None and failure.kind == "budget"):
            return answer
    return None


def _wait(run: _Run, failure: Failure | None) -> float | None:
    """Seconds after which an agent may be asked again; None where that would be no use, too long, or too late."""
    if failure is None or failure.kind not in TRANSIENT:
        return None
    wait = failure.retry_after or 0.0
    in_time = wait < run.session.ledger.seconds_left("propose")
    return wait if in_time and wait <= run.session.tolerance.patience else None


async def _further_layer(run: _Run, layer: int, previous: str) -> Answer | None:
    """Return a later layer's aggregate; None where the budget has no room for the whole layer, or no agent answered."""
    agents = len(run.voices)
    critics = [critics_of(j, run.architecture.attention, agents, layer) for j in range(agents)]
    finals = run.finals(layer)
    calls = agents + sum(len(of_one) + bool(of_one) for of_one in critics) + len(finals)
    if not run.session.ledger.further_layer(calls, finals):
        return None
    return await _layer(run, layer, previous, critics)


async def _layer(
    run: _Run, layer: int, previous: str | None, critics: Sequence[Sequence[int]], at_once: int | None = None
) -> Answer | None:
    """Return the layer's aggregate, or None where no agent answered.

    Args:
        run: what stays the same.
        layer: its number.
        previous: the previous layer's output.
        critics: for each agent that proposes, who criticises its answer.
        at_once: how many proposals start; each other waits for one of them. All where nothing is said.
    """
    agents = range(len(critics))
    first = at_once or len(critics)
    try:
        async with asyncio.TaskGroup() as group:
            proposals = list[asyncio.Task[Answer | None]]()
            for i in agents:
                before = proposals[i % first] if i >= first else None
                proposals.append(group.create_task(_propose(run, layer, i, previous, before)))
            critiques = {
                (i, j): group.create_task(_critique(run, layer, i, j, proposals)) for j in agents for i in critics[j]
            }
            refined = [
                group.create_task(_refine(run, layer, j, proposals[j], [critiques[i, j] for i in critics[j]]))
                for j in agents
            ]
            cut = await _enough(run, refined, deadline=run.session.tolerance.layer_deadline or math.inf)
            for task in (*proposals, *critiques.values(), *refined):
                task.cancel(cut)
    except BaseExceptionGroup as group_error:
        raise _first_cause(group_error) from None
    answers = [_result(refined[j]) or _result(proposals[j]) for j in agents]
    there = [answer for answer in answers if answer is not None]
    return await _aggregate(run, layer, there) if there else None


async def _enough(
    run: _Run, tasks: Sequence[asyncio.Task[Any]], *, absent: int = 0, deadline: float = math.inf
) -> str | None:
    """Wait until all tasks are done, or the quorum is there and the grace over, or time is up.

    Args:
        run: what stays the same.
        tasks: of which a quorum is enough.
        absent: how many of the agents that a quorum may lack have no task among these in any case.
        deadline: seconds.

    Returns:
        Why those that are not done are not waited for; None where all are.
    """
    tolerance, ledger, clock = run.session.tolerance, run.session.ledger, run.session.recorder.clock
    quorum = len(tasks) if tolerance.quorum is None else max(1, min(tolerance.quorum - absent, len(tasks)))
    latest = clock() + deadline
    waiting_since: float | None = None
    pending = set(tasks)
    while pending:
        there = sum(_result(task) is not None for task in tasks)
        if there >= quorum and waiting_since is None:
            waiting_since = clock()
        grace = math.inf if waiting_since is None else waiting_since + tolerance.grace - clock()
        left = ledger.seconds_left("refine")
        if left <= 0:
            ledger.refused = True
            return "the budget's time was over, but for what the layer's answer may need"
        if grace <= 0:
            return f"the quorum of {quorum} was there, and the grace of {tolerance.grace:g} s over"
        if clock() >= latest:
            return f"the layer's deadline of {deadline:g} s was over"
        # What has to be left for the layer's answer grows with the longest call: look again after half the time.
        seconds = min(latest - clock(), grace, max(left / 2, 0.01))
        _, pending = await asyncio.wait(
            pending, timeout=None if seconds == math.inf else max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED
        )
    return None


async def _propose(
    run: _Run, layer: int, agent: int, previous: str | None, before: asyncio.Task[Answer | None] | None
) -> Answer | None:
    if before is not None:
        await asyncio.wait({before})
    predictor, voice, inputs = _proposal(run, agent, previous)
    answer, _ = await _answer(run, _place(run, layer, "propose", agent), predictor, inputs, voice)
    return answer


def _proposal(run: _Run, agent: int, previous: str | None) -> tuple[dspy.Predict, Voice, dict[str, Any]]:
    """What is asked for a proposal, of whom, and the inputs."""
    if previous is None:
        predictor, inputs = run.predictors.propose, run.roles.for_propose(run.inputs)
    else:
        predictor, inputs = run.predictors.improve, run.roles.for_improve(run.inputs, previous)
    return _of_agent(predictor, agent), run.voices[agent], inputs


async def _critique(
    run: _Run, layer: int, critic: int, target: int, proposals: list[asyncio.Task[Answer | None]]
) -> str | None:
    await asyncio.wait({proposals[critic], proposals[target]})
    own, peer = _result(proposals[critic]), _result(proposals[target])
    if own is None or peer is None:
        return None
    if critic == target:
        predictor, inputs = run.predictors.self_critique, run.roles.for_self_critique(run.inputs, own.text)
    else:
        predictor, inputs = run.predictors.critique, run.roles.for_critique(run.inputs, own.text, peer.text)
    place = _place(run, layer, "critique", critic, target)
    reply = await ask(
        run.session, place, _of_agent(predictor, critic), run.voices[critic], inputs, run.roles.critique_of
    )
    return None if reply.outputs is None else run.roles.critique_of(reply.outputs)


async def _refine(
    run: _Run, layer: int, agent: int, proposal: asyncio.Task[Answer | None], tasks: list[asyncio.Task[str | None]]
) -> Answer | None:
    """Return the agent's answer after critique; its proposal where there is no critique or the refinement fails.

    A prompt that is too long for the model loses its longest critique, again and again while that is the trouble.
    """
    await asyncio.wait({proposal})
    own = _result(proposal)
    if own is None or not tasks:
        return own
    cut = await _enough(run, tasks, absent=len(run.voices) - len(tasks))
    for task in tasks:
        task.cancel(cut)  # nobody reads a critique that comes later
    critiques = [text for task in tasks if (text := _result(task)) is not None]
    attempt = 0
    while critiques:
        inputs = run.roles.for_refine(run.inputs, own.text, critiques)
        place = replace(_place(run, layer, "refine", agent, agent), attempt=attempt)
        answer, failure = await _answer(run, place, _of_agent(run.predictors.refine, agent), inputs)
        if answer is not None:
            return answer
        if failure is None or failure.kind != OVERFLOW:
            break
        critiques.remove(max(critiques, key=len))
        attempt += 1
    return own


async def _aggregate(run: _Run, layer: int, answers: list[Answer]) -> Answer:
    """Return one answer out of the agents' answers; never fails, since the one that most of them gave can stand in."""
    if run.architecture.aggregation == "none":
        return answers[0]
    if run.architecture.aggregation == "vote":
        return _vote(run, layer, answers)
    attempt = 0
    inputs = run.roles.for_aggregate(run.inputs, [answer.text for answer in answers])
    predictor = _of_agent(run.predictors.aggregate, -1)
    for attempt, voice in enumerate(_aggregators(run)):
        place = Place(layer, "aggregate", -1, voice.name, attempt=attempt)
        written, failure = await _answer(run, place, predictor, inputs, voice)
        if written is not None:
            return written
        if failure is not None and failure.kind == "budget":
            break
    return _vote(run, layer, answers, attempt + 1)


async def _synthesize(run: _Run, layer: int, rounds: list[Answer]) -> tuple[bool | None, Answer | None]:
    """Return whether the newest of ``rounds`` improves, and the synthesis; None and None where all models failed."""
    inputs = run.roles.for_synthesize(run.inputs, [answer.text for answer in rounds])
    predictor = _of_agent(run.predictors.synthesize, -1)
    for attempt, voice in enumerate(_aggregators(run)):
        place = Place(layer, "synthesize", -1, voice.name, attempt=attempt)
        reply = await ask(run.session, place, predictor, voice, inputs, run.answer_text)
        if reply.outputs is not None:
            return run.roles.decision_of(reply.outputs), _as_answer(run, reply.outputs)
        if reply.failure is not None and reply.failure.kind == "budget":
            break
    return None, None


def _vote(run: _Run, layer: int, answers: list[Answer], attempt: int = 0) -> Answer:
    """The answer that most agents gave; of equally many, the one of the agent that comes first.

    Answers count as the same where the task's own outputs are equal; a reasoning field does not vote.
    """
    clock = run.session.recorder.clock
    start = clock()
    ballots = [run.roles.ballot(answer.outputs) for answer in answers]
    winner = answers[ballots.index(Counter(ballots).most_common(1)[0][0])]
    outputs = run.roles.jsonable(winner.outputs)
    step = Step(
        layer=layer, stage="aggregate", agent="vote", text=winner.text, outputs=outputs, start=start, end=clock()
    )
    run.session.recorder.add(Place(layer, "aggregate", -1, "vote", attempt=attempt), step)
    return winner


async def _answer(
    run: _Run, place: Place, predictor: dspy.Predict, inputs: Mapping[str, Any], voice: Voice | None = None
) -> tuple[Answer | None, Failure | None]:
    voice = voice or run.voices[place.agent]
    reply = await ask(run.session, place, predictor, voice, inputs, run.answer_text)
    return (None if reply.outputs is None else _as_answer(run, reply.outputs)), reply.failure


def _as_answer(run: _Run, outputs: Mapping[str, Any]) -> Answer:
    return Answer(run.roles.task_outputs(outputs), run.roles.answer_text(outputs))


def _aggregators(run: _Run) -> list[Voice]:
    """The aggregator, then the agents on other models or other servers, to stand in for it."""
    voices: dict[tuple[str, Any], Voice] = {}
    for voice in (run.aggregator, *run.voices):
        lm = voice.lm()
        voices.setdefault((lm.model, getattr(lm, "kwargs", {}).get("api_base")), voice)
    return list(voices.values())


def _place(run: _Run, layer: int, stage: Stage, agent: int, target: int | None = None) -> Place:
    name = run.voices[agent].name
    if target is None:
        return Place(layer, stage, agent, name)
    return Place(layer, stage, agent, name, target, run.voices[target].name)


def _of_agent(predictor: dspy.Predict | list[dspy.Predict] | None, agent: int) -> dspy.Predict:
    if predictor is None:
        raise LookupError("this architecture does not play that role")
    return predictor[agent] if isinstance(predictor, list) else predictor


def _result(task: asyncio.Task[T | None]) -> T | None:
    """What a task has come to; None where it is not done, was cancelled, or came to nothing."""
    if not task.done() or task.cancelled() or task.exception() is not None:
        return None
    return task.result()


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    cause: BaseException = group
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause


def _causes(steps: tuple[Step, ...]) -> dict[str, str]:
    """What went wrong for each agent, every cause once, in order; a spent budget only where nothing else did."""
    causes: dict[str, dict[str, None]] = {}
    for step in steps:
        for failure in step.failures or ((step.error,) if step.error is not None else ()):
            causes.setdefault(step.agent, {})[f"{failure.kind}: {failure.message}"] = None
    return {agent: ", then ".join(_telling(texts)) for agent, texts in causes.items()}


def _telling(texts: Iterable[str]) -> list[str]:
    texts = list(texts)
    return [text for text in texts if not text.startswith("budget:")] or texts
