"""Searches on simulated agents, where the optimum is known because every architecture was run.

    uv run python -m benchmarks.search_simulated --out results.jsonl [--errors independent]

Each world of ``benchmarks.search_worlds`` is run exhaustively once, and its runs are kept with the requests that they
made. Searches are then replayed: a run comes from the record, and costs the requests that the search has not made
before, as with an empty cache. A search ends when it has paid for its share of the exhaustive run's requests. One
search per world is also run for real; it must find and pay the same.

Results are appended to ``--out``, one line per search. Called again, the command skips what is there.
"""

from __future__ import annotations

import argparse
import contextvars
import json
import math
import pickle
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.cache import Cache
from scipy.stats import binomtest

from benchmarks.search_worlds import ERRORS, TASK, World, exact, worlds
from moa_dspy import AttentionMoA
from moa_dspy.cost.usage import Usage
from moa_dspy.errors import BudgetExhaustedError
from moa_dspy.optimizers import TPEDesigns, measure, search
from moa_dspy.optimizers.measuring import Measurement, Run, run_examples
from moa_dspy.optimizers.search import trials
from moa_dspy.optimizers.search.designs import BoundSpace
from moa_dspy.optimizers.search.objective import Objective
from moa_dspy.optimizers.stop_fitting.rescoring import score_rules

SHARES = (0.02, 0.05, 0.1, 0.2)
"""Paid calls, as shares of those of the exhaustive run, after which the best design so far is noted."""


def main() -> None:
    """Run what is missing, then print the tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--examples", type=int, default=12)
    options.add_argument("--worlds", nargs="+", help="names of worlds; default: all")
    options.add_argument("--errors", choices=list(ERRORS), default="shared", help="whether agents fail together")
    options.add_argument("--samplers", nargs="+", default=["gp", "tpe", "random"])
    options.add_argument("--out", type=Path, default=Path("search-results.jsonl"))
    options.add_argument("--records", type=Path, help="folder for the exhaustive runs (pickled, for this process only)")
    arguments = options.parse_args()
    known = worlds(arguments.examples, arguments.errors)
    chosen = [world for name, world in known.items() if name in (arguments.worlds or [name])]
    done = {(row["world"], row["sampler"], row["seed"]) for row in rows_in(arguments.out, arguments.errors)}
    for world in chosen:
        wanted = [(name, seed) for name in arguments.samplers for seed in range(arguments.seeds)]
        missing = [(name, seed) for name, seed in wanted if (world.name, name, seed) not in done]
        if missing:
            record = recorded(world, arguments.records)
            for name, seed in missing:
                key = {"errors": world.errors, "world": world.name, "sampler": name, "seed": seed}
                keep(arguments.out, {**key, **row(record, name, seed)})
    tabulate(rows_in(arguments.out, arguments.errors), arguments.samplers)


def row(record: Record, sampler: str, seed: int) -> dict[str, Any]:
    """Return, of one search, the share of the optimum that it found after each of ``SHARES``, and what it paid."""
    most = int(SHARES[-1] * record.distinct)
    if sampler == "random":
        points = record.random(seed, most)
    else:
        points = record.search(seed, most=most, **SAMPLERS[sampler]).points
    paid = points[-1][0] / record.distinct
    shares = {
        str(share): max((best for calls, best in points if calls <= share * record.distinct), default=0.0) / record.best
        for share in SHARES
    }
    return {"optimum": record.best, "shares": shares, "paid": paid}


SAMPLERS: dict[str, dict[str, Any]] = {"gp": {}, "tpe": {"sampler": TPEDesigns()}}


def tabulate(rows: Sequence[dict[str, Any]], samplers: Sequence[str]) -> None:
    """Print mean shares by world, their medians over worlds, and paired sign tests against the first sampler."""
    table = {(row["world"], row["sampler"], row["seed"]): row["shares"] for row in rows}
    names = list(dict.fromkeys(row["world"] for row in rows))
    seeds = sorted({row["seed"] for row in rows})
    for share in map(str, SHARES):
        print(f"\nShare of the optimum after {float(share):.0%} of the paid calls, mean over {len(seeds)} seeds:\n")
        print(f"| world | {' | '.join(samplers)} |\n|---|{'---|' * len(samplers)}")
        columns = [
            [statistics.fmean(table[name, sampler, seed][share] for seed in seeds) for name in names]
            for sampler in samplers
        ]
        rows_of_means = [*zip(names, *columns, strict=True), ("median", *map(statistics.median, columns))]
        for name, *means in rows_of_means:
            print(f"| {name} | {' | '.join(f'{mean:.1%}' for mean in means)} |")
        for rival in samplers[1:]:
            keys = [(name, seed) for name in names for seed in seeds]
            pairs = [[table[name, one, seed][share] for one in (samplers[0], rival)] for name, seed in keys]
            more, less = sum(ours > theirs for ours, theirs in pairs), sum(ours < theirs for ours, theirs in pairs)
            p = binomtest(more, more + less).pvalue if more + less else 1.0
            print(f"{samplers[0]} against {rival}: better {more}, worse {less}, of {len(pairs)}; p = {p:.3f}")


def rows_in(path: Path, errors: str) -> list[dict[str, Any]]:
    """Return the results so far with such errors."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if row["errors"] == errors]


def keep(path: Path, values: dict[str, Any]) -> None:
    """Append one result."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def recorded(world: World, folder: Path | None) -> Record:
    """Return the exhaustive run of a world, from ``folder`` if it is there."""
    path = None if folder is None else folder / f"{world.name}-{world.errors}-{world.count}.pickle"
    if path is not None and path.exists():
        best_designs = pickle.loads(path.read_bytes())
        return Record(world, best_designs)
    record = exhaustive(world)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(record.designs))
    return record


_asked: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("asked", default=None)


class RecordingCache(Cache):
    """DSPy's response cache, which notes the requests that are made."""

    def get(self, request: dict[str, Any], ignored_args_for_cache_key: list[str] | None = None) -> Any:
        """Look a request up, and note it."""
        asked = _asked.get()
        if asked is not None:
            asked.add(self.cache_key(request, ignored_args_for_cache_key))
        return super().get(request, ignored_args_for_cache_key)


class Recorded(dspy.Module):
    """A program whose runs note their requests."""

    def __init__(self, program: AttentionMoA, requests: dict[str, set[str]]) -> None:
        super().__init__()
        self.program, self.requests = program, requests

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the program."""
        _asked.set(self.requests.setdefault(inputs["question"], set()))
        return await self.program.acall(**inputs)


@dataclass
class Entry:
    """What a design did: its runs and their requests, by question, and its best score over all depths and stops."""

    runs: dict[str, Run]
    requests: dict[str, set[str]]
    best: float

    @property
    def calls(self) -> int:
        """Return the calls of all runs."""
        return sum(run.trace.calls for run in self.runs.values() if run.trace is not None)


@dataclass(frozen=True)
class Replay:
    """What a replayed search did.

    Attributes:
        score: of the design found.
        calls: of all runs, cached ones included.
        paid: calls that would have reached a model.
        points: after each batch, the calls paid so far and the best score so far.
    """

    score: float
    calls: int
    paid: int
    points: list[tuple[int, float]]


class Record:
    """Everything that is known of a world: what each design did."""

    def __init__(self, world: World, designs: dict[str, Entry]) -> None:
        self.world, self.designs = world, designs
        self.best = max(entry.best for entry in designs.values())
        self.calls = sum(entry.calls for entry in designs.values())
        requests = (asked for entry in designs.values() for asked in entry.requests.values())
        self.distinct = len(set().union(*requests))

    def search(self, seed: int, *, most: float = math.inf, n_trials: int = 1000, **options: Any) -> Replay:
        """Replay a search.

        Args:
            seed: of the search.
            most: calls that may reach a model; the search ends at a batch that would need more.
            n_trials: trials at most.
            **options: of ``search``.
        """
        paid, calls, points = set[str](), 0, list[tuple[int, float]]()

        def replayed(program: AttentionMoA, batch: Sequence[dspy.Example], metric: None, **_: Any) -> Measurement:
            nonlocal calls
            entry = self.designs[key_of(program)]
            needed = paid.union(*(entry.requests[example.question] for example in batch))
            if len(needed) > most:
                raise BudgetExhaustedError("calls")
            paid.update(needed)
            runs = tuple(entry.runs[example.question] for example in batch)
            for run in runs:
                assert run.trace is not None
                calls += run.trace.calls
            return Measurement(runs, Usage())

        trials.run_examples = replayed
        try:
            found = searched(
                self.world,
                self.world.agents(),
                seed,
                n_trials,
                progress=lambda at: points.append((len(paid), at.best or 0.0)),
                **options,
            )
        finally:
            trials.run_examples = run_examples
        points.append((len(paid), found.score.value))
        return Replay(found.score.value, calls, len(paid), points)

    def random(self, seed: int, most: int) -> list[tuple[int, float]]:
        """Draw designs evenly and run each in full; return after each the calls paid, and the best score so far."""
        order = sorted(self.designs)
        random.Random(seed).shuffle(order)
        best, paid, points = 0.0, set[str](), [(0, 0.0)]
        for key in order:
            paid.update(*self.designs[key].requests.values())
            if len(paid) > most:
                break
            best = max(best, self.designs[key].best)
            points.append((len(paid), best))
        return points


def exhaustive(world: World, every: int = 1) -> Record:
    """Run every design of a world, or every so many, on every example."""
    dspy.cache = fresh(RecordingCache)  # pyright: ignore[reportAttributeAccessIssue]
    bound = BoundSpace(world.space, TASK, world.agents(), {})
    wanted = Objective(**{"unit": "calls", **{{"objective": "wanted"}.get(k, k): v for k, v in world.options.items()}})
    designs: dict[str, Entry] = {}
    for design in list(bound.designs())[::every]:
        program, rules = bound.program(design), bound.rules(design)
        requests = dict[str, set[str]]()
        runs = measure(Recorded(program, requests), world.examples, exact, keep_traces=True).runs
        scored = score_rules(program, runs, rules, exact).scores.values()
        best = max((one.score for one in scored if wanted.excess(one.mean_price) <= 0), default=0.0)
        designs[key_of(program)] = Entry({run.example.question: run for run in runs}, requests, best)
    return Record(world, designs)


def searched(world: World, agents: Any, seed: int, n_trials: int, **options: Any) -> Any:
    """Search a world; return what was found."""
    given: dict[str, Any] = {"trainset": world.examples, "metric": exact, "unit": "calls", **world.options, **options}
    return search(TASK, agents, space=world.space, seed=seed, n_trials=n_trials, **given)


def real_search(world: World, seed: int, n_trials: int) -> tuple[float, int]:
    """Search for real; return the score, and the calls that reached a model."""
    dspy.cache = fresh(Cache)  # pyright: ignore[reportAttributeAccessIssue]
    agents = world.agents()
    found = searched(world, agents, seed, n_trials)
    return found.score.value, sum(len(agent.requests) for agent in agents)


def fresh(kind: type[Cache]) -> Cache:
    """Return an empty cache in memory."""
    return kind(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None)


def key_of(program: AttentionMoA) -> str:
    """Return what tells designs apart."""
    return program.architecture.model_dump_json()


if __name__ == "__main__":
    main()
