"""Intervals cover what they should, and tests find what is there and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from moa_dspy.evaluation import estimate
from moa_dspy.evaluation.statistics import paired_interval, paired_p_value

SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=40)


@pytest.mark.parametrize(("share", "count"), [(0.5, 30), (0.8, 60)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(share: float, count: int) -> None:
    random = np.random.default_rng(7)
    trials = 300
    held = 0
    for trial in range(trials):
        found = estimate((random.random(count) < share).astype(float).tolist(), seed=trial)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= share <= found.high
    assert 0.90 <= held / trials <= 0.99


@given(SCORES)
def test_an_interval_holds_the_mean_and_stays_in_range(scores: list[float]) -> None:
    found = estimate(scores)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value <= found.high + 1e-12 <= 1 + 1e-9


def test_all_right_is_not_taken_for_certain() -> None:
    found = estimate([1.0] * 20)
    assert found.high == 1.0
    assert found.low == pytest.approx(0.025 ** (1 / 20))
    none = estimate([0.0] * 20)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))


def test_equal_scores_are_not_taken_for_certain() -> None:
    found = estimate([0.7] * 20)
    unseen = 1 - 0.025 ** (1 / 20)
    assert (found.low, found.high) == (pytest.approx(0.7 - unseen * 0.7), pytest.approx(0.7 + unseen * 0.3))
    low, high = paired_interval([1.0] * 5)
    assert low is not None
    assert low < 0.1
    assert high == 1.0
    low, high = paired_interval([0.0] * 50)
    assert low == pytest.approx(-(high or 0.0))
    assert 0 < (high or 0.0) < 0.1


def test_equal_seeds_give_equal_intervals_and_nothing_global_is_touched() -> None:
    scores = np.random.default_rng(0).random(27).tolist()
    before = str(np.random.get_state())
    assert estimate(scores, seed=3) == estimate(scores, seed=3) != estimate(scores, seed=4)
    assert str(np.random.get_state()) == before


def test_nothing_and_one_have_no_interval() -> None:
    assert estimate([]).value is None
    assert (estimate([0.4]).value, estimate([0.4]).low) == (0.4, None)


def test_right_and_wrong_is_mcnemars_exact_test() -> None:
    better, worse = 9, 2
    expected = 2 * sum(math.comb(11, k) for k in range(worse + 1)) / 2**11
    assert paired_p_value([1.0] * better + [-1.0] * worse + [0.0] * 50) == pytest.approx(expected)


def test_graded_differences_are_enumerated_or_drawn() -> None:
    few = [0.1, 0.2, 0.3, 0.4]
    assert paired_p_value(few) == pytest.approx(2 / 16)
    many = [0.1, 0.3] * 20
    assert paired_p_value(many) == pytest.approx(1 / 10_001)
    assert paired_p_value([0.0] * 5) == 1.0


def test_the_p_value_is_uniform_where_nothing_differs() -> None:
    random = np.random.default_rng(1)
    values = [paired_p_value(random.normal(size=12).clip(-1, 1).tolist()) for _ in range(300)]
    assert 0.02 <= float(np.mean(np.array(values) <= 0.05)) <= 0.09


def test_the_paired_interval_is_narrower_than_two_separate_ones() -> None:
    random = np.random.default_rng(2)
    base = random.random(60)
    low, high = paired_interval((np.minimum(base + 0.05, 1) - base).tolist())
    assert low is not None
    assert high is not None
    assert 0.03 < low < high <= 0.051
