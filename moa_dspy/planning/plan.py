"""The plan of a run: the steps and the cost of a program on one question."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import dspy
import pydantic

from moa_dspy._dspy import has_input_keys
from moa_dspy.agents import remarks_of
from moa_dspy.cost.budget import Budget
from moa_dspy.cost.prices import ModelPrice, offline_prices
from moa_dspy.cost.tokens import Counter
from moa_dspy.display import Displayed, Table
from moa_dspy.errors import ConfigurationError, InputError
from moa_dspy.planning.estimate import CostEstimate
from moa_dspy.planning.lengths import Lengths, check_whole
from moa_dspy.planning.rehearsal import Rehearsal
from moa_dspy.runtime.parts import RunParts
from moa_dspy.text_table import text_table
from moa_dspy.trace import STAGES, Stage, Step, StoppedBy, model_names

__all__ = [
    "ModelEstimate",
    "Plan",
    "RunEstimate",
    "StageEstimate",
    "inputs_of",
    "make_plan",
    "model_rows",
    "stage_rows",
    "summary_lines",
]

_COUNTED_WITH: Final[Mapping[Counter, str]] = {
    "anthropic": "an older tokenizer of Anthropic's, the one that LiteLLM carries",
    "stand-in": "a stand-in, tiktoken's cl100k_base, as LiteLLM carries no tokenizer of theirs",
    "characters": "a rule of thumb, 4 characters a token, as LiteLLM's counter is not available",
}
"""Counters that a plan mentions in a note, with their descriptions."""


class ModelEstimate(CostEstimate):
    """The cost of one model's calls.

    Attributes:
        model: its name.
        server: address of its server; None for the provider's usual one.
        price: None if unknown.
        counter: how its tokens are counted: ``tiktoken`` (its own tokenizer), ``anthropic`` (an older one of
            Anthropic's), ``stand-in`` (another model's) or ``characters`` (four characters a token).
    """

    model: str
    server: str | None = None
    price: ModelPrice | None
    counter: Counter


class StageEstimate(CostEstimate):
    """The cost of one stage of one layer."""

    layer: int
    stage: Stage


class RunEstimate(CostEstimate):
    """The cost of one possible run.

    Attributes:
        layers: number of layers.
        depth: number of calls on the critical path.
        stopped_by: why the run ends, as in a trace.
        seconds: estimated wall time, or None without ``seconds_per_call``.
        cached_tokens: prompt tokens that providers can read from their own cache. The dollars count them in full.
        stages: by layer and stage, in canonical order.
        models: by model, in order of first use.
    """

    layers: int
    depth: int
    stopped_by: StoppedBy
    seconds: float | None = None
    cached_tokens: int = 0
    stages: tuple[StageEstimate, ...]
    models: tuple[ModelEstimate, ...]

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def calls_per_stage(self) -> dict[Stage, int]:
        """Return the calls of each stage over all layers."""
        used: list[Stage] = [stage for stage in STAGES if any(part.stage == stage for part in self.stages)]
        return {stage: sum(part.calls for part in self.stages if part.stage == stage) for stage in used}

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def calls_per_layer(self) -> dict[int, int]:
        """Return the calls of each layer over all stages."""
        numbers = range(1, self.layers + 1)
        return {number: sum(part.calls for part in self.stages if part.layer == number) for number in numbers}


class Plan(Displayed, pydantic.BaseModel):
    """The cost of a program on one question, and on ``times`` questions.

    Attributes:
        full: a run that does not stop early, and in which no two proposals agree.
        expected: such a run with two different proposals in each layer, if the answers decide who criticises whom; else
            None.
        minimum: a run that stops as early as possible: with a gate because the first proposals agree, else because the
            second layer does not improve. It equals ``full`` if the program cannot stop early.
        times: number of questions.
        lengths: assumed lengths of texts.
        budget: the limits of both runs.
        left_out: the calls that the budget removes from a full run.
        notes: assumptions and limits of these figures.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    full: RunEstimate
    minimum: RunEstimate
    expected: RunEstimate | None = None
    times: int = 1
    lengths: Lengths
    budget: Budget
    left_out: tuple[StageEstimate, ...] = ()
    notes: tuple[str, ...] = ()

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> CostEstimate:
        """Return the cost of all questions if no run stops early."""
        return self.full.times(self.times)

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def total_minimum(self) -> CostEstimate:
        """Return the cost of all questions if every run stops as early as possible."""
        return self.minimum.times(self.times)

    def to_json(self, indent: int | None = None) -> str:
        """Return the plan as JSON text."""
        return self.model_dump_json(indent=indent)

    def _facts(self) -> Mapping[str, Any]:
        total = self.total
        return {
            "times": self.times,
            "calls": total.calls,
            "most_calls": total.most_calls,
            "least_calls": self.total_minimum.calls,
            "tokens": total.tokens,
            "cost": total.dollars,
            "models": ", ".join(dict.fromkeys(estimate.model for estimate in self.full.models)),
        }

    def _tables(self) -> Sequence[Table]:
        (stage_head, *stages), (model_head, *models) = stage_rows(self), model_rows(self)
        return [
            Table("stages", stage_head, stages),
            Table("models", model_head, models),
            Table("summary", ("",), [(line,) for line in summary_lines(self)]),
        ]

    def to_table(self) -> str:
        """Return the plan as plain text."""
        tables = (text_table(stage_rows(self), left=(1,)), text_table(model_rows(self), left=(0,)))
        return "\n\n".join([*tables, "\n".join(summary_lines(self))])


def inputs_of(example: Mapping[str, Any] | dspy.Example | None, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs given in an example or by name.

    Raises:
        InputError: if an input is given twice, or ``example`` is not an example or a mapping.
    """
    if example is None:
        return dict(inputs)
    if isinstance(example, dspy.Example):
        marked = has_input_keys(example)
        example = dict((example.inputs() if marked else example).items())
    if not isinstance(example, Mapping):
        raise InputError(f"a plan is made for a dspy.Example or a mapping of inputs, not {type(example).__name__}")
    twice = sorted(example.keys() & inputs.keys())
    if twice:
        raise InputError(f"input {', '.join(twice)} is given twice: in the example and by name")
    return {**example, **inputs}


def make_plan(
    parts: RunParts,
    inputs: Mapping[str, Any],
    *,
    budget: Budget,
    lengths: Lengths,
    assumed: bool,
    times: int = 1,
    seconds_per_call: float | None = None,
) -> Plan:
    """Return the plan of a run, for ``AttentionMoA.plan``. ``assumed`` inputs are placeholders.

    Raises:
        ConfigurationError: if an agent has no model, a prompt cannot be written, or an option is out of range.
    """
    check_whole("times", times, least=1)
    if seconds_per_call is not None and not 0 < seconds_per_call < math.inf:
        raise ConfigurationError(f"seconds_per_call={seconds_per_call!r} is not a latency; it must be above 0")
    rehearsal = Rehearsal(parts, inputs, lengths, assumed)

    def estimate(limits: Budget, *, improved: bool = True, distinct: int | None = None) -> RunEstimate:
        run = rehearsal.run(limits, improved=improved, distinct=distinct)
        return _run_estimate(*run, rehearsal, seconds_per_call, limits.calls)

    with offline_prices():
        full = minimum = unlimited = estimate(budget)
        if parts.architecture.agreement_gate is not None:
            minimum = estimate(budget, distinct=1)
        elif parts.architecture.early_stop and parts.architecture.synthesizes:
            minimum = estimate(budget, improved=False)
        expected = estimate(budget, distinct=2) if parts.architecture.by_answer else None
        if full.stopped_by == "budget":
            unlimited = estimate(Budget())
    return Plan(
        full=full,
        minimum=minimum,
        expected=expected,
        times=times,
        lengths=lengths,
        budget=budget,
        left_out=tuple(_left_out(unlimited, full)),
        notes=(
            *_notes(full, budget, rehearsal),
            *remarks_of(replace(slot.agent, name=slot.name) for slot in parts.agents),
        ),
    )


def _run_estimate(
    steps: Sequence[Step], stopped_by: StoppedBy, rehearsal: Rehearsal, seconds_per_call: float | None, most: int | None
) -> RunEstimate:
    """Return the figures of a rehearsed run. A budget allows ``most`` calls."""
    called = [step for step in steps if step.calls]
    by_stage: dict[tuple[int, int], list[Step]] = {}
    by_model: dict[tuple[str, str | None], list[Step]] = {}
    for step in called:
        by_stage.setdefault((step.layer, STAGES.index(step.stage)), []).append(step)
        if step.model is not None:
            by_model.setdefault((step.model, step.server), []).append(step)
    prices, kind = rehearsal.prices, rehearsal.counter.kind
    # Each stage waits for an earlier stage of its layer, so every stage with a call adds one to the critical path.
    # If the gate asks some agents first, proposals and comparisons are made in two rounds. The calls of an aggregation
    # in windows follow one another.
    gate = rehearsal.parts.architecture.agreement_gate
    first = math.inf if gate is None or gate.first is None else gate.first
    twice = {STAGES.index("propose"): first, STAGES.index("agree"): 1}
    depth = len(by_stage) + sum(len(own) > twice.get(stage, math.inf) for (_, stage), own in by_stage.items())
    depth += sum(len(own) - 1 for (_, stage), own in by_stage.items() if STAGES[stage] == "aggregate")
    sums = _sums(called, rehearsal)
    if most is not None:
        sums["most_calls"] = max(sums["calls"], min(sums["most_calls"], most))
    return RunEstimate(
        **sums,
        layers=max(step.layer for step in steps),
        depth=depth,
        stopped_by=stopped_by,
        seconds=None if seconds_per_call is None else depth * seconds_per_call,
        cached_tokens=sum(step.tokens.cached for step in called),
        stages=tuple(
            StageEstimate(**_sums(own, rehearsal), layer=layer, stage=STAGES[number])
            for (layer, number), own in sorted(by_stage.items())
        ),
        models=tuple(
            ModelEstimate(
                **_sums(own, rehearsal),
                model=model,
                server=server,
                price=prices.price_of(model, server),
                counter=kind(model),
            )
            for (model, server), own in by_model.items()
        ),
    )


def _sums(steps: Sequence[Step], rehearsal: Rehearsal) -> dict[str, Any]:
    known = [step.cost_usd for step in steps if step.cost_usd is not None]
    return {
        "calls": sum(step.calls for step in steps),
        "most_calls": sum(map(rehearsal.most_calls_of, steps)),
        "prompt_tokens": sum(step.tokens.prompt for step in steps),
        "completion_tokens": sum(step.tokens.completion for step in steps),
        "usd": math.fsum(known) if len(known) == len(steps) else None,
        "usd_at_least": math.fsum(known),
    }


def _left_out(whole: RunEstimate, part: RunEstimate) -> Iterator[StageEstimate]:
    """Yield the calls in ``whole`` that are missing in ``part``, by layer and stage."""
    kept = {(share.layer, share.stage): share for share in part.stages}
    for share in whole.stages:
        missing = share - kept.get((share.layer, share.stage), CostEstimate())
        if missing.calls > 0:
            yield StageEstimate(**missing.model_dump(), layer=share.layer, stage=share.stage)


def _notes(full: RunEstimate, budget: Budget, rehearsal: Rehearsal) -> Iterator[str]:
    """Yield the assumptions and limits of the figures."""
    if rehearsal.assumed:
        yield f"no input was given: each input field is assumed to have {rehearsal.lengths.input} tokens"
    unpriced = list(dict.fromkeys(share.model for share in full.models if share.price is None))
    if unpriced:
        yield f"the price of {_list(unpriced)} is unknown, and in no sum of dollars"
    for counter, how in _COUNTED_WITH.items():
        models = [share.model for share in full.models if share.counter == counter]
        if models:
            yield f"tokens of {_list(models)} are counted with {how}"
    for share in full.models:
        limits = [str(limit) for limit in sorted(rehearsal.cut_at.get(share.model, ()))]
        if limits:
            yield f"what {share.model} writes is assumed to be cut off at its max_tokens, {_list(limits)}"
    if full.cached_tokens:
        tokens = f"{full.cached_tokens:,} of {full.prompt_tokens:,} prompt tokens"
        yield f"providers can read {tokens} from their own cache, at their lower price; the figures count all in full"
    if budget.tokens is not None or budget.usd is not None:
        yield "what a budget of tokens or dollars leaves out depends on the lengths of the answers"
    if budget.seconds is not None and full.seconds is None:
        yield f"the budget's {budget.seconds:g} s are not considered without the seconds of a call"
    elif budget.seconds is not None and full.seconds is not None and full.seconds > budget.seconds:
        yield f"a full run takes about {full.seconds:g} s, more than the budget's {budget.seconds:g} s: it is cut short"
    if rehearsal.embedding_models:
        names = _list(sorted(rehearsal.embedding_models))
        yield f"demos are chosen by {names}: these calls are in the steps that ask for them, at most one a new text"
    if rehearsal.unknown_demos:
        shown = " or ".join(map(str, sorted(rehearsal.unknown_demos)))
        why = (
            "no input is given" if rehearsal.assumed else "their vectorizer may be a model, which a plan does not call"
        )
        yield f"the demos nearest to the input are not known, since {why}: the {shown} of median length are assumed"


def _list(names: Sequence[str]) -> str:
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def stage_rows(plan: Plan) -> list[tuple[str, ...]]:
    """Return the header and the rows of the stage table, for one question and a full run."""
    rows = [(str(share.layer), share.stage, *_cells(share)) for share in plan.full.stages]
    return [("layer", "stage", "calls", "prompt", "completion", "cost"), *rows, ("all", "", *_cells(plan.full))]


def model_rows(plan: Plan) -> list[tuple[str, ...]]:
    """Return the header and the rows of the model table, for one question and a full run."""
    names = model_names((share.model, share.server) for share in plan.full.models)
    rows = [
        (names[share.model, share.server] or "", *_cells(share), *_prices(share.price)) for share in plan.full.models
    ]
    return [("model", "calls", "prompt", "completion", "cost", "$/M prompt", "$/M completion"), *rows]


def summary_lines(plan: Plan) -> list[str]:
    """Return the lines below the tables: totals, assumptions and notes."""
    lines = [f"full run: {_run_line(plan.full)}"]
    if plan.expected is not None and plan.expected.calls != plan.full.calls:
        lines.append(f"if each layer has two different answers: {_run_line(plan.expected)}")
    if plan.minimum.calls != plan.full.calls:
        agreed = plan.minimum.stopped_by == "agreement"
        ending = "if the first proposals agree" if agreed else f"early stop after layer {plan.minimum.layers}"
        lines.append(f"{ending}: {_run_line(plan.minimum)}")
    if plan.times > 1:
        least, most = plan.total_minimum, plan.total
        calls = most.calls_in_words if least.calls == most.calls else f"{least.calls:,} to {most.calls_in_words}"
        cost = most.dollars if least.dollars == most.dollars else f"{least.dollars} to {most.dollars}"
        lines.append(f"{plan.times:,} times: {calls}, cost {cost}")
    if plan.left_out:
        lines.append(f"left out for the budget: {', '.join(_omissions(plan))}")
    assumed = plan.lengths
    thinking = f", {assumed.thinking} of hidden thinking in each call" if assumed.thinking else ""
    lines.append(
        f"assumed tokens: {assumed.answer} in an answer, {assumed.critique} in a critique, "
        f"{assumed.reasoning} in a reasoning field{thinking}; no call fails, nothing is cached"
    )
    if plan.full.most_calls > plan.full.calls:
        lines.append(
            f"at most {plan.full.most_calls:,} calls in a run: a reply that cannot be read, for example because it was "
            "cut at max_tokens, is asked for once more in another form"
        )
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def _omissions(plan: Plan) -> Iterator[str]:
    for layer in sorted({share.layer for share in plan.left_out}):
        parts = [share for share in plan.left_out if share.layer == layer]
        if layer > plan.full.layers:
            yield f"layer {layer} ({sum(share.calls for share in parts):,} calls)"
        else:
            yield from (f"{share.calls:,} to {share.stage} in layer {layer}" for share in parts)


def _run_line(run: RunEstimate) -> str:
    seconds = "" if run.seconds is None else f", about {run.seconds:g} s"
    tokens = f"{run.prompt_tokens:,} prompt and {run.completion_tokens:,} completion tokens"
    return f"{run.calls:,} calls, {run.depth} of them in sequence{seconds}, {tokens}, cost {run.dollars}"


def _cells(cost: CostEstimate) -> tuple[str, ...]:
    return f"{cost.calls:,}", f"{cost.prompt_tokens:,}", f"{cost.completion_tokens:,}", cost.dollars


def _prices(price: ModelPrice | None) -> tuple[str, str]:
    if price is None:
        return "unknown", "unknown"
    return ("free", "free") if price.source == "free" else (f"{price.input:g}", f"{price.output:g}")
