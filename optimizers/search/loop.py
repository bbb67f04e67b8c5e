"""The loop of a search: starts trials until there are enough. Several processes may share a study."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import optuna
from optuna import Study, Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from moa_dspy.errors import AllRunsFailedError, BudgetExhaustedError
from moa_dspy.optimizers.search.designs import BoundSpace, Design
from moa_dspy.optimizers.search.sampler import SpaceExhaustedError, design_of
from moa_dspy.optimizers.search.trials import TrialRunner
from moa_dspy.optimizers.search.workers import Watch, enqueue_again, give_up, this_process, working_on

__all__ = ["EndedBy", "TrialLoop"]

EndedBy: TypeAlias = Literal["trials", "budget", "space", "failures"]

_POLL: Final = 0.2
_OUTAGE: Final = 3
"""The search ends after this many consecutive trials whose runs all failed. The provider is then probably down."""
_COUNTED: Final = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


@dataclass
class TrialLoop:
    """Runs trials until a study has enough.

    Args:
        study: the study, which may be shared by several processes.
        bound: the space.
        n_trials: number of trials of the study; failed ones do not count.
        watch: finds trials of dead processes.

    Attributes:
        failures: the causes of the last consecutive trials whose runs all failed.
    """

    study: Study
    bound: BoundSpace
    n_trials: int
    watch: Watch
    failures: list[str] = field(default_factory=list)

    def enqueue(self) -> None:
        """Queue the baselines of a new study, and the trials whose runs all failed before."""
        trials = self.study.get_trials(deepcopy=False)
        if not trials:
            for params in self.bound.baselines():
                self.study.enqueue_trial(params, skip_if_exists=True)
        repeated = {number for trial in trials for number in trial.user_attrs.get("retries_of", [])}
        for trial in trials:
            if trial.user_attrs.get("failing") and trial.number not in repeated:
                enqueue_again(self.study, trial, "every run failed")

    def run(self, runner: TrialRunner) -> EndedBy:
        """Run trials. Return why the loop ended."""
        while True:
            self.watch.revive()
            if len(self.study.get_trials(deepcopy=False, states=_COUNTED)) >= self.n_trials:
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

    def _run_one(self, runner: TrialRunner, trial: Trial) -> EndedBy | None:
        try:
            design = self._claim(trial)
            if design is None:
                return None
            state, values = runner.run(self.study, trial, design)
            self.failures.clear()
        except SpaceExhaustedError:
            give_up(self.study, trial, "every architecture was tried", again=False)
            if not self._others_at_work():
                return "space"
            time.sleep(_POLL)  # a trial of another process may fail and be queued again
            return None
        except AllRunsFailedError as error:
            return self._fail(trial, str(error))
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
            return None  # another process considered this trial dead and queued it again
        return None

    def _fail(self, trial: Trial, why: str) -> EndedBy | None:
        """Fail a trial whose runs all failed. Its design is tried again later."""
        trial.set_user_attr("failing", True)
        trial.set_user_attr("reason", why)
        give_up(self.study, trial, why, again=False)
        self.failures.append(why)
        return "failures" if len(self.failures) >= _OUTAGE else None

    def _claim(self, trial: Trial) -> Design | None:
        """Return the trial's design, or None if the trial is failed because another trial has the same design.

        Raises:
            SpaceExhaustedError: if every design has a trial.
        """
        design = self.bound.design(self.bound.suggest(lambda name, one: _suggest(trial, name, one)))
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
            if not self.bound.distributions:
                raise SpaceExhaustedError
            return f"trial {twin} has the same architecture"
        return "there are enough trials" if self._rank(number) >= self.n_trials else None

    def _twin(self, number: int, design: Design) -> int | None:
        """Return another trial with the same design that has priority: an earlier one, or one that has started.

        Each process writes its design before it reads the others, so at least one of two processes sees the other. The
        later trial ends; the earlier one waits until the later one has decided.
        """
        while True:
            undecided = False
            for other in self.study.get_trials(deepcopy=False, states=_COUNTED):
                if other.number == number or design_of(self.bound, other) != design:
                    continue
                if other.number < number or other.state != TrialState.RUNNING or other.user_attrs.get("claimed"):
                    return other.number
                undecided = True
            if not undecided:
                return None
            self.watch.revive()
            time.sleep(_POLL / 4)

    def _rank(self, number: int) -> int:
        trials = self.study.get_trials(deepcopy=False, states=_COUNTED)
        others = [trial for trial in trials if trial.number != number]
        return sum(trial.number < number or trial.state != TrialState.RUNNING for trial in others)

    def _others_at_work(self) -> bool:
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return any(trial.user_attrs.get("worker") != this_process() for trial in running)


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high)
    raise TypeError(f"{type(distribution).__name__} is not used here")
