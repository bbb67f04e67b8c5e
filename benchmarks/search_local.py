"""Search for real, on the embedded model: temperature and ensemble for the short facts of the packaged set.

    uv run python -m benchmarks.search_local --minutes 5

Prints held-out accuracy of the plain single model and of what the search found, with intervals and the paired
difference; then exports the program, loads it in a new process and evaluates it there: the score must be the same.
The cache and the exported program go into a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.cache import Cache

from moa_dspy import Agent, Budget, load, single_model
from moa_dspy.data import get_benchmark, split
from moa_dspy.data.starter import AnswerShortly
from moa_dspy.local import local_lm
from moa_dspy.optimizers import Gain, SearchProgress, SearchSpace, measure, search

SPACE = SearchSpace(
    samples=3,
    temperatures=(0.0, 0.3, 0.7),
    attention=("none",),
    residual=("none",),
    aggregation=("synthesis", "vote"),
    layers=(1,),
)


def main() -> None:
    """Search, compare, export."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=5.0)
    options.add_argument("--trials", type=int, default=14)
    options.add_argument("--evaluate", type=Path, help="evaluate this program file (used by the new process)")
    options.add_argument("--cache", type=Path, help="folder of the response cache")
    arguments = options.parse_args()
    if arguments.evaluate is not None:
        use_cache(arguments.cache)
        print(json.dumps({"score": accuracy(load(arguments.evaluate))}))
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments.minutes, arguments.trials)


def run(folder: Path, minutes: float, trials: int) -> None:
    """Print the figures."""
    use_cache(folder / "cache")
    train, held_out = facts()
    before = single_model(AnswerShortly, Agent(model(), temperature=0.7))
    found = search(
        AnswerShortly,
        [Agent(model(), name="smollm2")],
        space=SPACE,
        trainset=train,
        metric=get_benchmark("starter").metric(),
        n_trials=trials,
        budget=Budget(seconds=60 * minutes),
        storage=folder / "study.db",
        unit="calls",
        concurrency=4,
        progress=lambda state: tell(state),
    )
    spec, cost = found.program.architecture, found.cost
    print(
        f"searched on {len(train)} facts until {found.report['ended_by']}: "
        f"{cost.paid_calls} calls, {cost.seconds:.0f} s"
    )
    for trial in found.report["trials"]:
        head = f"  trial {trial['number']}: {trial['state']}, {trial['examples']} examples"
        print(f"{head}, {trial['score']}, {trial['params']}")
    agents = [f"{agent.name} at {agent.temperature}" for agent in spec.agents]
    print(f"found: {', '.join(agents)}; aggregation {spec.aggregation}; on the training facts {found.score}")
    plain, tuned = (measure(program, held_out, metric(), concurrency=4) for program in (before, found.program))
    print(f"held out, {len(held_out)} facts: single model at 0.7 {plain.score()}, found {tuned.score()}")
    gain = Gain.of(plain.scores, tuned.scores)
    print(f"paired difference {gain}, p = {gain.p:.3f}")
    found.program.save(folder / "program.json")
    command = [sys.executable, __file__, "--evaluate", str(folder / "program.json"), "--cache", str(folder / "cache")]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    again = json.loads(told.stdout.splitlines()[-1])["score"]
    print(f"exported, loaded in a new process: {again:.4f}, the same: {again == tuned.score().value}")


def tell(state: SearchProgress) -> None:
    """Show where the search is."""
    print(
        f"\rtrial {state.trial}, {state.examples} of {state.of}, {state.cost.paid_calls} calls", end="", file=sys.stderr
    )


def model() -> dspy.BaseLM:
    """The embedded model, with short completions."""
    return local_lm(max_tokens=32)


def facts() -> tuple[list[dspy.Example], list[dspy.Example]]:
    """The short facts, half to search with and half held out."""
    examples = [example for example in get_benchmark("starter").load() if example.kind == "fact"]
    parts = split(examples, train=0.5, val=0.0, test=0.5)
    return parts.train, parts.test


def metric() -> Any:
    """The set's own metric."""
    return get_benchmark("starter").metric()


def accuracy(program: Any) -> float:
    """Held-out accuracy."""
    return measure(program, facts()[1], metric(), concurrency=4).score().value


def use_cache(folder: Path) -> None:
    """Keep answered calls in ``folder``."""
    dspy.cache = Cache(enable_disk_cache=True, enable_memory_cache=True, disk_cache_dir=str(folder))  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    main()
