"""What happened in one run: every step, in canonical order, as JSON-serialisable data.

Canonical order is layer, stage, acting agent, target: the same for equal runs, whatever finished first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

import pydantic

from moa_dspy.sayable import sayable

__all__ = ["STAGES", "Failure", "Stage", "Status", "Step", "StoppedBy", "Tokens", "Trace"]

Stage = Literal["propose", "critique", "refine", "aggregate", "synthesize"]
STAGES: Final[tuple[Stage, ...]] = ("propose", "critique", "refine", "aggregate", "synthesize")

Status = Literal["ok", "failed", "skipped", "cancelled"]
StoppedBy = Literal["layers", "no_improvement", "budget", "failure", "cancelled"]

# What models write is any text; a trace of it can always be stored, and read back as it was.
_Text: TypeAlias = Annotated[str, pydantic.AfterValidator(sayable)]
_Outputs: TypeAlias = Annotated[dict[str, Any], pydantic.AfterValidator(sayable)]


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Tokens(_Record):
    """Token counts as the provider reports them; cached ones are part of the prompt's."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        """Return prompt plus completion."""
        return self.prompt + self.completion

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            prompt=self.prompt + other.prompt,
            cached=self.cached + other.cached,
            completion=self.completion + other.completion,
        )


class Failure(_Record):
    """Why a step failed."""

    kind: _Text
    message: _Text


class Step(_Record):
    """One step of a run.

    Attributes:
        layer: from 1.
        stage: what was done.
        agent: who did it; the aggregator's name for aggregate and synthesize.
        target: whose answer was criticised or refined; None elsewhere.
        model: the model that was asked; None where agents voted, or their answers stood in, and no model was.
        status: ``ok``, ``failed``, ``skipped`` (the budget did not allow it) or ``cancelled`` (under way when the run
            ended or went on without it).
        text: what other agents get to read of it.
        outputs: the fields that were written, as JSON values.
        probabilities: of yes, by output field, where the model was asked for them instead of yes or no.
        calls: LM calls made, cached ones and retries included.
        cached_calls: those of them that DSPy's response cache answered.
        cached: whether every call was answered from there, so that nothing was paid.
        tokens: paid tokens; zero for cached calls.
        cost_usd: dollars paid; None where the price is not known.
        saved_tokens: what the cached calls used when they were made, so that a step's full use is known from any run.
        saved_usd: what they cost then; None where the price is not known.
        start: seconds from the start of the run.
        queued: seconds that it waited for its turn under a concurrency limit.
        end: seconds from the start of the run.
        error: the cause, where the step failed.
    """

    layer: int
    stage: Stage
    agent: str
    target: str | None = None
    model: str | None = None
    status: Status = "ok"
    text: _Text = ""
    outputs: _Outputs = pydantic.Field(default_factory=dict)
    probabilities: dict[str, float] = pydantic.Field(default_factory=dict)
    calls: int = 0
    cached_calls: int = 0
    cached: bool = False
    tokens: Tokens = Tokens()
    cost_usd: float | None = 0.0
    saved_tokens: Tokens = Tokens()
    saved_usd: float | None = 0.0
    start: float = 0.0
    queued: float = 0.0
    end: float = 0.0
    error: Failure | None = None


class Trace(_Record):
    """A finished run.

    Attributes:
        steps: all steps, in canonical order.
        outputs: the accepted output of each layer, H_1 to H_l, as JSON values.
        improved: the decision of each residual synthesis, from layer 2 on; None where it failed.
        stopped_by: ``layers`` (all were run), ``no_improvement`` (early stop), ``budget`` (something was left out for
            want of it), ``failure`` or ``cancelled``.
        seconds: wall time of the run.
    """

    steps: tuple[Step, ...]
    outputs: tuple[_Outputs, ...]
    improved: tuple[bool | None, ...] = ()
    stopped_by: StoppedBy = "layers"
    seconds: float = 0.0

    @property
    def layers(self) -> int:
        """Return how many layers were run."""
        return max((step.layer for step in self.steps), default=0)

    @property
    def calls(self) -> int:
        """Return the number of LM calls, cached ones included."""
        return sum(step.calls for step in self.steps)

    @property
    def cached_calls(self) -> int:
        """Return the number of LM calls that DSPy's response cache answered."""
        return _cached_calls(self.steps)

    @property
    def tokens(self) -> Tokens:
        """Return the tokens paid for."""
        return sum((step.tokens for step in self.steps), start=Tokens())

    @property
    def cost_usd(self) -> float | None:
        """Return the dollars paid, or None where the price of a step is not known."""
        costs = [step.cost_usd for step in self.steps]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def select(
        self,
        *,
        layer: int | None = None,
        stage: Stage | None = None,
        agent: str | None = None,
        target: str | None = None,
    ) -> Iterator[Step]:
        """Yield the steps that match everything that is given."""
        wanted = {"layer": layer, "stage": stage, "agent": agent, "target": target}
        given = {name: value for name, value in wanted.items() if value is not None}
        return (step for step in self.steps if all(getattr(step, name) == value for name, value in given.items()))

    def to_json(self, indent: int | None = None) -> str:
        """Return the trace as JSON text."""
        return self.model_dump_json(indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a trace that ``to_json`` wrote.

        Raises:
            pydantic.ValidationError: it is not one.
        """
        return cls.model_validate_json(text)

    def summary(self) -> str:
        """Return the run as a table for people: one row per layer and stage, then the totals."""
        columns = ("steps", 5), ("failed", 6), ("calls", 5), ("cached", 6), ("tokens", 8), ("seconds", 7)
        rows = [f"{'layer':>5}  {'stage':<10} " + " ".join(f"{name:>{width}}" for name, width in columns)]
        for layer in range(1, self.layers + 1):
            for stage in STAGES:
                steps = list(self.select(layer=layer, stage=stage))
                if steps:
                    rows.append(f"{layer:>5}  {stage:<10} {_figures(steps)}")
        cost = "cost unknown" if self.cost_usd is None else f"${self.cost_usd:.6f}"
        rows.append(f"{'all':>5}  {'':<10} {_figures(self.steps)}")
        rows.append(f"stopped by {self.stopped_by} after {self.layers} layer(s), {self.seconds:.2f} s, {cost}")
        return "\n".join(rows)


def _cached_calls(steps: Iterable[Step]) -> int:
    return sum(step.calls if step.cached else step.cached_calls for step in steps)


def _figures(steps: Iterable[Step]) -> str:
    steps = list(steps)
    failed = sum(step.status in ("failed", "cancelled") for step in steps)
    calls = sum(step.calls for step in steps)
    cached = _cached_calls(steps)
    tokens = sum(step.tokens.total for step in steps)
    seconds = max((step.end for step in steps), default=0.0) - min((step.start for step in steps), default=0.0)
    return f"{len(steps):>5} {failed:>6} {calls:>5} {cached:>6} {tokens:>8} {seconds:>7.2f}"
