"""Sums over steps: of an agent, a stage, a layer, a model, or a whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pydantic

if TYPE_CHECKING:
    from moa_dspy.trace import Step, Tokens

__all__ = ["Grouping", "Tally", "cached_calls", "grouped", "tally", "total_cost", "total_tokens"]

Grouping: TypeAlias = Literal["agent", "stage", "layer", "model"]


class Tally(pydantic.BaseModel):
    """What some steps of a run come to.

    Attributes:
        name: of the agent, stage, layer or model; ``all`` for a whole run.
        steps: how many.
        failed: how many of them failed, or were cancelled.
        calls: LM calls, cached ones and retries included.
        cached_calls: those of them that DSPy's response cache answered.
        unanswered: those of them that were cut short: a provider may bill them, but nobody knows what.
        prompt_tokens: paid, the provider's cached ones included.
        cached_tokens: those of them that the provider had in its own cache.
        completion_tokens: paid.
        cost_usd: dollars paid; None where a price is not known.
        seconds: wall time in which at least one of the steps was under way.
        queued: seconds that they waited for their turn, added up.
        causes: kind of failure to how often it came up, retries that went well in the end included.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    name: str
    steps: int
    failed: int
    calls: int
    cached_calls: int
    unanswered: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_usd: float | None
    seconds: float
    queued: float
    causes: dict[str, int]

    @property
    def cost_is_lower_bound(self) -> bool:
        """Return whether more may have been billed than ``cost_usd``: calls were cut short."""
        return self.unanswered > 0

    @property
    def dollars(self) -> str:
        """Return the cost in words: ``$0.012000``, ``at least $0.012000`` or ``unknown``."""
        if self.cost_usd is None:
            return "unknown"
        return f"{'at least ' * self.cost_is_lower_bound}${self.cost_usd:.6f}"


def tally(name: str, steps: Iterable[Step]) -> Tally:
    """Return what ``steps`` come to."""
    steps = list(steps)
    tokens = total_tokens(steps)
    return Tally(
        name=name,
        steps=len(steps),
        failed=sum(step.status in ("failed", "cancelled") for step in steps),
        calls=sum(step.calls for step in steps),
        cached_calls=cached_calls(steps),
        unanswered=sum(step.unanswered for step in steps),
        prompt_tokens=tokens.prompt,
        cached_tokens=tokens.cached,
        completion_tokens=tokens.completion,
        cost_usd=total_cost(steps),
        seconds=_covered([(step.start, step.end) for step in steps]),
        queued=sum(step.queued for step in steps),
        causes=dict(Counter(failure.kind for step in steps for failure in step.failures)),
    )


def grouped(steps: Sequence[Step], grouping: Grouping) -> tuple[Tally, ...]:
    """Return a tally of every agent, stage, layer or model, in order of first appearance; no model is left out."""
    groups: dict[Any, list[Step]] = {}
    for step in steps:
        key = getattr(step, grouping)
        if key is not None:
            groups.setdefault(key, []).append(step)
    return tuple(tally(str(key), members) for key, members in groups.items())


def total_tokens(steps: Iterable[Step]) -> Tokens:
    """Return the tokens paid for."""
    from moa_dspy.trace import Tokens

    return sum((step.tokens for step in steps), start=Tokens())


def total_cost(steps: Iterable[Step]) -> float | None:
    """Return the dollars paid, or None where the price of a step is not known."""
    costs = [step.cost_usd for step in steps]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def cached_calls(steps: Iterable[Step]) -> int:
    """Return the number of LM calls that DSPy's response cache answered."""
    return sum(step.calls if step.cached else step.cached_calls for step in steps)


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of ``spans``."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered
