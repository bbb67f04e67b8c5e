"""Samplers that choose the next design. No design is tried twice."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from moa_dspy.optimizers.search.designs import ENUMERABLE, BoundSpace, Design, values_of

__all__ = [
    "DesignSampler",
    "OptunaDesigns",
    "RandomDesigns",
    "SpaceExhaustedError",
    "TPEDesigns",
    "UniqueSampler",
    "design_of",
]

_ATTEMPTS: Final = 50
"""Proposals per trial before a design is drawn at random."""
_DRAWS: Final = 1000
"""Random draws in a larger space before it counts as exhausted."""


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
            generator: depends on the search's seed, the trial's number and the attempt.
        """
        ...


class RandomDesigns:
    """Draws designs at random."""

    def propose(
        self, space: BoundSpace, study: Study, trial: FrozenTrial, generator: np.random.Generator
    ) -> Mapping[str, Any]:
        """Return random parameters; see ``DesignSampler``."""
        del study, trial
        return space.draw(generator)


class OptunaDesigns:
    """Proposes the samples of an Optuna sampler.

    Args:
        sampler: any Optuna sampler. It keeps its own seed.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self.sampler = sampler

    def propose(
        self, space: BoundSpace, study: Study, trial: FrozenTrial, generator: np.random.Generator
    ) -> Mapping[str, Any]:
        """Return sampled parameters; see ``DesignSampler``."""
        del generator
        sampler, current = self.sampler, copy.copy(trial)
        relative = sampler.sample_relative(study, current, sampler.infer_relative_search_space(study, current))

        def ask(name: str, distribution: BaseDistribution) -> Any:
            value = (
                relative[name] if name in relative else sampler.sample_independent(study, current, name, distribution)
            )
            current.params = {**current.params, name: value}
            current.distributions = {**current.distributions, name: distribution}
            return value

        return space.suggest(ask)


class TPEDesigns:
    """Proposes designs with Optuna's tree-structured Parzen estimator."""

    def propose(
        self, space: BoundSpace, study: Study, trial: FrozenTrial, generator: np.random.Generator
    ) -> Mapping[str, Any]:
        """Return sampled parameters; see ``DesignSampler``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # group=True
            sampler = TPESampler(multivariate=True, group=True, constant_liar=True, seed=int(generator.integers(2**31)))
        return OptunaDesigns(sampler).propose(space, study, trial, generator)


class SpaceExhaustedError(Exception):
    """Every design of the space has a trial."""


class UniqueSampler(BaseSampler):
    """An Optuna sampler of designs that have no trial yet.

    Random numbers depend only on the seed and the trial's number, so a study continues identically in another process.

    Args:
        space: the space.
        designs: proposes designs.
        seed: seed of the search.
    """

    def __init__(self, space: BoundSpace, designs: DesignSampler, seed: int) -> None:
        self._space, self._designs, self._seed = space, designs, seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space: all parameters of a trial are chosen together."""
        del study, trial
        return dict(self._space.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a new design.

        Raises:
            SpaceExhaustedError: if every design has a trial.
        """
        del search_space
        if "fixed_params" in trial.system_attrs:
            return {}
        trials = study.get_trials(deepcopy=False)
        known = {design_of(self._space, other) for other in trials if other.number != trial.number}
        for attempt in range(_ATTEMPTS):
            generator = np.random.default_rng([self._seed, trial.number, attempt])
            proposed = self._designs.propose(self._space, study, trial, generator)
            params = {**self._space.draw(generator), **proposed}
            design = self._space.design(params)
            if design is not None and design not in known:
                return params
        return self._any_other_than(known, np.random.default_rng([self._seed, trial.number]))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter that an enqueued trial leaves open."""
        del study
        generator = np.random.default_rng([self._seed, trial.number, *param_name.encode()])
        values = values_of(param_distribution)
        return values[int(generator.integers(len(values)))]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Call the hook of the user's Optuna sampler."""
        if isinstance(self._designs, OptunaDesigns):
            self._designs.sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Call the hook of the user's Optuna sampler."""
        if isinstance(self._designs, OptunaDesigns):
            self._designs.sampler.after_trial(study, trial, state, values)

    def _any_other_than(self, known: set[Design | None], generator: np.random.Generator) -> dict[str, Any]:
        """Return the parameters of a random design that is not in ``known``."""
        space = self._space
        if space.size <= ENUMERABLE:
            unknown = [params for design, params in space.designs().items() if design not in known]
        else:
            drawn = (space.draw(generator) for _ in range(_DRAWS))
            unknown = [params for params in drawn if space.design(params) not in {*known, None}]
        if not unknown:
            raise SpaceExhaustedError
        return unknown[int(generator.integers(len(unknown)))]


def design_of(space: BoundSpace, trial: FrozenTrial) -> Design | None:
    """Return the design of a trial, or None if the trial failed permanently or has no parameters yet.

    A trial whose runs all failed still counts, because its design is tried again later.
    """
    if trial.state == TrialState.FAIL and not trial.user_attrs.get("failing"):
        return None
    try:
        return space.design({**trial.system_attrs.get("fixed_params", {}), **trial.params})
    except KeyError:
        return None
