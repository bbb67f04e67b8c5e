"""One trial: a design, run at its largest depth on growing batches of examples, and given up when it cannot win."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from optuna import Study, Trial
from optuna.trial import FrozenTrial, TrialState

from moa_dspy.cost.budget import BudgetGuard
from moa_dspy.errors import AllRunsFailedError, ConfigurationError
from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.measuring import Metric, Run, run_examples
from moa_dspy.optimizers.search.objective import Board, Champion, Objective, Tally
from moa_dspy.optimizers.search.space import BoundSpace, Design
from moa_dspy.optimizers.stopping.depth import RuleScores, score_rules
from moa_dspy.optimizers.stopping.rules import StopRule

__all__ = [
    "FrontPoint",
    "Rungs",
    "TrialRunner",
    "board_of",
    "champions_of",
    "chosen_of",
    "finished",
    "front_of",
    "summary_of",
]


@dataclass(frozen=True)
class Rungs:
    """The growing batches of a trial.

    Args:
        examples: how many there are in all.
        first: size of the first batch; the number of examples then doubles from rung to rung.
        level: of the one-sided paired test by which a trial is given up between rungs; 0 gives up none.

    Raises:
        ConfigurationError: a value is out of range.
    """

    examples: int
    first: int
    level: float = 0.1

    def __post_init__(self) -> None:
        if self.first < 1:
            raise ConfigurationError(f"first_batch={self.first!r} must be at least 1")
        if not 0 <= self.level < 1:
            raise ConfigurationError(f"prune_level={self.level!r} must be from 0 to below 1")

    @property
    def sizes(self) -> list[int]:
        """Return how many examples have been run after each rung."""
        doublings = range(max(0, math.ceil(math.log2(self.examples / self.first))))
        return [*(self.first * 2**k for k in doublings), self.examples]


@dataclass(frozen=True)
class TrialRunner:
    """Runs trials, one after the other.

    Attributes:
        bound: the space.
        examples: in the order in which every trial runs them.
        metric: the task's.
        objective: what is wanted.
        rungs: the batches.
        guard: the budget.
        concurrency: runs under way at once.
        on_batch: told of the examples that the trial has run so far.
    """

    bound: BoundSpace
    examples: Sequence[dspy.Example]
    metric: Metric
    objective: Objective
    rungs: Rungs
    guard: BudgetGuard
    concurrency: int
    on_batch: Callable[[Trial, int], None]

    def run(self, study: Study, trial: Trial, design: Design) -> tuple[TrialState, list[float] | None]:
        """Run ``trial``, write its record into its attributes, and return how it ended, as Optuna is told it.

        A trial that is given up has no values: Optuna would take partial ones for a point of its front.

        Raises:
            BudgetExhaustedError: the budget ended first; what has been scored until then is on record.
            AllRunsFailedError: every run of a batch failed, or the metric has never judged an answer.
        """
        program, rules = self.bound.program(design), self.bound.rules(design)
        board, unjudged = Board.of(rules), list[str]()
        rule = rules[-1]
        for size in self.rungs.sizes:
            batch = self.examples[board.examples : size]
            measured = run_examples(
                program,
                batch,
                None,
                guard=self.guard,
                concurrency=self.concurrency,
                keep_traces=True,
                succeeded=board.examples > 0,
            )
            scored = score_rules(program, measured.runs, rules, self.metric, concurrency=self.concurrency)
            unjudged += [error for one in scored for error in one.errors]
            _check_judged(study, trial, measured.runs, scored)
            for one in scored:
                board.add(one.scores, one.prices)
            rule = self._record(study, trial, board)
            self.on_batch(trial, size)
            if size < self.rungs.examples and self._give_up(study, board):
                trial.set_user_attr("pruned_after", size)
                self._conclude(trial, board, rule, design, unjudged)
                return TrialState.PRUNED, None
        self._conclude(trial, board, rule, design, unjudged)
        if self.objective.price is not None:
            trial.set_constraint("price", self.objective.excess(board[rule]))
        return TrialState.COMPLETE, self.objective.values(board[rule])

    def _record(self, study: Study, trial: Trial, board: Board) -> StopRule:
        """Keep what is known so far, in as few writes as can be: databases take their time for each."""
        rule = self.objective.pick(board, self._front(study))
        trial.set_user_attr("board", board.to_attrs())
        if not self.objective.two:
            trial.report(board[rule].score, board.examples)
        return rule

    def _conclude(self, trial: Trial, board: Board, rule: StopRule, design: Design, unjudged: Sequence[str]) -> None:
        if unjudged:
            trial.set_user_attr("unjudged", {"answers": len(unjudged), "first": unjudged[0]})
        trial.set_user_attr("rule", str(rule))
        trial.set_user_attr("score", board[rule].score)
        trial.set_user_attr("price", board[rule].mean_price.model_dump())
        trial.set_user_attr("architecture", self.bound.program(design, rule).architecture.model_dump(mode="json"))

    def _front(self, study: Study) -> list[tuple[float, float]]:
        if not self.objective.two:
            return []
        return [(point.tally.score, point.cost) for point in front_of(study, self.objective)]

    def _give_up(self, study: Study, board: Board) -> bool:
        champions = champions_of(study, self.objective)
        return self.rungs.level > 0 and self.objective.hopeless(board, champions, self.rungs.level)


def _check_judged(study: Study, trial: Trial, runs: Sequence[Run], scored: Sequence[RuleScores]) -> None:
    """Refuse runs none of which is judged, unless some of the study were: then it is no fault of the metric.

    Raises:
        AllRunsFailedError: says what went wrong.
    """
    if any(one.judged for one in scored):
        trial.set_user_attr("judged", True)
    elif not any(other.user_attrs.get("judged") for other in study.get_trials(deepcopy=False)):
        reasons = [*(error for one in scored for error in one.errors), *(run.error for run in runs if run.error)]
        raise AllRunsFailedError(f"no answer could be judged: {reasons[0]}")


def finished(study: Study) -> list[FrozenTrial]:
    """Return the trials that have run all examples."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if "pruned_after" not in trial.user_attrs and "rule" in trial.user_attrs]


def board_of(trial: FrozenTrial) -> Board:
    """Return a trial's tallies so far."""
    return Board.from_attrs(trial.user_attrs.get("board", {}))


def chosen_of(trial: FrozenTrial, objective: Objective) -> StopRule:
    """Return the rule that a trial has settled on, or would settle on as it stands."""
    rule = trial.user_attrs.get("rule")
    return objective.pick(board_of(trial)) if rule is None else StopRule.parse(rule)


def champions_of(study: Study, objective: Objective) -> list[Champion]:
    """Return what a trial is measured against: the best finished trial, or the front where cost counts as well."""
    if objective.two:
        return [Champion(point.tally.scores, point.cost) for point in front_of(study, objective)]
    boards = [(chosen_of(trial, objective), board_of(trial)) for trial in finished(study)]
    kept = [board[rule] for rule, board in boards if objective.excess(board[rule]) <= 0]
    best = max(kept, key=lambda tally: tally.score, default=None)
    return [] if best is None else [Champion(best.scores, 0.0)]


@dataclass(frozen=True)
class FrontPoint:
    """A finished trial under one of its stop rules, which no other point betters in score without costing more."""

    trial: FrozenTrial
    rule: StopRule
    tally: Tally
    cost: float


def front_of(study: Study, objective: Objective) -> list[FrontPoint]:
    """Return the front over all finished trials and their stop rules, cheapest first.

    A program that never answered has no price, and is no point.
    """
    points = [
        FrontPoint(trial, rule, tally, objective.cost(tally.mean_price))
        for trial in finished(study)
        for rule, tally in board_of(trial).items()
        if tally.priced
    ]
    best, front = -math.inf, []
    for point in sorted(points, key=lambda one: (one.cost, -one.tally.score, one.trial.number, str(one.rule))):
        if point.tally.score > best:
            front.append(point)
            best = point.tally.score
    return front


def summary_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial as JSON values, for reports."""
    attrs = trial.user_attrs
    return {
        "number": trial.number,
        "state": "pruned" if "pruned_after" in attrs else trial.state.name.lower(),
        "params": trial.params,
        "examples": attrs.get("board", {}).get("examples", 0),
        "depths": attrs.get("board", {}).get("depths", {}),
        "rule": attrs.get("rule"),
        "score": attrs.get("score"),
        "interval": _interval(trial),
        "price": attrs.get("price"),
        **{name: attrs[name] for name in ("retries_of", "reason", "unjudged") if name in attrs},
    }


def _interval(trial: FrozenTrial) -> dict[str, Any] | None:
    """The score under the trial's rule with its interval, as far as it ran."""
    board, rule = board_of(trial), trial.user_attrs.get("rule")
    return None if rule is None or not board else Score.of(board[StopRule.parse(rule)].scores).model_dump()
