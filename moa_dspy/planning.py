"""What a run will cost, known before anything is paid: calls exactly, tokens and dollars estimated.

A plan is a rehearsal. The program itself is run, with its own layers, budget and prompts, on stand-ins for its models:
every prompt is written and none is sent, and the answer is a placeholder of an assumed length. So no rule of the
algorithm is written down a second time here, and no LM can be called.

::

    plan = moa.plan(question="...", budget=Budget(calls=40))
    plan.full.calls, plan.minimum.calls, plan.full.usd
    print(plan.to_table())
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import dataclasses
import enum
import functools
import json
import math
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, get_args, get_origin

import dspy
import pydantic
from dspy.adapters.utils import annotation_allows_none
from dspy.clients._litellm import get_litellm
from dspy.clients.capabilities import resolve
from dspy.clients.execution import _price_result
from dspy.lm15 import LM15Error, Message, Response, Usage
from pydantic_core import PydanticUndefined

from moa_dspy.adapters import adapters_for
from moa_dspy.agents import Agent
from moa_dspy.errors import ConfigurationError, InputError, StepFailedError
from moa_dspy.limits import Budget, Tolerance
from moa_dspy.trace import STAGES, Stage, Step, StoppedBy, Trace

if TYPE_CHECKING:
    from moa_dspy.program import AttentionMoA
    from moa_dspy.signatures import Roles, TaskSignature

__all__ = [
    "Amount",
    "Counter",
    "Course",
    "Lengths",
    "ModelShare",
    "Plan",
    "Price",
    "StageShare",
    "make_plan",
    "model_rows",
    "stage_rows",
    "summary_lines",
]

Counter: TypeAlias = Literal["tiktoken", "anthropic", "stand-in", "characters"]

_LOCAL_TABLE: Final = "LITELLM_LOCAL_MODEL_COST_MAP"
_WORD: Final = "the"  # one token in every tokenizer, and with its space four characters, as English has for a token
_CHARACTERS_PER_TOKEN: Final = 4
# What the provider's count of a text may differ from ours without any hidden thinking.
_TOKENIZER_DIFFERENCE: Final = 0.25
# LiteLLM would fetch tokenizers of Llama and Cohere models, and try again for half a minute. Named by its type, the one
# of tiktoken that it carries is used.
_CARRIED: Final[Mapping[str, Any]] = {"type": "openai_tokenizer", "tokenizer": None}
# Turns of the event loop without a new call after which all calls that can be under way at once are.
_QUIET_TURNS: Final = 20
_MILLION: Final = 1_000_000

_COUNTED_WITH: Final[Mapping[Counter, str]] = {
    "anthropic": "an older tokenizer of Anthropic's, the one that LiteLLM carries",
    "stand-in": "a stand-in, tiktoken's cl100k_base, as LiteLLM carries no tokenizer of theirs",
    "characters": "a rule of thumb, 4 characters a token, as LiteLLM's counter is not available",
}
"""Ways of counting that a reader should know about."""


@dataclass(frozen=True)
class Lengths:
    """What a plan assumes of texts that nobody has written yet, in tokens; docs/plan.md says where defaults come from.

    An agent's ``max_tokens`` shortens what it writes.

    Args:
        answer: of each output field of the task that is text or structured; numbers, booleans and choices count as
            what they are.
        critique: of a critique.
        reasoning: of a reasoning field.
        thinking: billed as completion in every call and seen by nobody: the hidden reasoning of reasoning models.
        input: of each input field, where a plan is made without inputs.

    Raises:
        ConfigurationError: a length is no whole number from 1 (``thinking``: from 0).
    """

    answer: int = 450
    critique: int = 200
    reasoning: int = 150
    thinking: int = 0
    input: int = 100

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_whole(f"length {field.name}", getattr(self, field.name), least=int(field.name != "thinking"))

    @classmethod
    def from_trace(cls, trace: Trace) -> Self:
        """Return the mean lengths of an earlier run; what it did not write keeps its default.

        Visible text is counted as for a plan. What the provider billed for a single text beyond that is taken as
        hidden thinking, where it is more than tokenizers differ (a quarter).

        Raises:
            ConfigurationError: the run wrote nothing.
        """
        written = [step for step in trace.steps if step.status == "ok" and step.model is not None]
        if not written:
            raise ConfigurationError("the trace holds no text of a model, so it has no lengths; give those instead")
        with _local_tables():
            measured = _measured(written, _Books())
        means = {name: max(1, round(statistics.mean(counts))) for name, counts in measured.items() if counts}
        thinking = _hidden(measured["billed"], measured["visible"])
        return cls(
            **{name: means[name] for name in ("answer", "critique", "reasoning") if name in means}, thinking=thinking
        )


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)


class Amount(_Record):
    """Calls, tokens and dollars.

    Attributes:
        calls: LM calls, exact for a run in which none fails or is tried again.
        prompt_tokens: estimated; provider prefix caches are not assumed.
        completion_tokens: estimated.
        usd: estimated dollars; None where the price of a model is unknown.
        usd_at_least: dollars of the calls whose price is known.
    """

    calls: int
    prompt_tokens: int
    completion_tokens: int
    usd: float | None
    usd_at_least: float

    def times(self, number: int) -> Amount:
        """Return ``number`` times as much."""
        return Amount(
            calls=self.calls * number,
            prompt_tokens=self.prompt_tokens * number,
            completion_tokens=self.completion_tokens * number,
            usd=None if self.usd is None else self.usd * number,
            usd_at_least=self.usd_at_least * number,
        )

    @property
    def dollars(self) -> str:
        """Return the dollars in words: ``$0.1234``, ``at least $0.1234`` or ``unknown``."""
        if self.usd is not None:
            return _dollars(self.usd)
        return f"at least {_dollars(self.usd_at_least)}" if self.usd_at_least else "unknown"


class Price(_Record):
    """What a model costs.

    Attributes:
        input: dollars for a million prompt tokens.
        output: dollars for a million completion tokens.
        source: ``dspy`` (its copy of LiteLLM's table, which a run's record uses), ``litellm`` (the table of the
            installed LiteLLM) or ``free`` (it runs on this machine).
    """

    input: float
    output: float
    source: Literal["dspy", "litellm", "free"]


class ModelShare(Amount):
    """What one model's calls come to.

    Attributes:
        model: its name.
        price: None where it is unknown.
        counter: how its tokens were counted: ``tiktoken`` (its own tokenizer), ``anthropic`` (an older one of theirs),
            ``stand-in`` (another model's) or ``characters`` (a rule of thumb).
    """

    model: str
    price: Price | None
    counter: Counter


class StageShare(Amount):
    """What one stage of one layer comes to."""

    layer: int
    stage: Stage


class Course(Amount):
    """One way in which a run can go.

    Attributes:
        layers: how many it has.
        depth: calls that must follow one another.
        stopped_by: why it ends, as in a trace.
        seconds: estimated wall time, where a latency was given.
        stages: per layer and stage, in canonical order.
        models: per model, in order of first use.
    """

    layers: int
    depth: int
    stopped_by: StoppedBy
    seconds: float | None = None
    stages: tuple[StageShare, ...]
    models: tuple[ModelShare, ...]

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def calls_per_stage(self) -> dict[Stage, int]:
        """Return the calls of each stage that is played, over all layers."""
        played: list[Stage] = [stage for stage in STAGES if any(part.stage == stage for part in self.stages)]
        return {stage: sum(part.calls for part in self.stages if part.stage == stage) for stage in played}

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def calls_per_layer(self) -> dict[int, int]:
        """Return the calls of each layer, over all stages."""
        numbers = range(1, self.layers + 1)
        return {number: sum(part.calls for part in self.stages if part.layer == number) for number in numbers}


class Plan(_Record):
    """What a program would do and cost on one question, and on ``times`` of them.

    Attributes:
        full: a run that does not stop early.
        minimum: a run that stops at the first chance; the same as ``full`` where there is none.
        times: how many questions.
        lengths: what was assumed of texts that nobody has written yet.
        budget: the budget that both runs keep to.
        left_out: what the budget leaves out of a full run.
        notes: what a reader should know about these figures.
    """

    full: Course
    minimum: Course
    times: int = 1
    lengths: Lengths
    budget: Budget
    left_out: tuple[StageShare, ...] = ()
    notes: tuple[str, ...] = ()

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> Amount:
        """Return what all questions come to if none stops early."""
        return self.full.times(self.times)

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def total_minimum(self) -> Amount:
        """Return what all questions come to if each stops at the first chance."""
        return self.minimum.times(self.times)

    def to_json(self, indent: int | None = None) -> str:
        """Return the plan as JSON text."""
        return self.model_dump_json(indent=indent)

    def to_table(self) -> str:
        """Return the plan as plain text for people."""
        tables = (_table(stage_rows(self), left=(1,)), _table(model_rows(self), left=(0,)))
        return "\n\n".join([*tables, "\n".join(summary_lines(self))])


def make_plan(
    program: AttentionMoA,
    example: Mapping[str, Any] | dspy.Example | None,
    inputs: Mapping[str, Any],
    *,
    budget: Budget | None = None,
    lengths: Lengths | None = None,
    times: int = 1,
    seconds_per_call: float | None = None,
) -> Plan:
    """Return what ``program`` would do and cost; ``AttentionMoA.plan`` in other words.

    Raises:
        InputError: an input is missing, unknown or given twice.
        ConfigurationError: an agent has no model, a prompt cannot be written, or an option is out of range.
    """
    _check_whole("times", times, least=1)
    if seconds_per_call is not None and not 0 < seconds_per_call < math.inf:
        raise ConfigurationError(f"seconds_per_call={seconds_per_call!r} is no latency; it must be above 0")
    lengths = lengths or Lengths()
    given = _given(example, inputs)
    values = program._checked(given or _assumed_inputs(program.signature, lengths))
    limits = program.budget.within(budget)
    with _local_tables():
        books = _Books()
        stage = _Stage(program, values, lengths, books)
        full = _course(stage.rehearse(limits), books, seconds_per_call)
        shape = program.architecture
        stops = shape.early_stop and shape.synthesizes
        minimum = _course(stage.rehearse(limits, improving=False), books, seconds_per_call) if stops else full
        cut = full.stopped_by == "budget"
        unlimited = _course(stage.rehearse(Budget()), books, None) if cut else full
    return Plan(
        full=full,
        minimum=minimum,
        times=times,
        lengths=lengths,
        budget=limits,
        left_out=tuple(_difference(unlimited, full)),
        notes=tuple(_notes(full, limits, lengths, books, assumed=not given)),
    )


# --------------------------------------------------------------------------------------------------------------------
# The inputs
# --------------------------------------------------------------------------------------------------------------------


def _given(example: Mapping[str, Any] | dspy.Example | None, inputs: Mapping[str, Any]) -> dict[str, Any]:
    values = _input_fields(example)
    twice = sorted(values.keys() & inputs.keys())
    if twice:
        raise InputError(f"input {', '.join(twice)} is given twice: in the example and by name")
    return {**values, **inputs}


def _input_fields(example: Mapping[str, Any] | dspy.Example | None) -> dict[str, Any]:
    if example is None:
        return {}
    if isinstance(example, dspy.Example):
        marked = getattr(example, "_input_keys", None) is not None
        return dict((example.inputs() if marked else example).items())
    if isinstance(example, Mapping):
        return dict(example)
    raise InputError(f"a plan is made for a dspy.Example or a mapping of inputs, not {type(example).__name__}")


def _assumed_inputs(task: TaskSignature, lengths: Lengths) -> dict[str, Any]:
    """Return a placeholder for every input that a call would have to give."""
    return {
        name: _placeholder(field.annotation, _words(lengths.input))
        for name, field in task.input_fields.items()
        if field.default is PydanticUndefined
        and field.annotation is not dspy.History
        and not annotation_allows_none(field.annotation)
    }


# --------------------------------------------------------------------------------------------------------------------
# The rehearsal
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stage:
    """Where a program is rehearsed on one set of inputs."""

    program: AttentionMoA
    inputs: Mapping[str, Any]
    lengths: Lengths
    books: _Books

    def rehearse(self, budget: Budget, *, improving: bool = True) -> Trace:
        """Return the trace of a run without models.

        Args:
            budget: what it keeps to; a limit of seconds is left aside, as a rehearsal takes no time.
            improving: what every residual synthesis decides.
        """
        prompter = _Prompter(self.program.roles, self.lengths, dspy.settings.adapter, self.books, improving)
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
        return double


class _Prompter(dspy.Adapter):
    """Writes every prompt as the run's adapter would, and returns what a model is assumed to write.

    Calls that can be under way at once are answered at once, so that a budget is spent in the order of a run.
    """

    def __init__(
        self, roles: Roles, lengths: Lengths, configured: dspy.Adapter | None, books: _Books, improving: bool
    ) -> None:
        super().__init__()
        self._roles, self._lengths, self._configured = roles, lengths, configured
        self._books, self._improving = books, improving
        self._arrived = 0
        self._gate: asyncio.Future[None] | None = None
        self._opening: asyncio.Task[None] | None = None

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
        adapter = adapters_for(signature, lm, self._configured)[0]
        sent = adapter._call_preprocess(lm, dict(lm_kwargs), signature, inputs)
        account = self._books.account(lm)
        prompt = account.count(adapter.format(sent, demos, inputs))
        limit = _limit({**getattr(lm, "kwargs", {}), **lm_kwargs})
        outputs, completion = self._reply(adapter, account, signature, limit)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion}
        report: Any = lm.acall  # of a stand-in, within what the step puts around each call
        await report(usage, account.cost(prompt, completion))
        return [outputs]

    def _reply(
        self, adapter: dspy.Adapter, account: _Account, signature: TaskSignature, limit: int | None
    ) -> tuple[dict[str, Any], int]:
        """Return the outputs and their tokens, the format around them included."""
        fields = signature.output_fields
        wanted = {name: self._length(name) for name in fields}
        lengths = {name: length if limit is None else min(length, limit) for name, length in wanted.items()}
        outputs = {name: self._output(name, field.annotation, lengths[name]) for name, field in fields.items()}
        texts = [name for name in fields if outputs[name] == _words(lengths[name])]
        around = account.count(_formatted(adapter, signature, {**outputs, **dict.fromkeys(texts, "")}))
        completion = around + sum(lengths[name] for name in texts) + self._lengths.thinking
        if limit is None:
            return outputs, completion
        if completion > limit or any(lengths[name] < wanted[name] for name in texts):
            account.shortened_to.add(limit)
        return outputs, min(completion, limit)

    def _output(self, name: str, annotation: Any, length: int) -> Any:
        if name == self._roles.names["improved"]:
            return self._improving
        return _placeholder(annotation, _words(length))

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


def _words(tokens: int) -> str:
    return " ".join([_WORD] * tokens)


def _placeholder(annotation: Any, text: str) -> Any:
    """Return a value for a field of this type: a small one where it can only be small, else ``text``."""
    if annotation is bool:
        return True
    if annotation in (int, float):
        return 0
    if get_origin(annotation) is Literal:
        return max(get_args(annotation), key=lambda choice: len(str(choice)))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return max(annotation, key=lambda choice: len(str(choice.value))).value
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    if annotation_allows_none(annotation) and len(kinds) == 1:
        return _placeholder(kinds[0], text)
    return text


# --------------------------------------------------------------------------------------------------------------------
# Tokens and prices
# --------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _local_tables() -> Iterator[None]:
    """Let LiteLLM and DSPy load the price tables that they carry, instead of fetching them."""
    before = os.environ.get(_LOCAL_TABLE)
    os.environ[_LOCAL_TABLE] = "True"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_LOCAL_TABLE]
        else:
            os.environ[_LOCAL_TABLE] = before


class _Books:
    """An account for every model of a plan, in order of first use."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._counters: dict[str, _TokenCounter] = {}

    def account(self, lm: dspy.BaseLM) -> _Account:
        """Return the account of ``lm``'s model."""
        if lm.model not in self._accounts:
            self._accounts[lm.model] = _Account(lm, self.counter(lm.model))
        return self._accounts[lm.model]

    def of(self, model: str) -> _Account:
        """Return the account of a model that was asked."""
        return self._accounts[model]

    def counter(self, model: str) -> _TokenCounter:
        """Return the token counter of a model."""
        if model not in self._counters:
            self._counters[model] = _TokenCounter(model)
        return self._counters[model]


class _TokenCounter:
    """LiteLLM's token counter for one model, without the tokenizers that it would have to fetch.

    Args:
        model: with its provider, or without.

    Attributes:
        kind: which tokenizer it is.
    """

    def __init__(self, model: str) -> None:
        self._litellm = get_litellm(feature="moa-dspy")
        provider, _, rest = model.partition("/")
        name = rest if rest and provider in self._litellm.provider_list else model
        self.kind: Counter = "characters" if self._litellm.disable_token_counter else _usable_counter(name)
        self._options: dict[str, Any] = {"model": name, "use_default_image_token_count": True}
        if self.kind == "stand-in":
            self._options["custom_tokenizer"] = _CARRIED
        self._known: dict[str, int] = {}

    def __call__(self, content: str | Sequence[Mapping[str, Any]]) -> int:
        """Return the tokens of a text, or of messages with what a provider puts around them."""
        key = content if isinstance(content, str) else json.dumps(content, default=str)
        if key not in self._known:
            self._known[key] = self._count(content, key)
        return self._known[key]

    def _count(self, content: str | Sequence[Mapping[str, Any]], as_text: str) -> int:
        if self.kind == "characters":
            return math.ceil(len(as_text) / _CHARACTERS_PER_TOKEN)
        if isinstance(content, str):
            return int(self._litellm.token_counter(text=content, **self._options))
        return int(self._litellm.token_counter(messages=list(content), **self._options))


@functools.lru_cache(maxsize=256)  # LiteLLM tries for seconds to load what it cannot load
def _usable_counter(name: str) -> Counter:
    """Return how the tokens of the model ``name`` can be counted without a network."""
    litellm = get_litellm(feature="moa-dspy")
    try:
        if name in litellm.open_ai_chat_completion_models:
            litellm.token_counter(model=name, text=_WORD)
            return "tiktoken"
        if name in litellm.anthropic_models and litellm.utils.select_tokenizer(name)["type"] != _CARRIED["type"]:
            litellm.token_counter(model=name, text=_WORD)
            return "anthropic"
        litellm.token_counter(model=name, text=_WORD, custom_tokenizer=_CARRIED)
    except Exception:  # noqa: BLE001 (whatever keeps it from loading a tokenizer, there is a rule of thumb)
        return "characters"
    return "stand-in"


class _Account:
    """Tokens and dollars of one model.

    Attributes:
        count: its token counter.
        price: for a million tokens; None where it is unknown.
        shortened_to: every ``max_tokens`` that shortened what the model was assumed to write.
    """

    def __init__(self, lm: dspy.BaseLM, counter: _TokenCounter) -> None:
        self.model = lm.model
        self.count = counter
        self.shortened_to: set[int] = set()
        self._tariff = _tariff(lm)
        self.price = self._tariff.price()

    def cost(self, prompt: int, completion: int) -> float | None:
        """Return the dollars of one call; None where the price is unknown."""
        return self._tariff.cost(prompt, completion)


@dataclass(frozen=True)
class _Tariff:
    """How the price of a call is found."""

    source: Literal["dspy", "litellm", "free"]
    cost: Callable[[int, int], float | None]

    def price(self) -> Price | None:
        """Return the price of a million tokens, at the rates of a short prompt."""
        rates = [self.cost(1000, 0), self.cost(0, 1000)]
        prompt, completion = (None if rate is None else rate * _MILLION / 1000 for rate in rates)
        if prompt is None or completion is None:
            return None
        return Price(input=round(prompt, 9), output=round(completion, 9), source=self.source)


def _tariff(lm: dspy.BaseLM) -> _Tariff:
    """Return the first of: free, DSPy's table, LiteLLM's table; of the last also where that knows no price."""
    if getattr(getattr(lm, "engine", None), "free", False):
        return _Tariff("free", lambda *_tokens: 0.0)
    recorded = _Tariff("dspy", lambda prompt, completion: _recorded_cost(lm, prompt, completion))
    if recorded.price() is not None:
        return recorded
    return _Tariff("litellm", _listed_cost(lm.model))


def _recorded_cost(lm: dspy.BaseLM, prompt: int, completion: int) -> float | None:
    """Return what DSPy would write down as the dollars of such a call."""
    try:
        route = resolve(lm)
    except LM15Error:
        return None
    usage = Usage(input_tokens=prompt, output_tokens=completion)
    reply = Response(id=None, model=route.model, message=Message.assistant(""), finish_reason="stop", usage=usage)
    result = SimpleNamespace(cost=None, cost_details=None)
    _price_result(lm, result, reply, route.provider, None)
    return result.cost


def _listed_cost(model: str) -> Callable[[int, int], float | None]:
    """Return how LiteLLM's table prices a call of ``model``: by both of its rates, or not at all."""
    table = get_litellm(feature="moa-dspy").model_cost
    provider, _, rest = model.partition("/")
    entry = table.get(model)
    if entry is None and str(table.get(rest, {}).get("litellm_provider", "")).startswith(provider):
        entry = table[rest]
    rates = [(entry or {}).get(f"{side}_cost_per_token") for side in ("input", "output")]
    known = [float(rate) for rate in rates if isinstance(rate, (int, float))]
    if len(known) < len(rates):
        return lambda *_tokens: None
    return lambda prompt, completion: prompt * known[0] + completion * known[1]


# --------------------------------------------------------------------------------------------------------------------
# Lengths of an earlier run
# --------------------------------------------------------------------------------------------------------------------


def _measured(steps: Iterable[Step], books: _Books) -> dict[str, list[int]]:
    """Return the lengths of what was written, by kind, and of texts that stand alone as billed and as visible."""
    lengths: dict[str, list[int]] = {name: [] for name in ("answer", "critique", "reasoning", "billed", "visible")}
    for step in steps:
        count = books.counter(step.model or "")
        texts = {name: _text(value) for name, value in step.outputs.items() if isinstance(value, (str, list, dict))}
        for name, text in texts.items():
            answer = "reasoning" if name == "reasoning" else "answer"
            lengths["critique" if step.stage == "critique" else answer].append(count(text))
        if len(step.outputs) == len(texts) == 1 and step.calls == 1 and not step.cached:
            lengths["billed"].append(step.tokens.completion)
            lengths["visible"].append(count(step.text))
    return lengths


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _hidden(billed: Sequence[int], visible: Sequence[int]) -> int:
    hidden = sum(billed) - sum(visible)
    return round(hidden / len(billed)) if hidden > _TOKENIZER_DIFFERENCE * sum(visible) else 0


# --------------------------------------------------------------------------------------------------------------------
# From a rehearsal to figures
# --------------------------------------------------------------------------------------------------------------------


def _course(trace: Trace, books: _Books, seconds_per_call: float | None) -> Course:
    steps = [step for step in trace.steps if step.calls]
    stages = sorted({(step.layer, STAGES.index(step.stage)) for step in steps})
    models = dict.fromkeys(step.model for step in steps if step.model is not None)
    return Course(
        **_amount(steps),
        layers=max(layer for layer, _ in stages),
        # Each stage waits for one before it in its layer, so every stage that makes a call adds one to the chain.
        depth=len(stages),
        stopped_by=trace.stopped_by,
        seconds=None if seconds_per_call is None else len(stages) * seconds_per_call,
        stages=tuple(_stage_share(steps, layer, STAGES[number]) for layer, number in stages),
        models=tuple(_model_share(steps, books.of(model)) for model in models),
    )


def _stage_share(steps: Sequence[Step], layer: int, stage: Stage) -> StageShare:
    own = [step for step in steps if (step.layer, step.stage) == (layer, stage)]
    return StageShare(**_amount(own), layer=layer, stage=stage)


def _model_share(steps: Sequence[Step], account: _Account) -> ModelShare:
    own = [step for step in steps if step.model == account.model]
    return ModelShare(**_amount(own), model=account.model, price=account.price, counter=account.count.kind)


def _amount(steps: Sequence[Step]) -> dict[str, Any]:
    known = [step.cost_usd for step in steps if step.cost_usd is not None]
    return {
        "calls": sum(step.calls for step in steps),
        "prompt_tokens": sum(step.tokens.prompt for step in steps),
        "completion_tokens": sum(step.tokens.completion for step in steps),
        "usd": math.fsum(known) if len(known) == len(steps) else None,
        "usd_at_least": math.fsum(known),
    }


def _difference(whole: Course, part: Course) -> Iterator[StageShare]:
    """Yield, by layer and stage, what ``whole`` has and ``part`` has not."""
    there = {(share.layer, share.stage): share for share in part.stages}
    for share in whole.stages:
        kept = there.get((share.layer, share.stage))
        if kept is None:
            yield share
        elif kept.calls < share.calls:
            yield StageShare(
                calls=share.calls - kept.calls,
                prompt_tokens=share.prompt_tokens - kept.prompt_tokens,
                completion_tokens=share.completion_tokens - kept.completion_tokens,
                usd=None if share.usd is None or kept.usd is None else share.usd - kept.usd,
                usd_at_least=share.usd_at_least - kept.usd_at_least,
                layer=share.layer,
                stage=share.stage,
            )


def _notes(full: Course, budget: Budget, lengths: Lengths, books: _Books, *, assumed: bool) -> Iterator[str]:
    if assumed:
        yield f"no input was given: each input field is assumed to have {lengths.input} tokens"
    unpriced = [share.model for share in full.models if share.price is None]
    if unpriced:
        yield f"the price of {_list(unpriced)} is unknown, and in no sum of dollars"
    for counter, how in _COUNTED_WITH.items():
        models = [share.model for share in full.models if share.counter == counter]
        if models:
            yield f"tokens of {_list(models)} are counted with {how}"
    for share in full.models:
        limits = [str(limit) for limit in sorted(books.of(share.model).shortened_to)]
        if limits:
            yield f"what {share.model} writes is assumed to be cut off at its max_tokens, {_list(limits)}"
    if budget.tokens is not None or budget.usd is not None:
        yield "what a budget of tokens or dollars leaves out depends on the lengths of the answers"
    if budget.seconds is not None and full.seconds is None:
        yield f"the budget's {budget.seconds:g} s are not looked at without the seconds of a call"
    elif budget.seconds is not None and full.seconds is not None and full.seconds > budget.seconds:
        yield f"a full run takes about {full.seconds:g} s, more than the budget's {budget.seconds:g} s: it is cut short"


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name}={value!r} is out of range; it must be a whole number from {least}")


# --------------------------------------------------------------------------------------------------------------------
# For people
# --------------------------------------------------------------------------------------------------------------------


def stage_rows(plan: Plan) -> list[tuple[str, ...]]:
    """Return the head and the rows of a table of layers and stages, for one question and a full run."""
    rows = [(str(share.layer), share.stage, *_cells(share)) for share in plan.full.stages]
    return [("layer", "stage", "calls", "prompt", "completion", "cost"), *rows, ("all", "", *_cells(plan.full))]


def model_rows(plan: Plan) -> list[tuple[str, ...]]:
    """Return the head and the rows of a table of models, for one question and a full run."""
    rows = [(share.model, *_cells(share), *_prices(share.price)) for share in plan.full.models]
    return [("model", "calls", "prompt", "completion", "cost", "$/M prompt", "$/M completion"), *rows]


def summary_lines(plan: Plan) -> list[str]:
    """Return what follows the tables, a line each: totals, assumptions, notes."""
    lines = [f"full run: {_in_words(plan.full)}"]
    if plan.minimum.calls != plan.full.calls:
        lines.append(f"early stop after layer {plan.minimum.layers}: {_in_words(plan.minimum)}")
    if plan.times > 1:
        least, most = plan.minimum.times(plan.times), plan.full.times(plan.times)
        calls = f"{most.calls:,}" if least.calls == most.calls else f"{least.calls:,} to {most.calls:,}"
        cost = most.dollars if least.dollars == most.dollars else f"{least.dollars} to {most.dollars}"
        lines.append(f"{plan.times:,} times: {calls} calls, cost {cost}")
    if plan.left_out:
        lines.append(f"left out for the budget: {', '.join(_left_out(plan))}")
    assumed = plan.lengths
    thinking = f", {assumed.thinking} of hidden thinking in each call" if assumed.thinking else ""
    lines.append(
        f"assumed tokens: {assumed.answer} in an answer, {assumed.critique} in a critique, "
        f"{assumed.reasoning} in a reasoning field{thinking}; no call fails, nothing is cached"
    )
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def _left_out(plan: Plan) -> Iterator[str]:
    for layer in sorted({share.layer for share in plan.left_out}):
        parts = [share for share in plan.left_out if share.layer == layer]
        if layer > plan.full.layers:
            yield f"layer {layer} ({sum(share.calls for share in parts):,} calls)"
        else:
            yield from (f"{share.calls:,} to {share.stage} in layer {layer}" for share in parts)


def _list(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def _in_words(course: Course) -> str:
    seconds = "" if course.seconds is None else f", about {course.seconds:g} s"
    tokens = f"{course.prompt_tokens:,} prompt and {course.completion_tokens:,} completion tokens"
    return f"{course.calls:,} calls, {course.depth} of them in sequence{seconds}, {tokens}, cost {course.dollars}"


def _cells(share: Amount) -> tuple[str, ...]:
    return f"{share.calls:,}", f"{share.prompt_tokens:,}", f"{share.completion_tokens:,}", share.dollars


def _prices(price: Price | None) -> tuple[str, str]:
    if price is None:
        return "unknown", "unknown"
    return ("free", "free") if price.source == "free" else (f"{price.input:g}", f"{price.output:g}")


def _dollars(usd: float) -> str:
    """Write dollars with four digits that count, and no fewer than cents."""
    if usd == 0:
        return "$0"
    return f"${usd:,.{max(2, 3 - math.floor(math.log10(usd)))}f}"


def _table(rows: Sequence[tuple[str, ...]], left: Iterable[int]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            f"{cell:<{width}}" if number in left else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
