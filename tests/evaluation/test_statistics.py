"""Intervals cover what they should, and tests find what is there and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, strategies as st

from moa_dspy.evaluation import Score
from moa_dspy.evaluation.statistics import bootstrap_interval, paired_interval, sign_flip_p_value

SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=40)


@pytest.mark.parametrize(("share", "count"), [(0.5, 30), (0.8, 60)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(share: float, count: int) -> None:
    random = np.random.default_rng(7)
    trials = 300
    held = 0
    for trial in range(trials):
        found = Score.of((random.random(count) < share).astype(float).tolist(), seed=trial)
        held += found.low <= share <= found.high
    assert 0.90 <= held / trials <= 0.99


@given(SCORES)
def test_an_interval_holds_the_mean_and_stays_in_range(scores: list[float]) -> None:
    found = Score.of(scores)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value <= found.high + 1e-12 <= 1 + 1e-9


def test_all_right_is_not_taken_for_certain() -> None:
    found = Score.of([1.0] * 20)
    assert found.high == 1.0
    assert found.low == pytest.approx(0.025 ** (1 / 20))
    none = Score.of([0.0] * 20)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))


def test_equal_scores_are_not_taken_for_certain() -> None:
    found = Score.of([0.7] * 20)
    unseen = 1 - 0.025 ** (1 / 20)
    assert (found.low, found.high) == (pytest.approx(0.7 - unseen * 0.7), pytest.approx(0.7 + unseen * 0.3))
    low, high = paired_interval([1.0] * 5)
    assert low < 0.1
    assert high == 1.0
    low, high = paired_interval([0.0] * 50)
    assert low == pytest.approx(-high)
    assert 0 < high < 0.1


def test_equal_seeds_give_equal_intervals_and_nothing_global_is_touched() -> None:
    scores = np.random.default_rng(0).random(27).tolist()
    before = str(np.random.get_state())
    assert Score.of(scores, seed=3) == Score.of(scores, seed=3) != Score.of(scores, seed=4)
    assert str(np.random.get_state()) == before


def test_nothing_has_no_score_and_one_example_tells_nothing_of_others() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Score.of([])
    one = Score.of([0.4])
    assert (one.value, one.low, one.high) == (0.4, 0.0, 1.0)


@pytest.mark.parametrize("count", [3, 5, 20])
def test_intervals_are_the_bootstraps_widened_for_small_samples(count: int) -> None:
    values = np.random.default_rng(count).random(count)
    plain = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    low, high = bootstrap_interval(values)
    assert (high - low) / (plain.high - plain.low) == pytest.approx(math.sqrt(count / (count - 1)))
    assert low < plain.low < plain.high < high


def test_right_and_wrong_is_mcnemars_exact_test() -> None:
    better, worse = 9, 2
    expected = 2 * sum(math.comb(11, k) for k in range(worse + 1)) / 2**11
    assert sign_flip_p_value([1.0] * better + [-1.0] * worse + [0.0] * 50) == pytest.approx(expected)


def test_graded_differences_are_enumerated_or_drawn() -> None:
    few = [0.1, 0.2, 0.3, 0.4]
    assert sign_flip_p_value(few) == pytest.approx(2 / 16)
    many = [0.1, 0.3] * 20
    assert sign_flip_p_value(many) == pytest.approx(1 / 10_001)
    assert sign_flip_p_value([0.0] * 5) == 1.0


def test_the_p_value_is_uniform_where_nothing_differs() -> None:
    random = np.random.default_rng(1)
    values = [sign_flip_p_value(random.normal(size=12).clip(-1, 1).tolist()) for _ in range(300)]
    assert 0.02 <= float(np.mean(np.array(values) <= 0.05)) <= 0.09


def test_the_paired_interval_is_narrower_than_two_separate_ones() -> None:
    random = np.random.default_rng(2)
    base = random.random(60)
    low, high = paired_interval((np.minimum(base + 0.05, 1) - base).tolist())
    assert 0.03 < low < high <= 0.051
