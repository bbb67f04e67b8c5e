"""Which architecture a trial tries: the one that promises most, and never the same one twice.

After the first few trials a surrogate model of the space (``search_surrogate``) says for every design not tried yet
how good it may be, and the one with the greatest expected improvement on the best so far comes next. It learns from
trials that were given up as well, and takes those of other processes that are under way for what it expects of them.

Everything that a trial draws comes from a generator seeded with the search's seed and the trial's number. So a study
that goes on in another process, or in several, goes on as if it had never stopped, and no two processes draw alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from moa_dspy.optimizers.search.evidence import Tried, observations
from moa_dspy.optimizers.search.objective import Objective
from moa_dspy.optimizers.search.sharing import Request, requests_of, unpaid
from moa_dspy.optimizers.search.space import BoundSpace, Design, values_of
from moa_dspy.optimizers.search.surrogate import Array, Surrogate, expected_improvement
from moa_dspy.optimizers.search.trials import board_of

__all__ = ["NovelSampler", "tried"]

_ENUMERABLE: Final = 4096
"""Up to so many combinations of parameters all designs are looked at."""
_DRAWS: Final = 1000
_CENTRES: Final = 5
_THRIFT: Final = 0.5
"""How much a design's price counts against its promise: the exponent of its unpaid calls."""


class NovelSampler(BaseSampler):
    """Draws designs that were not tried before: first evenly, then by expected improvement.

    Args:
        bound: the space.
        objective: what is wanted.
        seed: of all draws.
        startup: trials before there is enough to go by; until then designs are drawn evenly.

    Attributes:
        exhausted: the numbers of the trials for which no new design was found.
    """

    def __init__(self, bound: BoundSpace, objective: Objective, seed: int, startup: int = 6) -> None:
        self.exhausted: set[int] = set()
        self._bound, self._objective, self._seed, self._startup = bound, objective, seed, startup

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
        generator = np.random.default_rng([self._seed, trial.number])
        others = [
            Tried(design, other.params, board_of(other))
            for other in study.get_trials(deepcopy=False)
            if (design := tried(self._bound, other)) is not None
        ]
        candidates = self._candidates(others, generator)
        if not candidates:
            if self._enumerable:
                self.exhausted.add(trial.number)
            return self._bound.draw(generator)
        if sum(other.scored for other in others) < self._startup:
            return next(iter(candidates.values()))
        return candidates[self._most_promising(list(candidates), others, generator)]

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter that an enqueued trial leaves open."""
        del study
        generator = np.random.default_rng([self._seed, trial.number, *param_name.encode()])
        values = values_of(param_distribution)
        return values[int(generator.integers(len(values)))]

    @property
    def _enumerable(self) -> bool:
        return self._bound.size <= _ENUMERABLE

    def _candidates(self, others: Sequence[Tried], generator: np.random.Generator) -> dict[Design, dict[str, Any]]:
        """Return new designs and their parameters, in random order: all there are, or many of them."""
        known = {other.design for other in others}
        found: dict[Design, dict[str, Any]] = {}
        for params in self._combinations(others, generator):
            design = self._bound.design(params)
            if design is not None and design not in known:
                found.setdefault(design, params)
        order = generator.permutation(len(found))
        items = list(found.items())
        return dict(items[index] for index in order)

    def _combinations(self, others: Sequence[Tried], generator: np.random.Generator) -> Iterator[dict[str, Any]]:
        if self._enumerable:
            yield from self._bound.combinations()
            return
        for _ in range(_DRAWS):
            yield self._bound.draw(generator)
        for centre in sorted(others, key=lambda other: -other.score)[:_CENTRES]:
            drawn = {**self._bound.draw(generator), **centre.params}
            for name, distribution in self._bound.distributions.items():
                yield from ({**drawn, name: value} for value in values_of(distribution))

    def _most_promising(
        self, candidates: Sequence[Design], others: Sequence[Tried], generator: np.random.Generator
    ) -> Design:
        scored = [other for other in others if other.scored]
        waiting = [other.design.features for other in others if not other.board]
        model = Surrogate(observations(scored, self._objective, generator))
        if waiting:
            model = model.believing(waiting)
        gain = expected_improvement(*model.predict([design.features for design in candidates]), model.best)
        return candidates[int(np.argmax(gain / self._unpaid(candidates, others) ** _THRIFT))]

    def _unpaid(self, candidates: Sequence[Design], others: Sequence[Tried]) -> Array:
        """Return the calls for an example that each design would have to pay for, at least one; shape (designs,)."""
        paid: dict[Request, float] = {}
        examples = max(other.examples for other in others)
        for other in others:
            for request in requests_of(other.design, self._bound.layers):
                paid[request] = max(paid.get(request, 0.0), other.examples / examples)
        asked = (requests_of(design, self._bound.layers) for design in candidates)
        return np.array([max(1.0, unpaid(requests, paid)) for requests in asked])


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
