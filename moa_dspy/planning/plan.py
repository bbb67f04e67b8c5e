"""A plan and its parts: frozen data, as JSON and as text."""

from __future__ import annotations

import math

import pydantic

from moa_dspy.cost.budget import Budget
from moa_dspy.cost.prices import ModelPrice
from moa_dspy.cost.tokens import Counter
from moa_dspy.planning.lengths import Lengths
from moa_dspy.planning.summary import model_rows, stage_rows, summary_lines
from moa_dspy.text_table import table
from moa_dspy.trace import STAGES, Stage, StoppedBy

__all__ = ["Amount", "Course", "ModelPrice", "ModelShare", "Plan", "StageShare"]


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


class ModelShare(Amount):
    """What one model's calls come to.

    Attributes:
        model: its name.
        price: None where it is unknown.
        counter: how its tokens were counted: ``tiktoken`` (its own tokenizer), ``anthropic`` (an older one of theirs),
            ``stand-in`` (another model's) or ``characters`` (a rule of thumb).
    """

    model: str
    price: ModelPrice | None
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
        tables = (table(stage_rows(self), left=(1,)), table(model_rows(self), left=(0,)))
        return "\n\n".join([*tables, "\n".join(summary_lines(self))])


def _dollars(usd: float) -> str:
    """Write dollars with four digits that count, and no fewer than cents."""
    if usd == 0:
        return "$0"
    return f"${usd:,.{max(2, 3 - math.floor(math.log10(usd)))}f}"
