"""Tuning a program's prompts with DSPy's own optimizers."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import dspy
from pydantic_core import to_jsonable_python

from moa_dspy.cost.budget import Budget
from moa_dspy.errors import BudgetExhaustedError, BudgetTooSmallError, ConfigurationError
from moa_dspy.evaluation.statistics import Gain, Score
from moa_dspy.optimizers.comparison.leakage import asked, refuse_overlap
from moa_dspy.optimizers.comparison.matching import check_budget, mean_price
from moa_dspy.optimizers.measuring import Measurement, Metric, check_concurrency, check_metric, measure, models_of
from moa_dspy.optimizers.prompts.jobs import Effort, Job, Method, check_effort
from moa_dspy.optimizers.prompts.methods import MethodName, method_of
from moa_dspy.optimizers.prompts.silence import own_randomness, quiet
from moa_dspy.optimizers.prompts.student import ambient_lm, instructions_of, learned, student_of
from moa_dspy.optimizers.purse import Purse, SpentError
from moa_dspy.optimizers.results import Cost
from moa_dspy.optimizers.spending import count_spending
from moa_dspy.optimizers.stopping.depth import Price
from moa_dspy.optimizers.toll import Toll
from moa_dspy.program import AttentionMoA
from moa_dspy.run.knn_demos import Nearest

__all__ = ["CompileProgress", "CompileResult", "compile", "split_off"]

EndedBy: TypeAlias = Literal["done", "budget"]

_NO_LIMIT = 2**31


@dataclass(frozen=True)
class CompileProgress:
    """Where a tuning of prompts is.

    Attributes:
        cost: what has been spent.
        of: LM calls that it takes about, at most; those that the response cache answers are among them.
    """

    cost: Cost
    of: int

    @property
    def done(self) -> float:
        """Return the share that is done, at least; below 1."""
        return min(self.cost.calls / max(self.of, 1), 0.99)


@dataclass(frozen=True)
class CompileResult:
    """What came of tuning a program's prompts.

    Attributes:
        program: the tuned program, whatever it scores; the one that was given is unchanged.
        score: its score on the validation set. Methods that choose by that set make it look better than it is.
        before: the score of the program as it was given, on the same examples.
        gain: of the one on the other, example by example.
        price: of an example with the tuned program where nothing is cached, as a mean over the validation set.
        cost: everything that was paid for, the two measurements and the models that write prompts included.
        report: method, options, seed, scores, and each predictor's instructions before and after, as JSON values.
    """

    program: AttentionMoA
    score: Score
    before: Score
    gain: Gain
    price: Price
    cost: Cost
    report: dict[str, Any]


def compile(  # noqa: A001 (DSPy's word, and the issue's)
    program: AttentionMoA,
    *,
    trainset: Sequence[dspy.Example],
    metric: Metric,
    valset: Sequence[dspy.Example] | None = None,
    method: MethodName = "gepa",
    seed: int = 0,
    effort: Effort = "light",
    prompt_lm: dspy.BaseLM | None = None,
    concurrency: int = 8,
    budget: Budget | None = None,
    progress: Callable[[CompileProgress], None] | None = None,
    **options: Any,
) -> CompileResult:
    """Tune the prompts of a copy of ``program``.

    Args:
        program: its agents may be on different models, and have prompts of their own or not; it is not changed, and
            every agent of the result has the model that it had.
        trainset: examples to learn from, with their inputs set.
        valset: examples to choose by and to report on, none of which is in ``trainset``; default: a third of that,
            drawn by the seed, which is then not learnt from.
        metric: ``metric(example, prediction, trace=None)``; see ``Metric``.
        method: ``labeled``, ``bootstrap``, ``bootstrap_random``, ``knn`` (demos), ``copro``, ``gepa`` (instructions),
            ``mipro``, ``simba`` (both) or ``reanchor`` (the stop decision).
        seed: the same seed, cache and arguments give the same result.
        effort: how much to try where the options do not say: ``light``, ``medium`` or ``heavy``.
        prompt_lm: writes instructions; default: the aggregator's model.
        concurrency: examples under way at once.
        budget: of this call, the model that writes prompts included. When it ends, which only calls under way exceed,
            the program as it was given is returned;
            what was answered is in DSPy's cache for another try.
        progress: told where it is with every paid call (its price comes a moment later), from any thread.
        **options: of the method; see the classes in ``moa_dspy.optimizers.prompts.methods``.

    Raises:
        ConfigurationError: an argument does not fit; nothing was paid for.
        RunError: the program as it was given fails on every example, or the budget ends before it has been measured.
    """
    chosen = method_of(method, options)
    _check(program, trainset, valset, metric, effort, concurrency)
    chosen.check(program)
    learn, hold = split_off(trainset, seed) if valset is None else (list(trainset), list(valset))
    writer = prompt_lm or program.get_lm()
    ambient = ambient_lm(program)
    check_budget(budget, [*(agent.lm for agent in program.agents), program.get_lm(), writer])
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(quiet())
        stack.enter_context(own_randomness(seed))
        told = _Progress(progress)
        spending = stack.enter_context(count_spending([*models_of(program), program.get_lm(), writer, ambient], told))
        stack.enter_context(dspy.context(trace=None))
        purse = Purse(budget or Budget(), spending)
        job = Job(student_of(program), learn, hold, metric, seed, effort, writer, ambient, concurrency, purse)
        told.of = (2 * len(hold) + chosen.most_runs(job)) * program.architecture.max_calls
        before = _measured(program, job)
        tuned, after, ended_by = _tuned(program, chosen, job, before, None if budget is None else Toll(purse))
        told.over = True  # a budget may leave calls under way on DSPy's threads
    return _compiled(program, tuned, chosen, method, job, before, after, spending.cost, errors, ended_by)


def _tuned(
    program: AttentionMoA, chosen: Method, job: Job, before: Measurement, toll: Toll | None
) -> tuple[AttentionMoA, Measurement, EndedBy]:
    """Tune, and measure what came of it; where the budget ends meanwhile, that is the program as it was given."""
    callbacks = [*dspy.settings.callbacks, *([] if toll is None else [toll])]
    try:
        with dspy.context(lm=job.ambient, max_errors=_NO_LIMIT, callbacks=callbacks):
            tuned = learned(chosen.run(job), program)
        after = measure(tuned, job.valset, job.metric, concurrency=job.concurrency, purse=job.purse)
    except (SpentError, BudgetExhaustedError):
        if toll is not None:
            toll.settle()
        return program.deepcopy(), before, "budget"
    return tuned, after, "done"


def _measured(program: AttentionMoA, job: Job) -> Measurement:
    """Measure the program as it was given, so that what is broken shows before much is paid."""
    try:
        return measure(program, job.valset, job.metric, concurrency=job.concurrency, purse=job.purse)
    except BudgetExhaustedError:
        raise BudgetTooSmallError(
            f"the budget ends before the program as it is has been run on {len(job.valset)} examples; raise it, or "
            "give fewer examples"
        ) from None


@dataclass
class _Progress:
    """Tells of the cost so far, and of how many calls there will be."""

    tell: Callable[[CompileProgress], None] | None
    of: int = 0
    over: bool = False

    def __call__(self, cost: Cost) -> None:
        if self.tell is not None and not self.over:
            self.tell(CompileProgress(cost, self.of))


def _compiled(
    program: AttentionMoA,
    tuned: AttentionMoA,
    chosen: Method,
    method: MethodName,
    job: Job,
    before: Measurement,
    after: Measurement,
    cost: Cost,
    errors: list[str],
    ended_by: EndedBy,
) -> CompileResult:
    old, new, gain = before.score(job.seed), after.score(job.seed), Gain.of(before.scores, after.scores, seed=job.seed)
    report = {
        "kind": "compile",
        "method": method,
        "options": to_jsonable_python(asdict(chosen), fallback=str),  # type: ignore[call-overload]
        "effort": job.effort,
        "seed": job.seed,
        "prompt_lm": job.prompt_lm.model,
        "examples": {"trainset": len(job.trainset), "valset": len(job.valset)},
        "score": {"before": old.model_dump(), "after": new.model_dump(), "gain": gain.model_dump()},
        "cost": cost.model_dump(),
        "ended_by": ended_by,
        "errors": {"count": len(errors), "first": errors[:3]},
        "predictors": _predictors(program, tuned),
    }
    return CompileResult(tuned, new, old, gain, mean_price(after.runs), cost, report)


def _predictors(program: AttentionMoA, tuned: AttentionMoA) -> dict[str, Any]:
    before, after, given = instructions_of(program), instructions_of(tuned), dict(program.named_predictors())
    report: dict[str, Any] = {}
    for name, predictor in tuned.named_predictors():
        own = [bool(demo.get("augmented")) for demo in predictor.demos]
        nearest = Nearest.of(predictor)
        report[name] = {
            "instructions": {"before": before[name], "after": after[name]},
            "demos": {
                "before": len(given[name].demos),
                "bootstrapped": sum(own),
                "labeled": len(own) - sum(own),
                "shown": nearest and nearest.k,
            },
            "decisions": to_jsonable_python(predictor.fields),
        }
    return report


def _check(
    program: AttentionMoA,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example] | None,
    metric: Metric,
    effort: Effort,
    concurrency: int,
) -> None:
    if not isinstance(program, AttentionMoA):
        raise ConfigurationError(f"program is an AttentionMoA, not {type(program).__name__}")
    check_metric(metric)
    check_effort(effort)
    check_concurrency(concurrency)
    if len(trainset) < (3 if valset is None else 1) or (valset is not None and not valset):
        raise ConfigurationError(
            f"{len(trainset)} training examples{'' if valset is None else f' and {len(valset)} for validation'} "
            "are too few; give at least 3, or at least one of each"
        )
    refuse_overlap(valset or (), map(asked, trainset), "validation", "that are learnt from")


def split_off(examples: Sequence[dspy.Example], seed: int) -> tuple[list[dspy.Example], list[dspy.Example]]:
    """Hold back a third, at least one, for choosing and reporting; both parts keep their order.

    Examples that ask the same are in the same part.

    Raises:
        ConfigurationError: all ask the same, or do not say what they ask.
    """
    known = [asked(example) for example in examples]
    questions = list(dict.fromkeys(known))
    if len(questions) < 2:
        raise ConfigurationError(f"{len(examples)} examples that all ask the same cannot be learnt from and judge")
    held = set(random.Random(seed).sample(questions, max(1, len(questions) // 3)))  # noqa: S311
    learn = [example for example, what in zip(examples, known, strict=True) if what not in held]
    return learn, [example for example, what in zip(examples, known, strict=True) if what in held]
