"""``compare``: a program against simpler ensembles at matched spend.

::

    result = compare(program, devset=devset, metric=metric, match="usd")
    print(result)                        # a table, and a verdict that may be "use the single model"
    result.winner.save("program.json")
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, get_args

import dspy
import pydantic

from moa_dspy.cost.budget import Budget, BudgetGuard
from moa_dspy.cost.meter import metered
from moa_dspy.cost.prices import models_without_price
from moa_dspy.cost.usage import Price, Usage
from moa_dspy.errors import BudgetExhaustedError, BudgetTooSmallError, ConfigurationError, DeclinedError, RunError
from moa_dspy.evaluation.statistics import Gain, Score, check_alpha, check_gain, sensitivity
from moa_dspy.optimizers.analysis.ceiling import Ceiling, known_ceiling
from moa_dspy.optimizers.comparison.baselines import NAMES, BaselineName, singles_of
from moa_dspy.optimizers.comparison.contenders import UNKNOWN_PRICE, ComparisonRun, estimate
from moa_dspy.optimizers.comparison.reuse import count_decision, reuse_note
from moa_dspy.optimizers.comparison.verdict import PROGRAM, RULE, ComparisonVerdict, ContenderScores, Prefer, judge
from moa_dspy.optimizers.leakage import check_examples, deduplicate, demo_questions, question_of, refuse_overlap
from moa_dspy.optimizers.measuring import (
    Metric,
    Unit,
    check_budget,
    check_concurrency,
    check_program,
    check_seed,
    fit_metric,
    models_of,
    output_fields_of,
)
from moa_dspy.optimizers.reported import ReportRow, Tabulated, price_cells
from moa_dspy.planning import WorkEstimate
from moa_dspy.program import AttentionMoA
from moa_dspy.text_table import text_table

__all__ = ["Comparison", "Contender", "compare"]

_PILOT_SHARE: Final = 0.2
_LEAST_PILOT: Final = 4


class Contender(ReportRow):
    """A program in a comparison.

    Attributes:
        name: ``program``, the name of a baseline, or the caller's name.
        what: a description.
        size: the number of samples or layers, if it was chosen to match the spend.
        score: on the test examples; a failed run scores 0.
        failed: the number of failed runs.
        spent: the mean spend on an example without the response cache; failed runs are left out.
        ratio: ``spent`` in the matched unit as a multiple of the program's.
        matched: whether a size was chosen whose spend is within the tolerance of the program's.
        gain: paired gain of the program over this contender; None for the program itself. Its interval leaves out 0 if
            and only if ``p`` is at most alpha.
        p: the one-sided p value in the direction of the gain, times the number of baselines.
    """

    name: str
    what: str
    size: int | None = None
    score: Score
    failed: int = 0
    spent: Price
    ratio: float = 1.0
    matched: bool = False
    gain: Gain | None = None
    p: float | None = None


class Comparison(Tabulated):
    """The result of ``compare``; ``str`` gives a table with the verdict, ``report`` JSON values.

    Attributes:
        verdict: which contender to use and why, in one sentence.
        use: the name of that contender.
        winner: its program.
        contenders: the program, then the baselines.
        match: the unit of the matched spend.
        tolerance: the share by which a matched baseline may exceed the program's spend.
        prefer: what decides among the contenders that are not shown to be worse: ``cheapest`` or ``score``.
        alpha: the level of the tests.
        seed: seed of the pilot sample.
        examples: number of scored test examples.
        pilot: number of other examples, which chose the single model.
        rule: the rule that gives the verdict from scores and prices.
        notes: further remarks for the reader, such as choices and omissions, and the smallest gain that can be shown.
        ceiling: what the program's agents can reach on the test examples, and what its synthesis finds and loses; None
            if the metric calls models, which would be paid for every proposal, or a gate left agents out.
        reused: the number of other decisions that were taken on the test examples before.
        programs: the programs of all contenders, by name.
        cost: total amount paid.
    """

    record_kind: ClassVar[str] = "compare"

    verdict: str
    use: str
    winner: pydantic.SkipValidation[AttentionMoA] = pydantic.Field(exclude=True, repr=False)
    contenders: tuple[Contender, ...]
    match: Unit
    tolerance: float
    prefer: Prefer = "cheapest"
    alpha: float
    seed: int
    examples: int
    pilot: int
    rule: str = RULE
    notes: tuple[str, ...] = ()
    ceiling: Ceiling | None = None
    reused: int = 0
    programs: pydantic.SkipValidation[Mapping[str, AttentionMoA]] = pydantic.Field(exclude=True, repr=False)
    cost: Usage

    @property
    def program(self) -> AttentionMoA:
        """Return the winner."""
        return self.winner

    @property
    def score(self) -> Score:
        """Return the score of the winner on the test examples."""
        return self.contender(self.use).score

    def contender(self, name: str) -> Contender:
        """Return the contender of that name.

        Raises:
            LookupError: if there is no such contender.
        """
        for one in self.contenders:
            if one.name == name:
                return one
        raise LookupError(f"no {name!r} was compared; there are: {', '.join(one.name for one in self.contenders)}")

    def to_table(self) -> str:
        """Return the comparison as text for people."""
        head = ("", "what", "score", "calls", "tokens", "usd", "spend", "program's gain", "p")
        table = text_table([head, *(_cells(one) for one in self.contenders)], left=(0, 1))
        spend = f"spend: {self.match} for an example, as a multiple of the program's; at most {self.tolerance:.0%} more"
        over = f"{self.examples} test examples; p one-sided, times the number of baselines ({len(self.contenders) - 1})"
        ceiling = [] if self.ceiling is None else [self.ceiling.sentence]
        lines = [table, "", f"verdict: {self.verdict}", spend, over, *self.notes, *ceiling]
        return "\n".join(lines)


def compare(
    program: AttentionMoA,
    *,
    devset: Sequence[dspy.Example],
    metric: Metric,
    baselines: Sequence[BaselineName] | Mapping[str, AttentionMoA] | None = None,
    match: Unit = "calls",
    pilot: Sequence[dspy.Example] | None = None,
    tolerance: float = 0.1,
    prefer: Prefer = "cheapest",
    alpha: float = 0.05,
    gain: float | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    concurrency: int = 8,
    progress: Callable[[str], None] | None = None,
    before: Callable[[WorkEstimate], bool] | None = None,
) -> Comparison:
    """Compare a program with its best single model, self-consistency, Self-MoA and MoA at matched spend.

    The baselines use the program's own agents and prompts. Their number of samples or layers is chosen so that their
    spend without the response cache comes nearest to the program's.

    Args:
        program: the program.
        devset: examples that it was not tuned on. Repeated questions and the demos of the programs are left out.
        metric: ``metric(example, prediction, trace=None)``; see ``Metric``.
        baselines: some of ``single``, ``self-consistency``, ``self-moa`` and ``moa`` (default: all), or other programs
            by name, which are compared as they are.
        match: unit of the matched spend: ``calls``, ``tokens`` or ``usd``.
        pilot: examples that choose the best of several models and do not judge; default: a fifth of ``devset``.
        tolerance: the share by which a baseline may exceed the program's spend.
        prefer: of the programs not shown to be worse, use the ``cheapest``, or the one with the highest ``score``.
        alpha: probability of declaring a difference where none exists.
        gain: a wished gain. A note says how many examples it takes to show it.
        budget: limits of the whole call. Finished calls stay in DSPy's cache for another attempt.
        seed: seed of the pilot sample.
        concurrency: maximum number of concurrent examples.
        progress: called with a description of the next run, and with the cost so far.
        before: called with the estimated cost before anything is paid; returns whether to continue.

    Raises:
        ConfigurationError: if an argument is invalid, or ``before`` returned False. Nothing was paid for.
        RunError: if a contender fails on every example, or the budget ends first.
    """
    names, own = _baselines(baselines)
    _check(match, tolerance, prefer, alpha, gain, concurrency, seed)
    metric = _checked_metric(metric, program, own, devset, pilot)
    singles = [] if own or names == ["moa"] else singles_of(program)
    examples, notes = _unseen(devset, [program, *own.values()])
    test, pilot = _split(examples, pilot, len(singles), seed, notes)
    lms = _checked_models([program, *own.values()], match, test[0], budget)
    others = len(own) or len(names)
    notes.append(f"{sensitivity(len(test), alpha / others, gain)} (one of {others} tests)")
    lineup = program, own, names, singles, test, pilot
    run = ComparisonRun(*lineup, metric, match, tolerance, concurrency, progress, notes)
    if before is not None and not before(estimate(run, budget)):
        raise DeclinedError("not confirmed; nothing was paid")
    _run_all(run, lms, budget)
    return _comparison(run, prefer, alpha, seed)


def _run_all(run: ComparisonRun, lms: Sequence[dspy.BaseLM], budget: Budget | None) -> None:
    if run.progress is not None:
        run.progress(run.notes[-1])  # what the examples can show, before anything is paid
    with metered(lms) as run.meter:
        run.guard = BudgetGuard(budget, meter=run.meter)
        try:
            run.enter_all()
        except BudgetExhaustedError:
            raise BudgetTooSmallError(
                "the budget ended before all contenders had run, so there is no verdict; with a larger one the "
                "same call continues from the cache"
            ) from None
    if len(run.entries) == 1:
        raise RunError(f"there is nothing to compare with: {'; '.join(run.notes)}")


def _comparison(run: ComparisonRun, prefer: Prefer, alpha: float, seed: int) -> Comparison:
    entries, own = run.entries, run.entries[PROGRAM]
    scores = {
        name: ContenderScores(one.what, one.measured.scores, (run.spend(one.measured), one.measured.known_price.tokens))
        for name, one in entries.items()
    }
    verdict = judge(scores, alpha, prefer=prefer, tolerance=run.tolerance)
    reused = count_decision(run.test, run.metric, (entry.program for entry in entries.values()))
    if reused:
        run.notes.append(reuse_note(reused, alpha).strip())
    return Comparison(
        verdict=verdict.sentence,
        use=verdict.use,
        winner=entries[verdict.use].program,
        contenders=tuple(_contender(run, name, verdict) for name in entries),
        match=run.unit,
        tolerance=run.tolerance,
        prefer=prefer,
        alpha=alpha,
        seed=seed,
        examples=len(run.test),
        pilot=len(run.pilot),
        notes=tuple(run.notes),
        ceiling=known_ceiling(own.program, own.measured.runs, run.metric, concurrency=run.concurrency),
        reused=reused,
        programs={name: entry.program for name, entry in entries.items()},
        cost=run.meter.usage,
    )


def _contender(run: ComparisonRun, name: str, verdict: ComparisonVerdict) -> Contender:
    entry, target = run.entries[name], run.target
    ratio = run.spend(entry.measured) / target if target else 1.0
    return Contender(
        name=name,
        what=entry.what,
        size=entry.size,
        score=entry.measured.score(),
        failed=entry.measured.errors,
        spent=entry.measured.known_price,
        ratio=ratio,
        matched=entry.size is not None and abs(ratio - 1) <= run.tolerance + 1e-9,
        gain=verdict.gains.get(name),
        p=verdict.adjusted.get(name),
    )


def _check(
    match: str, tolerance: float, prefer: str, alpha: float, gain: float | None, concurrency: int, seed: int
) -> None:
    check_seed(seed)
    check_concurrency(concurrency)
    if match not in get_args(Unit):
        raise ConfigurationError(f"match={match!r} is unknown; use 'calls', 'tokens' or 'usd'")
    if not 0 <= tolerance < float("inf"):
        raise ConfigurationError(f"tolerance={tolerance!r} is out of range; it must be at least 0")
    if prefer not in get_args(Prefer):
        raise ConfigurationError(f"prefer={prefer!r} is unknown; use 'cheapest' or 'score'")
    check_alpha(alpha)
    check_gain(gain)


def _checked_metric(
    metric: Metric,
    program: AttentionMoA,
    own: Mapping[str, AttentionMoA],
    devset: Sequence[dspy.Example],
    pilot: Sequence[dspy.Example] | None,
) -> Metric:
    """Check the programs and the examples, and return the metric for their task."""
    check_program(program)
    check_examples(devset)
    for name, one in own.items():
        check_program(one, f"baselines[{name!r}]")
    for one in (program, *own.values()):
        metric, _ = fit_metric(metric, output_fields_of(one), [*devset, *(pilot or ())])
    return metric


def _checked_models(
    programs: Sequence[AttentionMoA], match: Unit, example: dspy.Example, budget: Budget | None
) -> list[dspy.BaseLM]:
    """Return the models of the programs. Raise ConfigurationError if what is matched or limited has no price."""
    lms = [lm for one in programs for lm in models_of(one)]
    if match == "usd":
        unknown = models_without_price(lms)
        if unknown:
            raise ConfigurationError(UNKNOWN_PRICE.format(why=f"the price of {', '.join(unknown)} is not known"))
        if not programs[0].plan(example).full.usd:
            raise ConfigurationError(UNKNOWN_PRICE.format(why="the program's models cost nothing"))
    check_budget(budget, lms)
    return lms


def _baselines(
    baselines: Sequence[str] | Mapping[str, AttentionMoA] | None,
) -> tuple[list[BaselineName], Mapping[str, AttentionMoA]]:
    """Return the names of the baselines to build, and the caller's programs by name."""
    if isinstance(baselines, Mapping):
        if not baselines or PROGRAM in baselines:
            raise ConfigurationError(
                f"baselines={list(baselines)} must be programs by name, at least one, and none called {PROGRAM!r}"
            )
        return [], dict(baselines)
    if isinstance(baselines, str):
        raise ConfigurationError(f"baselines={baselines!r} must be a list of names; write baselines=[{baselines!r}]")
    for name in baselines or ():
        if name not in NAMES:
            raise ConfigurationError(f"baselines={name!r} is unknown; use some of {', '.join(NAMES)}")
    names: list[BaselineName] = [name for name in NAMES if baselines is None or name in baselines]
    if not names:
        raise ConfigurationError(f"baselines={baselines!r} is empty; use some of {', '.join(NAMES)}")
    return names, {}


def _unseen(devset: Sequence[dspy.Example], programs: Sequence[AttentionMoA]) -> tuple[list[dspy.Example], list[str]]:
    """Return the examples that no program has as a demo, without repetitions, and notes on the removed ones."""
    demos = demo_questions(*programs)
    unseen = [example for example in devset if question_of(example) not in demos]
    examples, notes = deduplicate(unseen), []
    if len(unseen) < len(devset):
        notes.append(
            f"{len(devset) - len(unseen)} test examples are left out: a program shows them to its models as demos"
        )
    if len(examples) < len(unseen):
        notes.append(
            f"{len(unseen) - len(examples)} test examples are left out: they repeat the question of another one"
        )
    return examples, notes


def _split(
    examples: list[dspy.Example], pilot: Sequence[dspy.Example] | None, singles: int, seed: int, notes: Sequence[str]
) -> tuple[list[dspy.Example], list[dspy.Example]]:
    """Return the test examples, and the pilot examples that choose among several single models."""
    test, set_aside, apart = examples, list(pilot or ()), ""
    if pilot is not None:
        refuse_overlap(pilot, map(question_of, test), "pilot", "that judge")
        if not pilot and singles > 1:
            raise ConfigurationError("pilot is empty; give examples, or leave it out to set test examples aside")
    elif singles > 1:
        number = min(max(_LEAST_PILOT, round(len(test) * _PILOT_SHARE)), len(test))
        chosen = set(random.Random(seed).sample(range(len(test)), number))  # noqa: S311
        set_aside = [example for index, example in enumerate(test) if index in chosen]
        test = [example for index, example in enumerate(test) if index not in chosen]
        apart = f" when {number} are set aside to choose the single model" if number else ""
    if len(test) < 2:
        why = "".join(f"; {note}" for note in notes)
        raise ConfigurationError(f"{len(test)} test examples are too few to compare on{apart}{why}; give more")
    return test, set_aside if singles > 1 else []


def _cells(one: Contender) -> tuple[str, ...]:
    gain = "" if one.gain is None else str(one.gain)
    p = "" if one.p is None else f"{one.p:.3g}"
    return (one.name, one.what, str(one.score), *price_cells(one.spent), f"x{one.ratio:.2f}", gain, p)
