"""Tuning a program's prompts with DSPy's optimizers, or with a method of your own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import dspy
from pydantic_core import to_jsonable_python

from moa_dspy.cost.budget import Budget, BudgetGuard
from moa_dspy.cost.meter import BudgetCallback, UsageMeter, metered
from moa_dspy.cost.usage import Price, Usage
from moa_dspy.display import Displayed
from moa_dspy.errors import (
    BudgetExhaustedError,
    BudgetInterruptError,
    BudgetTooSmallError,
    ConfigurationError,
    PromptModelInterruptError,
)
from moa_dspy.evaluation.statistics import Gain, Score
from moa_dspy.optimizers.leakage import check_examples, question_of, refuse_overlap
from moa_dspy.optimizers.measuring import (
    Measurement,
    Metric,
    check_budget,
    check_concurrency,
    check_seed,
    fit_metric,
    models_of,
    output_fields_of,
    run_examples,
)
from moa_dspy.optimizers.optimize_budget import check_covers, fraction_of
from moa_dspy.optimizers.prompts.method import Effort, PromptJob, PromptMethod, check_effort, check_prompt_lm
from moa_dspy.optimizers.prompts.methods import (
    MethodName,
    check_method,
    method_name,
    method_options,
    most_runs,
    resolve_method,
)
from moa_dspy.optimizers.prompts.silence import audible, seeded, silenced
from moa_dspy.optimizers.prompts.student import ambient_lm, instructions_of, learned, student_of
from moa_dspy.program import AttentionMoA
from moa_dspy.runtime import event_loop
from moa_dspy.runtime.knn_demos import Nearest

__all__ = ["CompileProgress", "CompileResult", "compile", "split_off"]

EndedBy: TypeAlias = Literal["done", "budget", "prompt_lm"]

_NO_LIMIT: Final = 2**31
_LAST_PASSES: Final = 1.5
"""Passes over the validation set for which budget is left when a method ends. The cache holds the last measurement."""


@dataclass(frozen=True)
class CompileProgress:
    """The progress of ``compile``.

    Attributes:
        cost: cost so far.
        of: approximate maximum number of LM calls, cached ones included.
    """

    cost: Usage
    of: int

    @property
    def done(self) -> float:
        """Return a lower bound of the completed share, below 1."""
        return min(self.cost.paid_calls / max(self.of, 1), 0.99)


@dataclass(frozen=True, repr=False)
class CompileResult(Displayed):
    """The result of ``compile``.

    Attributes:
        program: the tuned program, even if its score is not higher.
        score: its score on the validation set. It is biased upwards if the method chose by that set.
        before: the score of the original program on the same examples.
        gain: the paired difference of both scores.
        price: the mean price of an example with the tuned program, without the response cache.
        cost: amount paid, including both measurements and the model that writes prompts.
        report: method, options, seed, scores, and each predictor's instructions before and after, as JSON values.
    """

    program: AttentionMoA
    score: Score
    before: Score
    gain: Gain
    price: Price
    cost: Usage
    report: dict[str, Any]

    def _facts(self) -> Mapping[str, Any]:
        return {"score": self.score, "before": self.before, "gain": self.gain, "paid_calls": self.cost.paid_calls}


def compile(  # noqa: A001 (DSPy's word)
    program: AttentionMoA,
    *,
    trainset: Sequence[dspy.Example],
    metric: Metric,
    valset: Sequence[dspy.Example] | None = None,
    method: MethodName | PromptMethod = "gepa",
    effort: Effort = "light",
    prompt_lm: dspy.BaseLM | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    concurrency: int = 8,
    progress: Callable[[CompileProgress], None] | None = None,
    **options: Any,
) -> CompileResult:
    """Tune the prompts of a copy of ``program``.

    Args:
        program: the program; it is not changed. Every agent keeps its model.
        trainset: examples to learn from, with their inputs set.
        metric: ``metric(example, prediction, trace=None)``; see ``Metric``.
        valset: examples to choose by and to report on, none of them in ``trainset``; default: a third of ``trainset``.
        method: ``labeled``, ``bootstrap``, ``bootstrap_random``, ``knn`` (demos), ``copro``, ``gepa`` (instructions),
            ``mipro``, ``simba`` (both), ``reanchor`` (the stop decision), or an object: see ``PromptMethod``.
        effort: ``light``, ``medium`` or ``heavy``; sets the options that are not given.
        prompt_lm: the model that writes instructions; default: the aggregator's model.
        budget: limits of this call, the model that writes prompts included. Only running calls can exceed it. If it
            ends early, GEPA returns the best so far. Of other methods the original program is returned, and the
            finished calls stay in DSPy's cache. The same holds if no proposal of ``prompt_lm`` can be read.
            ``report["ended_by"]`` says so.
        seed: the same seed, cache and arguments give the same result.
        concurrency: maximum number of concurrent examples.
        progress: called at every paid call, from any thread.
        **options: the fields of the method's class, if the method is given by name.

    Raises:
        ConfigurationError: if an argument is invalid. Nothing was paid for.
        RunError: if the original program fails on every example, or the budget ends before it has been measured.
    """
    tuner = resolve_method(method, options)
    metric = _check(program, trainset, valset, metric, effort, concurrency)
    check_method(tuner, program, trainset)
    check_seed(seed)
    check_prompt_lm(prompt_lm)
    learn, hold = split_off(trainset, seed) if valset is None else (list(trainset), list(valset))
    writer, ambient = prompt_lm or program.get_lm(), ambient_lm(program)
    check_budget(budget, [*(agent.lm for agent in program.agents), program.get_lm(), writer])
    with seeded(seed), dspy.context(trace=None):
        job = PromptJob(student_of(program), learn, hold, metric, seed, effort, writer, ambient, concurrency)
        with _counted(program, tuner, job, budget, progress) as meter:
            return _Compilation(program, tuner, job, meter, budget).run()


class _Compilation:
    """One run of ``compile``."""

    def __init__(
        self, program: AttentionMoA, method: PromptMethod, job: PromptJob, meter: UsageMeter, budget: Budget | None
    ) -> None:
        self._program, self._method, self._job, self._meter = program, method, job, meter
        self._guard = BudgetGuard(budget, meter=meter)
        self._callback = None if budget is None else BudgetCallback(self._guard)
        self._ended_by: EndedBy = "done"
        self._errors: list[str] = []

    def run(self) -> CompileResult:
        """Measure the original program, tune it, and measure the tuned program, as far as the budget allows."""
        job = self._job
        check_covers(self._guard, self._program, job.valset, "the runs of the original program")
        try:  # measured first, so that a broken program fails before much is paid
            self._before = self._measure(self._program)
        except BudgetExhaustedError:
            raise BudgetTooSmallError(
                f"the budget does not cover the runs of the original program on {len(job.valset)} examples; "
                "raise it, or give fewer examples"
            ) from None
        try:
            self._tuned = learned(self._tune(), self._program)
            self._after = self._measure(self._tuned)
        except (BudgetInterruptError, BudgetExhaustedError):
            self._keep_program("budget")
        except PromptModelInterruptError:
            self._keep_program("prompt_lm")
        return self._result(self._meter.usage)

    def _keep_program(self, ended_by: EndedBy) -> None:
        self._tuned, self._after, self._ended_by = self._program.deepcopy(), self._before, ended_by

    def _result(self, cost: Usage) -> CompileResult:
        job, before, after = self._job, self._before, self._after
        old, new = before.score(), after.score()
        gain = Gain.of(before.scores, after.scores)
        measured = [before] if after is before else [before, after]
        failed = [run.error for one in measured for run in one.runs if run.error is not None]
        errors = [*failed, *self._errors, *job.unscored, *job.unwritten]
        report = {
            "kind": "compile",
            "method": method_name(self._method),
            "options": method_options(self._method),
            "effort": job.effort,
            "seed": job.seed,
            "prompt_lm": job.prompt_lm.model,
            "examples": {"trainset": len(job.trainset), "valset": len(job.valset)},
            "score": {"before": old, "after": new, "gain": gain},
            "cost": cost,
            "ended_by": self._ended_by,
            "errors": {"count": len(errors), "first": errors[:3]},
            "predictors": _predictors(self._program, self._tuned),
        }
        values = to_jsonable_python(report, fallback=str)
        return CompileResult(self._tuned, new, old, gain, after.known_price, cost, values)

    def _measure(self, program: AttentionMoA) -> Measurement:
        job = self._job
        return run_examples(program, job.valset, job.metric, concurrency=job.concurrency, guard=self._guard)

    def _tune(self) -> dspy.Module:
        job = replace(self._job, metric=audible(self._job.metric), budget_ends=self._budget_ends)
        callbacks = [*dspy.settings.callbacks, *([] if self._callback is None else [self._callback])]
        settings = dspy.context(lm=job.ambient, max_errors=_NO_LIMIT, callbacks=callbacks, adapter=job.adapter())
        with settings, silenced() as self._errors:
            try:
                tuned = self._method.tune(job)
            except (BudgetInterruptError, PromptModelInterruptError):
                self._end_calls()
                raise
            self._end_calls()
            return tuned

    def _budget_ends(self) -> bool:
        """Return whether the budget may not cover a further step of the method and the last measurement."""
        last = _LAST_PASSES * len(self._job.valset)
        if fraction_of(self._before.known_price, self._guard.left) * last > 1:
            self._ended_by = "budget"
        return self._ended_by == "budget"

    def _end_calls(self) -> None:
        running = 0 if self._callback is None else self._callback.drain()
        event_loop.let_callers_go_on()  # a step counts a call that was cut short after DSPy has said that it ended
        if running:
            self._meter.add(Usage(calls=running, unanswered=running))


@contextmanager
def _counted(
    program: AttentionMoA,
    method: PromptMethod,
    job: PromptJob,
    budget: Budget | None,
    progress: Callable[[CompileProgress], None] | None,
) -> Iterator[UsageMeter]:
    """Count what is paid for within the block, and report it to ``progress``."""
    most = (2 * len(job.valset) + most_runs(method, job)) * program.most_calls
    if budget is not None and budget.calls is not None:
        most = min(most, budget.calls)
    over = False

    def tell(cost: Usage) -> None:
        if progress is not None and not over:
            audible(progress)(CompileProgress(cost, most))

    lms = [*models_of(program), program.get_lm(), job.prompt_lm, job.ambient]
    with metered(lms, tell) as meter:
        try:
            yield meter
        finally:
            over = True  # DSPy's threads may still run calls after the budget has ended


def _predictors(program: AttentionMoA, tuned: AttentionMoA) -> dict[str, Any]:
    before, after, original = instructions_of(program), instructions_of(tuned), dict(program.named_predictors())
    report: dict[str, Any] = {}
    for name, predictor in tuned.named_predictors():
        own = [bool(demo.get("augmented")) for demo in predictor.demos]
        nearest = Nearest.of(predictor)
        report[name] = {
            "instructions": {"before": before[name], "after": after[name]},
            "demos": {
                "before": len(original[name].demos),
                "bootstrapped": sum(own),
                "labeled": len(own) - sum(own),
                "shown": nearest and nearest.k,
            },
            "decisions": predictor.fields,
        }
    return report


def _check(
    program: AttentionMoA,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example] | None,
    metric: Metric,
    effort: Effort,
    concurrency: int,
) -> Metric:
    """Return the metric for the task. Raise ConfigurationError if an argument does not fit."""
    if not isinstance(program, AttentionMoA):
        raise ConfigurationError(f"program is of type {type(program).__name__}; it must be an AttentionMoA")
    check_examples(trainset)
    fitted, _ = fit_metric(metric, output_fields_of(program), [*trainset, *(valset or ())])
    check_effort(effort)
    check_concurrency(concurrency)
    if len(trainset) < (3 if valset is None else 1) or (valset is not None and not valset):
        raise ConfigurationError(
            f"{len(trainset)} training examples{'' if valset is None else f' and {len(valset)} for validation'} "
            "are too few; give at least 3, or at least one of each"
        )
    refuse_overlap(valset or (), map(question_of, trainset), "validation", "that are learnt from")
    return fitted


def split_off(examples: Sequence[dspy.Example], seed: int) -> tuple[list[dspy.Example], list[dspy.Example]]:
    """Split off a third of the examples, at least one. Both parts keep their order; equal inputs stay together.

    Raise ConfigurationError if all examples have equal inputs, or if their inputs are not set.
    """
    known = [question_of(example) for example in examples]
    questions = list(dict.fromkeys(known))
    if len(questions) < 2:
        raise ConfigurationError(
            f"all {len(examples)} examples have equal inputs, so none can be held back; give different ones"
        )
    held = set(random.Random(seed).sample(questions, max(1, len(questions) // 3)))  # noqa: S311
    learn = [example for example, what in zip(examples, known, strict=True) if what not in held]
    return learn, [example for example, what in zip(examples, known, strict=True) if what in held]
