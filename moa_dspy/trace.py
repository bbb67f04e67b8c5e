"""The trace of a run: every step in canonical order, as JSON data. Also watches a run in progress.

Canonical order is layer, stage, acting agent, target. It does not depend on which call finishes first.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, get_args

import pydantic

from moa_dspy.cost.usage import Tokens, Usage
from moa_dspy.display import Displayed, Table
from moa_dspy.errors import ConfigurationError
from moa_dspy.json_safe import json_safe
from moa_dspy.positions import Dissent, DissentReport, Position, dissent_in
from moa_dspy.redaction import redacted
from moa_dspy.text_table import text_table

__all__ = [
    "STAGES",
    "Failure",
    "GroupUsage",
    "Grouping",
    "Stage",
    "Status",
    "Step",
    "StepStarted",
    "StoppedBy",
    "Tokens",
    "Trace",
    "Watcher",
    "current_watchers",
    "model_names",
    "prompts_recorded",
    "record_prompts",
    "usage_of",
    "watch",
]

Stage = Literal["propose", "agree", "critique", "refine", "aggregate", "synthesize", "dissent"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)

Status = Literal["ok", "failed", "skipped", "cancelled"]
StoppedBy = Literal["layers", "agreement", "no_improvement", "budget", "failure", "cancelled"]
Grouping: TypeAlias = Literal["agent", "stage", "layer", "model"]

# Models can write any text. These types make it storable as JSON and readable without change. Nearly all texts are that
# already: a pattern, which only text that UTF-8 can encode matches, tells so without a call of Python.
_Encodable: TypeAlias = Annotated[str, pydantic.Field(pattern="", strict=True)]
_LEFT_TO_RIGHT: Final = pydantic.Field(union_mode="left_to_right")
_Text: TypeAlias = Annotated[_Encodable | Annotated[str, pydantic.AfterValidator(json_safe)], _LEFT_TO_RIGHT]
_Outputs: TypeAlias = Annotated[
    dict[_Encodable, _Encodable] | Annotated[dict[str, Any], pydantic.AfterValidator(json_safe)], _LEFT_TO_RIGHT
]


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Failure(_Record):
    """The cause of a failed step or try. Its message contains no credentials.

    Attributes:
        kind: stable name of the cause, such as ``timeout`` or ``rate_limit``.
        message: the cause in words.
        retry_after: seconds the provider asked to wait; None if it did not say.
    """

    kind: _Text
    message: Annotated[_Text, pydantic.AfterValidator(redacted)]
    retry_after: float | None = None


class Step(Displayed, _Record):
    """One step of a run.

    Attributes:
        layer: from 1.
        stage: the kind of step.
        agent: the agent that acted; the aggregator's name for agree, aggregate and synthesize.
        target: the agent whose answer was criticised or refined; None for other stages, and for a call that writes
            several critiques. Each of these is a further step without a call.
        model: the model that was asked; None for a vote or for texts used without a call.
        server: address of its server, without user, password and query; None for the provider's usual one.
        status: ``ok``, ``failed``, ``skipped`` (no call: the budget did not allow it, or the provider had already
            rejected the model's key or account) or ``cancelled`` (unfinished when the run ended or continued without
            it).
        text: the text that other agents read.
        outputs: the output fields, as JSON values.
        probabilities: probability of yes, by output field, if the model was asked for it instead of yes or no.
        calls: LM calls made, including cached calls and retries.
        cached_calls: calls answered by DSPy's response cache.
        cached: whether the cache answered every call, so that nothing was paid.
        unanswered: calls that were cut short and may still be billed. Tokens and dollars are then a lower bound.
        tokens: paid tokens; zero for cached calls.
        cost_usd: dollars paid; None if the price is unknown.
        estimated: whether tokens are counted from the texts because the server reported none, or the cost is a list
            price because DSPy knew none.
        truncated: whether the last reply ended at ``max_tokens``, so that it may be incomplete.
        cut: replies that ended at ``max_tokens``, those of failed tries included.
        saved_tokens: tokens that the cached calls used originally. With them, a step's full use is always known.
        saved_usd: their original cost in dollars; None if the price is unknown.
        start: seconds from the start of the run.
        queued: seconds spent waiting for a concurrency limit.
        end: seconds from the start of the run.
        failures: the failure of every failed try, in order, even if a later try succeeded.
        error: the cause of a failed step.
        prompts: the prompt of every call, as text, if prompts are recorded; see ``record_prompts``.
    """

    layer: int
    stage: Stage
    agent: _Text
    target: _Text | None = None
    model: _Text | None = None
    server: _Text | None = None
    status: Status = "ok"
    text: _Text = ""
    outputs: _Outputs = pydantic.Field(default_factory=dict)
    probabilities: dict[str, float] = pydantic.Field(default_factory=dict)
    calls: int = 0
    cached_calls: int = 0
    cached: bool = False
    unanswered: int = 0
    tokens: Tokens = Tokens()
    cost_usd: float | None = 0.0
    estimated: bool = False
    truncated: bool = False
    cut: int = 0
    saved_tokens: Tokens = Tokens()
    saved_usd: float | None = 0.0
    start: float = 0.0
    queued: float = 0.0
    end: float = 0.0
    failures: tuple[Failure, ...] = ()
    error: Failure | None = None
    prompts: tuple[_Text, ...] = ()

    def _facts(self) -> Mapping[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("layer", "stage", "agent", "target", "status", "calls", "text")},
            "error": None if self.error is None else self.error.kind,
        }

    def _tables(self) -> Sequence[Table]:
        return [Table("prompts", ["prompt"], [[prompt] for prompt in self.prompts])] if self.prompts else []


class Trace(Displayed, _Record):
    """The record of a finished run.

    Attributes:
        steps: all steps, in canonical order.
        outputs: the accepted output of each layer, H_1 to H_l, as JSON values.
        improved: the decision of each residual synthesis, from layer 2 on; None if it failed.
        stopped_by: ``layers`` (all layers ran), ``agreement`` (the proposals agreed, see ``Gate``), ``no_improvement``
            (early stop), ``budget`` (the budget did not cover a part), ``failure`` or ``cancelled``.
        agreement: share of the agents in the largest group of equal proposals, made in the first layer, before the
            agents have read each other; or in the last layer with a gate, as the gate measured it. None if fewer than
            two agents answered, or if the proposals are long texts that cannot be compared.
        positions: the agents' positions in each layer: whose answers are equal, and who changed its answer.
        dissent_report: consensus, contradictions, unique points and blind spots, see ``AttentionMoA(dissent=True)``.
        seconds: wall time of the run.
        inputs: the task's inputs, as JSON values.
        program: digest of the program's architecture, task, prompts and demos, as in its file; None if it cannot be
            written to a file, or in traces of older versions.
        version: the version of moa-dspy that ran it; None in traces of older versions.
        date: start of the run, in UTC; None in traces of older versions.
    """

    steps: tuple[Step, ...]
    outputs: tuple[_Outputs, ...]
    improved: tuple[bool | None, ...] = ()
    stopped_by: StoppedBy = "layers"
    agreement: float | None = None
    positions: tuple[Position, ...] = ()
    dissent_report: DissentReport | None = None
    seconds: float = 0.0
    inputs: _Outputs = pydantic.Field(default_factory=dict)
    program: _Text | None = None
    version: _Text | None = None
    date: datetime.datetime | None = None

    def _facts(self) -> Mapping[str, Any]:
        return {
            "stopped_by": self.stopped_by,
            "layers": self.layers,
            "steps": len(self.steps),
            "calls": self.calls,
            "tokens": self.tokens.total,
            "cost": self.total.dollars,
            "seconds": round(self.seconds, 2),
            "date": None if self.date is None else f"{self.date:%Y-%m-%d %H:%M} UTC",
            "program": self.program,
            "version": self.version,
        }

    def _tables(self) -> Sequence[Table]:
        head = ("layer", "stage", "agent", "target", "status", "text", "calls", "tokens", "seconds")
        rows = [
            (
                *(step.layer, step.stage, step.agent, step.target, step.status),
                step.text if step.error is None else step.error.message,
                *(step.calls, step.tokens.total, step.end - step.start),
            )
            for step in self.steps
        ]
        outputs = [(layer, *item) for layer, outputs in enumerate(self.outputs, 1) for item in outputs.items()]
        return [
            Table("inputs", ("input", "value"), list(self.inputs.items())),
            Table("outputs", ("layer", "output", "value"), outputs),
            Table("steps", head, rows),
        ]

    @property
    def layers(self) -> int:
        """Return the number of layers that ran."""
        return max((step.layer for step in self.steps), default=0)

    @property
    def dissent(self) -> tuple[Dissent, ...]:
        """Return the minority proposals: by whom, and why. They are those of the layer of ``agreement``."""
        if self.stopped_by == "agreement" and self.agreement == 1:
            return ()
        own = self.compared
        return dissent_in(own, self.select(layer=own[0].layer), self.dissent_report) if own else ()

    @property
    def compared(self) -> tuple[Position, ...]:
        """Return the positions of the layer whose proposals ``agreement`` compares."""
        layers = [position.layer for position in self.positions]
        layer = max(layers, default=1) if self.stopped_by == "agreement" else 1
        return tuple(position for position in self.positions if position.layer == layer)

    @property
    def usage(self) -> Usage:
        """Return the usage of the run, with its wall time."""
        return usage_of(self.steps).model_copy(update={"seconds": self.seconds})

    @property
    def calls(self) -> int:
        """Return the number of LM calls, cached ones included."""
        return sum(step.calls for step in self.steps)

    @property
    def cached_calls(self) -> int:
        """Return the number of LM calls that DSPy's response cache answered."""
        return self.usage.cached_calls

    @property
    def tokens(self) -> Tokens:
        """Return the paid tokens."""
        return self.usage.tokens

    @property
    def cost_usd(self) -> float | None:
        """Return the dollars paid, or None if the price of a step is unknown."""
        return self.usage.cost_usd

    @property
    def cost_is_lower_bound(self) -> bool:
        """Return whether calls were cut short, so that more may have been billed than is known."""
        return self.usage.unanswered > 0

    @property
    def total(self) -> GroupUsage:
        """Return the usage of the whole run."""
        return GroupUsage.of("all", self.steps)

    @property
    def figures(self) -> dict[str, Any]:
        """Return the run in figures, as JSON values."""
        return {
            "layers": self.layers,
            "stopped_by": self.stopped_by,
            "agreement": self.agreement,
            "dissent": [dissent.model_dump(mode="json", include={"text", "agents"}) for dissent in self.dissent],
            "calls": self.calls,
            "cached_calls": self.cached_calls,
            "tokens": {**self.tokens.model_dump(), "total": self.tokens.total},
            "cost_usd": self.cost_usd,
            "cost_is_lower_bound": self.cost_is_lower_bound,
            "seconds": round(self.seconds, 3),
        }

    def by(self, grouping: Grouping) -> tuple[GroupUsage, ...]:
        """Return the usage of each agent, stage, layer or model, in order of first appearance.

        Args:
            grouping: ``"agent"``, ``"stage"``, ``"layer"`` or ``"model"``. A vote has no model. Models of one name on
                several servers are apart, as ``model at server``.

        Raises:
            ConfigurationError: if ``grouping`` has another value.
        """
        if grouping not in get_args(Grouping):
            raise ConfigurationError(f"steps are grouped by {', '.join(get_args(Grouping))}, not by {grouping!r}")
        groups: defaultdict[Any, list[Step]] = defaultdict(list)
        names = model_names((step.model, step.server) for step in self.steps)
        for step in self.steps:
            groups[names[step.model, step.server] if grouping == "model" else getattr(step, grouping)].append(step)
        groups.pop(None, None)
        return tuple(GroupUsage.of(str(key), steps) for key, steps in groups.items())

    def select(
        self,
        *,
        layer: int | None = None,
        stage: Stage | None = None,
        agent: str | None = None,
        target: str | None = None,
    ) -> Iterator[Step]:
        """Yield the steps that match all arguments that are not None."""
        filters = {"layer": layer, "stage": stage, "agent": agent, "target": target}
        needed = {name: value for name, value in filters.items() if value is not None}
        return (step for step in self.steps if all(getattr(step, name) == value for name, value in needed.items()))

    def to_json(self, indent: int | None = None) -> str:
        """Return the trace as JSON text."""
        return self.model_dump_json(indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a trace that ``to_json`` wrote.

        Raises:
            ConfigurationError: if the text is not a trace.
        """
        try:
            return cls.model_validate_json(text)
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"]) or "JSON"
            raise ConfigurationError(
                f"the text is not a trace ({where}: {problem['msg']}); give what Trace.to_json has written"
            ) from None

    def summary(self, *, steps: bool = False) -> str:
        """Return the run as readable text: stages, agents, failures and totals.

        Args:
            steps: whether to list every step, too.
        """
        figures = ("calls", "cached", "prompt", "(cached)", "completion", "cost", "seconds", "queued")
        listed: list[tuple[str, ...]] = [("layer", "stage", "agent", "target", "status", *figures)]
        for step in self.steps:
            where = str(step.layer), step.stage, step.agent, step.target or "", step.status
            listed.append((*where, *GroupUsage.of(step.agent, [step])._figures()))
        stages: list[tuple[str, ...]] = [("layer", "stage", "steps", "failed", *figures)]
        for layer, stage in itertools.product(range(1, self.layers + 1), STAGES):
            if of_stage := list(self.select(layer=layer, stage=stage)):
                stages.append((str(layer), *GroupUsage.of(stage, of_stage)._row()))
        stages.append(("all", "", *self.total._row()[1:]))
        agents = [("agent", "steps", "failed", *figures), *(group._row() for group in self.by("agent"))]
        tables = [
            *([text_table(listed, left=(1, 2, 3, 4))] if steps else []),
            text_table(stages, left=(1,)),
            text_table(agents, left=(0,)),
        ]
        return "\n\n".join([*tables, "\n".join([*_failures(self.steps), *_cut(self.steps), _ending(self)])])


class GroupUsage(_Record):
    """The usage of some steps of a run.

    Attributes:
        name: of the agent, stage, layer or model; ``all`` for a whole run.
        steps: number of steps.
        failed: number of failed or cancelled steps.
        usage: their usage. Its seconds are the wall time in which at least one step was running.
        queued: total seconds spent waiting for a concurrency limit.
        causes: number of failures by kind, including tries that a retry repaired.
    """

    name: str
    steps: int
    failed: int
    usage: Usage
    queued: float
    causes: dict[str, int]

    @classmethod
    def of(cls, name: str, steps: Sequence[Step]) -> Self:
        """Return the usage of some steps under a name."""
        return cls(
            name=name,
            steps=len(steps),
            failed=sum(step.status in ("failed", "cancelled") for step in steps),
            usage=usage_of(steps),
            queued=sum(step.queued for step in steps),
            causes=dict(Counter(failure.kind for step in steps for failure in step.failures)),
        )

    @property
    def dollars(self) -> str:
        """Return the cost in words: ``$0.012000``, ``at least $0.012000`` or ``unknown``."""
        if self.usage.cost_usd is None:
            return "unknown"
        return f"{'at least ' * (self.usage.unanswered > 0)}${self.usage.cost_usd:.6f}"

    def _row(self) -> tuple[str, ...]:
        return self.name, str(self.steps), str(self.failed), *self._figures()

    def _figures(self) -> tuple[str, ...]:
        used, tokens = self.usage, self.usage.tokens
        counts = used.calls, used.cached_calls, tokens.prompt, tokens.cached, tokens.completion
        cost = self.dollars.replace("at least", ">=")
        return *map(str, counts), cost, f"{used.seconds:.2f}", f"{self.queued:.2f}"


def model_names(models: Iterable[tuple[str | None, str | None]]) -> dict[tuple[str | None, str | None], str | None]:
    """Return the names of models in tables, by model and server. A server is named only if several share a model."""
    distinct = dict.fromkeys(models)
    servers = Counter(model for model, _ in distinct)
    return {
        (model, server): model if model is None or servers[model] == 1 else f"{model} at {server or 'its provider'}"
        for model, server in distinct
    }


def usage_of(steps: Iterable[Step]) -> Usage:
    """Return the total usage of steps. The seconds are the wall time in which at least one step was running."""
    steps = list(steps)
    costs = [step.cost_usd for step in steps]
    return Usage(
        calls=sum(step.calls for step in steps),
        cached_calls=sum(step.calls if step.cached else step.cached_calls for step in steps),
        unanswered=sum(step.unanswered for step in steps),
        cut=sum(max(step.cut, int(step.truncated)) for step in steps),
        tokens=sum((step.tokens for step in steps), start=Tokens()),
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
        estimated=any(step.estimated for step in steps),
        seconds=_covered((step.start, step.end) for step in steps),
    )


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of ``spans``."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


@dataclass(frozen=True)
class StepStarted:
    """The event of a step that starts its call."""

    layer: int
    stage: Stage
    agent: str
    target: str | None


Watcher: TypeAlias = Callable[[StepStarted | Step | Trace], None]
"""Called when a step starts, when it finishes, and with the trace when the run ends, even by an error or cancellation.
It runs on the program's event loop, so it must be fast and must not raise.
"""

current_watchers: contextvars.ContextVar[tuple[Watcher, ...]] = contextvars.ContextVar("moa_dspy_watchers", default=())


@contextlib.contextmanager
def watch(watcher: Watcher) -> Iterator[None]:
    """Call ``watcher`` for every run that starts within the block, with each step and the trace.

    Args:
        watcher: see ``Watcher``.
    """
    token = current_watchers.set((*current_watchers.get(), watcher))
    try:
        yield
    finally:
        current_watchers.reset(token)


prompts_recorded: contextvars.ContextVar[bool] = contextvars.ContextVar("moa_dspy_prompts_recorded", default=False)


@contextlib.contextmanager
def record_prompts() -> Iterator[None]:
    """Record the prompts of every run that starts within the block, in ``Step.prompts``.

    They make traces many times as large. Images and files in them are left out.
    """
    token = prompts_recorded.set(True)
    try:
        yield
    finally:
        prompts_recorded.reset(token)


def _failures(steps: Sequence[Step]) -> Iterator[str]:
    """Yield a line for each cause, with the steps it affected."""
    affected: defaultdict[str, list[str]] = defaultdict(list)
    for step in steps:
        if step.error is not None:
            message = step.error.message
            cause = message if len(message) <= 100 else f"{message[:99]}…"
            affected[f"{step.error.kind}: {cause}"].append(f"{step.stage} by {step.agent}")
    for cause, names in affected.items():
        yield f"failed: {cause} ({', '.join(dict.fromkeys(names))})"


def _cut(steps: Sequence[Step]) -> Iterator[str]:
    remark = usage_of(steps).remark
    if remark is not None:
        cut = dict.fromkeys(f"{step.stage} by {step.agent}" for step in steps if step.cut or step.truncated)
        yield f"{remark} ({', '.join(cut)})"


def _ending(trace: Trace) -> str:
    total = trace.total
    cost = "cost unknown" if total.usage.cost_usd is None else total.dollars
    cut = total.usage.unanswered
    unanswered = f", {cut} call(s) cut short, which may be billed" if cut else ""
    agreed = "" if trace.agreement is None else f", {trace.agreement:.0%} of the proposals agree"
    ended = f"stopped by {trace.stopped_by} after {trace.layers} layer(s){agreed}"
    return f"{ended}, {trace.seconds:.2f} s, {cost}{unanswered}"
