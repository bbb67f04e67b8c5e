"""The search against everything there is, on simulated agents: a smaller ``benchmarks/search_simulated.py``."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from benchmarks.search_simulated import SPACE, World

SEEDS = 8


@pytest.mark.timeout(600)
def test_search_comes_near_the_optimum_with_a_fifth_of_the_calls() -> None:
    record = World(16, replace(SPACE, attention=("full", "none"), residual=("none",))).exhaustive()
    rows = [record.search(seed, most=record.distinct // 5) for seed in range(SEEDS)]
    assert statistics.median(score for score, _, _ in rows) >= 0.98 * record.best
    assert max(calls for _, calls, _ in rows) <= 0.2 * record.calls
    few = record.search(0, n_trials=6)
    assert record.world.search(0, n_trials=6) == few[::2], "a replayed search is what a real one would be"
