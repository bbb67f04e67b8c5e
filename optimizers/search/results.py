"""Results of a study: the scores of its trials, the best trial, the front, and a report as JSON values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pydantic
from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from pydantic_core import to_jsonable_python

from moa_dspy.architecture import Architecture
from moa_dspy.cost.usage import Price
from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.search.objective import Incumbent, Objective, pick_rule
from moa_dspy.optimizers.search.workers import in_order, places_of
from moa_dspy.optimizers.stop_fitting.replay import StopRule
from moa_dspy.optimizers.stop_fitting.rescoring import ExampleScores, StopRuleScores

__all__ = ["Point", "best_trial", "finished", "front_of", "incumbents_of", "report_of", "rule_of", "scores_of"]


_SCORES: Final = 2_000  # finished trials whose scores are kept
_scores: dict[int, tuple[FrozenTrial, StopRuleScores]] = {}  # by the identity of the trial


class Point(pydantic.BaseModel):
    """An architecture on the front.

    Attributes:
        architecture: the architecture with its depth and stop rule.
        score: score on the training set.
        price: mean price of an example, without a cache.
        trial: number of the trial.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    architecture: Architecture
    score: Score
    price: Price
    trial: int


@dataclass(frozen=True)
class FrontPoint:
    """A finished trial under one of its stop rules. No other point on the front is at least as good and cheaper."""

    trial: FrozenTrial
    rule: StopRule
    scores: ExampleScores
    price: Price
    cost: float


def scores_of(trial: FrozenTrial) -> StopRuleScores:
    """Return the scores of a trial so far. Those of a finished trial are read once, since each trial asks for all."""
    known = _scores.get(id(trial))
    if known is not None and known[0] is trial:
        return known[1]
    scores = StopRuleScores.from_attrs(trial.user_attrs.get("rules", {}))
    if trial.state.is_finished():
        while len(_scores) >= _SCORES:
            _scores.pop(next(iter(_scores)), None)
        _scores[id(trial)] = trial, scores
    return scores


def rule_of(trial: FrozenTrial, objective: Objective) -> StopRule:
    """Return the stop rule that a finished trial selected, or that a running trial would select now."""
    rule = trial.user_attrs.get("rule")
    return pick_rule(scores_of(trial), objective) if rule is None else StopRule.parse(rule)


def finished(study: Study) -> list[FrozenTrial]:
    """Return the trials that ran all examples, in the order of an uninterrupted search."""
    trials = [trial for trial in in_order(study) if trial.state == TrialState.COMPLETE]
    return [trial for trial in trials if "pruned_after" not in trial.user_attrs and "rule" in trial.user_attrs]


def best_trial(study: Study, objective: Objective) -> FrozenTrial | None:
    """Return the best trial that ran all examples; on a tie, the cheapest, then the earliest.

    If no trial ran all examples, return the one that ran most, or None if nothing was scored. Trials above the price
    limit come last.
    """

    def merit(trial: FrozenTrial) -> tuple[float, ...]:
        one = scores_of(trial)[rule_of(trial, objective)]
        price = one.mean_price
        return (-max(objective.excess(price), 0.0), one.score, -objective.cost(price))

    complete = finished(study)
    if complete:
        return max(complete, key=merit)
    started = [trial for trial in in_order(study) if "rules" in trial.user_attrs]
    return max(started, key=lambda trial: (scores_of(trial).examples, *merit(trial)), default=None)


def incumbents_of(study: Study, objective: Objective) -> list[Incumbent]:
    """Return the trials to compare a new trial with: the best finished trial, or with two objectives the front."""
    if objective.two:
        return [Incumbent(point.scores.scores, point.cost) for point in front_of(study, objective)]
    picked = [scores_of(trial)[rule_of(trial, objective)] for trial in finished(study)]
    within = [one for one in picked if objective.excess(one.mean_price) <= 0]
    best = max(within, key=lambda one: one.score, default=None)
    return [] if best is None else [Incumbent(best.scores, 0.0)]


def front_of(study: Study, objective: Objective) -> list[FrontPoint]:
    """Return the Pareto front over all finished trials and their stop rules, cheapest first.

    A program whose runs all failed has no price and is not a point.
    """
    points = [
        FrontPoint(trial, rule, one, one.mean_price, objective.cost(one.mean_price))
        for trial in finished(study)
        for rule, one in scores_of(trial).items()
        if one.mean_price is not None
    ]
    best, front = -math.inf, []
    places = places_of(study)
    for point in sorted(points, key=lambda one: (one.cost, -one.scores.score, places[one.trial.number], str(one.rule))):
        if point.scores.score > best:
            front.append(point)
            best = point.scores.score
    return front


def _summary_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial as JSON values."""
    attrs, scores, rule = trial.user_attrs, scores_of(trial), trial.user_attrs.get("rule")
    interval = Score.of(scores[StopRule.parse(rule)].scores).model_dump() if rule is not None and scores else None
    return {
        "number": trial.number,
        "state": "pruned" if "pruned_after" in attrs else trial.state.name.lower(),
        "params": trial.params,
        "examples": scores.examples,
        "depths": attrs.get("rules", {}).get("depths", {}),
        "rule": rule,
        "score": attrs.get("score"),
        "interval": interval,
        "price": attrs.get("price"),
        **{name: attrs[name] for name in ("retries_of", "reason", "unjudged") if name in attrs},
    }


def report_of(
    study: Study, objective: Objective, architecture: Callable[[FrozenTrial, StopRule], Any], facts: dict[str, Any]
) -> dict[str, Any]:
    """Return a report: ``facts``, the front, the best trial, all trials, and the best score after each trial."""
    best, found = best_trial(study, objective), dict[str, Any](best=None)
    if best is not None:
        scores, rule = scores_of(best), rule_of(best, objective)
        found = {
            "score": Score.of(scores[rule].scores),
            "depth_curve": [one.to_dict() for one in scores.depths],
            "best": {"trial": best.number, "params": best.params, "architecture": architecture(best, rule)},
        }
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    complete = {trial.number: trial.user_attrs["score"] for trial in finished(study)}
    history: list[dict[str, Any]] = []
    reached: float | None = None
    for trial in trials:
        score = complete.get(trial.number)
        if score is not None:
            reached = score if reached is None else max(reached, score)
        history.append({"trial": trial.number, "best": reached})
    report = {
        "kind": "search",
        "study": study.study_name,
        **facts,
        **found,
        "pareto": [
            {
                "architecture": architecture(point.trial, point.rule),
                "score": Score.of(point.scores.scores),
                "price": point.price,
                "trial": point.trial.number,
            }
            for point in front_of(study, objective)
        ],
        "trials": [_summary_of(trial) for trial in trials],
        "history": history,
    }
    return to_jsonable_python(report)
