"""Intervals cover what they should, and tests find what is there and nothing else."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binom, binomtest

from moa_dspy.evaluation import Gain, Score
from moa_dspy.evaluation.bounded_mean import mean_interval, mean_p_value, mean_p_values
from moa_dspy.evaluation.statistics import (
    detectable_gain,
    examples_for_gain,
    examples_needed,
    improvement_p_value,
    sensitivity,
    sign_flip_p_value,
)

GRADES = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@pytest.mark.parametrize(("right", "of"), [(0, 20), (1, 1), (1, 20), (19, 20), (20, 20), (98, 200)])
def test_right_and_wrong_answers_have_the_exact_interval(right: int, of: int) -> None:
    found = Score.of([1.0] * right + [0.0] * (of - right))
    exact = binomtest(right, of).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == (pytest.approx(exact.low, abs=1e-8), pytest.approx(exact.high, abs=1e-8))


@pytest.mark.parametrize(("won", "lost", "equal"), [(9, 2, 50), (1, 0, 0), (0, 3, 1), (7, 7, 7), (60, 40, 900)])
def test_paired_right_and_wrong_answers_have_mcnemars_exact_test(won: int, lost: int, equal: int) -> None:
    before, after = [0.0] * won + [1.0] * lost + [1.0] * equal, [1.0] * won + [0.0] * lost + [1.0] * equal
    exact = binomtest(won, won + lost, alternative="greater").pvalue
    assert improvement_p_value(before, after) == pytest.approx(exact, rel=1e-6)
    assert Gain.of(before, after).p == pytest.approx(binomtest(won, won + lost).pvalue, rel=1e-6)


def test_a_p_value_is_the_probability_that_a_weighted_mean_is_small() -> None:
    assert mean_p_value(np.full(20, 0.05), lowest=-1.0) == pytest.approx(1.05**-20)
    values = np.array([0.5, 0.3, -0.4, 0.2, 0.2])
    weights = np.random.default_rng(0).dirichlet(np.ones(6), 400_000)
    drawn = np.mean(weights @ np.append(values, -1.0) <= 0.1)
    assert mean_p_value(values, 0.1, lowest=-1.0) == pytest.approx(drawn, abs=0.003)


@pytest.mark.parametrize(("gain", "loss", "share"), [(0.05, 1.0, 0.05), (0.05, 0.5, 0.1), (0.02, 1.0, 0.02)])
def test_the_level_holds_where_losses_are_rare_and_large(gain: float, loss: float, share: float) -> None:
    for count, rare in itertools.product((5, 20, 35, 100), (share, gain / (gain + loss))):  # worse, and mean 0
        losses = np.arange(count + 1)
        accepted = mean_p_values(np.where(np.arange(count) < losses[:, None], -loss, gain), lowest=-1.0) <= 0.05
        assert binom.pmf(losses, count, rare) @ accepted <= 0.05


@settings(max_examples=30)
@given(st.lists(st.floats(-1, 0.99), min_size=2, max_size=2), st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_the_level_holds_for_three_values_whose_mean_is_zero(others: list[float], shares: list[float]) -> None:
    values = np.array([min(others[0], -0.1), others[1], 0.8])
    chances = np.array(shares) / sum(shares)
    mean = float(chances @ values)
    end = 0 if mean > 0 else 2  # more of this value brings the mean to 0
    moved = mean / (mean - values[end])
    chances = chances * (1 - moved) + moved * (np.arange(3) == end)
    counts = np.array([(a, b, 6 - a - b) for a, b in itertools.product(range(7), repeat=2) if a + b <= 6])
    ways = np.array([math.factorial(6) / math.prod(map(math.factorial, row)) for row in counts.tolist()])
    accepted = mean_p_values(np.stack([np.repeat(values, row) for row in counts]), lowest=-1.0) <= 0.05
    assert (ways * (chances**counts).prod(axis=1)) @ accepted <= 0.05 + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.99])
def test_intervals_cover_graded_scores_near_the_ends(share: float) -> None:
    random, held = np.random.default_rng(7), 0
    for _ in range(100):
        low, high = mean_interval(np.where(random.random(50) < share, 1.0, random.random(50)), 0.0, 1.0, 0.95)
        held += low <= share + (1 - share) / 2 <= high
    assert held >= 92  # 94 % less one standard error


@pytest.mark.slow
@settings(max_examples=40)
@given(st.lists(st.tuples(GRADES, GRADES), min_size=1, max_size=30))
def test_an_interval_leaves_out_zero_if_and_only_if_the_test_rejects_it(pairs: list[tuple[float, float]]) -> None:
    before, after = zip(*pairs, strict=True)
    gain, score = Gain.of(before, after), Score.of(before)
    assert (gain.low > 0 or gain.high < 0) == (gain.p <= 0.05)
    for found, least in ((gain, -1), (score, 0)):
        assert least <= found.low <= found.value + 1e-9
        assert found.value - 1e-9 <= found.high <= 1


def test_equal_scores_are_not_taken_for_certain() -> None:
    found = Score.of([0.7] * 20)
    assert 0.55 < found.low < 0.6 < 0.74 < found.high < 0.76
    nothing = Gain.of([0.5] * 50, [0.5] * 50)
    assert nothing.p == 1.0
    assert nothing.low == pytest.approx(-nothing.high)
    assert 0 < nothing.high < 0.1


def test_nothing_has_no_score_and_one_example_tells_little_of_others() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Score.of([])
    one = Score.of([0.4])
    assert (one.value, one.low, one.high) == (0.4, pytest.approx(0.01), pytest.approx(0.985))
    for wrong in ([0.5, 1.5], [math.nan], [-0.1]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            Score.of(wrong)


def test_many_distinct_scores_are_grouped_without_a_change_that_matters() -> None:
    values = np.random.default_rng(3).uniform(-0.4, 0.5, 2500)
    ungrouped = float(mean_p_values(values, 0.04, lowest=-1.0))
    assert mean_p_value(values, 0.04, lowest=-1.0) == pytest.approx(ungrouped, rel=0.001)
    narrow = Score.of((0.5005 + 0.0004 * np.random.default_rng(3).random(3000)).tolist())
    assert narrow.low < narrow.value - 0.0001 < narrow.value + 0.0001 < narrow.high


@pytest.mark.parametrize("scores", [[sum([0.1] * 10)] * 5, [1e-13] * 3, [1e-13, 0.0, 0.0], [1 - 1e-13, 1.0]])
def test_scores_within_rounding_of_an_end_have_an_interval(scores: list[float]) -> None:
    found, ends = Score.of(scores), Score.of([round(score) for score in scores])
    assert (found.low, found.high) == (pytest.approx(ends.low), pytest.approx(ends.high))
    assert Gain.of(scores, scores[::-1]).p > 0.9
    assert Gain.of([1.0] * len(scores), scores).value == pytest.approx(ends.value - 1)


def test_what_a_number_of_examples_can_show() -> None:
    assert detectable_gain(4, 0.05) is None
    best, usual = detectable_gain(35, 0.05), detectable_gain(35, 0.05, changed=0.3)
    assert best is not None
    assert usual is not None
    assert 0.15 < best < 0.22 < usual < 0.3
    needed = examples_for_gain(usual, 0.05, changed=0.3)
    assert needed is not None
    assert 28 <= needed <= 36
    assert examples_for_gain(1e-4, 0.05) == pytest.approx(67_000, rel=0.1)
    words = sensitivity(35, 0.05, 0.05)
    assert words.startswith("with 35 examples that decide, alpha 0.05 and 80% power, the smallest gain that can be")
    assert "; a gain of 0.05 takes about 7" in words
    assert sensitivity(3, 0.05).endswith("no gain can be shown")


def test_a_gain_is_found_as_often_as_planned_with_the_examples_needed() -> None:
    random = np.random.default_rng(8)
    needed = examples_needed(random.uniform(-0.42, 0.62, 4000).tolist(), 0.05)
    assert needed is not None
    assert 70 <= needed <= 95
    found = mean_p_values(random.uniform(-0.42, 0.62, (400, needed)), lowest=-1.0) <= 0.05
    assert 0.72 <= found.mean() <= 0.9
    assert examples_needed([1.0] * 3, 0.05) == 5
    assert examples_needed([-1.0, 1.0], 0.05) is None


def test_sign_flips_are_enumerated_or_drawn() -> None:
    assert sign_flip_p_value([0.1, 0.2, 0.3, 0.4]) == pytest.approx(2 / 16)
    assert sign_flip_p_value([0.1, 0.3] * 20) == pytest.approx(1 / 10_001)
    assert sign_flip_p_value([0.0] * 5) == 1.0
