"""Search on simulated agents, where the optimum is known because everything was tried.

    uv run python -m benchmarks.search_simulated --seeds 20

Runs every architecture of a small space on every example, once, and keeps the runs with the requests that they made.
Each search is then replayed from these: a run that it asks for is taken from the record, and costs the requests that
the search has not made before, as it would with an empty cache; it ends when it has paid for its share. One search of
a few trials is run for real as well, and must find and cost the same. Beside each search stands a random one, which
draws designs evenly, runs them in full, and may pay for as many calls.
"""

from __future__ import annotations

import argparse
import contextvars
import hashlib
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.clients.cache import Cache
from dspy.lm15 import Request

from moa_dspy import AttentionMoA
from moa_dspy.errors import BudgetExhaustedError
from moa_dspy.optimizers import SearchSpace, measure, search
from moa_dspy.optimizers.measuring import Measurement, Run
from moa_dspy.optimizers.results import Cost
from moa_dspy.optimizers.search import trials
from moa_dspy.optimizers.search.space import BoundSpace
from moa_dspy.optimizers.stopping.depth import DepthMetric
from moa_dspy.testing import SimulatedLM, prompt_of

TASK = "question -> answer: int"
SPACE = SearchSpace(
    samples=1,
    temperatures=(0.3, 0.9),
    attention=("full", "cross", "none"),
    residual=("synthesis", "none"),
    aggregation=("synthesis",),
    aggregators=("planner",),
    layers=(1, 2),
)


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--examples", type=int, default=24)
    options.add_argument("--share", type=float, default=0.2, help="of the exhaustive run's paid calls")
    options.add_argument("--worlds", type=int, nargs="+", default=[0], help="seeds of the agents' draws")
    arguments = options.parse_args()
    print("| world | optimum | search, median | within 2 % | calls | paid calls | random, median | within 2 % |")
    print("|---|---|---|---|---|---|---|---|")
    records = [tabulated(number, arguments) for number in arguments.worlds]
    first = records[0]
    same = all(record.search(0, n_trials=8)[::2] == record.world.search(0, n_trials=8) for record in records)
    print(
        f"each: {len(first.designs)} designs, {arguments.examples} examples; run exhaustively {first.calls} calls, "
        f"of which {first.distinct} differ and reach a model"
    )
    print(f"real searches of 8 trials with seed 0 find and pay the same: {same}")


def tabulated(number: int, arguments: argparse.Namespace) -> Record:
    """Print one world's row; return what there is to know of it."""
    record = World(arguments.examples, seed=number).exhaustive()
    rows = [row(record, seed, arguments.share) for seed in range(arguments.seeds)]
    found, calls, paid, rival = (statistics.median(column) for column in zip(*rows, strict=True))
    within = [f"{sum(row[column] >= 0.98 for row in rows)} of {len(rows)}" for column in (0, 3)]
    print(
        f"| {number} | {record.best:.3f} | {found:.1%} | {within[0]} | {calls:.1%} | {paid:.1%} "
        f"| {rival:.1%} | {within[1]} |",
        flush=True,
    )
    return record


def row(record: Record, seed: int, share: float) -> tuple[float, float, float, float]:
    """Return score of the optimum, share of the calls, share of the paid calls, and a random search's score."""
    most = int(share * record.distinct)
    found, calls, paid = record.search(seed, most=most)
    return found / record.best, calls / record.calls, paid / record.distinct, record.random(seed, most) / record.best


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


class Record:
    """Everything that there is to know of a world."""

    def __init__(self, world: World, designs: dict[str, Entry]) -> None:
        self.world, self.designs = world, designs
        self.best = max(entry.best for entry in designs.values())
        self.calls = sum(entry.calls for entry in designs.values())
        requests = (asked for entry in designs.values() for asked in entry.requests.values())
        self.distinct = len(set().union(*requests))

    def search(
        self, seed: int, *, most: float = math.inf, n_trials: int = 1000, **options: Any
    ) -> tuple[float, int, int]:
        """Replay a search; return its score, its calls, and those of them that would have reached a model.

        Args:
            seed: of the search.
            most: calls that may reach a model; a batch that would need more is where the search ends.
            n_trials: trials at most.
            **options: of ``search``.
        """
        made, calls = set[str](), 0

        def replayed(
            program: AttentionMoA, batch: Sequence[dspy.Example], metric: DepthMetric, **_: Any
        ) -> Measurement:
            nonlocal calls
            entry = self.designs[key_of(program)]
            needed = made.union(*(entry.requests[example.question] for example in batch))
            if len(needed) > most:
                raise BudgetExhaustedError("calls")
            made.update(needed)
            runs = tuple(entry.runs[example.question] for example in batch)
            for run in runs:
                assert run.trace is not None
                calls += run.trace.calls
                metric(run.example, run.prediction)
            return Measurement(runs, Cost())

        trials.measure = replayed
        try:
            found = self.world.found(self.world.agents(), seed, n_trials, **options)
        finally:
            trials.measure = measure
        return found.score.value, calls, len(made)

    def random(self, seed: int, most: int) -> float:
        """Return the best of designs drawn evenly and run in full, for at most so many paid calls."""
        order = sorted(self.designs)
        random.Random(seed).shuffle(order)
        best, made = 0.0, set[str]()
        for key in order:
            made.update(*self.designs[key].requests.values())
            if len(made) > most:
                break
            best = max(best, self.designs[key].best)
        return best


class Wordy(SimulatedLM):
    """A simulated agent that never says the same thing in the same words, unless it is asked the same again.

    Without this, agents that agree would agree to the letter, and most calls of most architectures would be one.
    """

    def __init__(self, answers: dict[str, str], model: str, **options: Any) -> None:
        super().__init__(answers, model=model, **options)
        script: Any = self.engine
        plain = script._reply

        def reply(request: Request) -> str:
            asked = f"{model} {request.config.temperature} {prompt_of(request)}"
            words = hashlib.sha256(asked.encode()).hexdigest()[:12]
            text = str(plain(request))
            known = "It follows from the task."
            return text.replace(known, f"It follows from {words}.") if known in text else f"{text} ({words})"

        script._reply = reply


class World:
    """Three agents and a task: a good critic, a good writer, and one that misleads.

    The critic (``planner``) finds errors, the writer knows most at a low temperature, and ``talker`` is wrong nearly
    always and never sees it. So the best ensemble is the first two at the right temperatures, with critiques.
    """

    def __init__(self, count: int, space: SearchSpace = SPACE, seed: int = 0) -> None:
        self.space, self.seed = space, seed
        self.answers = {f"task {number:03d}": str(number + 100) for number in range(count)}
        self.examples = [
            dspy.Example(question=question, answer=int(answer)).with_inputs("question")
            for question, answer in self.answers.items()
        ]

    def agents(self) -> list[SimulatedLM]:
        """Fresh models, whose requests are counted from 0."""

        def agent(name: str, knows: Callable[[Request], float], finds: float, misled: float) -> SimulatedLM:
            skill: dict[str, Any] = {"knows": knows, "finds": finds, "misled": misled, "adopts": 0.7}
            return Wordy(self.answers, model=f"simulated/{name}", cache=True, seed=self.seed, **skill)

        return [
            agent("planner", lambda request: 0.4 if warmth(request) > 0.5 else 0.2, finds=0.4, misled=0.2),
            agent("writer", lambda request: 0.45 if warmth(request) < 0.5 else 0.25, finds=0.15, misled=0.3),
            agent("talker", lambda request: 0.1, finds=0.0, misled=0.5),
        ]

    def exhaustive(self) -> Record:
        """Try everything."""
        dspy.cache = fresh(RecordingCache)  # pyright: ignore[reportAttributeAccessIssue]
        bound = BoundSpace(self.space, TASK, self.agents(), {})
        designs = {}
        for design in bound.designs():
            program, rules = bound.program(design), bound.rules(design)
            judge, requests = DepthMetric(program, rules, exact), dict[str, set[str]]()
            runs = [
                Run(run.example, run.score, run.prediction, getattr(run.prediction, "trace", None))
                for run in measure(Recorded(program, requests), self.examples, judge).runs
            ]
            marks = [judge.marks_of(run) for run in runs]
            best = max(statistics.fmean(mark[rule] for mark in marks) for rule in rules)
            designs[key_of(program)] = Entry({run.example.question: run for run in runs}, requests, best)
        return Record(self, designs)

    def search(self, seed: int, n_trials: int) -> tuple[float, int]:
        """Search for real; return the score, and the calls that reached a model."""
        dspy.cache = fresh(Cache)  # pyright: ignore[reportAttributeAccessIssue]
        agents = self.agents()
        found = self.found(agents, seed, n_trials)
        return found.score.value, sum(len(agent.requests) for agent in agents)

    def found(self, agents: list[SimulatedLM], seed: int, n_trials: int, **options: Any) -> Any:
        """Return what a search finds."""
        given: dict[str, Any] = {"trainset": self.examples, "metric": exact, "unit": "calls", **options}
        return search(TASK, agents, self.space, seed=seed, n_trials=n_trials, **given)


def warmth(request: Request) -> float:
    """The temperature that was asked for."""
    return request.config.temperature or 0.0


def exact(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    """Whether the answer is right."""
    del trace
    return example.answer == prediction.answer


def fresh(kind: type[Cache]) -> Cache:
    """An empty cache in memory."""
    return kind(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None)


def key_of(program: AttentionMoA) -> str:
    """What tells designs apart."""
    return program.architecture.model_dump_json()


if __name__ == "__main__":
    main()
