"""What happened in one run: every step, in canonical order, as JSON-serialisable data.

Canonical order is layer, stage, acting agent, target: the same for equal runs, whatever finished first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, get_args

import pydantic

from moa_dspy.cost.usage import Tokens, Usage
from moa_dspy.errors import ConfigurationError
from moa_dspy.files.json_safe import sayable
from moa_dspy.trace_usage import Grouping, Tally, cached_calls, grouped, tally, total_cost, total_tokens

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


class Failure(_Record):
    """Why a step, or a try of it, failed.

    Attributes:
        kind: stable name of the cause, such as ``timeout`` or ``rate_limit``.
        message: the cause in words.
        retry_after: seconds that the provider asked to be left alone for; None where it did not say.
    """

    kind: _Text
    message: _Text
    retry_after: float | None = None


class Step(_Record):
    """One step of a run.

    Attributes:
        layer: from 1.
        stage: what was done.
        agent: who did it; the aggregator's name for aggregate and synthesize.
        target: whose answer was criticised or refined; None elsewhere.
        model: the model that was asked; None where agents voted, or their answers stood in, and no model was.
        status: ``ok``, ``failed``, ``skipped`` (nothing was asked: the budget did not allow it, or the provider had
            refused the model's key or account before) or ``cancelled`` (under way when the run ended or went on
            without it).
        text: what other agents get to read of it.
        outputs: the fields that were written, as JSON values.
        probabilities: of yes, by output field, where the model was asked for them instead of yes or no.
        calls: LM calls made, cached ones and retries included.
        cached_calls: those of them that DSPy's response cache answered.
        cached: whether every call was answered from there, so that nothing was paid.
        unanswered: calls that were cut short while the model may have been at work: the provider may bill them, so that
            tokens and dollars are a lower bound.
        tokens: paid tokens; zero for cached calls.
        cost_usd: dollars paid; None where the price is not known.
        estimated: whether the server left out what it used, or DSPy knew no price, and a count of the texts, or a list
            price, stands in.
        truncated: whether the reply ended at ``max_tokens``, and so perhaps in the middle.
        saved_tokens: what the cached calls used when they were made, so that a step's full use is known from any run.
        saved_usd: what they cost then; None where the price is not known.
        start: seconds from the start of the run.
        queued: seconds that it waited for its turn under a concurrency limit.
        end: seconds from the start of the run.
        failures: of every try that failed, in order, also where a later one went well.
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
    unanswered: int = 0
    tokens: Tokens = Tokens()
    cost_usd: float | None = 0.0
    estimated: bool = False
    truncated: bool = False
    saved_tokens: Tokens = Tokens()
    saved_usd: float | None = 0.0
    start: float = 0.0
    queued: float = 0.0
    end: float = 0.0
    failures: tuple[Failure, ...] = ()
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
        return cached_calls(self.steps)

    @property
    def tokens(self) -> Tokens:
        """Return the tokens paid for."""
        return total_tokens(self.steps)

    @property
    def cost_usd(self) -> float | None:
        """Return the dollars paid, or None where the price of a step is not known."""
        return total_cost(self.steps)

    @property
    def usage(self) -> Usage:
        """Return what the run used, with its wall time."""
        return Usage(
            calls=self.calls,
            cached_calls=self.cached_calls,
            unanswered=sum(step.unanswered for step in self.steps),
            tokens=self.tokens,
            cost_usd=self.cost_usd,
            estimated=any(step.estimated for step in self.steps),
            seconds=self.seconds,
        )

    @property
    def cost_is_lower_bound(self) -> bool:
        """Return whether more may have been billed than is known: calls were cut short, see ``Step.unanswered``."""
        return self.total.cost_is_lower_bound

    @property
    def total(self) -> Tally:
        """Return what the whole run came to."""
        return tally("all", self.steps)

    def by(self, grouping: Grouping) -> tuple[Tally, ...]:
        """Return what each agent, stage, layer or model came to, in order of first appearance.

        Args:
            grouping: ``"agent"``, ``"stage"``, ``"layer"`` or ``"model"`` (where agents voted, no model was asked).

        Raises:
            ConfigurationError: it is none of these.
        """
        if grouping not in get_args(Grouping):
            raise ConfigurationError(f"steps are grouped by {', '.join(get_args(Grouping))}, not by {grouping!r}")
        return grouped(self.steps, grouping)

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
            ConfigurationError: it is not one.
        """
        try:
            return cls.model_validate_json(text)
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"]) or "JSON"
            raise ConfigurationError(
                f"this is no trace ({where}: {problem['msg']}); give what Trace.to_json has written"
            ) from None

    def summary(self, *, steps: bool = False) -> str:
        """Return the run as text for people: stages, agents, what failed, and the totals.

        Args:
            steps: also every single step: who did it, its tokens, dollars and seconds, and why it failed.
        """
        from moa_dspy.trace_summary import summary_of

        return summary_of(self, steps=steps)
