"""The search for an architecture, with Optuna: agents, attention pattern and depth.

::

    from moa_dspy.optimizers import SearchSpace, search

    result = search("question -> answer", agents=["openai/gpt-4.1-mini", "anthropic/claude-haiku-4-5"],
                    trainset=trainset, metric=metric, n_trials=40, storage="study.db", budget=Budget(usd=5))
    result.program.save("program.json")
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
from optuna import Study, Trial
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from moa_dspy.agents import AgentLike
from moa_dspy.cost.budget import Budget, BudgetGuard
from moa_dspy.cost.meter import metered
from moa_dspy.cost.usage import Usage
from moa_dspy.data.splitting import sample
from moa_dspy.display import Displayed
from moa_dspy.errors import AllRunsFailedError, BudgetTooSmallError, ConfigurationError, RunError
from moa_dspy.evaluation.fingerprint import CONNECTION, connection_digest, describe, digest, ordered
from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.leakage import check_examples
from moa_dspy.optimizers.measuring import (
    Metric,
    check_budget,
    check_concurrency,
    check_count,
    check_seed,
    fit_metric,
    metric_name,
)
from moa_dspy.optimizers.prompts.silence import silenced
from moa_dspy.optimizers.search.designs import BoundSpace, Params
from moa_dspy.optimizers.search.gp_designs import GaussianProcessDesigns
from moa_dspy.optimizers.search.loop import EndedBy, TrialLoop
from moa_dspy.optimizers.search.objective import Objective, Unit, Wanted, check_unit
from moa_dspy.optimizers.search.results import Point, best_trial, report_of, rule_of
from moa_dspy.optimizers.search.samplers import DesignSampler, OptunaDesigns, UniqueSampler, check_sampler
from moa_dspy.optimizers.search.space import SearchSpace
from moa_dspy.optimizers.search.storage import open_storage, open_study, storage_failures
from moa_dspy.optimizers.search.trials import Pruning, TrialRunner
from moa_dspy.optimizers.search.usual import UsualDesigns
from moa_dspy.optimizers.search.warm_start import WarmStart, warm_designs
from moa_dspy.optimizers.stop_fitting.replay import StopRule
from moa_dspy.program import AttentionMoA
from moa_dspy.signatures import TaskSignature

__all__ = ["SearchProgress", "SearchResult", "search"]

_FORMAT = 2
"""Version of the attributes of trials in a study."""


@dataclass(frozen=True)
class SearchProgress:
    """The progress of a search.

    Attributes:
        trials: finished trials of the study, those of other processes included.
        n_trials: total number of trials.
        trial: number of the trial that this process runs.
        examples: number of examples that the trial has run.
        of: total number of examples.
        best: the best score so far; None before a trial has finished.
        cost: cost of this call.
    """

    trials: int
    n_trials: int
    trial: int
    examples: int
    of: int
    best: float | None
    cost: Usage


@dataclass(frozen=True, repr=False)
class SearchResult(Displayed):
    """The result of a search.

    Attributes:
        program: the best architecture, with its depth and stop rule.
        score: its score on the training set. It was chosen on that set, so expect less on other examples.
        cost: cost of this call.
        report: trials, history, space, depth curve and front, as JSON values.
        study: the Optuna study.
        pareto: the Pareto front of score and cost, cheapest first.
    """

    program: AttentionMoA
    score: Score
    cost: Usage
    report: dict[str, Any]
    study: Study
    pareto: tuple[Point, ...]

    def _facts(self) -> Mapping[str, Any]:
        return {"score": self.score, "trials": len(self.report["trials"]), "paid_calls": self.cost.paid_calls}


def search(
    task: str | TaskSignature,
    agents: Sequence[AgentLike],
    *,
    trainset: Sequence[dspy.Example],
    metric: Metric,
    space: SearchSpace | None = None,
    n_trials: int = 40,
    storage: str | Path | BaseStorage | None = None,
    study_name: str = "moa-dspy-search",
    objective: Wanted = "score",
    price: float | None = None,
    unit: Unit = "usd",
    budget: Budget | None = None,
    seed: int = 0,
    concurrency: int = 8,
    pruning: Pruning | None = None,
    sampler: DesignSampler | BaseSampler | None = None,
    progress: Callable[[SearchProgress], None] | None = None,
    aggregators: Sequence[AgentLike] = (),
    prompts: AttentionMoA | Sequence[AttentionMoA] = (),
    tuned: AttentionMoA | None = None,
    warm_start: WarmStart | Sequence[WarmStart] = (),
    **options: Any,
) -> SearchResult:
    """Search for the best architecture for a task. The usual ensembles are tried first.

    Args:
        task: any DSPy signature.
        agents: the models to choose from.
        trainset: examples with inputs set.
        metric: a DSPy metric with scores from 0 to 1.
        space: the choices.
        n_trials: number of trials of the study, pruned ones included, failed ones not.
        storage: a path (SQLite), ``journal:///path``, a database URL, an Optuna storage, or None for memory. Equal
            calls continue its study; several processes share the trials.
        study_name: unique in the storage.
        objective: ``"score"``, ``"score_at_price"`` or ``("score", "cost")``; see ``Objective``.
        price: with ``"score_at_price"``, the maximum mean cost of an example.
        unit: unit of the price and of costs.
        budget: limits of this call. At its end the best result so far is returned. A later call continues.
        seed: seed of sampling and of the order of examples; a study keeps its first seed.
        concurrency: maximum number of concurrent runs.
        pruning: when a trial ends early; default ``Pruning()``.
        sampler: proposes designs; default ``GaussianProcessDesigns``.
        progress: called after every batch.
        aggregators: further models that may aggregate but do not propose.
        prompts: programs of the task; all trials take their prompts and demos. Later programs take precedence.
        tuned: a further program of the task. A design may take its prompts and demos, or not.
        warm_start: programs or studies of similar tasks. Their designs are tried after the usual ensembles.
        **options: further arguments of ``AttentionMoA``, such as ``tolerance``.

    Raises:
        ConfigurationError: if an argument is invalid, or differs from those of the study in ``storage``.
        RunError: if the budget ended before anything was scored, or if every run failed.
    """
    bound = BoundSpace(SearchSpace.of(space), task, agents, options, aggregators, prompts, tuned)
    first, wanted, limits = warm_designs(bound, warm_start), Objective(objective, price, unit), pruning or Pruning()
    check_sampler(sampler)
    job = _Search(bound, wanted, trainset, metric, n_trials, budget, concurrency, limits, progress, first)
    return job.run(storage, study_name, sampler, seed)


@dataclass
class _Search:
    bound: BoundSpace
    objective: Objective
    trainset: Sequence[dspy.Example]
    metric: Metric
    n_trials: int
    budget: Budget | None
    concurrency: int
    pruning: Pruning
    progress: Callable[[SearchProgress], None] | None
    first: Sequence[Params]

    def __post_init__(self) -> None:
        if not self.trainset:
            raise ConfigurationError("trainset is empty; give at least one example")
        check_examples(self.trainset)
        self.metric, _ = fit_metric(self.metric, list(self.bound.task.output_fields), self.trainset)
        check_count("n_trials", self.n_trials)
        check_concurrency(self.concurrency)
        check_budget(self.budget, self._lms)
        check_unit(self.objective, self._lms)

    @property
    def _lms(self) -> list[str | dspy.BaseLM | None]:
        return [agent.lm for agent in self.bound.models.values()]

    def run(
        self,
        storage: str | Path | BaseStorage | None,
        study_name: str,
        sampler: DesignSampler | BaseSampler | None,
        seed: int,
    ) -> SearchResult:
        """Open the study, run trials, and return the result."""
        check_seed(seed)
        lms = [lm for lm in self._lms if isinstance(lm, dspy.BaseLM)]
        with silenced(output=False), storage_failures(), metered(lms) as meter:
            study = open_study(open_storage(storage), study_name, self.objective.directions, self._about())
            seed = study.user_attrs.get("seed", seed)  # all trials see the examples in one order
            study.set_user_attr("seed", seed)
            if isinstance(sampler, BaseSampler):
                sampler = OptunaDesigns(sampler)
            first = UsualDesigns(self.bound, self.n_trials, len(self.trainset), self.first)
            study.sampler = UniqueSampler(self.bound, sampler or GaussianProcessDesigns(self.objective), seed, first)
            runner = TrialRunner(
                study=study,
                bound=self.bound,
                examples=sample(self.trainset, seed=seed),
                metric=self.metric,
                objective=self.objective,
                pruning=self.pruning,
                guard=BudgetGuard(self.budget, meter=meter),
                concurrency=self.concurrency,
                on_batch=lambda trial, examples: self._tell(study, trial, examples, meter.usage),
            )
            loop = TrialLoop(runner, self.n_trials)
            ended_by = loop.run()
            return self._result(study, ended_by, loop.failures, meter.usage)

    def _tell(self, study: Study, trial: Trial, examples: int, cost: Usage) -> None:
        if self.progress is None:
            return
        best = best_trial(study, self.objective)
        self.progress(
            SearchProgress(
                trials=len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))),
                n_trials=self.n_trials,
                trial=trial.number,
                examples=examples,
                of=len(self.trainset),
                best=None if best is None else best.user_attrs.get("score"),
                cost=cost,
            )
        )

    def _about(self) -> dict[str, Any]:
        """Return the properties that must be equal for trials of a study to be comparable."""
        rows = [json.dumps(ordered(example.toDict()), sort_keys=True, default=str) for example in self.trainset]
        content = hashlib.sha256("\n".join(sorted(rows)).encode("utf-8", "surrogatepass")).hexdigest()
        about = {
            **self.bound.to_dict(),
            "format": _FORMAT,
            "task": self.bound.task.signature,
            "instructions": self.bound.task.instructions,
            "data": content[:16],
            "metric": {"name": metric_name(self.metric), "digest": digest(describe(self.metric))},
            "objective": self.objective.to_dict(),
            CONNECTION: connection_digest(*(agent.lm for agent in self.bound.models.values()), self.metric),
        }
        return json.loads(json.dumps(about))

    def _program(self, trial: FrozenTrial, rule: StopRule) -> AttentionMoA:
        design = self.bound.design({**trial.system_attrs.get("fixed_params", {}), **trial.params})
        if design is None:
            raise RunError(f"trial {trial.number} has parameters that this space does not have")
        return self.bound.program(design, rule)

    def _result(self, study: Study, ended_by: EndedBy, failures: Sequence[str], cost: Usage) -> SearchResult:
        objective, best = self.objective, best_trial(study, self.objective)
        if best is None and failures:
            raise AllRunsFailedError(f"the search has scored nothing: {failures[0]}; the same call tries again")
        if best is None:
            raise BudgetTooSmallError("the search ended before a trial was scored; give it a larger budget")
        facts = {
            **self.bound.to_dict(),
            "task": self.bound.task.signature,
            "objective": objective.to_dict(),
            "seed": study.user_attrs["seed"],
            "ended_by": ended_by,
            "failure": failures[-1] if ended_by == "failures" else None,
            "cost": cost,
        }
        report = report_of(study, objective, lambda trial, rule: self._program(trial, rule).architecture, facts)
        front = tuple(Point.model_validate(point) for point in report["pareto"])
        program = self._program(best, rule_of(best, objective))
        return SearchResult(program, Score(**report["score"]), cost, report, study, front)
