"""CPU time in which the search proposes a design, by the number of trials so far.

    uv run python -m benchmarks.suggestion --busy 2

Three agents, the default search space, 100 examples, made-up scores. ``--busy`` starts so many processes that compute
without end. The last column is without the limit of one thread for linear algebra; it stops at 200 trials.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from unittest import mock

import numpy as np
import optuna

from benchmarks.common import arguments, table
from moa_dspy.cost.usage import Price
from moa_dspy.optimizers import SearchSpace
from moa_dspy.optimizers.search import gp_designs
from moa_dspy.optimizers.search.designs import BoundSpace
from moa_dspy.optimizers.stop_fitting.rescoring import ExampleScores, StopRuleScores
from moa_dspy.testing import ScriptedLM

_TRIALS = (25, 50, 100, 200, 400, 800)


def main(argv: Sequence[str] | None = None) -> dict[int, float]:
    """Print a table, and return the CPU seconds by the number of trials."""
    options = arguments(__doc__, argv, busy=0, most=800, repeats=3)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    agents = [ScriptedLM("a", model=f"model/{name}") for name in "abc"]
    space = BoundSpace(SearchSpace(), "question -> answer: int", agents, {})
    rows, seconds = [("trials", "CPU s", "wall s", "CPU s, threads unlimited")], dict[int, float]()
    with _busy(options.busy):
        for trials in (number for number in _TRIALS if number <= options.most):
            study = _study(space, trials)
            cpu, wall = _propose(space, study, options.repeats)
            with mock.patch.object(gp_designs, "threadpool_limits", _unlimited):
                unlimited = f"{_propose(space, study, 1)[0]:.2f}" if trials <= 200 else ""
            rows.append((str(trials), f"{cpu:.2f}", f"{wall:.2f}", unlimited))
            seconds[trials] = cpu
    table(rows)
    return seconds


def _propose(space: BoundSpace, study: optuna.Study, repeats: int) -> tuple[float, float]:
    """Return the median CPU and wall seconds of a proposal."""
    trial = study.ask()
    try:
        spent = []
        for seed in range(repeats):
            cpu, wall = time.process_time(), time.perf_counter()
            gp_designs.GaussianProcessDesigns().propose(
                space, study, study.get_trials(deepcopy=False)[-1], np.random.default_rng(seed)
            )
            spent.append((time.process_time() - cpu, time.perf_counter() - wall))
        cpus, walls = zip(*spent, strict=True)
        return statistics.median(cpus), statistics.median(walls)
    finally:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _study(space: BoundSpace, trials: int) -> optuna.Study:
    study, draws, generator = optuna.create_study(direction="maximize"), random.Random(0), np.random.default_rng(0)
    designs = space.unique(space.draw(generator) for _ in range(4 * trials))
    for design, params in list(designs.items())[:trials]:
        skill = 0.3 + 0.1 * sum(design.samples) + 0.1 * (design.attention == "full")
        scores = StopRuleScores()
        for rule in space.rules(design):
            right = [float(draws.random() < skill + 0.02 * rule.layers) for _ in range(100)]
            scores[rule] = ExampleScores(right, [Price(calls=10.0, tokens=1000.0)] * 100)
        study.add_trial(
            optuna.trial.create_trial(
                params={name: value for name, value in params.items() if name in space.distributions},
                distributions={name: space.distributions[name] for name in params},
                value=max(one.score for one in scores.values()),
                user_attrs={"rules": scores.to_attrs()},
            )
        )
    return study


@contextlib.contextmanager
def _unlimited(*_: object) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _busy(processes: int) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_compute, daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.terminate()


def _compute() -> None:
    while True:
        sum(number * number for number in range(10_000))


if __name__ == "__main__":
    main()
