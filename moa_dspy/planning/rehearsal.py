"""The rehearsal: the program itself, run on stand-ins that report assumed usage instead of calling a model."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import dspy

from moa_dspy.agents import Agent
from moa_dspy.cost.budget import Budget
from moa_dspy.cost.prices import PriceTable
from moa_dspy.cost.tokens import TokenCounter
from moa_dspy.errors import ConfigurationError, StepFailedError
from moa_dspy.planning.demos import with_settled_demos
from moa_dspy.planning.inputs import placeholder, words
from moa_dspy.planning.lengths import Lengths
from moa_dspy.run.adapters import adapters_for
from moa_dspy.run.layers import Predictors
from moa_dspy.run.tolerance import Tolerance
from moa_dspy.trace import Trace

if TYPE_CHECKING:
    from moa_dspy.program import AttentionMoA
    from moa_dspy.signatures import TaskSignature

__all__ = ["Rehearsal"]

# Turns of the event loop without a new call after which all calls that can be under way at once are.
_QUIET_TURNS: Final = 20

_Part: TypeAlias = "dspy.Predict | list[dspy.Predict] | None"


@dataclass(frozen=True)
class Rehearsal:
    """A program, to be rehearsed on one set of inputs.

    Attributes:
        program: what is rehearsed; it is not changed.
        inputs: all of its task's.
        lengths: of what nobody has written yet.
        assumed: whether the inputs are placeholders.
        prices: of the models.
        counter: of the tokens.
        cut_at: each ``max_tokens`` that cut what a model was assumed to write, by model.
    """

    program: AttentionMoA
    inputs: Mapping[str, Any]
    lengths: Lengths
    assumed: bool = False
    prices: PriceTable = field(default_factory=PriceTable)
    counter: TokenCounter = field(default_factory=TokenCounter)
    cut_at: dict[str, set[int]] = field(default_factory=dict)

    def run(self, budget: Budget, *, improving: bool = True) -> Trace:
        """Return the trace of a run without models.

        Args:
            budget: what it keeps to; a limit of seconds is left aside, as a rehearsal takes no time.
            improving: what every residual synthesis decides.
        """
        prompter = _Prompter(self, dspy.settings.adapter, improving)
        double = self._double(prompter)
        double.budget = dataclasses.replace(budget, seconds=None)
        double.tolerance = Tolerance(timeout=None, retries=0, strict=True)
        settings: dict[str, Any] = {
            "lm": None,
            "adapter": prompter,
            "callbacks": [],
            "caller_modules": [],
            "trace": None,
            "usage_tracker": None,
            "track_usage": False,
            "send_stream": None,
            "warn_on_type_mismatch": False,
        }

        async def perform() -> Trace:
            with dspy.context(**settings):
                return (await double.aforward(**self.inputs)).trace

        # In a thread, and so in a context, of its own: nobody who watches runs or calls sees a rehearsal, it holds up
        # no run that goes on, and it may be asked for from inside a running event loop.
        try:
            with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="moa-dspy-plan") as pool:
                return pool.submit(lambda: asyncio.run(perform())).result()
        except StepFailedError as error:
            raise ConfigurationError(f"the prompt to {error.stage} by {error.agent} cannot be made: {error}") from error

    def _double(self, prompter: _Prompter) -> AttentionMoA:
        """Return the program with stand-ins for its models; it shares everything else, and changes none of it."""
        ambient = dspy.settings.lm

        def understudied(agent: Agent) -> Agent:
            lm = ambient if agent.lm is None else agent.lm
            return dataclasses.replace(agent, lm=prompter.stand_in(lm)) if isinstance(lm, dspy.BaseLM) else agent

        program, double = self.program, copy.copy(self.program)
        double.agents = tuple(understudied(agent) for agent in program.agents)
        double.aggregator = None if program.aggregator is None else understudied(program.aggregator)
        double._voices = tuple(
            dataclasses.replace(voice, agent=agent) for voice, agent in zip(program._voices, double.agents, strict=True)
        )
        for name in Predictors.__dataclass_fields__:
            setattr(double, name, self._settled(vars(program).get(name)))
        return double

    def _settled(self, part: _Part) -> _Part:
        if part is None:
            return None
        if isinstance(part, list):
            return [with_settled_demos(predictor, assumed=self.assumed) for predictor in part]
        return with_settled_demos(part, assumed=self.assumed)


class _Prompter(dspy.Adapter):
    """Writes every prompt as the run's adapter would, and returns what a model is assumed to write.

    Calls that can be under way at once are answered at once, so that a budget is spent in the order of a run.
    """

    def __init__(self, rehearsal: Rehearsal, configured: dspy.Adapter | None, improving: bool) -> None:
        super().__init__()
        self._roles, self._lengths = rehearsal.program.roles, rehearsal.lengths
        self._rehearsal, self._configured, self._improving = rehearsal, configured, improving
        self._writer: dspy.Adapter = self
        self._arrived = 0
        self._gate: asyncio.Future[None] | None = None
        self._opening: asyncio.Task[None] | None = None

    def _call_preprocess(
        self, lm: dspy.BaseLM, lm_kwargs: dict[str, Any], signature: Any, inputs: dict[str, Any]
    ) -> Any:
        """Get ready as the adapter does that a run would use for this role; ``format`` is then that adapter's."""
        self._writer = adapters_for(signature, lm, self._configured)[0]
        return self._writer._call_preprocess(lm, lm_kwargs, signature, inputs)

    def format(self, signature: Any, demos: list[dict[str, Any]], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Write the messages of a call that was prepared just before."""
        return self._writer.format(signature, demos, inputs)

    def stand_in(self, lm: dspy.BaseLM) -> dspy.BaseLM:
        """Return a copy of ``lm`` that answers no prompt and reports what a call would have used."""

        async def report(usage: dict[str, int], usd: float | None) -> None:
            await self._together()
            # As DSPy reports a billed call: to the usage tracker, then to the histories of the calling modules, of
            # which the first is the meter of the step.
            dspy.settings.usage_tracker.add_usage(lm.model, usage)
            dspy.settings.caller_modules[0].history.append({"cost": usd})

        double: Any = lm.copy()
        double.acall = report
        return double

    async def acall(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: TaskSignature,
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        """Write the prompt of one call, enter what it would cost, and return placeholders of its outputs."""
        sent: Any = self._call_preprocess(lm, dict(lm_kwargs), signature, inputs)
        adapter = self._writer
        prompt = self._rehearsal.counter.count(lm.model, self.format(sent, demos, inputs))
        limit = _limit({**getattr(lm, "kwargs", {}), **lm_kwargs})
        outputs, completion = self._reply(adapter, lm.model, signature, limit)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion}
        report: Any = lm.acall  # of a stand-in, within what the step puts around each call
        await report(usage, self._rehearsal.prices.cost(lm, prompt, completion))
        return [outputs]

    def _reply(
        self, adapter: dspy.Adapter, model: str, signature: TaskSignature, limit: int | None
    ) -> tuple[dict[str, Any], int]:
        """Return the outputs and their tokens, the format around them included."""
        fields = signature.output_fields
        wanted = {name: self._length(name) for name in fields}
        lengths = {name: length if limit is None else min(length, limit) for name, length in wanted.items()}
        outputs = {name: self._output(name, field.annotation, lengths[name]) for name, field in fields.items()}
        texts = [name for name in fields if outputs[name] == words(lengths[name])]
        frame = _formatted(adapter, signature, {**outputs, **dict.fromkeys(texts, "")})
        around = self._rehearsal.counter.count(model, frame)
        completion = around + sum(lengths[name] for name in texts) + self._lengths.thinking
        if limit is None:
            return outputs, completion
        if completion > limit or any(lengths[name] < wanted[name] for name in texts):
            self._rehearsal.cut_at.setdefault(model, set()).add(limit)
        return outputs, min(completion, limit)

    def _output(self, name: str, annotation: Any, length: int) -> Any:
        if name == self._roles.names["improved"]:
            return self._improving
        return placeholder(annotation, words(length))

    def _length(self, name: str) -> int:
        if name == self._roles.names["critique"]:
            return self._lengths.critique
        return self._lengths.reasoning if name == "reasoning" else self._lengths.answer

    async def _together(self) -> None:
        """Wait until no further call comes in."""
        self._arrived += 1
        if self._gate is None:
            self._gate = asyncio.get_running_loop().create_future()
            self._opening = asyncio.create_task(self._open(self._gate))
        await asyncio.shield(self._gate)

    async def _open(self, gate: asyncio.Future[None]) -> None:
        seen, quiet = self._arrived, 0
        while quiet < _QUIET_TURNS:
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._arrived == seen else 0
            seen = self._arrived
        self._gate = None
        gate.set_result(None)


def _limit(options: Mapping[str, Any]) -> int | None:
    limits = [options[name] for name in ("max_tokens", "max_completion_tokens") if options.get(name) is not None]
    return min(limits, default=None)


def _formatted(adapter: dspy.Adapter, signature: TaskSignature, outputs: Mapping[str, Any]) -> str:
    try:
        return str(adapter.format_assistant_message_content(signature, dict(outputs)))
    except NotImplementedError:  # an adapter that writes no demos
        return "\n".join(str(value) for value in outputs.values())
