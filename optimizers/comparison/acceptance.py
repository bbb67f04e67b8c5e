"""Held-out acceptance test: a candidate replaces the baseline only if it is better on data that it was not tuned on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal, TypeAlias, cast, get_args

import dspy
import pydantic

from moa_dspy.cost.budget import Budget, BudgetGuard
from moa_dspy.cost.usage import Usage
from moa_dspy.data.splitting import unit_hash
from moa_dspy.errors import BudgetExhaustedError
from moa_dspy.evaluation.statistics import (
    POWER,
    Gain,
    Score,
    check_alpha,
    check_share,
    examples_needed,
    improvement_p_value,
)
from moa_dspy.optimizers.comparison.reuse import count_decision, reuse_note
from moa_dspy.optimizers.leakage import deduplicate, demo_questions, question_of, refuse_overlap
from moa_dspy.optimizers.measuring import (
    Measurement,
    Metric,
    Run,
    failures_of,
    fit_metric,
    guard_of,
    output_fields_of,
    run_examples,
)
from moa_dspy.optimizers.reported import Reported, ReportRow
from moa_dspy.program import AttentionMoA

__all__ = ["Acceptance", "Scores", "Side", "accept", "decide", "looks"]

Side: TypeAlias = Literal["baseline", "candidate"]
_INTERIM: Final = 0.02
"""The share of alpha for the interim test (Haybittle and Peto's rule). The rest is left for the final test."""
_BLOCK: Final = 10  # examples that a program runs on before the other one does, under a budget
_LEAST_INTERIM: Final = 20
"""With fewer examples there is no interim test."""
_NO_RUNS: Final = Measurement((), Usage())


class Scores(ReportRow):
    """The decision of a paired test.

    Attributes:
        accepted: whether the test shows that the candidate is better.
        reason: the decision in one sentence.
        before: the baseline's score.
        after: the candidate's score.
        gain: paired difference, candidate minus baseline. The lower end of its interval is above 0 if and only if the
            candidate is accepted.
        p: the one-sided p value of "the candidate is on average no better".
        alpha: the candidate is accepted if ``p`` is at most this.
        won: number of examples on which the candidate scores higher.
        lost: number of examples on which it scores lower.
        needed: number of examples that a test of this ``power`` needs for such a gain; None if there is no gain.
        power: probability of detecting the gain with ``needed`` examples.
    """

    accepted: bool
    reason: str
    before: Score
    after: Score
    gain: Gain
    p: float
    alpha: float
    won: int
    lost: int
    needed: int | None
    power: float


class Acceptance(Scores, Reported):
    """The outcome of ``accept``; ``str`` gives its sentence, ``report`` JSON values.

    Attributes:
        program: the program to use: the candidate if it is accepted, else the baseline.
        failed: the number of failed runs of the baseline and of the candidate; they score 0.
        checked: the number of tuning examples that the held-out examples were checked against.
        repeated: the number of held-out examples that were left out, because they repeat a question.
        saved: the number of held-out examples that were not run, because the interim test was clear.
        cut: the number of held-out examples that were not compared, because the budget ended.
        reused: the number of other decisions that were taken on these held-out examples before.
        cost: cost of both measurements.
    """

    record_kind: ClassVar[str] = "acceptance"

    program: pydantic.SkipValidation[AttentionMoA] = pydantic.Field(exclude=True, repr=False)
    failed: tuple[int, int] = (0, 0)
    checked: int = 0
    repeated: int = 0
    saved: int = 0
    cut: int = 0
    reused: int = 0
    cost: Usage = Usage()

    @property
    def score(self) -> Score:
        """Return the held-out score of the program to use."""
        return self.after if self.accepted else self.before

    def __str__(self) -> str:
        return self.reason


def accept(
    baseline: AttentionMoA,
    candidate: AttentionMoA,
    *,
    valset: Sequence[dspy.Example],
    metric: Metric,
    tuned_on: Sequence[dspy.Example] = (),
    alpha: float = 0.05,
    power: float = POWER,
    interim: bool = True,
    budget: Budget | None = None,
    concurrency: int = 8,
    progress: Callable[[Side, Run], None] | None = None,
    keep_traces: bool = False,
) -> Acceptance:
    """Run both programs on held-out examples. Keep the baseline unless the test shows that the candidate is better.

    Args:
        baseline: the program in use.
        candidate: the program that would replace it.
        valset: held-out examples that neither program was tuned on. Repeated questions are left out.
        metric: the task's metric; see ``Metric``.
        tuned_on: all examples that the candidate was tuned or chosen on, validation included.
        alpha: probability of accepting a candidate that is not better.
        power: of the test for which ``needed`` is computed.
        interim: whether to end halfway if the result is clear; see ``looks``.
        budget: limits.
        concurrency: maximum number of concurrent runs.
        progress: called with ``baseline`` or ``candidate`` and each finished run.
        keep_traces: whether these runs keep their traces.

    Raises:
        ConfigurationError: if a held-out example was tuned on or is a demo, or if an argument is out of range.
        AllRunsFailedError: if a program fails on every example.
        BudgetExhaustedError: if the budget ends before any example is compared. If it ends later, the examples that
            both programs answered decide.
    """
    check_alpha(alpha)
    check_share("power", power)
    metric, _ = fit_metric(metric, output_fields_of(baseline), valset)
    refuse_overlap(valset, map(question_of, tuned_on), "held-out", "that the program was tuned on")
    refuse_overlap(valset, demo_questions(baseline, candidate), "held-out", "that a program shows its models as demos")
    questions = sorted(deduplicate(valset), key=unit_hash)
    pair = _Pair(baseline, candidate, guard_of(budget, baseline, candidate), metric, concurrency, progress, keep_traces)
    decision: Any = None
    for count, level in looks(len(questions), alpha, interim):
        pair.run(questions[pair.compared : count])
        level = alpha if pair.cut and decision is None else level  # there was no test before
        decision = decide(pair.old.scores, pair.new.scores, alpha=level, power=power)
        if decision.accepted or decision.gain.value <= 0 or pair.cut:
            break
    ran, reused = pair.compared, count_decision(questions, metric, (baseline, candidate))
    rest = len(questions) - ran
    return Acceptance(
        **{**dict(decision), "reason": decision.reason + pair.note(len(questions)) + reuse_note(reused, alpha)},
        program=candidate if decision.accepted else baseline,
        failed=(pair.old.errors, pair.new.errors), checked=len(tuned_on), repeated=len(valset) - len(questions),
        saved=0 if pair.cut else rest, cut=rest if pair.cut else 0, reused=reused, cost=pair.old.cost + pair.new.cost,
    )  # fmt: skip


@dataclass
class _Pair:
    """Two programs, their runs on the same examples, and the cost of all runs."""

    baseline: AttentionMoA
    candidate: AttentionMoA
    guard: BudgetGuard
    metric: Metric
    concurrency: int
    progress: Callable[[Side, Run], None] | None
    keep_traces: bool
    old: Measurement = _NO_RUNS
    new: Measurement = _NO_RUNS
    cut: bool = False

    @property
    def compared(self) -> int:
        return len(self.old.runs)

    def note(self, planned: int) -> str:
        """Return why not all examples were compared, in words."""
        of = f"after {self.compared} of {planned} examples"
        if self.cut:
            return f" The budget ended {of}; with a larger one, the same call compares all."
        return "" if self.compared == planned else f" This was clear {of}; the rest was not run."

    def run(self, examples: Sequence[dspy.Example]) -> None:
        """Run both programs. Under a budget they take turns, so that all but the last few runs are in pairs.

        Raises:
            BudgetExhaustedError: if the budget ends before both programs answered an example.
        """
        is_limited = any(math.isfinite(amount) for amount in self.guard.left)
        size = max(_BLOCK, self.concurrency) if is_limited else max(1, len(examples))
        for start in range(0, max(1, len(examples)), size):
            block = examples[start : start + size]
            old, new = (self._measured(side, block) for side in get_args(Side))
            pairs = min(len(old.runs), len(new.runs))
            self.old += replace(old, runs=old.runs[:pairs])
            self.new += replace(new, runs=new.runs[:pairs])
            self.cut = pairs < len(block)
            if self.cut:
                break
        if not self.compared:
            raise BudgetExhaustedError("the budget ended before both programs answered a held-out example; raise it")

    def _measured(self, side: Side, examples: Sequence[dspy.Example]) -> Measurement:
        """Return the runs of a program up to the first one that the budget does not cover, and the cost of all."""
        done: dict[int, Run] = {}

        def keep(run: Run) -> None:
            done[id(run.example)] = run
            if self.progress is not None:
                self.progress(side, run)

        try:
            with failures_of(f"the {side} fails on the held-out examples"):
                return run_examples(
                    self.baseline if side == "baseline" else self.candidate,
                    examples,
                    self.metric,
                    guard=self.guard,
                    concurrency=self.concurrency,
                    on_run=keep,
                    keep_traces=self.keep_traces,
                    succeeded=self.compared > 0,
                )
        except BudgetExhaustedError:
            runs = tuple(itertools.takewhile(bool, (done.get(id(example)) for example in examples)))
            return Measurement(cast("tuple[Run, ...]", runs), sum((run.usage for run in done.values()), start=Usage()))


def looks(examples: int, alpha: float, interim: bool) -> list[tuple[int, float]]:
    """Return after how many examples the test is made, and at what level.

    The levels add up to ``alpha``, so that both tests together err as often as one. A candidate that does not gain
    on the first half is not run on the rest; this can only reduce errors.
    """
    if not interim or examples < _LEAST_INTERIM:
        return [(examples, alpha)]
    return [(examples // 2, _INTERIM * alpha), (examples, (1 - _INTERIM) * alpha)]


def decide(before: Sequence[float], after: Sequence[float], *, alpha: float = 0.05, power: float = POWER) -> Scores:
    """Return the decision for the scores of the baseline and of the candidate on the same examples; see ``accept``.

    Raises:
        ConfigurationError: if ``alpha`` or ``power`` is out of range.
        ValueError: if there are no scores, if the numbers of scores differ, or if a score is not from 0 to 1.
    """
    check_alpha(alpha)
    check_share("power", power)
    gain = Gain.of(before, after, level=1 - 2 * alpha)
    differences = [new - old for old, new in zip(before, after, strict=True)]
    p = improvement_p_value(before, after)
    accepted, needed = p <= alpha, examples_needed(differences, alpha, power)
    return Scores(
        accepted=accepted,
        reason=_reason(gain, p, alpha, needed, power),
        before=Score.of(before),
        after=Score.of(after),
        gain=gain,
        p=p,
        alpha=alpha,
        won=sum(difference > 0 for difference in differences),
        lost=sum(difference < 0 for difference in differences),
        needed=needed,
        power=power,
    )


def _reason(gain: Gain, p: float, alpha: float, needed: int | None, power: float) -> str:
    figures = f"{gain} on {gain.examples} held-out example{'' if gain.examples == 1 else 's'}, one-sided p = {p:.3g}"
    if p <= alpha:
        return f"The candidate is accepted: it gains {figures}, at most {alpha:.3g}."
    if needed is None:
        return f"The baseline is kept: the candidate does not gain on it ({figures})."
    return (
        f"The baseline is kept: that the candidate is better is not shown ({figures}, above {alpha:.3g}); "
        f"a gain of this size takes about {needed} examples to show ({power:.0%} of the time)."
    )
