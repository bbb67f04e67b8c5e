"""The search against all designs of a world, on simulated agents: a smaller ``benchmarks/search_simulated.py``."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from benchmarks.search_simulated import exhaustive, real_search
from benchmarks.search_worlds import SPACE, critic_and_writer

pytestmark = pytest.mark.slow

SEEDS = 8


@pytest.mark.timeout(600)
def test_search_comes_near_the_optimum_with_a_fifth_of_the_calls() -> None:
    plain = critic_and_writer()
    skills = {name: {**skill, "rounds": False} for name, skill in plain.skills.items()}
    world = replace(plain, skills=skills, space=replace(SPACE, residual=("none",)), count=16)
    record = exhaustive(world)
    rows = [record.search(seed, most=record.distinct // 5) for seed in range(SEEDS)]
    assert statistics.median(row.score for row in rows) >= 0.98 * record.best
    assert max(row.calls for row in rows) <= 0.2 * record.calls
    few = record.search(0, n_trials=6)
    assert real_search(world, 0, n_trials=6) == (few.score, few.paid), "a replayed search equals a real one"
