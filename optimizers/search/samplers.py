"""Samplers that choose the next design. No design is tried twice."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GridSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.search.designs import ENUMERABLE, BoundSpace
from moa_dspy.optimizers.search.usual import UsualDesigns
from moa_dspy.optimizers.search.workers import places_of
from moa_dspy.protocols import is_object_of

__all__ = [
    "DesignSampler",
    "OptunaDesigns",
    "RandomDesigns",
    "SpaceExhaustedError",
    "TPEDesigns",
    "UniqueSampler",
    "check_sampler",
]

_ATTEMPTS: Final = 50
"""Proposals per trial before a design is drawn at random."""
_DRAWS: Final = 1000
"""Random draws in a larger space before it counts as exhausted."""


@runtime_checkable
class DesignSampler(Protocol):
    """Proposes the next design of a search. Any object with ``propose`` can be passed as ``sampler=``."""

    def propose(
        self, space: BoundSpace, study: Study, trial: FrozenTrial, generator: np.random.Generator
    ) -> Mapping[str, Any]:
        """Return values of the parameters in ``space.distributions``.

        Missing parameters are drawn at random. If the design was tried before, the search calls this method again.
        After 50 attempts it draws a new design at random.

        Args:
            space: the parameters and their choices.
            study: all trials so far, those of other processes included.
            trial: the trial that the design is for.
            generator: depends on the search's seed, the trial's place in an uninterrupted search, and the attempt.
        """
        ...


def check_sampler(sampler: Any) -> None:
    """Raise ConfigurationError unless it is None, a ``DesignSampler``, or an Optuna sampler that works here."""
    if sampler is not None and not isinstance(sampler, BaseSampler) and not is_object_of(sampler, DesignSampler):
        raise ConfigurationError(
            f"sampler={sampler!r} is neither an Optuna sampler nor an object with a method propose(), such as "
            "TPEDesigns()"
        )
    if isinstance(sampler, GridSampler):
        raise ConfigurationError(
            "sampler=GridSampler(...) works only in Optuna's own loop; BruteForceSampler() also tries every design"
        )


class RandomDesigns:
    """Draws designs at random."""

    def propose(
        self, space: BoundSpace, study: Study, trial: FrozenTrial, generator: np.random.Generator
    ) -> Mapping[str, Any]:
        """Return random parameters."""
        del study, trial
        return space.draw(generator)


class OptunaDesigns:
    """Proposes the samples of an Optuna sampler, which keeps its own seed."""

    def __init__(self, sampler: BaseSampler) -> None:
        self.sampler = sampler

    def propose(
        self, space: BoundSpace, study: Study, trial: FrozenTrial, generator: np.random.Generator
    ) -> Mapping[str, Any]:
        """Return sampled parameters."""
        del generator
        sampler, current = self.sampler, copy.copy(trial)
        relative = sampler.sample_relative(study, current, sampler.infer_relative_search_space(study, current))

        def ask(name: str) -> Any:
            one = space.distributions[name]
            value = relative[name] if name in relative else sampler.sample_independent(study, current, name, one)
            current.params = {**current.params, name: value}
            current.distributions = {**current.distributions, name: one}
            return value

        return space.suggest(ask)


class TPEDesigns:
    """Proposes designs with Optuna's tree-structured Parzen estimator."""

    def propose(
        self, space: BoundSpace, study: Study, trial: FrozenTrial, generator: np.random.Generator
    ) -> Mapping[str, Any]:
        """Return sampled parameters."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # group=True
            sampler = TPESampler(multivariate=True, group=True, constant_liar=True, seed=int(generator.integers(2**31)))
        return OptunaDesigns(sampler).propose(space, study, trial, generator)


class SpaceExhaustedError(Exception):
    """Every design of the space has a trial."""


class UniqueSampler(BaseSampler):
    """An Optuna sampler of designs that have no trial yet.

    Random numbers depend only on the seed and the trial's place, so a study continues identically in another process.
    The first trials have the designs ``first``.
    """

    def __init__(self, space: BoundSpace, designs: DesignSampler, seed: int, first: UsualDesigns | None = None) -> None:
        self._space, self._designs, self._seed, self._first = space, designs, seed, first

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space: all parameters of a trial are chosen together."""
        del study, trial
        return dict(self._space.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a new design. Raise SpaceExhaustedError if every design has a trial."""
        del search_space
        if trial.system_attrs.get("fixed_params") and "retries_of" not in trial.user_attrs:
            return {}
        space, place = self._space, places_of(study)[trial.number]
        others = (other for other in study.get_trials(deepcopy=False) if other.number != trial.number)
        known = {None, *map(space.design_of, others)}
        for attempt in range(_ATTEMPTS):
            generator = np.random.default_rng([self._seed, place, attempt])
            first = self._first.propose(place, study) if self._first and attempt == 0 else None
            proposed = first or space.checked(self._designs.propose(space, study, trial, generator))
            params = {**space.draw(generator), **proposed}
            if space.design(params) not in known:
                return params
        generator = np.random.default_rng([self._seed, place])
        listed = space.size <= ENUMERABLE
        candidates = space.designs() if listed else space.unique(space.draw(generator) for _ in range(_DRAWS))
        unknown = [params for design, params in candidates.items() if design not in known]
        if not unknown:
            raise SpaceExhaustedError
        return unknown[int(generator.integers(len(unknown)))]

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter that an enqueued trial leaves open."""
        del param_distribution
        place = places_of(study)[trial.number]
        return self._space.pick(param_name, np.random.default_rng([self._seed, place, *param_name.encode()]))

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Call the hook of the user's Optuna sampler."""
        if isinstance(self._designs, OptunaDesigns):
            self._designs.sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Call the hook of the user's Optuna sampler."""
        if isinstance(self._designs, OptunaDesigns):
            self._designs.sampler.after_trial(study, trial, state, values)
