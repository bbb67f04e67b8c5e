"""What a study has come to: the best trial, the front, and everything as JSON values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from moa_dspy.architecture import Architecture
from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.report.records import SearchRecord
from moa_dspy.optimizers.search.objective import Objective
from moa_dspy.optimizers.search.sampler import tried
from moa_dspy.optimizers.search.space import BoundSpace
from moa_dspy.optimizers.search.trials import board_of, chosen_of, finished, front_of, summary_of
from moa_dspy.optimizers.stopping.depth import Depth, Price

__all__ = ["Point", "best_trial", "depth_points", "pareto_of", "report_of"]


@dataclass(frozen=True)
class Point:
    """An architecture, what it scores and what an example costs where nothing is cached."""

    architecture: Architecture
    score: Score
    price: Price
    trial: int

    def to_dict(self) -> dict[str, Any]:
        """Return the point as JSON values."""
        return {
            "architecture": self.architecture.model_dump(mode="json"),
            "score": self.score.model_dump(),
            "price": self.price.model_dump(),
            "trial": self.trial,
        }


def best_trial(study: Study, objective: Objective) -> FrozenTrial | None:
    """Return the best trial that ran all examples; of equally good ones the cheapest, then the earliest.

    Where none did, the one that got furthest; None where nothing was scored. Trials above the price come last.
    """

    def merit(trial: FrozenTrial) -> tuple[float, ...]:
        tally = board_of(trial)[chosen_of(trial, objective)]
        excess = max(objective.excess(tally), 0.0)
        return (-excess, tally.score, -objective.cost(tally.mean_price), -trial.number)

    whole = finished(study)
    if whole:
        return max(whole, key=merit)
    started = [trial for trial in study.get_trials(deepcopy=False) if "board" in trial.user_attrs]
    return max(started, key=lambda trial: (board_of(trial).examples, *merit(trial)), default=None)


def pareto_of(study: Study, bound: BoundSpace, objective: Objective) -> tuple[Point, ...]:
    """Return the front over all finished trials and all their stop rules, cheapest first; see ``front_of``."""
    found = []
    for point in front_of(study, objective):
        design = tried(bound, point.trial)
        if design is not None:
            architecture = bound.program(design, point.rule).architecture
            found.append(Point(architecture, Score.of(point.tally.scores), point.tally.mean_price, point.trial.number))
    return tuple(found)


def depth_points(trial: FrozenTrial) -> list[dict[str, Any]]:
    """Return the depth curve of a trial: every stop rule with its score and the price of an example."""
    points = (Depth(rule, Score.of(tally.scores), tally.mean_price) for rule, tally in board_of(trial).items())
    return [point.to_dict() for point in points]


def report_of(study: Study, best: FrozenTrial, architecture: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the report: the given facts, the best trial, all trials, and the best score after each."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    whole = {trial.number for trial in finished(study)}
    history, reached = [], None
    for trial in trials:
        if trial.number in whole:
            reached = max(trial.user_attrs["score"], float("-inf") if reached is None else reached)
        history.append({"trial": trial.number, "best": reached})
    return SearchRecord.dump(
        study=study.study_name,
        **facts,
        best={"trial": best.number, "params": best.params, "architecture": architecture},
        trials=[summary_of(trial) for trial in trials],
        history=history,
    )
