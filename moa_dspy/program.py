"""AttentionMoA: the multi-layer program as a DSPy module."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import dspy
from pydantic_core import PydanticUndefined, to_jsonable_python

import moa_dspy
from moa_dspy.agents import Agent, AgentLike, AgentSlot, agent_of, slots_of
from moa_dspy.architecture import Aggregation, Architecture, Critiques, Residual, validated
from moa_dspy.attention import Attention, check_attention
from moa_dspy.cost.budget import Budget
from moa_dspy.display import Displayed, Table
from moa_dspy.errors import ConfigurationError, InputError
from moa_dspy.files.program_file import SavedProgram, digest_of, save
from moa_dspy.files.provenance import Provenance
from moa_dspy.gate import GateChoice, gate_of
from moa_dspy.json_safe import json_safe
from moa_dspy.planning import Lengths, Plan, assumed_inputs
from moa_dspy.planning.plan import inputs_of, make_plan
from moa_dspy.prediction import Prediction
from moa_dspy.protocols import AggregationRule, AttentionPattern, StopCondition
from moa_dspy.runtime import event_loop
from moa_dspy.runtime.concurrency import nested_run
from moa_dspy.runtime.conversation import check_history
from moa_dspy.runtime.formats import most_calls
from moa_dspy.runtime.layers import Outcome, run_layers
from moa_dspy.runtime.parts import ROLES, RunParts
from moa_dspy.runtime.session import Session
from moa_dspy.runtime.streamify import streamed
from moa_dspy.runtime.tolerance import Tolerance
from moa_dspy.signatures import TaskSignature, derive_roles, needed_inputs, task_signature
from moa_dspy.trace import Trace

__all__ = ["AttentionMoA", "Prediction", "load"]

# Names that a program, its predictors or its predictions use for something else. Fields cannot have them.
_RESERVED: Final[Mapping[str, set[str]]] = {
    "input": {"budget", "completions", "config", "demos", "instance", "lm", "new_signature", "self", "signature"},
    "output": {"base", "self", "trace"},
}


class AttentionMoA(Displayed, dspy.Module):
    """Several language models answer, criticise all answers, refine, and their answers are aggregated.

    Implements Attention-MoA (arXiv 2601.16596). Simpler ensembles are the same program with parts switched off, see
    ``moa_dspy.presets``. Every role is a ``dspy.Predict`` in ``named_predictors()``, so any DSPy optimizer can tune it.

    Args:
        signature: any DSPy signature, string or class.
        agents: model strings, ``dspy.LM``s or ``Agent``s; at least one. A model may be listed several times: its
            samples are independent (at a temperature above 0) and reproducible.
        layers: L, at least 1.
        aggregator: the agent that aggregates and synthesizes. Default: the first agent's model, without its persona.
        attention: ``"full"`` (every peer and itself), ``"cross"`` (peers only), ``"disagreeing"`` (peers with another
            answer, one for each answer), ``"self"``, ``"none"``, k (itself and k peers, rotating with the layer), or a
            custom ``AttentionPattern``.
        residual: ``"synthesis"`` joins layers by residual synthesis, ``"none"`` passes a layer's aggregate on,
            ``"answers"`` passes all answers of a layer on, and the last layer is the aggregator alone (MoA).
        early_stop: whether to end the run, with the last accepted output, when a synthesis finds no improvement; or a
            custom ``StopCondition``.
        shared_prompts: one prompt per role for all agents, or one per role and agent.
        aggregation: ``"synthesis"`` (an LM writes the layer's answer), k (the same in windows of k answers), ``"vote"``
            (equal outputs are counted, without a call), ``"none"`` (the answer of the only agent), or a custom
            ``AggregationRule``.
        reasoning: whether a reasoning field precedes outputs that are not free text.
        gate: whether the run ends with its proposals if they agree: ``"off"``, ``"unanimous"`` (all answers are equal)
            or a ``Gate``.
        critiques: ``"single"`` (one call for each critique) or ``"joint"`` (a critic writes all its critiques in one
            call; those missing in the reply are asked for singly).
        dissent: whether one last call states consensus, contradictions, unique points and blind spots of the agents'
            answers, in ``trace.dissent_report``. It is not made if all answers are equal.
        budget: limit of one run's spending; a call may narrow it with ``budget=``.
        tolerance: timeouts, retries, deadlines, quorum, strictness.

    Attributes:
        provenance: the recorded origin of the program, or None. It is saved and loaded with the program.

    Raises:
        ConfigurationError: if an argument does not fit. The message says what to do.
    """

    provenance: Provenance | None

    def __init__(
        self,
        signature: str | TaskSignature,
        agents: Sequence[AgentLike],
        *,
        layers: int = 2,
        aggregator: AgentLike | None = None,
        attention: Attention | AttentionPattern = "full",
        residual: Residual = "synthesis",
        early_stop: bool | StopCondition = True,
        shared_prompts: bool = True,
        aggregation: Aggregation | int | AggregationRule = "synthesis",
        reasoning: bool = True,
        gate: GateChoice = "off",
        critiques: Critiques = "single",
        dissent: bool = False,
        budget: Budget | None = None,
        tolerance: Tolerance | None = None,
    ) -> None:
        super().__init__()
        if isinstance(agents, (str, dspy.BaseLM, Agent)) or not isinstance(agents, Sequence):
            raise ConfigurationError(f"agents is a list of models, not {agents!r}; write agents=[...]")
        if not agents:
            raise ConfigurationError("agents is empty; give at least one model, for example agents=['local']")
        self.agents = tuple(agent_of(agent) for agent in agents)
        self.aggregator = None if aggregator is None else agent_of(aggregator)
        self._slots = slots_of(self.agents)
        # Without a model of its own, the aggregator is the first agent's model without its persona.
        aggregates = self.aggregator or replace(self.agents[0], name="aggregator", persona=None, module=None)
        self._aggregator = AgentSlot(aggregates.name or "aggregator", aggregates, 0)
        self.architecture = validated(
            Architecture,
            {
                "agents": [slot.agent.spec(slot.name) for slot in self._slots],
                "layers": layers,
                "aggregator": None if self.aggregator is None else self.aggregator.spec(self._aggregator.name),
                "attention": check_attention(attention, len(self.agents)),
                "residual": residual,
                "early_stop": early_stop,
                "shared_prompts": shared_prompts,
                "aggregation": aggregation,
                "reasoning": reasoning,
                "gate": gate_of(gate),
                "critiques": critiques,
                "dissent": dissent,
            },
        )
        self.task = _without_reserved_names(task_signature(signature))
        self._needed = needed_inputs(self.task)
        self.roles = derive_roles(self.task, reasoning=reasoning)
        self.budget = Budget.of(budget)
        self.tolerance = Tolerance.of(tolerance)
        self.provenance = None
        self._make_predictors()

    def _make_predictors(self) -> None:
        """Create the predictors of the roles that this architecture uses, in canonical order."""
        shape, roles, critics = self.architecture, self.roles, self.architecture.critics_by_layer
        pairs = {(i == j) for layer in critics for j, of_one in enumerate(layer) for i in of_one}
        critics_of_others, critics_of_self = False in pairs, True in pairs
        self.propose = self._per_agent(roles.propose)
        if shape.proposing_layers > 1:
            self.improve = self._per_agent(roles.aggregate if shape.residual == "answers" else roles.improve)
        if critics_of_others:
            self.critique = self._per_agent(roles.critique)
        if critics_of_self:
            self.self_critique = self._per_agent(roles.self_critique)
        if shape.critiques == "joint" and any(shape.critique_calls(one) < sum(map(len, one)) for one in critics):
            self.joint_critique = self._per_agent(roles.joint_critique)
        if critics_of_others or critics_of_self:
            self.refine = self._per_agent(roles.refine)
        if shape.aggregates:
            self.aggregate = dspy.Predict(roles.aggregate)
        if shape.synthesizes:
            self.synthesize = dspy.Predict(roles.synthesize)
        if shape.gate_calls and roles.compares_text:
            self.agree = dspy.Predict(roles.agree)
        if shape.reports_dissent:
            self.dissent = dspy.Predict(roles.dissent)

    def _per_agent(self, signature: TaskSignature) -> dspy.Predict | list[dspy.Predict]:
        if self.architecture.shared_prompts:
            return dspy.Predict(signature)
        return [dspy.Predict(signature) for _ in self.agents]

    @property
    def signature(self) -> TaskSignature:
        """Return the task's signature, including an added reasoning field."""
        return self.roles.task

    def forward(self, *args: Any, budget: Budget | None = None, **inputs: Any) -> Prediction:
        """Run the program on the task's input fields, and block until it ends.

        Can be called from any thread, and inside a running event loop. Arguments and errors are those of ``aforward``.
        """
        return event_loop.run(lambda: self.aforward(*args, budget=budget, **inputs))

    async def aforward(self, *args: Any, budget: Budget | None = None, **inputs: Any) -> Prediction:
        """Run the program on the task's input fields.

        Args:
            *args: must be empty; inputs are given by name.
            budget: budget of this run; it narrows the program's own.
            **inputs: the task's inputs, by name.

        Raises:
            InputError: if a field is missing or unknown.
            ConfigurationError: if an agent has no model.
            AllProposalsFailedError: if no agent answered.
            StepFailedError: if a step failed and ``tolerance.strict`` is set.
        """
        if args:
            raise InputError(f"give the inputs by name: {', '.join(f'{name}=...' for name in self.task.input_fields)}")
        values, stream = self._checked(inputs), dspy.settings.send_stream
        if stream is None:
            return await self._answer(values, budget)
        return await streamed(stream, self.task, lambda: self._answer(values, budget))

    async def _answer(self, values: Mapping[str, Any], budget: Budget | None) -> Prediction:
        allowed = self.budget if budget is None else self.budget.within(budget)
        session = Session(self._parts(), values, allowed, self.tolerance)
        outcome = Outcome()
        try:
            async with nested_run():
                outcome = await run_layers(session)
        except asyncio.CancelledError:
            outcome = replace(outcome, stopped_by="cancelled")
            raise
        finally:
            trace = self._trace(outcome, session)
            for watcher in session.watchers:
                watcher(trace)
        return Prediction(**outcome.layers[-1].outputs, trace=trace)

    def _parts(self) -> RunParts:
        """Return the parts of a run. Agents without a model are numbered as samples of the one of DSPy's settings."""
        agents = self._slots
        if any(agent.agent.lm is None for agent in agents):
            counted = slots_of(self.agents, dspy.settings.lm)
            agents = tuple(replace(one, sample=other.sample) for one, other in zip(agents, counted, strict=True))
        used = {role: part for role in ROLES if (part := vars(self).get(role)) is not None}
        predictors = {role: part if isinstance(part, list) else [part] * len(agents) for role, part in used.items()}
        return RunParts(self.architecture, self.roles, predictors, agents, self._aggregator)

    def plan(
        self,
        example: Mapping[str, Any] | dspy.Example | None = None,
        /,
        *,
        budget: Budget | None = None,
        lengths: Lengths | None = None,
        times: int = 1,
        seconds_per_call: float | None = None,
        **inputs: Any,
    ) -> Plan:
        """Return the steps and cost of a run, without calling any LM.

        Args:
            example: the inputs, as an example or a mapping. Without inputs, their lengths are assumed.
            budget: budget of that run; it narrows the program's own.
            lengths: assumed lengths of model outputs, in tokens.
            times: number of questions in the totals.
            seconds_per_call: latency of an LM call, for an estimate of the wall time.
            **inputs: the task's inputs, by name.

        Raises:
            InputError: if only some inputs are given, or one is unknown.
            ConfigurationError: if an agent has no model, a prompt cannot be written, or an option is out of range.
        """
        lengths = lengths or Lengths()
        given = inputs_of(example, inputs)
        return make_plan(
            self._parts(),
            self._checked(given or assumed_inputs(self.signature, lengths)),
            assumed=not given,
            budget=self.budget.within(budget),
            lengths=lengths,
            times=times,
            seconds_per_call=seconds_per_call,
        )

    @property
    def most_calls(self) -> int:
        """Return the largest number of LM calls of a run without failures and repeated calls, within its budget.

        It counts a second request for every reply that cannot be read; ``architecture.max_calls`` does not.
        """
        most = most_calls(self.architecture, self.roles, dspy.settings.adapter)
        return most if self.budget.calls is None else min(most, self.budget.calls)

    def _facts(self) -> Mapping[str, Any]:
        shape = self.architecture
        return {
            "task": self.task.signature,
            "agents": ", ".join(slot.name for slot in self._slots),
            "layers": shape.layers,
            "attention": str(shape.attention),
            "aggregation": str(shape.aggregation),
            "max_calls": shape.max_calls,
            "most_calls": self.most_calls,
        }

    def _tables(self) -> Sequence[Table]:
        predictors: list[tuple[str, Any]] = list(self.named_predictors())
        prompts = [(name, one.signature.instructions, len(one.demos)) for name, one in predictors]
        agents = [spec.model_dump(include={"name", "model", "temperature"}) for spec in self.architecture.agents]
        return [
            Table("agents", ("agent", "model", "temperature"), [tuple(agent.values()) for agent in agents]),
            Table("prompts", ("predictor", "instructions", "demos"), prompts),
            *([Table("provenance", ("", ""), self.provenance.rows())] if self.provenance else []),
        ]

    def _digest(self) -> str | None:
        """Return the digest of the program, or None if it cannot be written to a file."""
        with contextlib.suppress(ConfigurationError, TypeError, ValueError, RecursionError):
            return None if self.architecture.custom_parts else digest_of(self)
        return None

    def _trace(self, outcome: Outcome, session: Session) -> Trace:
        return Trace(
            steps=session.finish(),
            outputs=tuple(self.roles.jsonable(layer.outputs) for layer in outcome.layers),
            improved=outcome.improved,
            stopped_by=outcome.stopped_by,
            agreement=outcome.agreement,
            positions=outcome.positions,
            dissent_report=outcome.dissent_report,
            seconds=session.clock() - session.began,
            inputs={name: to_jsonable_python(value, fallback=str) for name, value in session.inputs.items()},
            program=self._digest(),
            version=moa_dspy.__version__,
            date=session.date,
        )

    def _checked(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        fields = self.signature.input_fields
        known = ", ".join(fields)
        unknown = [name for name in inputs if name not in fields]
        if unknown:
            raise InputError(f"unknown input {', '.join(unknown)}; the task's inputs are: {known}")
        missing = [name for name in self._needed if inputs.get(name) is None]
        if missing:
            raise InputError(f"input {', '.join(missing)} is missing or None; the task's inputs are: {known}")
        values = {name: json_safe(value) if isinstance(value, str) else value for name, value in inputs.items()}
        for name, field in fields.items():
            if field.annotation is dspy.History:
                values[name] = check_history(name, values.get(name), self.task)
            elif name not in values and field.default is not PydanticUndefined:
                values[name] = field.default
        return values

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Return the predictors by name, as DSPy does, but without looking for them in the history of calls.

        The history is long after many questions, and each trace asks for the predictors.
        """
        without_history: Any = object.__new__(type(self))
        without_history.__dict__.update((name, value) for name, value in vars(self).items() if name != "history")
        return super(AttentionMoA, without_history).named_parameters()  # pyright: ignore[reportAttributeAccessIssue]

    def get_lm(self) -> dspy.BaseLM:
        """Return the LM set by ``set_lm``, whose rollouts the agents follow, or the aggregator's."""
        first = self.propose[0] if isinstance(self.propose, list) else self.propose
        return first.lm or self._aggregator.lm()

    def save(self, path: str | Path, save_program: bool = False, modules_to_serialize: list[Any] | None = None) -> None:
        """Write the whole program (architecture, prompts, demos, versions) to one JSON file.

        Args:
            path: the file. An existing file is replaced atomically.
            save_program: must be False; a program file needs no pickle.
            modules_to_serialize: must be None.

        Raises:
            ConfigurationError: if pickle is requested, the program has custom objects, or the file cannot be written.
        """
        if save_program or modules_to_serialize or Path(path).suffix == ".pkl":
            raise ConfigurationError("programs are saved as one JSON file and never pickled; use save('program.json')")
        save(self, path)

    def load(
        self,
        path: str | Path,
        allow_pickle: bool = False,
        allow_unsafe_lm_state: bool = False,
        *,
        vectorizers: Collection[str] = (),
    ) -> None:
        """Load prompts and demos from a program file into this program, which must have the same predictors.

        To rebuild a program from the file alone, use ``moa_dspy.load``.

        Args:
            path: the file.
            allow_pickle: not used, because program files hold no code.
            allow_unsafe_lm_state: not used, because program files hold no LM.
            vectorizers: see ``moa_dspy.load``.

        Raises:
            ProgramFileError: if the file is damaged, foreign or of a newer format, or has other fields or predictors.
        """
        del allow_pickle, allow_unsafe_lm_state  # unused: program files hold no code and no LM
        SavedProgram.read(path).set_prompts(self, vectorizers)

    def replace(self, **changes: Any) -> Self:
        """Return a changed copy of the program.

        The copy keeps architecture, agents, budget, tolerance and provenance. Unless the signature changes, it also
        keeps the prompts and demos of each role that both programs have with the same fields. An agent keeps its own
        prompts if it is the same object or has the same name. If the number of agents is unchanged, other agents take
        the prompts of the agent in their position.

        Args:
            **changes: arguments of ``AttentionMoA``, such as ``layers=1``, ``agents=[...]`` or ``signature=...``.

        Raises:
            ConfigurationError: if the changed arguments do not fit together.
        """
        options = {**dict(self.architecture), "signature": self.task, "agents": self.agents}
        options |= {"aggregator": self.aggregator, "budget": self.budget, "tolerance": self.tolerance, **changes}
        changed = copy.copy(self)
        for role in vars(self).keys() & set(ROLES):
            delattr(changed, role)
        AttentionMoA.__init__(changed, **options)
        changed.provenance = self.provenance
        if "signature" not in changes:
            count = len(changed.agents)
            changed.take_prompts(self, [self._number_of(agent, at, count) for at, agent in enumerate(changed.agents)])
        return changed

    @property
    def named_agents(self) -> list[Agent]:
        """Return the agents with their names in this program."""
        return [replace(slot.agent, name=slot.name) for slot in self._slots]

    def take_prompts(self, source: AttentionMoA, numbers: Sequence[int | None]) -> None:
        """Copy the prompts and demos of another program, for the roles that both have with the same fields.

        Args:
            source: the other program.
            numbers: for each agent of this program, its index among the agents of ``source``, or None. An agent with
                None takes shared prompts, but no other agent's prompts.
        """
        first = next((number for number in numbers if number is not None), 0)
        for role in ROLES:
            own, other = vars(self).get(role), vars(source).get(role)
            if isinstance(own, list):
                setattr(self, role, [_prompt(one, other, at) for one, at in zip(own, numbers, strict=True)])
            elif own is not None:
                setattr(self, role, _prompt(own, other, first))

    def _number_of(self, agent: Agent, position: int, agents: int) -> int | None:
        """Return the index here of ``agent``, which is at ``position`` in another program with ``agents`` agents."""
        for number, slot in enumerate(self._slots):
            if agent is slot.agent or (agent.name is not None and agent.name == slot.name):
                return number
        return position if agents == len(self.agents) else None


def _prompt(own: Any, other: Any, number: int | None) -> dspy.Predict:
    """Return a copy of the other program's predictor if it has the same fields, else ``own``."""
    if isinstance(other, list):
        other = None if number is None else other[number]
    if other is None or other.signature.fields.keys() != own.signature.fields.keys():
        return own
    return other.deepcopy()


def load(
    path: str | Path,
    lms: Mapping[str, dspy.BaseLM] | None = None,
    *,
    vectorizers: Collection[str] = (),
    modules: Collection[str] = (),
) -> AttentionMoA:
    """Rebuild a program from its file alone.

    Args:
        path: a file that ``AttentionMoA.save`` wrote.
        lms: LMs with connections (address, key), by agent name or by model string. Other agents get the model that the
            file names, with the provider's usual environment variables.
        vectorizers: names of embedding models that the program may ask to choose demos. They get the inputs and are
            paid. A file that asks for another one is refused.
        modules: places of modules that the file may use for proposals, as ``package.module:name``. Their code is
            imported. A file that names another one is refused.

    Raises:
        ProgramFileError: if the file is missing, damaged, foreign or of a newer format.
        ConfigurationError: if ``lms`` names an agent or model that the program does not have, or the file asks for an
            embedding model or a module that is not allowed, or whose code is missing.
    """
    saved = SavedProgram.read(path)
    agents, aggregator = saved.agents(lms or {}, modules)
    options: dict[str, Any] = {**dict(saved.architecture), "agents": agents, "aggregator": aggregator}
    with saved.refusing_damage():
        program = AttentionMoA(saved.task, **options)
    saved.set_prompts(program, vectorizers)
    program.provenance = saved.provenance
    return program


def _without_reserved_names(task: TaskSignature) -> TaskSignature:
    for kind, fields in (("input", task.input_fields), ("output", task.output_fields)):
        taken = sorted(_RESERVED[kind] & fields.keys())
        if taken:
            raise ConfigurationError(f"a task cannot have an {kind} called {taken[0]!r}; rename the field")
    return task
