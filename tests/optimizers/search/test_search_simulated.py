"""The search against all designs of a world, on simulated agents: a smaller ``benchmarks/search_simulated.py``."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.search_records import exhaustive, real_search
from benchmarks.search_worlds import SPACE, critic_and_writer

SEEDS = 3


@pytest.mark.slow
def test_search_comes_near_the_optimum_with_a_fifth_of_the_calls() -> None:
    plain = critic_and_writer()
    skills = {name: {**skill, "rounds": False} for name, skill in plain.skills.items()}
    temperatures = {"planner": (0.3, 0.9), "writer": (0.3, 0.9), "talker": (0.9,)}
    space = replace(SPACE, residual=("none",), temperatures=temperatures)
    world = replace(plain, skills=skills, space=space, count=14)
    record = exhaustive(world)
    rows = [record.search(seed, most=record.distinct // 5) for seed in range(SEEDS)]
    near = [row.score >= 0.98 * record.best for row in rows]
    assert sum(near) >= SEEDS - 1, "one of the 34 designs is that good"
    assert max(row.calls for row in rows) <= 0.2 * record.calls
    few = record.search(0, n_trials=6)
    assert real_search(world, 0, n_trials=6) == (few.score, few.paid), "a replayed search equals a real one"
