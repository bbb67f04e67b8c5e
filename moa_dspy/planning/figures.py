"""From a rehearsal to figures: courses, what a budget leaves out, and what a reader should know."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from moa_dspy.cost.budget import Budget
from moa_dspy.cost.tokens import Counter
from moa_dspy.planning.plan import Course, ModelShare, StageShare
from moa_dspy.planning.rehearsal import Rehearsal
from moa_dspy.trace import STAGES, Stage, Step, Trace

__all__ = ["course_of", "difference", "notes_on"]

_COUNTED_WITH: Final[Mapping[Counter, str]] = {
    "anthropic": "an older tokenizer of Anthropic's, the one that LiteLLM carries",
    "stand-in": "a stand-in, tiktoken's cl100k_base, as LiteLLM carries no tokenizer of theirs",
    "characters": "a rule of thumb, 4 characters a token, as LiteLLM's counter is not available",
}
"""Ways of counting that a reader should know about."""


def course_of(trace: Trace, rehearsal: Rehearsal, seconds_per_call: float | None) -> Course:
    """Return what a rehearsal comes to."""
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
        models=tuple(_model_share(steps, model, rehearsal) for model in models),
    )


def _stage_share(steps: Sequence[Step], layer: int, stage: Stage) -> StageShare:
    own = [step for step in steps if (step.layer, step.stage) == (layer, stage)]
    return StageShare(**_amount(own), layer=layer, stage=stage)


def _model_share(steps: Sequence[Step], model: str, rehearsal: Rehearsal) -> ModelShare:
    own = [step for step in steps if step.model == model]
    price, counter = rehearsal.prices.price_of(model), rehearsal.counter.kind(model)
    return ModelShare(**_amount(own), model=model, price=price, counter=counter)


def _amount(steps: Sequence[Step]) -> dict[str, Any]:
    known = [step.cost_usd for step in steps if step.cost_usd is not None]
    return {
        "calls": sum(step.calls for step in steps),
        "prompt_tokens": sum(step.tokens.prompt for step in steps),
        "completion_tokens": sum(step.tokens.completion for step in steps),
        "usd": math.fsum(known) if len(known) == len(steps) else None,
        "usd_at_least": math.fsum(known),
    }


def difference(whole: Course, part: Course) -> Iterator[StageShare]:
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


def notes_on(full: Course, budget: Budget, rehearsal: Rehearsal) -> Iterator[str]:
    """Yield what a reader should know about the figures."""
    if rehearsal.assumed:
        yield f"no input was given: each input field is assumed to have {rehearsal.lengths.input} tokens"
    unpriced = [share.model for share in full.models if share.price is None]
    if unpriced:
        yield f"the price of {_in_a_row(unpriced)} is unknown, and in no sum of dollars"
    for counter, how in _COUNTED_WITH.items():
        models = [share.model for share in full.models if share.counter == counter]
        if models:
            yield f"tokens of {_in_a_row(models)} are counted with {how}"
    for share in full.models:
        limits = [str(limit) for limit in sorted(rehearsal.cut_at.get(share.model, ()))]
        if limits:
            yield f"what {share.model} writes is assumed to be cut off at its max_tokens, {_in_a_row(limits)}"
    if budget.tokens is not None or budget.usd is not None:
        yield "what a budget of tokens or dollars leaves out depends on the lengths of the answers"
    if budget.seconds is not None and full.seconds is None:
        yield f"the budget's {budget.seconds:g} s are not looked at without the seconds of a call"
    elif budget.seconds is not None and full.seconds is not None and full.seconds > budget.seconds:
        yield f"a full run takes about {full.seconds:g} s, more than the budget's {budget.seconds:g} s: it is cut short"


def _in_a_row(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])
