"""Which design comes next: the built-in samplers, samplers of users, and that no design comes twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from support.simulated_tasks import exact, examples, simulated

from benchmarks.search_worlds import SPACE, TASK
from moa_dspy import AttentionMoA, ConfigurationError
from moa_dspy.cost.usage import Price
from moa_dspy.optimizers import (
    DesignSampler,
    GaussianProcessDesigns,
    RandomDesigns,
    SearchSpace,
    TPEDesigns,
    optimize,
    search,
)
from moa_dspy.optimizers.search.designs import BoundSpace
from moa_dspy.optimizers.search.samplers import OptunaDesigns, SpaceExhaustedError, UniqueSampler
from moa_dspy.optimizers.stop_fitting.replay import StopRule
from moa_dspy.optimizers.stop_fitting.rescoring import ExampleScores, StopRuleScores

SMALL = replace(SPACE, attention=("full", "none"), residual=("none",))
BUILT_IN = [GaussianProcessDesigns(), TPEDesigns(), RandomDesigns()]


def bound(space: SearchSpace = SPACE) -> BoundSpace:
    return BoundSpace(space, TASK, [simulated(name, knows=0.5, finds=0.5) for name in ("planner", "writer")], {})


class Stubborn:
    """Proposes the same design for ever."""

    def propose(
        self, space: BoundSpace, study: optuna.Study, trial: optuna.trial.FrozenTrial, generator: np.random.Generator
    ) -> Mapping[str, Any]:
        return next(iter(space.designs().values()))


def study_of(space: BoundSpace, designs: DesignSampler, seed: int = 0) -> optuna.Study:
    return optuna.create_study(direction="maximize", sampler=UniqueSampler(space, designs, seed))


def ask(study: optuna.Study, space: BoundSpace) -> optuna.Trial:
    trial = study.ask()
    space.suggest(lambda name: trial._suggest(name, space.distributions[name]))
    return trial


def tell(study: optuna.Study, space: BoundSpace, trial: optuna.Trial, count: int = 8) -> None:
    """Finish a trial whose score depends on attention, residual and the number of agents."""
    design = space.design(trial.params)
    assert design is not None
    good = sum((design.attention == "full", design.residual == "none", sum(design.samples) == 2)) * 2
    values = [float(number < good + 1) for number in range(count)]
    scores = StopRuleScores({StopRule(1): ExampleScores(values, [Price(calls=8, tokens=0)] * count)})
    trial.set_user_attr("rules", scores.to_attrs())
    study.tell(trial, sum(values) / count)


class TestDesignSamplers:
    @pytest.mark.parametrize("designs", [*BUILT_IN, Stubborn()], ids=lambda one: type(one).__name__)
    def test_every_design_comes_once_and_then_the_space_is_exhausted(self, designs: DesignSampler) -> None:
        space = bound(SMALL)
        study, seen = study_of(space, designs), set()
        for _ in space.designs():
            trial = ask(study, space)
            seen.add(space.design(trial.params))
            tell(study, space, trial)
        assert seen == set(space.designs())
        with pytest.raises(SpaceExhaustedError):
            ask(study, space)

    @pytest.mark.parametrize("designs", BUILT_IN, ids=lambda one: type(one).__name__)
    def test_trials_depend_on_seed_and_number_alone(self, designs: DesignSampler) -> None:
        space = bound()

        def params(seed: int) -> list[dict[str, Any]]:
            study = study_of(space, designs, seed)
            for number in range(14):
                study.sampler = UniqueSampler(space, designs, seed) if number % 5 == 0 else study.sampler
                tell(study, space, ask(study, space))
            return [trial.params for trial in study.trials]

        assert params(3) == params(3) != params(4)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("designs", "trials"), [(GaussianProcessDesigns(), 14), (TPEDesigns(), 16)], ids=["GP", "TPE"]
    )
    def test_the_best_is_found_in_a_few_trials(self, designs: DesignSampler, trials: int) -> None:
        space, reached = bound(), []
        for seed in range(3):
            study = study_of(space, designs, seed)
            for _ in range(trials):
                tell(study, space, ask(study, space))
            reached.append(study.best_value)
        assert sum(value >= 7 / 8 for value in reached) >= 2, reached

    def test_trials_under_way_elsewhere_are_not_drawn(self) -> None:
        space = bound()
        study = study_of(space, GaussianProcessDesigns(), seed=3)
        for _ in range(7):
            tell(study, space, ask(study, space))
        under_way = [space.design(ask(study, space).params) for _ in range(6)]
        assert len(set(under_way)) == 6

    def test_a_space_too_large_to_list_is_searched(self) -> None:
        agents = [simulated(name, knows=0.5, finds=0.5) for name in "abcdefghijklmnop"]
        space = BoundSpace(SearchSpace(samples=2, layers=(1, 2)), TASK, agents, {})
        generator = np.random.default_rng(0)
        drawn = [space.draw(generator) for _ in range(200)]
        sizes = {sum(value for name, value in params.items() if name.startswith("samples.")) for params in drawn}
        assert sizes == {1, 2, 3, 4, 5}
        study = study_of(space, GaussianProcessDesigns())
        for _ in range(9):
            tell(study, space, ask(study, space))
        assert len({space.design(trial.params) for trial in study.trials}) == 9


class TestSamplersOfUsers:
    @pytest.mark.parametrize("sampler", [optuna.samplers.RandomSampler(seed=1), optuna.samplers.NSGAIISampler(seed=1)])
    def test_an_optuna_sampler_proposes_designs(self, sampler: optuna.samplers.BaseSampler) -> None:
        space = bound(SMALL)
        study = study_of(space, OptunaDesigns(sampler))
        for _ in range(8):
            tell(study, space, ask(study, space))
        assert len({space.design(trial.params) for trial in study.trials}) == 8

    @pytest.mark.slow
    @pytest.mark.parametrize("sampler", [Stubborn(), optuna.samplers.RandomSampler(seed=0)])
    def test_a_search_that_is_given_one_runs_every_design(self, sampler: Any) -> None:
        lms = [simulated(name, knows=0.5) for name in ("planner", "writer")]
        space = replace(SMALL, layers=(1,), attention=("none",))
        result = search("question -> answer", lms, space=space, trainset=examples(4), metric=exact, sampler=sampler)
        assert result.report["ended_by"] == "space"
        complete = [trial for trial in result.report["trials"] if trial["state"] in ("complete", "pruned")]
        assert len(complete) == 8

    @pytest.mark.parametrize("sampler", [RandomDesigns, object(), "tpe", len])
    def test_what_is_no_sampler_is_refused_before_anything_is_paid_for(self, sampler: Any) -> None:
        lms = [simulated(name, knows=0.5) for name in ("planner", "writer")]
        arguments: dict[str, Any] = {"trainset": examples(20), "metric": exact, "sampler": sampler}
        with pytest.raises(ConfigurationError, match="neither an Optuna sampler nor an object with a method propose"):
            search("question -> answer", lms, **arguments)
        with pytest.raises(ConfigurationError, match="neither an Optuna sampler nor an object with a method propose"):
            optimize(AttentionMoA("question -> answer", lms), **arguments)
        assert not any(lm.requests for lm in lms)

    def test_the_grid_of_optuna_is_refused_before_anything_is_paid(self) -> None:
        grid = optuna.samplers.GridSampler({"attention": ["full", "none"]})
        agent = simulated("planner", knows=0.5)
        with pytest.raises(ConfigurationError, match="works only in Optuna's own loop"):
            search(TASK, [agent], trainset=examples(4), metric=exact, space=SMALL, sampler=grid)
        assert not agent.requests

    @pytest.mark.parametrize(
        ("proposed", "said"),
        [
            ({"depth": 3}, "proposes 'depth'; the parameters are samples.planner, samples.writer, temperature"),
            ({"attention": "ring"}, "proposes attention='ring'; the choices are 'full', 'none'"),
            (None, "proposes None in place of a mapping"),
        ],
    )
    def test_a_proposal_outside_the_space_is_refused(self, proposed: Any, said: str) -> None:
        class Outside:
            def propose(self, space: Any, study: Any, trial: Any, generator: Any) -> Mapping[str, Any]:
                return proposed

        space = bound(SMALL)
        with pytest.raises(ConfigurationError, match=said):
            ask(study_of(space, Outside()), space)

    def test_optimize_takes_a_sampler(self) -> None:
        asked: list[int] = []

        class Counting(RandomDesigns):
            def propose(self, space: Any, study: Any, trial: Any, generator: Any) -> Mapping[str, Any]:
                asked.append(trial.number)
                return super().propose(space, study, trial, generator)

        program = AttentionMoA("question -> answer", [simulated(name, knows=0.5) for name in ("planner", "writer")])
        space = replace(SMALL, layers=(1,))
        optimize(
            program, trainset=examples(12), metric=exact, parts=["architecture"], space=space, n_trials=8,
            sampler=Counting(), explain=False,
        )  # fmt: skip
        assert asked
