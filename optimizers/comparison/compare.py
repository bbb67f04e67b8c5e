"""Does the ensemble beat what is simpler, for the same money? A program against baselines at matched spend.

::

    result = compare(program, devset=devset, metric=metric, match="usd")
    print(result)                        # a table, and a verdict that may well be "use the single model"
    result.winner.save("program.json")
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import dspy
import pydantic

from moa_dspy.cost.budget import Budget, BudgetGuard
from moa_dspy.cost.meter import metered
from moa_dspy.cost.usage import Usage
from moa_dspy.errors import BudgetExhaustedError, BudgetTooSmallError, ConfigurationError, RunError
from moa_dspy.evaluation.statistics import Gain, Score, check_alpha
from moa_dspy.optimizers.comparison.baselines import NAMES, BaselineName, singles_of
from moa_dspy.optimizers.comparison.contenders import Arena, enter_baselines
from moa_dspy.optimizers.comparison.matching import Unit, amount, check_budget, check_price
from moa_dspy.optimizers.comparison.verdict import PROGRAM, RULE, Standing, Verdict, judge
from moa_dspy.optimizers.leakage import (
    deduplicate,
    demo_questions,
    question_of,
    refuse_overlap,
)
from moa_dspy.optimizers.measuring import Metric, check_concurrency, check_metric, models_of
from moa_dspy.optimizers.stopping.depth import Price
from moa_dspy.optimizers.text_table import aligned
from moa_dspy.program import AttentionMoA

__all__ = ["Comparison", "Contender", "compare"]

_PILOT_SHARE: Final = 0.2
_LEAST_PILOT: Final = 4


class Contender(pydantic.BaseModel):
    """A program in a comparison.

    Attributes:
        name: ``program``, a baseline's name, or the caller's.
        what: the same in words.
        size: samples or layers, where they were chosen to match the spend.
        score: on the test examples; a failed run counts as 0.
        failed: how many runs failed.
        spent: for an example, where nothing is cached, as a mean over the runs that did not fail.
        ratio: of ``spent`` in the matched unit to the program's.
        matched: whether the size was chosen so that the spend differs from the program's by no more than the tolerance.
        gain: of the program on this one, example by example; None for the program itself.
        p: two-sided p value of that, adjusted for all baselines by Holm's method.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

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


class Comparison(pydantic.BaseModel):
    """The outcome of ``compare``; ``str`` gives a table with the verdict, ``report`` JSON values.

    Attributes:
        verdict: what to use and why, in one sentence.
        use: the name of that contender.
        winner: that program.
        contenders: the program, then the baselines.
        match: the unit of the matched spend.
        tolerance: share by which a matched baseline may exceed the program's spend.
        margin: by how much a score may be lower for a lower price.
        alpha: level of the tests.
        seed: of the pilot sample and the resampling.
        examples: how many test examples judged.
        pilot: how many other examples chose the single model.
        rule: how scores and prices become the verdict.
        notes: what else a reader should know: what was chosen how, what was left out.
        programs: all contenders' programs, by name.
        cost: everything that was paid for.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    verdict: str
    use: str
    winner: pydantic.SkipValidation[AttentionMoA] = pydantic.Field(exclude=True, repr=False)
    contenders: tuple[Contender, ...]
    match: Unit
    tolerance: float
    margin: float = 0.05
    alpha: float
    seed: int
    examples: int
    pilot: int
    rule: str = RULE
    notes: tuple[str, ...] = ()
    programs: pydantic.SkipValidation[Mapping[str, AttentionMoA]] = pydantic.Field(exclude=True, repr=False)
    cost: Usage

    @property
    def program(self) -> AttentionMoA:
        """Return the winner."""
        return self.winner

    @property
    def score(self) -> Score:
        """Return the winner's score on the test examples."""
        return self.contender(self.use).score

    @property
    def report(self) -> dict[str, Any]:
        """Return everything but the programs, as JSON values."""
        return {"kind": "compare", **self.model_dump(mode="json")}

    def contender(self, name: str) -> Contender:
        """Return one contender.

        Raises:
            LookupError: there is none of that name.
        """
        for one in self.contenders:
            if one.name == name:
                return one
        raise LookupError(f"no {name!r} was compared; there are: {', '.join(one.name for one in self.contenders)}")

    def to_json(self, indent: int | None = None) -> str:
        """Return everything but the programs, as JSON text."""
        return json.dumps(self.report, ensure_ascii=False, indent=indent)

    def to_table(self) -> str:
        """Return the comparison as text for people."""
        head = ("", "what", "score", "calls", "tokens", "usd", "spend", "program's gain", "p")
        table = aligned([head, *(_cells(one) for one in self.contenders)], left=2)
        spend = f"spend: {self.match} for an example, as a multiple of the program's; at most {self.tolerance:.0%} more"
        over = f"{self.examples} test examples; p adjusted for {len(self.contenders) - 1} baselines (Holm)"
        lines = [table, "", f"verdict: {self.verdict}", spend, over, *self.notes]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.to_table()


def compare(
    program: AttentionMoA,
    *,
    devset: Sequence[dspy.Example],
    metric: Metric,
    baselines: Sequence[BaselineName] | Mapping[str, AttentionMoA] | None = None,
    match: Unit = "calls",
    pilot: Sequence[dspy.Example] | None = None,
    tolerance: float = 0.1,
    margin: float = 0.05,
    alpha: float = 0.05,
    seed: int = 0,
    concurrency: int = 8,
    on_stage: Callable[[str], None] | None = None,
    budget: Budget | None = None,
) -> Comparison:
    """Compare a program with its best single model, self-consistency, Self-MoA and MoA at matched spend.

    The baselines are made of the program's own agents and prompts. Their samples or layers are as many as come nearest
    to the program's own spend on the test examples. Spend is what runs would cost without the response cache, which
    makes the comparison cheap: samples are drawn once.

    Args:
        program: what is to prove itself.
        baselines: some of ``single``, ``self-consistency``, ``self-moa`` and ``moa`` (default: all), or programs of
            your own by name, which are compared as they are.
        devset: examples that the program was not tuned on; its own demos are left out, and of those that ask the same
            the first alone counts.
        metric: the task's.
        match: what is matched: ``calls``, ``tokens`` or ``usd``.
        pilot: examples that choose the best single model; default: where there are several, a fifth of the test
            examples is set aside for it. They take no part in the judgement.
        tolerance: share by which a baseline may exceed the program's spend; one that cannot be made small enough is
            left out, the single model excepted.
        margin: where no test decides, by how much the score of what is used may be below the highest, if it spends less
            by more than the tolerance.
        alpha: chance that any difference is declared where there is none.
        seed: of the pilot sample and the resampling.
        concurrency: examples under way at once.
        on_stage: told in a few words what is run next.
        budget: of everything. What was answered when it ends is in DSPy's cache for another try.

    Raises:
        ConfigurationError: an argument does not fit, or dollars are to be matched and a price is unknown; nothing was
            paid for.
        RunError: a contender fails on every example, or the budget ends first.
    """
    wanted = _wanted(baselines)
    check_metric(metric)
    check_concurrency(concurrency)
    if match not in ("calls", "tokens", "usd"):
        raise ConfigurationError(f"match={match!r} is not 'calls', 'tokens' or 'usd'")
    for name, value in (("tolerance", tolerance), ("margin", margin)):
        if not 0 <= value < float("inf"):
            raise ConfigurationError(f"{name}={value!r} is out of range; it must be at least 0")
    check_alpha(alpha)
    own = dict(wanted) if isinstance(wanted, Mapping) else {}
    singles = [] if own or wanted == ["moa"] else singles_of(program)
    questions, notes = _questions(devset, [program, *own.values()])
    test, trial = _parted(questions, pilot, len(singles), seed, notes)
    if match == "usd":
        check_price(program, own.values(), test[0])
    lms = [lm for one in (program, *own.values()) for lm in models_of(one)]
    check_budget(budget, lms)
    with metered(lms) as meter:
        guard = BudgetGuard(budget, meter=meter)
        arena = Arena(metric, match, tolerance, concurrency, on_stage or (lambda _: None), guard)
        arena.notes += notes
        try:
            arena.enter(PROGRAM, "the program", program, test)
            for name, other in own.items():
                arena.enter(name, name, other, test)
            if not own:
                enter_baselines(arena, cast("list[BaselineName]", wanted), program, singles, test, trial)
        except BudgetExhaustedError:
            raise BudgetTooSmallError(
                "the budget ended before all contenders had run, so nothing can be said of them; with a larger one the "
                "same call goes on from here out of the cache"
            ) from None
        return _concluded(arena, len(test), len(trial), meter.usage, margin, alpha, seed)


def _concluded(
    arena: Arena, examples: int, pilot: int, cost: Usage, margin: float, alpha: float, seed: int
) -> Comparison:
    entries, unit = arena.entries, arena.unit
    if len(entries) == 1:
        raise RunError(f"there is nothing to compare with: {'; '.join(arena.notes)}")
    standings = {
        name: Standing(entry.what, entry.measured.scores, (amount(entry.price, unit), entry.price.tokens))
        for name, entry in entries.items()
    }
    verdict = judge(standings, alpha, seed, arena.tolerance, margin)
    contenders = tuple(_contender(arena, name, verdict, seed) for name in entries)
    return Comparison(
        verdict=verdict.sentence,
        use=verdict.use,
        winner=entries[verdict.use].program,
        contenders=contenders,
        match=unit,
        tolerance=arena.tolerance,
        margin=margin,
        alpha=alpha,
        seed=seed,
        examples=examples,
        pilot=pilot,
        notes=(*arena.notes, *_caution(examples, len(entries) - 1, alpha)),
        programs={name: entry.program for name, entry in entries.items()},
        cost=cost,
    )


def _contender(arena: Arena, name: str, verdict: Verdict, seed: int) -> Contender:
    entry, target = arena.entries[name], arena.target
    ratio = amount(entry.price, arena.unit) / target if target else 1.0
    return Contender(
        name=name,
        what=entry.what,
        size=entry.size,
        score=entry.measured.score(seed),
        failed=entry.measured.errors,
        spent=entry.price,
        ratio=ratio,
        matched=entry.size is not None and abs(ratio - 1) <= arena.tolerance + 1e-9,
        gain=verdict.gains.get(name),
        p=verdict.adjusted.get(name),
    )


def _caution(examples: int, baselines: int, alpha: float) -> list[str]:
    """A note where the test could show nothing, however large the difference."""
    if 2 / 2**examples * baselines <= alpha:
        return []
    return [f"{examples} examples are too few to show any difference at alpha = {alpha:g}"]


def _wanted(baselines: Sequence[str] | Mapping[str, AttentionMoA] | None) -> list[BaselineName] | Mapping[str, Any]:
    if isinstance(baselines, Mapping):
        if not baselines or PROGRAM in baselines:
            raise ConfigurationError(f"baselines are programs by name, at least one, and none is called {PROGRAM!r}")
        return baselines
    if isinstance(baselines, str):
        raise ConfigurationError(f"baselines is a list of names, not {baselines!r}; write baselines=[...]")
    chosen: list[BaselineName] = [name for name in NAMES if baselines is None or name in baselines]
    unknown = [] if baselines is None else [name for name in baselines if name not in NAMES]
    if unknown or not chosen:
        said = f"no baseline {', '.join(map(repr, unknown))}" if unknown else "there is no baseline"
        raise ConfigurationError(f"{said}; there are: {', '.join(NAMES)}")
    return chosen


def _questions(
    testset: Sequence[dspy.Example], programs: Sequence[AttentionMoA]
) -> tuple[list[dspy.Example], list[str]]:
    """The test examples that are evidence, and what is said of the others."""
    shown = demo_questions(*programs)
    unseen = [example for example in testset if question_of(example) not in shown]
    questions, notes = deduplicate(unseen), []
    if len(unseen) < len(testset):
        demos = len(testset) - len(unseen)
        notes.append(f"{demos} test examples are left out: a program shows them to its models as demos")
    if len(questions) < len(unseen):
        notes.append(f"{len(unseen) - len(questions)} test examples are left out: they ask what another one asks")
    return questions, notes


def _parted(
    testset: Sequence[dspy.Example],
    pilot: Sequence[dspy.Example] | None,
    singles: int,
    seed: int,
    left_out: Sequence[str],
) -> tuple[list[dspy.Example], list[dspy.Example]]:
    """The examples that judge, and those that choose the single model; none where there is nothing to choose."""
    test = list(testset)
    if pilot is not None:
        refuse_overlap(pilot, map(question_of, test), "pilot", "that judge")
        if not pilot and singles > 1:
            raise ConfigurationError("there are no pilot examples; without pilot= some test examples are set aside")
        set_aside = list(pilot) if singles > 1 else []
    elif singles > 1:
        number = max(_LEAST_PILOT, round(len(test) * _PILOT_SHARE))
        chosen = set(random.Random(seed).sample(range(len(test)), min(number, len(test))))  # noqa: S311
        set_aside = [example for index, example in enumerate(test) if index in chosen]
        test = [example for index, example in enumerate(test) if index not in chosen]
    else:
        set_aside = []
    if len(test) < 2:
        apart = (
            f" when {len(set_aside)} are set aside to choose the single model" if pilot is None and set_aside else ""
        )
        why = "".join(f"; {note}" for note in left_out)
        raise ConfigurationError(f"{len(test)} test examples are too few to compare on{apart}{why}; give more")
    return test, set_aside


def _cells(one: Contender) -> tuple[str, ...]:
    usd = "unknown" if one.spent.usd is None else f"{one.spent.usd:.6f}"
    gain = "" if one.gain is None else str(one.gain)
    p = "" if one.p is None else f"{one.p:.3g}"
    figures = (f"{one.spent.calls:.1f}", f"{one.spent.tokens:.0f}", usd, f"x{one.ratio:.2f}")
    return (one.name, one.what, str(one.score), *figures, gain, p)
