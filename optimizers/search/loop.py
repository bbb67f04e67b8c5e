"""The loop of a search: starts trials until there are enough. Several processes may share a study."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Final, Literal, TypeAlias

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from moa_dspy.errors import AllRunsFailedError, BudgetExhaustedError
from moa_dspy.optimizers.search.designs import Design
from moa_dspy.optimizers.search.samplers import SpaceExhaustedError
from moa_dspy.optimizers.search.trials import TrialRunner
from moa_dspy.optimizers.search.workers import (
    Watch,
    enqueue_again,
    give_up,
    is_to_repeat,
    next_trial,
    this_process,
    working_on,
)

__all__ = ["EndedBy", "TrialLoop"]

EndedBy: TypeAlias = Literal["trials", "budget", "space", "failures"]

_POLL: Final = 0.2
_OUTAGE: Final = 3
"""The search ends after this many consecutive trials whose runs all failed. The provider is then probably down."""


class TrialLoop:
    """Runs trials until a study, which several processes may share, has enough. Failed ones do not count.

    ``failures`` are the causes of the last consecutive trials whose runs all failed.
    """

    def __init__(self, runner: TrialRunner, n_trials: int) -> None:
        self._runner, self._study, self._n_trials = runner, runner.study, n_trials
        self._watch = Watch(runner.study)
        self.failures: list[str] = []

    def run(self) -> EndedBy:
        """Run trials. Return why the loop ended."""
        self._repeat()
        guard = self._runner.guard
        while True:
            self._watch.revive()
            if len(self._counted()) >= self._n_trials:
                if not self._others_at_work() or guard.seconds_left <= 0:
                    return "trials"
                time.sleep(_POLL)
                continue
            if not guard.has_room():
                return "budget"
            trial, ended_by = next_trial(self._study), None
            # Another process may have considered this trial dead, and queued it again.
            with contextlib.suppress(UpdateFinishedTrialError), working_on(trial):
                ended_by = self._run_one(trial)
            if ended_by is not None:
                return ended_by

    def _repeat(self) -> None:
        """Queue the trials again that ended without a result in earlier calls, such as those whose runs all failed."""
        trials = self._study.get_trials(deepcopy=False)
        repeated = {number for trial in trials for number in trial.user_attrs.get("retries_of", [])}
        for trial in trials:
            if is_to_repeat(trial) and trial.number not in repeated:
                enqueue_again(self._study, trial, str(trial.user_attrs.get("reason", "its search ended")))

    def _run_one(self, trial: Trial) -> EndedBy | None:
        try:
            design = self._claim(trial)
            if design is None:
                return None
            state, values = self._runner.run(trial, design)
            self.failures.clear()
        except SpaceExhaustedError:
            give_up(self._study, trial, "every architecture was tried", again=False)
            if not self._others_at_work():
                return "space"
            time.sleep(_POLL)  # a trial of another process may fail and be queued again
            return None
        except AllRunsFailedError as error:  # the design is tried again later
            trial.set_user_attr("failing", True)
            self._reject(trial, str(error))
            self.failures.append(str(error))
            return "failures" if len(self.failures) >= _OUTAGE else None
        except BudgetExhaustedError:
            give_up(self._study, trial, "the budget of its search ended")
            return "budget"
        except BaseException as error:
            again = isinstance(error, (KeyboardInterrupt, SystemExit))  # else the next call repeats it
            give_up(self._study, trial, type(error).__name__, again=again)
            raise
        with contextlib.suppress(ValueError):  # the trial has ended, as above
            self._study.tell(trial, values, state)
        return None

    def _reject(self, trial: Trial, why: str) -> None:
        trial.set_user_attr("reason", why)
        give_up(self._study, trial, why, again=False)

    def _claim(self, trial: Trial) -> Design | None:
        """Return the trial's design, or None if the trial is failed because it must not run.

        Raise SpaceExhaustedError if every design has a trial.
        """
        bound = self._runner.bound
        design = bound.design(bound.suggest(lambda name: _suggest(trial, name, bound.distributions[name])))
        if design is None:
            reason = "its parameters do not fit together"
        elif (twin := self._twin(trial.number, design)) is not None:
            if not bound.distributions:
                raise SpaceExhaustedError
            reason = f"trial {twin} has the same architecture"
        elif self._rank(trial.number) >= self._n_trials:
            reason = "there are enough trials"
        else:
            trial.set_user_attr("claimed", True)
            return design
        self._reject(trial, reason)
        return None

    def _twin(self, number: int, design: Design) -> int | None:
        """Return another trial with the same design that has priority: an earlier one, or one that has started.

        Each process writes its design before it reads the others, so at least one of two processes sees the other. The
        later trial ends; the earlier one waits until the later one has decided.
        """
        while True:
            undecided = False
            for other in self._counted():
                if other.number == number or self._runner.bound.design_of(other) != design:
                    continue
                if other.number < number or other.state != TrialState.RUNNING or other.user_attrs.get("claimed"):
                    return other.number
                undecided = True
            if not undecided:
                return None
            self._watch.revive()
            time.sleep(_POLL / 4)

    def _rank(self, number: int) -> int:
        others = [trial for trial in self._counted() if trial.number != number]
        return sum(trial.number < number or trial.state != TrialState.RUNNING for trial in others)

    def _counted(self) -> list[FrozenTrial]:
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        return self._study.get_trials(deepcopy=False, states=states)

    def _others_at_work(self) -> bool:
        running = [trial for trial in self._counted() if trial.state == TrialState.RUNNING]
        return any(trial.user_attrs.get("worker") != this_process() for trial in running)


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    assert isinstance(distribution, IntDistribution)
    return trial.suggest_int(name, distribution.low, distribution.high)
