"""Run the real algorithm with placeholders instead of models.

Every prompt is written but not sent. Each reply is a placeholder of an assumed length.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import dataclasses
import itertools
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import dspy

from moa_dspy._dspy import preprocess
from moa_dspy.agents import AgentSlot
from moa_dspy.cost.budget import Budget
from moa_dspy.cost.prices import PriceTable
from moa_dspy.cost.tokens import TokenCounter
from moa_dspy.errors import ConfigurationError, StepFailedError
from moa_dspy.planning.lengths import Lengths, placeholder, words
from moa_dspy.positions import DissentReport
from moa_dspy.runtime.embeddings import Embeddings
from moa_dspy.runtime.formats import adapters_for, most_requests
from moa_dspy.runtime.knn_demos import WORDS, Nearest, demos_of_median_length
from moa_dspy.runtime.layers import run_layers
from moa_dspy.runtime.parts import RunParts
from moa_dspy.runtime.session import Session
from moa_dspy.runtime.shared_prefix import keeps, rereading, shared_text
from moa_dspy.runtime.tolerance import Tolerance
from moa_dspy.signatures import TaskSignature
from moa_dspy.trace import Step, StoppedBy

__all__ = ["Rehearsal"]

_REVIEWED: Final = re.compile(r"<answer number=")
# After this many turns of the event loop without a new call, all calls that can run at once have started.
_QUIET_TURNS: Final = 20


@dataclass
class Rehearsal:
    """Rehearse a program on one set of inputs. The program is not changed. ``assumed`` inputs are placeholders.

    Attributes:
        prices: prices of the models.
        counter: counts tokens.
        cut_at: by model, each ``max_tokens`` that shortened an assumed text.
        unknown_demos: the numbers of nearest demos that are unknown before a run.
        embedding_models: the models that choose demos.
        configured: the adapter that DSPy is configured with.
    """

    parts: RunParts
    inputs: Mapping[str, Any]
    lengths: Lengths
    assumed: bool = False
    prices: PriceTable = field(default_factory=PriceTable)
    counter: TokenCounter = field(default_factory=TokenCounter)
    cut_at: dict[str, set[int]] = field(default_factory=dict)
    unknown_demos: set[int] = field(default_factory=set)
    embedding_models: set[str] = field(default_factory=set)
    configured: dspy.Adapter | None = field(default_factory=lambda: dspy.settings.adapter)

    def run(
        self, budget: Budget, *, improved: bool = True, distinct: int | None = None
    ) -> tuple[tuple[Step, ...], StoppedBy]:
        """Return the steps of a run without models, and why it ended.

        Args:
            budget: the limits of the run. A limit of seconds is ignored, because a rehearsal takes no time.
            improved: the decision of every residual synthesis.
            distinct: number of different proposals in a layer; None if each differs from all others.

        Raises:
            ConfigurationError: if an agent has no model, a prompt cannot be written, or the budget does not cover one
                proposal.
        """
        adapter = _StandIns(self, self.configured, improved=improved)
        parts = dataclasses.replace(
            self.parts,
            predictors={
                role: [self._with_known_demos(one) for one in of_role]
                for role, of_role in self.parts.predictors.items()
            },
            agents=tuple(adapter.replace_lm(agent) for agent in self.parts.agents),
            aggregator=adapter.replace_lm(self.parts.aggregator),
            key_of=lambda agent, _: str(agent if distinct is None else agent % distinct),
        )

        async def perform() -> tuple[tuple[Step, ...], StoppedBy]:
            unseen: dict[str, Any] = {"callbacks": [], "caller_modules": [], "trace": None, "send_stream": None}
            unseen |= {"usage_tracker": None, "track_usage": False, "warn_on_type_mismatch": False}
            with dspy.context(lm=None, adapter=adapter, **unseen):
                tolerance = Tolerance(timeout=None, retries=0, strict=True)
                session = Session(parts, self.inputs, dataclasses.replace(budget, seconds=None), tolerance)
                session.embeddings = Embeddings(assumed=True, in_dollars=budget.usd is not None)
                outcome = await run_layers(session)
            return session.steps, outcome.stopped_by

        # A separate thread has its own contextvars, so callbacks and watchers do not see the rehearsal. It also works
        # inside a running event loop.
        try:
            with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="moa-dspy-plan") as pool:
                return pool.submit(lambda: asyncio.run(perform())).result()
        except StepFailedError as error:
            raise ConfigurationError(f"the prompt to {error.stage} by {error.agent} cannot be made: {error}") from error

    def most_calls_of(self, step: Step) -> int:
        """Return the calls of a rehearsed step if no reply can be read at once.

        If a joint critique lacks some of its critiques, they are asked for singly.
        """
        requests = most_requests(getattr(self.parts.roles, step.stage), self.configured)
        spare = 0
        if step.stage == "critique" and step.target is None:
            critics = itertools.chain.from_iterable(self.parts.architecture.critics(step.layer))
            spare = sum(self.parts.agents[number].name == step.agent for number in critics)
        return (step.calls + spare) * requests

    def _with_known_demos(self, predictor: dspy.Predict) -> dspy.Predict:
        """Return ``predictor``, or a copy with demos of median length if its nearest demos are unknown."""
        nearest = Nearest.of(predictor)
        if nearest is None or len(predictor.demos) <= nearest.k:
            return predictor
        # A placeholder has no nearest demos, and a custom vectorizer may be a model.
        if nearest.vectorizer == WORDS and not self.assumed:
            return predictor
        self.unknown_demos.add(nearest.k)
        if nearest.embedding_model is not None:  # its calls are rehearsed
            self.embedding_models.add(nearest.embedding_model)
            return predictor
        typical = copy.copy(predictor)
        typical.demos = demos_of_median_length(predictor, nearest.k)
        Nearest.set_on(typical, None)
        return typical


class _StandIns(dspy.Adapter):
    """Write each prompt with the adapter of a real run, and return placeholders as the reply.

    Calls that can run at once are answered at once, so the budget is spent in the same order as in a run.
    """

    def __init__(self, rehearsal: Rehearsal, configured: dspy.Adapter | None, *, improved: bool) -> None:
        super().__init__()
        self._roles, self._lengths = rehearsal.parts.roles, rehearsal.lengths
        self._rehearsal, self._configured, self._improved = rehearsal, configured, improved
        self._writer: dspy.Adapter = self
        self._started = 0
        self._models: list[str] = []  # of the agents and the aggregator
        self._read: set[tuple[str, str]] = set()  # by model, what an earlier call has read
        self._gate: asyncio.Future[None] | None = None
        self._opening: asyncio.Task[None] | None = None

    def replace_lm(self, agent: AgentSlot) -> AgentSlot:
        """Return ``agent`` with an LM that reports the usage of a call instead of making it."""
        lm = agent.lm()
        self._models.append(lm.model)

        async def report(usage: dict[str, Any], usd: float | None) -> None:
            await self._all_started()
            # DSPy reports a billed call to the usage tracker, then to the histories of the calling modules. The first
            # of them is the meter of the step.
            dspy.settings.usage_tracker.add_usage(lm.model, usage)
            dspy.settings.caller_modules[0].history.append({"model": lm.model, "cost": usd})

        stand_in: Any = lm.copy()
        stand_in.acall = report
        return dataclasses.replace(agent, agent=dataclasses.replace(agent.agent, lm=stand_in, module=None))

    def _call_preprocess(
        self, lm: dspy.BaseLM, lm_kwargs: dict[str, Any], signature: Any, inputs: dict[str, Any]
    ) -> Any:
        """Prepare the call with the run's adapter for this role. ``format`` then uses the same adapter."""
        self._writer = adapters_for(signature, lm, self._configured)[0]
        return preprocess(self._writer, lm, lm_kwargs, signature, inputs)

    def format(self, signature: Any, demos: list[dict[str, Any]], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the messages of the call prepared last."""
        return self._writer.format(signature, demos, inputs)

    async def acall(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: TaskSignature,
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        """Write the prompt of one call, report its usage and cost, and return placeholders of its outputs."""
        sent: Any = self._call_preprocess(lm, dict(lm_kwargs), signature, inputs)
        writer = self._writer
        prompt = self._rehearsal.counter.count(lm.model, self.format(sent, demos, inputs))
        limit = _max_tokens({**getattr(lm, "kwargs", {}), **lm_kwargs})
        reviewed = len(_REVIEWED.findall("".join(map(str, inputs.values()))))
        outputs, completion = self._reply(writer, lm.model, signature, limit, reviewed)
        kept = "" if demos else self._kept(lm, lm_kwargs, signature, inputs)
        cached = self._rehearsal.counter.count(lm.model, kept) if (lm.model, kept) in self._read else 0
        details = {"cached_tokens": cached}
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
        report: Any = lm.acall
        await report(usage, self._rehearsal.prices.cost(lm, prompt, completion))
        if kept:
            self._read.add((lm.model, kept))
        return [outputs]

    def _kept(self, lm: dspy.BaseLM, options: Mapping[str, Any], signature: TaskSignature, inputs: Any) -> str:
        """Return the part of a prompt that the provider keeps for the next call; empty if none."""
        if not getattr(self._writer, "inputs_first", False):
            return ""
        reread = lm.model in rereading(self._rehearsal.parts.architecture, self._models[:-1], self._models[-1])
        return shared_text(signature, inputs) if keeps(lm, options, reread=reread) else ""

    def _reply(
        self, writer: dspy.Adapter, model: str, signature: TaskSignature, limit: int, reviewed: int
    ) -> tuple[dict[str, Any], int]:
        """Return the outputs and their tokens, including the format around them.

        A joint critique is about ``reviewed`` answers.
        """
        fields, names, assumed = signature.output_fields, self._roles.names, self._lengths
        kinds = {names["critique"]: assumed.critique, "reasoning": assumed.reasoning}
        kinds[names["critiques"]] = assumed.critique * reviewed
        kinds |= dict.fromkeys((names[name] for name in DissentReport.model_fields), assumed.critique)
        wanted = {name: kinds.get(name, assumed.answer) for name in fields}
        lengths = {name: min(length, limit) for name, length in wanted.items()}
        outputs = {name: placeholder(field.annotation, words(lengths[name])) for name, field in fields.items()}
        if names["improved"] in outputs:
            outputs[names["improved"]] = self._improved
        if names["same"] in outputs:
            outputs[names["same"]] = False  # equal answers are not compared by a call
        if names["critiques"] in outputs:
            each = words(max(1, lengths[names["critiques"]] // max(1, reviewed)))
            outputs[names["critiques"]] = "\n\n".join(f"Answer {number}:\n{each}" for number in range(1, reviewed + 1))
            lengths[names["critiques"]] = self._rehearsal.counter.count(model, outputs[names["critiques"]])
        texts = [name for name in fields if outputs[name] == words(lengths[name])]
        frame = _formatted(writer, signature, {**outputs, **dict.fromkeys(texts, "")})
        around = self._rehearsal.counter.count(model, frame)
        completion = around + sum(lengths[name] for name in texts) + assumed.thinking
        if completion > limit or any(lengths[name] < wanted[name] for name in texts):
            self._rehearsal.cut_at.setdefault(model, set()).add(limit)
        return outputs, min(completion, limit)

    async def _all_started(self) -> None:
        """Wait until no further call starts."""
        self._started += 1
        if self._gate is None:
            self._gate = asyncio.get_running_loop().create_future()
            self._opening = asyncio.create_task(self._open(self._gate))
        await asyncio.shield(self._gate)

    async def _open(self, gate: asyncio.Future[None]) -> None:
        started, quiet = self._started, 0
        while quiet < _QUIET_TURNS:
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._started == started else 0
            started = self._started
        self._gate = None
        gate.set_result(None)


def _max_tokens(options: Mapping[str, Any]) -> int:
    limits = [options[name] for name in ("max_tokens", "max_completion_tokens") if options.get(name) is not None]
    return min(limits, default=sys.maxsize)


def _formatted(adapter: dspy.Adapter, signature: TaskSignature, outputs: Mapping[str, Any]) -> str:
    try:
        return str(adapter.format_assistant_message_content(signature, dict(outputs)))
    except NotImplementedError:  # some adapters do not write demos
        return "\n".join(str(value) for value in outputs.values())
