"""How often the ceiling's bound holds: planted worlds of simulated agents, whose true ceiling has a closed form.

    uv run python -m benchmarks.ceiling [--worlds 500] [--examples 20] [--errors shared]

Agents know a question by the one-factor model of ``SimulatedLM``: given the question's difficulty they are independent.
So the true rate at which all are wrong is one integral.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import dspy
import numpy as np
from dspy.clients.cache import Cache
from scipy.integrate import quad
from scipy.stats import norm

from benchmarks.search_worlds import ERRORS, exact
from moa_dspy import AttentionMoA
from moa_dspy.optimizers import ceiling
from moa_dspy.testing import SimulatedLM


def all_wrong(skills: list[float], difficulty: float) -> float:
    """Return the true rate at which agents of these skills are all wrong."""

    def given(hard: float) -> float:
        own = [(norm.ppf(skill) - math.sqrt(difficulty) * hard) / math.sqrt(1 - difficulty) for skill in skills]
        return float(norm.pdf(hard) * np.prod(1 - norm.cdf(own)))

    return float(quad(given, -9, 9)[0])


def run(number: int, examples: int, errors: Any) -> tuple[bool, float, float]:
    """Return of one world whether the bound holds, by how much it exceeds the truth, and the true ceiling."""
    draws = np.random.default_rng(number)
    skills = [float(skill) for skill in draws.uniform(0.1, 0.9, size=int(draws.integers(2, 6)))]
    tasks = {f"task {task:03d}": str(task + 100) for task in range(examples)}
    shared = ERRORS[errors]
    agents = [
        SimulatedLM(tasks, skill, model=f"simulated/{place}", seed=number, world=number, **shared)
        for place, skill in enumerate(skills)
    ]
    rows = [dspy.Example(question=task, answer=int(answer)).with_inputs("question") for task, answer in tasks.items()]
    found = ceiling(AttentionMoA("question -> answer: int", agents, layers=1), rows, exact)
    truth = 1 - all_wrong(skills, shared.get("difficulty", 0.5))
    return found.most >= truth, found.most - truth, truth


def main() -> None:
    """Print how many bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=500)
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--errors", choices=list(ERRORS), default="shared")
    options = parser.parse_args()
    dspy.cache = Cache(enable_disk_cache=False, enable_memory_cache=False, disk_cache_dir=None)  # pyright: ignore[reportAttributeAccessIssue]
    rows = [run(number, options.examples, options.errors) for number in range(options.worlds)]
    holds, excess, truths = zip(*rows, strict=True)
    print(f"{options.errors} errors, {options.worlds} worlds of {options.examples} examples:")
    print(f"the bound holds in {np.mean(holds):.1%}; it is {np.mean(excess):.3f} above the true ceiling on average,")
    print(f"which lies between {min(truths):.3f} and {max(truths):.3f}")


if __name__ == "__main__":
    main()
