"""Which architecture a trial tries: TPE over the space and neighbours of the best, never the same one twice.

A neighbour differs from the best trial so far in one parameter. Where few trials can be paid for that is the surer
step, and the cheaper one: many of its calls are those of the best one, and come from the cache.

Everything that a trial draws comes from a generator seeded with the search's seed and the trial's number. So a study
that goes on in another process, or in several, goes on as if it had never stopped, and no two processes draw alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from moa_dspy.optimizers.space import BoundSpace, Design

__all__ = ["NovelSampler", "tried"]

_DRAWS_OF_TPE: Final = 24
_DRAWS_NEARBY: Final = 60
_DRAWS_AT_RANDOM: Final = 500


class NovelSampler(BaseSampler):
    """Optuna's TPE (multivariate, grouped by the parameters that matter together), among designs not tried before.

    Args:
        bound: the space.
        seed: of all draws.
        startup: trials before there is enough to go by; until then designs are drawn evenly.
        neighbours: share of the later trials that are neighbours of the best; the others are TPE's.

    Attributes:
        exhausted: the numbers of the trials for which no new design was found.
    """

    def __init__(self, bound: BoundSpace, seed: int, startup: int = 8, neighbours: float = 0.5) -> None:
        self.exhausted: set[int] = set()
        self._bound, self._seed, self._startup, self._neighbours = bound, seed, startup, neighbours

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space: a trial is drawn as a whole."""
        del study, trial
        return dict(self._bound.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw a design that no trial of the study has, if there is one."""
        del search_space
        if "fixed_params" in trial.system_attrs:
            return {}
        others = study.get_trials(deepcopy=False)
        known = {design for other in others if (design := tried(self._bound, other)) is not None}
        generator = np.random.default_rng([self._seed, trial.number])
        finished = sum(other.state in (TrialState.COMPLETE, TrialState.PRUNED) for other in others)
        if finished >= self._startup:
            near = generator.random() < self._neighbours
            draws = self._near_the_best(others, generator) if near else self._of_tpe(study, trial, generator)
            for params in draws:
                if self._is_new(params, known):
                    return params
        for _ in range(_DRAWS_AT_RANDOM):
            params = self._draw(generator)
            if self._is_new(params, known):
                return params
        self.exhausted.add(trial.number)
        return self._draw(generator)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter that an enqueued trial leaves open."""
        del study
        generator = np.random.default_rng([self._seed, trial.number, *param_name.encode()])
        return _draw(generator, param_distribution)

    def _of_tpe(self, study: Study, trial: FrozenTrial, generator: np.random.Generator) -> Iterator[dict[str, Any]]:
        tpe = _tpe(int(generator.integers(2**31)))
        for _ in range(_DRAWS_OF_TPE):
            drawn = tpe.sample_relative(study, trial, tpe.infer_relative_search_space(study, trial))
            yield {**self._draw(generator), **drawn}

    def _near_the_best(self, trials: Sequence[FrozenTrial], generator: np.random.Generator) -> Iterator[dict[str, Any]]:
        best = _best(trials)
        names = list(self._bound.distributions)
        for _ in range(_DRAWS_NEARBY if best and names else 0):
            centre = best[int(generator.integers(len(best)))]
            drawn = self._draw(generator)
            changed = names[int(generator.integers(len(names)))]
            yield {**drawn, **centre.params, changed: drawn[changed]}

    def _draw(self, generator: np.random.Generator) -> dict[str, Any]:
        return {name: _draw(generator, dist) for name, dist in self._bound.distributions.items()}

    def _is_new(self, params: Mapping[str, Any], known: set[Design]) -> bool:
        design = self._bound.design(params)
        return design is not None and design not in known


def tried(bound: BoundSpace, trial: FrozenTrial) -> Design | None:
    """Return the design that a trial tries, has tried or will try; None for one that failed or has not chosen yet.

    A design of which every run failed is no new one: the next call of the search tries it again.
    """
    if trial.state == TrialState.FAIL and not trial.user_attrs.get("failing"):
        return None
    try:
        return bound.design({**trial.system_attrs.get("fixed_params", {}), **trial.params})
    except KeyError:
        return None


def _best(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The finished trials that no other one beats, in one value or two; within the price, where there is one."""
    whole = [t for t in trials if t.state == TrialState.COMPLETE and "pruned_after" not in t.user_attrs and t.values]
    kept = [t for t in whole if all(excess <= 0 for excess in t.constraints.values())] or whole
    merits = [(t.values[0], -t.values[1] if len(t.values) > 1 else 0.0) for t in kept]
    return [t for t, own in zip(kept, merits, strict=True) if not any(_beats(other, own) for other in merits)]


def _beats(other: tuple[float, float], own: tuple[float, float]) -> bool:
    return other != own and other[0] >= own[0] and other[1] >= own[1]


def _tpe(seed: int) -> TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=1)


def _draw(generator: np.random.Generator, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(generator.integers(len(distribution.choices)))]
    if isinstance(distribution, IntDistribution):
        return int(generator.integers(distribution.low, distribution.high + 1))
    raise TypeError(f"{type(distribution).__name__} is not used here")
