"""The Gaussian process: what it predicts, what it learns from trials, and which calls designs share."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.simulated_tasks import simulated

from benchmarks.search_records import exhaustive
from benchmarks.search_worlds import SPACE, TASK, critic_and_writer
from moa_dspy.cost.usage import Price
from moa_dspy.optimizers import SearchSpace
from moa_dspy.optimizers.search.designs import BoundSpace, Design
from moa_dspy.optimizers.search.gaussian_process import GaussianProcess, Observation, expected_improvement
from moa_dspy.optimizers.search.gp_designs import GaussianProcessDesigns, Tried, observations, requests_of, unpaid
from moa_dspy.optimizers.search.objective import Objective
from moa_dspy.optimizers.search.usual import UsualDesigns
from moa_dspy.optimizers.stop_fitting.replay import StopRule
from moa_dspy.optimizers.stop_fitting.rescoring import ExampleScores, StopRuleScores

ONE = StopRule(1)


def bound(space: SearchSpace = SPACE) -> BoundSpace:
    return BoundSpace(space, TASK, [simulated(name, knows=0.5, finds=0.5) for name in ("planner", "writer")], {})


GRID = list(itertools.product((0.1, 0.5, 0.9), ("full", "none"), ("x", "y", "z")))


class TestGaussianProcess:
    def seen(self, rows: Any) -> list[Observation]:
        """Values that depend on the first two choices and not on the third."""
        return [Observation(row, row[0] + 0.5 * (row[1] == "full")) for row in rows]

    def test_it_repeats_what_it_has_seen_and_is_sure_of_it(self) -> None:
        model = GaussianProcess(self.seen(GRID[::2]))
        mean, deviation = model.predict(GRID[::2])
        assert mean == pytest.approx([one.value for one in self.seen(GRID[::2])], abs=0.03)
        assert deviation.max() < model.predict(GRID[1::2])[1].min()

    def test_it_finds_which_choices_matter(self) -> None:
        mean, _ = GaussianProcess(self.seen(GRID[::2])).predict(GRID[1::2])
        truth = [one.value for one in self.seen(GRID[1::2])]
        assert np.corrcoef(mean, truth)[0, 1] > 0.9

    def test_a_value_that_is_not_certain_counts_for_less(self) -> None:
        certain = [Observation((1, "a"), 1.0), Observation((2, "a"), 0.0)]
        doubtful = [replace(certain[0], variance=0.2), certain[1]]
        (sure,), _ = GaussianProcess(certain).predict([(1, "a")])
        (less,), _ = GaussianProcess(doubtful).predict([(1, "a")])
        assert sure > less > 0.5

    def test_equal_values_tell_nothing_and_break_nothing(self) -> None:
        mean, deviation = GaussianProcess([Observation(row, 0.5) for row in GRID[:4]]).predict(GRID)
        assert mean == pytest.approx(np.full(len(GRID), 0.5), abs=1e-4)
        assert np.isfinite(deviation).all()

    def test_what_is_believed_is_certain_and_changes_no_expectation(self) -> None:
        model = GaussianProcess(self.seen(GRID[::2]))
        believing = model.believing(GRID[1:4:2])
        assert believing.predict(GRID)[0] == pytest.approx(model.predict(GRID)[0], abs=1e-2)
        assert believing.predict(GRID[1:4:2])[1].max() < model.predict(GRID[1:4:2])[1].min()

    def test_absent_numbers_are_unlike_all_others(self) -> None:
        rows = [(None,), (0.1,), (0.9,)]
        model = GaussianProcess([Observation(row, value) for row, value in zip(rows, (1.0, 0.0, 0.0), strict=True)])
        assert model.predict([(0.5,)])[0] < 0.4

    def test_expected_improvement_is_that_of_the_normal_distribution(self) -> None:
        generator = np.random.default_rng(0)
        for mean, deviation, best in [(0.0, 1.0, 0.0), (0.3, 0.2, 0.5), (1.0, 0.1, 0.2)]:
            draws = np.maximum(generator.normal(mean, deviation, 400_000) - best, 0)
            (gain,) = expected_improvement(np.array([mean]), np.array([deviation]), best)
            assert gain == pytest.approx(draws.mean(), abs=0.003)


class TestSharing:
    @pytest.mark.slow
    @pytest.mark.parametrize("layers", [1, 2, 3])
    def test_a_run_makes_as_many_requests_as_its_architecture_says(self, layers: int) -> None:
        space = SearchSpace(samples=2, temperatures=(0.4, 0.9), attention=("full", "cross", "self", "none", 1))
        spaces = bound(replace(space, aggregation=("synthesis", "vote"), layers=(layers,)))

        @settings(max_examples=40)
        @given(st.sampled_from(list(spaces.designs())))
        def check(design: Design) -> None:
            assert len(requests_of(design, layers)) == spaces.program(design).architecture.max_calls

        check()

    @pytest.mark.slow
    def test_what_designs_share_is_what_the_cache_answers(self) -> None:
        world = replace(critic_and_writer(), space=replace(SPACE, attention=("full", "cross", "none")), count=2)
        record, space = exhaustive(world, every=7), BoundSpace(world.space, TASK, world.agents(), {})
        made = {}
        for design in list(space.designs())[::7]:
            entry = record.designs[space.program(design).architecture.model_dump_json()]
            made[design] = next(iter(entry.requests.values()))
        predicted = {design: requests_of(design, space.layers) for design in made}
        for one, other in itertools.combinations(made, 2):
            assert len(predicted[one] & predicted[other]) == len(made[one] & made[other]), (one, other)

    def test_what_was_paid_on_some_examples_is_paid_in_part(self) -> None:
        asked = frozenset({1, 2, 3})
        assert unpaid(asked, {1: 1.0, 2: 0.25}) == pytest.approx(1.75)


class TestEvidence:
    def tried(self, scores: list[float], calls: float = 10, failed: int = 0) -> Tried:
        prices = [Price(calls=calls, tokens=0)] * (len(scores) - failed)
        return Tried(next(iter(bound().designs())), {}, StopRuleScores({ONE: ExampleScores(scores, prices)}))

    def values(self, *trials: Tried, objective: Objective | None = None, seed: int = 0) -> list[Observation]:
        return observations(trials, objective or Objective(), np.random.default_rng(seed))

    def test_a_trial_given_up_on_hard_examples_is_not_held_to_be_worse(self) -> None:
        whole, first = self.values(self.tried([0, 0, 1, 1]), self.tried([0, 0]))
        assert (whole.value, first.value) == (0.5, 0.5)
        assert whole.variance == 0 < first.variance

    def test_what_is_too_dear_shows_what_its_neighbours_can_do(self) -> None:
        objective = Objective("score_at_price", price=12, unit="calls")
        dear, cheap, poor = self.values(
            *(self.tried([1, 1], 20), self.tried([1, 0], 10), self.tried([0, 0], 10)), objective=objective
        )
        assert (dear.value, cheap.value, poor.value) == (1, 0.5, 0)

    def test_designs_like_those_that_are_too_dear_are_unlikely_to_be_within_the_limit(self) -> None:
        designs = list(bound().designs())[::3]
        trials = [
            Tried(one, {}, StopRuleScores({ONE: ExampleScores([1], [Price(calls=8 * sum(one.samples))])}))
            for one in designs
        ]
        others = list(bound().designs())[1::3]
        chances = GaussianProcessDesigns(Objective("score_at_price", price=12, unit="calls"))._chances(
            trials, [one.features for one in others]
        )
        assert all((chance > 0.5) == (sum(one.samples) == 1) for one, chance in zip(others, chances, strict=True))
        assert {sum(one.samples) for one in others} > {1}
        assert set(GaussianProcessDesigns()._chances(trials, [others[0].features])) == {1.0}

    def test_with_two_objectives_what_is_bettered_is_never_best_and_the_front_takes_turns(self) -> None:
        objective = Objective(("score", "cost"), unit="calls")
        trials = [self.tried([1, 1], 40), self.tried([1, 0], 10), self.tried([1, 0], 30)]
        best = set()
        for seed in range(40):
            values = [one.value for one in self.values(*trials, objective=objective, seed=seed)]
            best.add(values.index(max(values)))
        assert best == {0, 1}

    def test_a_trial_whose_runs_all_failed_says_nothing(self) -> None:
        assert not self.tried([0, 0], failed=2).scored
        assert self.tried([0, 0], failed=1).scored


def test_designs_that_pass_all_answers_on_have_the_calls_and_the_one_depth_of_their_programs() -> None:
    space = bound(replace(SPACE, residual=("synthesis", "answers"), layers=(1, 2, 3)))
    passing = [design for design in space.designs() if design.residual == "answers"]
    assert {sum(design.samples) for design in passing} == {2}  # a single agent has one answer to pass on
    for design in passing:
        assert {rule.layers for rule in space.rules(design)} == {3}
        assert space.rules(design)[0] == StopRule(3)
        assert len(requests_of(design, 3)) == space.program(design).architecture.max_calls
    assert set(bound(replace(SPACE, residual=("none", "answers"), layers=(1, 2))).choices["residual"]) == {"none"}
    assert any(params.get("residual") == "answers" for params in UsualDesigns(space).params)
