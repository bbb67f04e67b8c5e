"""The designs that a search tries first: the usual ensembles, of agents at temperatures that suit them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from optuna import Study
from optuna.trial import FrozenTrial

from moa_dspy.optimizers.search.designs import BoundSpace, Params
from moa_dspy.optimizers.search.results import scores_of
from moa_dspy.optimizers.search.workers import in_order

__all__ = ["LEAST_EXAMPLES", "UsualDesigns"]

LEAST_EXAMPLES: Final = 30
"""Fewer examples cannot tell designs apart that are nearly the same."""


class UsualDesigns:
    """The usual ensembles, if the space has them, and then further designs.

    Every agent alone, self-consistency, MoA, every agent with its own critiques (Self-Refine, Madaan et al. 2023), and
    Attention-MoA. It costs most, so it comes last, when there is most to compare it with.

    A run of one agent is cheap. So with enough trials and examples, every agent is tried alone at all its temperatures.
    In an ensemble it has the best one. Several samples of an agent must differ, so they keep the middle temperature.

    Args:
        bound: the space.
        n_trials: those of the search. Temperatures are tried if all of these designs take at most half of them.
        n_examples: those of the search. Temperatures are tried with 30 or more; fewer cannot tell them apart.
        further: parameters of designs to try afterwards.

    Attributes:
        params: parameters of the designs, with the middle temperature where the best one has to be found out.
    """

    def __init__(
        self, bound: BoundSpace, n_trials: int = 0, n_examples: int = 0, further: Iterable[Params] = ()
    ) -> None:
        self._bound = bound
        usual = bound.unique(_ensembles(bound))
        plain = [design for design in usual if sum(design.samples) == 1 and design.attention == "none"]
        shared = bound.space.shared_temperature
        self._alone = {} if shared else {design.samples.index(1): design for design in plain}
        names = {bound.temperature_names[agent]: usual[design] for agent, design in self._alone.items()}
        tempered = [{**one, name: value} for name, one in names.items() for value in bound.choices.get(name, ())]
        every = bound.unique([*map(usual.__getitem__, plain), *tempered, *usual.values()])
        designs = every if len(every) <= n_trials // 2 and n_examples >= LEAST_EXAMPLES else usual
        self.params = list(bound.unique([*designs.values(), *further]).values())
        self._ensembles = range(len(designs) - len(usual) + len(plain), len(designs))

    def propose(self, place: int, study: Study) -> Params | None:
        """Return the parameters for a place in the study; None if it comes after these designs."""
        if place not in self._ensembles:
            return self.params[place] if place < len(self.params) else None
        params, names = self.params[place], self._bound.temperature_names
        design, trials = self._bound.design(params), in_order(study)
        single = [agent for agent in self._alone if design and design.samples[agent] == 1]
        best = {names[agent]: self._best_temperature(agent, trials) for agent in single}
        return params | {name: value for name, value in best.items() if value is not None}

    def _best_temperature(self, agent: int, trials: Iterable[FrozenTrial]) -> Any:
        """Return the temperature at which an agent was best alone, the middle one on a tie; None if it tried one."""
        alone, scores = self._alone[agent], dict[Any, list[float]]()
        for trial in trials:  # of which that at the middle temperature is the first
            design, rules = self._bound.design_of(trial), scores_of(trial)
            if rules and design and replace(design, temperatures=alone.temperatures) == alone:
                scores[design.temperatures[agent]] = max(rules.values(), key=lambda one: one.score).scores
        common = min(map(len, scores.values()), default=0)
        best = max(scores, key=lambda value: statistics.fmean(scores[value][:common]), default=None)
        return best if len(scores) > 1 else None


def _ensembles(bound: BoundSpace) -> list[Params]:
    space, count = bound.space, len(bound.names)
    alone = [tuple(int(i == j) for j in range(count)) for i in range(count)]
    every = tuple(int(i < space.max_agents) for i in range(count)) if count > 1 else (space.samples,)
    repeated = (min(space.samples, space.max_agents), *[0] * (count - 1))
    plain = "none" if "none" in space.residual else "synthesis"
    moa = "answers" if "answers" in bound.choices["residual"] else plain
    own = "self" if "self" in bound.choices["attention"] else "full"  # the same with one agent
    wanted = [
        *((counts, "none", plain) for counts in alone),
        (repeated, "none", plain),
        (every, "none", moa),
        *((counts, own, plain) for counts in alone),
        (every, "full", "synthesis"),
    ]
    usual = {  # the middle temperature, and the first choice of everything else
        name: values[(len(values) - 1) // 2 if name in bound.temperature_names else 0]
        for name, values in bound.choices.items()
    }
    found: list[Params] = []
    for counts, attention, residual in wanted:
        settings: Params = {**dict(zip(bound.sample_names, counts, strict=True)), "attention": attention}
        if bound.layers > 1:
            settings["residual"] = residual
        if all(value in bound.choices[name] for name, value in settings.items()):
            found.append(bound.suggest({**usual, **settings}.__getitem__))
    return found
