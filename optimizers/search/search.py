"""The search for an architecture, with Optuna: which agents, who criticises whom, how deep, for a metric and a price.

::

    from moa_dspy.optimizers import SearchSpace, search

    found = search("question -> answer", agents=["openai/gpt-4.1-mini", "anthropic/claude-haiku-4-5"],
                   trainset=trainset, metric=metric, n_trials=40, storage="study.db", budget=Budget(usd=5))
    found.program.save("program.json")
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import dspy
import optuna
from optuna import Study, Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from moa_dspy.agents import AgentLike
from moa_dspy.cost.budget import Budget, BudgetGuard
from moa_dspy.cost.meter import UsageMeter, metered
from moa_dspy.cost.usage import Usage
from moa_dspy.data.splitting import sample
from moa_dspy.errors import AllRunsFailedError, BudgetExhaustedError, BudgetTooSmallError, ConfigurationError, RunError
from moa_dspy.evaluation.fingerprint import describe, digest
from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.comparison.matching import check_budget
from moa_dspy.optimizers.leakage import check_examples
from moa_dspy.optimizers.measuring import Metric, check_concurrency, check_metric, metric_name
from moa_dspy.optimizers.prompts.silence import silenced
from moa_dspy.optimizers.search.objective import Objective, Unit, Wanted, check_unit
from moa_dspy.optimizers.search.results import Point, best_trial, depth_points, pareto_of, report_of
from moa_dspy.optimizers.search.sampler import NovelSampler, tried
from moa_dspy.optimizers.search.space import BoundSpace, Design, SearchSpace
from moa_dspy.optimizers.search.storage import open_storage, open_study
from moa_dspy.optimizers.search.trials import Rungs, TrialRunner, board_of, chosen_of
from moa_dspy.optimizers.search.workers import GRACE, Watch, enqueue_again, give_up, this_process, working_on
from moa_dspy.program import AttentionMoA
from moa_dspy.signatures import TaskSignature

__all__ = ["Point", "SearchProgress", "SearchSpace", "Searched", "check_trials", "search"]

EndedBy: TypeAlias = Literal["trials", "budget", "space", "failures"]
_POLL: Final = 0.2
_REFUSALS: Final = 200
"""So many draws in a row that were there before mean that a sampler has nothing new."""
_OUTAGE: Final = 3
"""So many trials in a row of which every run failed end a search: it is the provider that fails, more likely."""


@dataclass(frozen=True)
class SearchProgress:
    """Where a search is.

    Attributes:
        trials: ended trials of the study, those of other processes included.
        n_trials: how many there will be.
        trial: number of the one that this process runs.
        examples: that it has run so far.
        of: how many there are.
        best: the best score so far, if a trial has finished.
        cost: what this call has spent so far.
    """

    trials: int
    n_trials: int
    trial: int
    examples: int
    of: int
    best: float | None
    cost: Usage


@dataclass(frozen=True)
class Searched:
    """What a search has found.

    Attributes:
        program: the best architecture, with its depth and stop rule.
        score: of that program on the training set; it was chosen on that set, so expect less on others.
        cost: what this call has paid for.
        report: everything as JSON values: trials, history, space, depth curve, front.
        study: Optuna's.
        pareto: the points that no other one betters in score without costing more, cheapest first.
    """

    program: AttentionMoA
    score: Score
    cost: Usage
    report: dict[str, Any]
    study: Study
    pareto: tuple[Point, ...]


def search(
    task: str | TaskSignature,
    agents: Sequence[AgentLike],
    space: SearchSpace | None = None,
    *,
    trainset: Sequence[dspy.Example],
    metric: Metric,
    n_trials: int = 40,
    storage: str | Path | BaseStorage | None = None,
    study_name: str = "moa-dspy-search",
    objective: Wanted = "score",
    price: float | None = None,
    unit: Unit = "usd",
    budget: Budget | None = None,
    seed: int = 0,
    concurrency: int = 8,
    first_batch: int | None = None,
    prune_level: float = 0.2,
    baselines: bool = True,
    sampler: Callable[[BoundSpace, int], BaseSampler] | None = None,
    grace: float = GRACE,
    progress: Callable[[SearchProgress], None] | None = None,
    aggregators: Sequence[AgentLike] = (),
    prompts: AttentionMoA | Sequence[AttentionMoA] = (),
    **options: Any,
) -> Searched:
    """Search for the best architecture for a task.

    The usual ensembles are tried first. Several processes may call this at once with the same arguments and the same
    ``storage``; together they run ``n_trials`` trials, and each returns the best of all. Called again after it ended or
    was killed, it goes on where it was; calls already paid for are in DSPy's cache on disk.

    Args:
        task: any DSPy signature.
        agents: the models to choose from; their names name the parameters.
        space: what may be chosen.
        trainset: examples with inputs set; every trial runs them in the same order.
        metric: as DSPy's, from 0 to 1.
        n_trials: trials of the study in all, pruned ones included and failed ones not.
        storage: a path (SQLite), ``journal:///path``, a database URL or an Optuna storage; None keeps it in memory.
        study_name: unique in the storage.
        objective: ``"score"``, ``"score_at_price"`` or ``("score", "cost")``.
        price: with ``"score_at_price"``, the most that an example may cost on average, in ``unit``.
        unit: ``"usd"``, ``"tokens"`` or ``"calls"``, of a run without cache.
        budget: of this call. Its end is no error: what was under way is put back, and the best so far is returned. So
            it is where every run of several trials in a row fails; the next call tries these again.
        seed: of the draws and of the examples' order; a study goes on with the seed that it was begun with.
        concurrency: runs under way at once.
        first_batch: examples of a trial's first batch; default: an eighth of them, at least 4.
        prune_level: one-sided level of the paired test by which a trial is given up; 0 gives up none.
        baselines: try the usual ensembles first: single models, self-consistency, MoA, Attention-MoA.
        sampler: makes another Optuna sampler out of the bound space and the seed.
        grace: seconds without a sign of life after which another process's trial is taken from it.
        progress: told after every batch.
        aggregators: further models that may aggregate, and propose nothing.
        prompts: a program of the same task, whose prompts and demos all trials have; of several, the last with some.
        **options: further arguments of ``AttentionMoA``, such as ``tolerance`` and ``reasoning``.

    Raises:
        ConfigurationError: an argument cannot be, or does not fit the study in ``storage``.
        RunError: the budget ended before anything was scored, or every run failed.
    """
    _check(trainset, metric, n_trials, concurrency)
    carried = [prompts] if isinstance(prompts, AttentionMoA) else list(prompts)
    bound = BoundSpace(space or SearchSpace(), task, agents, options, aggregators, carried)
    wanted = Objective(objective, price, unit)
    lms = [agent.lm for agent in bound.writers]
    check_budget(budget, lms)
    check_unit(wanted, lms)
    rungs = Rungs(len(trainset), max(4, len(trainset) // 8) if first_batch is None else first_batch, prune_level)
    with silenced(output=False), metered([lm for lm in lms if isinstance(lm, dspy.BaseLM)]) as meter:
        study = open_study(
            open_storage(storage), study_name, wanted.directions, _about(bound, trainset, metric, wanted)
        )
        seed = _settled_seed(study, seed)
        novel = NovelSampler(bound, wanted, seed)
        study.sampler = novel if sampler is None else sampler(bound, seed)
        loop = _Loop(study, bound, novel, wanted, n_trials, Watch(study, grace), meter, progress)
        if baselines and not study.get_trials(deepcopy=False):
            loop.enqueue_baselines()
        loop.enqueue_failing()
        runner = TrialRunner(
            bound=bound,
            examples=sample(trainset, seed=seed),
            metric=metric,
            objective=wanted,
            rungs=rungs,
            guard=BudgetGuard(budget, meter=meter),
            concurrency=concurrency,
            on_batch=loop.tell_progress,
        )
        ended_by = loop.run(runner)
        return _searched(loop, seed, ended_by)


def check_trials(n_trials: Any) -> None:
    """Refuse what is no number of trials.

    Raises:
        ConfigurationError: says what it must be.
    """
    if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 1:
        raise ConfigurationError(f"n_trials={n_trials!r} must be a whole number from 1")


def _check(trainset: Sequence[dspy.Example], metric: Any, n_trials: int, concurrency: int) -> None:
    if not trainset:
        raise ConfigurationError("there are no examples to search with; give a trainset")
    check_examples(trainset)
    check_metric(metric)
    check_trials(n_trials)
    check_concurrency(concurrency)


@dataclass
class _Loop:
    """Asks for trials and has them run until there are enough."""

    study: Study
    bound: BoundSpace
    novel: NovelSampler
    objective: Objective
    n_trials: int
    watch: Watch
    meter: UsageMeter
    progress: Callable[[SearchProgress], None] | None
    examples: int = 0
    refused: int = 0
    failing: list[str] = field(default_factory=list)
    """What was raised by the last trials in a row of which every run failed."""

    def enqueue_baselines(self) -> None:
        """Let the usual ensembles be tried first."""
        for params in self.bound.baselines():
            self.study.enqueue_trial(params, skip_if_exists=True)

    def enqueue_failing(self) -> None:
        """Let those be tried again of which every run failed when they were run before."""
        trials = self.study.get_trials(deepcopy=False)
        repeated = {number for trial in trials for number in trial.user_attrs.get("retries_of", [])}
        for trial in trials:
            if trial.user_attrs.get("failing") and trial.number not in repeated:
                enqueue_again(self.study, trial, "every run failed")

    def run(self, runner: TrialRunner) -> EndedBy:
        """Run trials; return why no further one was."""
        self.examples = len(runner.examples)
        while True:
            self.watch.revive()
            if self._taken() >= self.n_trials:
                if not self._others_at_work() or runner.guard.seconds_left <= 0:
                    return "trials"
                time.sleep(_POLL)
                continue
            if not runner.guard.has_room():
                return "budget"
            trial = self.study.ask()
            with working_on(trial):
                ended_by = self._run_one(runner, trial)
            if ended_by is not None:
                return ended_by

    def tell_progress(self, trial: Trial, examples: int) -> None:
        """Tell the caller where the search is."""
        if self.progress is None:
            return
        best = best_trial(self.study, self.objective)
        self.progress(
            SearchProgress(
                trials=len(_ended(self.study)),
                n_trials=self.n_trials,
                trial=trial.number,
                examples=examples,
                of=self.examples,
                best=None if best is None else best.user_attrs.get("score"),
                cost=self.meter.usage,
            )
        )

    def _run_one(self, runner: TrialRunner, trial: Trial) -> EndedBy | None:
        try:
            design = self._claimed(trial)
            if design is None:
                self.refused += 1
                nothing_new = trial.number in self.novel.exhausted or not self.bound.distributions
                exhausted = nothing_new or self.refused >= _REFUSALS
                if exhausted and not self._others_at_work():
                    return "space"
                time.sleep(_POLL if exhausted else 0)  # a trial of another process may fail, and be there to take
                return None
            self.refused = 0
            state, values = runner.run(self.study, trial, design)
            self.failing.clear()
        except AllRunsFailedError as error:
            return self._failed(trial, str(error))
        except BudgetExhaustedError:
            give_up(self.study, trial, "the budget of its search ended")
            return "budget"
        except BaseException as error:
            again = isinstance(error, (KeyboardInterrupt, SystemExit))
            give_up(self.study, trial, type(error).__name__, again=again)
            raise
        try:
            self.study.tell(trial, values, state)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            return None  # another process held this one for dead and has put the trial in the queue again
        return None

    def _failed(self, trial: Trial, why: str) -> EndedBy | None:
        """Fail a trial of which every run failed, so that it is no bad architecture but one to be tried again."""
        trial.set_user_attr("failing", True)
        trial.set_user_attr("reason", why)
        give_up(self.study, trial, why, again=False)
        self.failing.append(why)
        return "failures" if len(self.failing) >= _OUTAGE else None

    def _claimed(self, trial: Trial) -> Design | None:
        """Return the trial's design, unless it makes no sense or belongs to another trial; then the trial fails."""
        design = self.bound.design(self.bound.suggest(lambda name, dist: _suggested(trial, name, dist)))
        reason = self._objection(trial.number, design)
        if reason is None:
            trial.set_user_attr("claimed", True)
            return design
        trial.set_user_attr("reason", reason)
        give_up(self.study, trial, reason, again=False)
        return None

    def _objection(self, number: int, design: Design | None) -> str | None:
        if design is None:
            return "its parameters do not fit together"
        twin = self._twin(number, design)
        if twin is not None:
            return f"trial {twin} has the same architecture"
        return "there are enough trials" if self._rank(number) >= self.n_trials else None

    def _twin(self, number: int, design: Design) -> int | None:
        """Return another trial with the same design that goes first: an earlier one, or one that has begun.

        Both sides first say what they have and then look, so at least one of them sees the other. The later trial
        gives way; the earlier one waits until the later has decided.
        """
        while True:
            undecided = False
            for other in self.study.get_trials(deepcopy=False, states=_TAKING):
                if other.number == number or tried(self.bound, other) != design:
                    continue
                if other.number < number or other.state != TrialState.RUNNING or other.user_attrs.get("claimed"):
                    return other.number
                undecided = True
            if not undecided:
                return None
            self.watch.revive()
            time.sleep(_POLL / 4)

    def _taken(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=_TAKING))

    def _rank(self, number: int) -> int:
        trials = self.study.get_trials(deepcopy=False, states=_TAKING)
        others = [trial for trial in trials if trial.number != number]
        return sum(trial.number < number or trial.state != TrialState.RUNNING for trial in others)

    def _others_at_work(self) -> bool:
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return any(trial.user_attrs.get("worker") != this_process() for trial in running)


_TAKING = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def _searched(loop: _Loop, seed: int, ended_by: EndedBy) -> Searched:
    study, bound, objective = loop.study, loop.bound, loop.objective
    best = best_trial(study, objective)
    if best is None and loop.failing:
        raise AllRunsFailedError(f"the search has scored nothing: {loop.failing[0]}; the same call tries again")
    if best is None:
        raise BudgetTooSmallError("the search ended before a trial was scored; give it a larger budget")
    design = bound.design({**best.system_attrs.get("fixed_params", {}), **best.params})
    if design is None:
        raise RunError(f"trial {best.number} has parameters that this space does not have")
    rule = chosen_of(best, objective)
    program, score = bound.program(design, rule), Score.of(board_of(best)[rule].scores, seed=seed)
    front = pareto_of(study, bound, objective)
    cost = loop.meter.usage
    report = report_of(
        study,
        best,
        program.architecture.model_dump(mode="json"),
        {
            **bound.to_dict(),
            "task": bound.task.signature,
            "objective": objective.to_dict(),
            "seed": seed,
            "ended_by": ended_by,
            "failure": loop.failing[-1] if ended_by == "failures" else None,
            "score": score.model_dump(),
            "cost": cost.model_dump(),
            "depth_curve": depth_points(best),
            "pareto": [point.to_dict() for point in front],
        },
    )
    return Searched(program, score, cost, report, study, front)


def _suggested(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high)
    raise TypeError(f"{type(distribution).__name__} is not used here")


def _ended(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _settled_seed(study: Study, seed: int) -> int:
    """The seed that the study was begun with, so that all its trials see the examples in one order."""
    known = study.user_attrs.get("seed")
    if known is None:
        study.set_user_attr("seed", seed)
        return seed
    return int(known)


def _about(bound: BoundSpace, trainset: Sequence[dspy.Example], metric: Metric, objective: Objective) -> dict[str, Any]:
    """What must be equal for trials of a study to be comparable."""
    rows = [json.dumps(example.toDict(), sort_keys=True, default=str) for example in trainset]
    content = hashlib.sha256("\n".join(sorted(rows)).encode("utf-8", "surrogatepass")).hexdigest()
    about = {
        **bound.to_dict(),
        "task": bound.task.signature,
        "instructions": bound.task.instructions,
        "data": content[:16],
        "metric": {"name": metric_name(metric), "digest": digest(describe(metric))},
        "objective": objective.to_dict(),
    }
    return json.loads(json.dumps(about))
