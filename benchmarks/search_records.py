"""Exhaustive runs of the worlds of ``search_worlds``, and searches that are replayed from them.

An exhaustive run is the program's own code, except for the way to the model: most steps write their prompt, take the
agent's reply and read it without DSPy's client, which takes most of the time of a simulated call. Equal requests are
answered once. A replayed search takes scores from the record, and pays for the requests that it has not made before, as
with an empty cache.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import dspy
from dspy.clients.cache import Cache
from dspy.lm15 import Config, Message, Request

from benchmarks.search_worlds import TASK, World
from moa_dspy import AttentionMoA
from moa_dspy.cost.usage import Usage
from moa_dspy.errors import BudgetExhaustedError
from moa_dspy.optimizers import measure, search
from moa_dspy.optimizers.measuring import Measurement
from moa_dspy.optimizers.search import trials
from moa_dspy.optimizers.search.designs import BoundSpace
from moa_dspy.optimizers.search.objective import Objective, pick_rule
from moa_dspy.optimizers.stop_fitting.rescoring import Rescored, StopRuleScores, score_rules
from moa_dspy.runtime import critiques, layers
from moa_dspy.runtime.call import Reply, ask
from moa_dspy.runtime.formats import default_adapters
from moa_dspy.runtime.session import Session, StepId
from moa_dspy.trace import Step

__all__ = ["Entry", "Found", "Record", "Replay", "exhaustive", "real_search", "recorded"]


@dataclass(frozen=True)
class Entry:
    """What a design did.

    Attributes:
        scores: its scores under all stop rules, by question.
        truths: the same by the world's true metric, which the search does not see.
        requests: its requests, by question.
        calls: number of calls, equal ones included.
        agents: names of its agents.
    """

    scores: Mapping[str, StopRuleScores]
    truths: Mapping[str, StopRuleScores]
    requests: Mapping[str, frozenset[int]]
    calls: int
    agents: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """The design that a search would return.

    Attributes:
        merit: what searches compare: within the price limit, score, and fewer calls.
        value: its true score; 0 above the price limit.
        agents: names of its agents.
    """

    merit: tuple[float, ...] = (-math.inf,)
    value: float = 0.0
    agents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Replay:
    """What a replayed search did.

    Attributes:
        score: of the design found, as the search sees it.
        calls: of all runs, cached ones included.
        paid: calls that would have reached a model.
        points: for each design that was better than all before, the calls paid until then, and the design.
        result: of ``search``.
    """

    score: float
    calls: int
    paid: int
    points: list[tuple[int, Found]]
    result: Any


class Record:
    """Everything that is known of a world: what each design did."""

    def __init__(self, world: World, designs: dict[str, Entry]) -> None:
        self.world, self.designs = world, designs
        self._programs: dict[Any, AttentionMoA] = {}
        self.found = {key: self._found(entry) for key, entry in designs.items()}
        self.best = max(self._values(entry) for entry in designs.values())
        self.calls = sum(entry.calls for entry in designs.values())
        requests = (asked for entry in designs.values() for asked in entry.requests.values())
        self.distinct = len(set().union(*requests))

    def _values(self, entry: Entry) -> float:
        """Return the highest true score of a design within the price limit."""
        wanted, scores, truths = objective_of(self.world), joined(entry.scores.values()), joined(entry.truths.values())
        return max((truths[rule].score for rule in truths if wanted.excess(scores[rule].mean_price) <= 0), default=0.0)

    def _found(self, entry: Entry) -> Found:
        wanted, scores = objective_of(self.world), joined(entry.scores.values())
        one = scores[rule := pick_rule(scores, wanted)]
        excess = max(wanted.excess(one.mean_price), 0.0)
        value = joined(entry.truths.values())[rule].score if excess <= 0 else 0.0
        return Found((-excess, one.score, -wanted.cost(one.mean_price)), value, entry.agents)

    def search(
        self, seed: int, *, most: float = math.inf, enough: float = math.inf, n_trials: int = 1000, **options: Any
    ) -> Replay:
        """Replay a search.

        Args:
            seed: of the search.
            most: calls that may reach a model; the search ends at a batch that would need more.
            enough: true score at which the search ends.
            n_trials: trials at most.
            **options: of ``search``.
        """
        paid, calls, points = set[int](), 0, [(0, Found())]

        def run(program: AttentionMoA, batch: Sequence[dspy.Example], metric: None, **_: Any) -> Measurement:
            nonlocal calls
            key = key_of(program)
            entry, questions = self.designs[key], [example.question for example in batch]
            needed = paid.union(*(entry.requests[question] for question in questions))
            if len(needed) > most or points[-1][1].value >= enough:
                raise BudgetExhaustedError("calls")
            paid.update(needed)
            counts[key] = counts.get(key, 0) + len(batch)
            calls += sum(round(max(deepest(entry.scores[question])[1].prices[0].calls, 0)) for question in questions)
            if counts[key] == self.world.count and self.found[key].merit > points[-1][1].merit:
                points.append((len(paid), self.found[key]))
            runs: Any = tuple(entry.scores[question] for question in questions)
            return Measurement(runs, Usage())

        counts = dict[str, int]()
        with self._replayed(run):
            result = searched(self.world, self.world.agents(), seed, n_trials, **options)
        return Replay(result.score.value, calls, len(paid), points, result)

    @contextlib.contextmanager
    def _replayed(self, run: Callable[..., Measurement]) -> Iterator[None]:
        """Let trials take the scores that ``run`` returns in place of runs. Programs are built once."""
        build = BoundSpace.program

        def program(bound: BoundSpace, *chosen: Any) -> AttentionMoA:
            if chosen not in self._programs:
                self._programs[chosen] = build(bound, *chosen)
            return self._programs[chosen]

        def score(program: AttentionMoA, runs: Sequence[StopRuleScores], *_: Any, **__: Any) -> Rescored:
            del program
            return Rescored(joined(runs), [], judged=True)

        with (
            mock.patch.object(trials, "run_examples", run),
            mock.patch.object(trials, "score_rules", score),
            mock.patch.object(BoundSpace, "program", program),
        ):
            yield

    def random(self, seed: int, most: float) -> list[tuple[int, Found]]:
        """Draw designs evenly and run each in full; return what a search would note."""
        order = sorted(self.designs)
        random.Random(seed).shuffle(order)
        paid, points = set[int](), [(0, Found())]
        for key in order:
            paid.update(*self.designs[key].requests.values())
            if len(paid) > most:
                break
            if self.found[key].merit > points[-1][1].merit:
                points.append((len(paid), self.found[key]))
        return points


def deepest(scores: StopRuleScores) -> tuple[Any, Any]:
    """Return the rule with most calls, and its scores."""
    return max(scores.items(), key=lambda item: item[1].prices[0].calls)


def joined(scores: Iterable[StopRuleScores]) -> StopRuleScores:
    """Return the scores of all questions together."""
    every = StopRuleScores()
    for one in scores:
        every.extend(one)
    return every


def objective_of(world: World) -> Objective:
    """Return the objective of a world."""
    return Objective(**{"unit": "calls", **{{"objective": "wanted"}.get(k, k): v for k, v in world.options.items()}})


def searched(world: World, agents: Any, seed: int, n_trials: int, **options: Any) -> Any:
    """Search a world; return what was found."""
    given: dict[str, Any] = {"trainset": world.examples, "metric": world.metric, "unit": "calls"}
    return search(
        TASK, agents, space=world.space, seed=seed, n_trials=n_trials, **{**given, **world.options, **options}
    )


def key_of(program: AttentionMoA) -> str:
    """Return what tells designs apart."""
    return program.architecture.model_dump_json()


def fresh(kind: type[Cache]) -> Cache:
    """Return an empty cache in memory."""
    return kind(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None)


class _Steps:
    """The way to the model in an exhaustive run. Equal requests are answered once.

    Attributes:
        asked: the requests of the current run.
    """

    def __init__(self) -> None:
        self.asked: contextvars.ContextVar[set[int]] = contextvars.ContextVar("asked")
        self._known: dict[int, tuple[Reply, Step]] = {}

    async def ask(
        self, session: Session, step_id: StepId, predictor: Any, agent: Any, inputs: dict[str, Any], last: Any = None
    ) -> Reply:
        """Answer as ``moa_dspy.runtime.call.ask`` does."""
        lm, target = session.lm(agent).lm, step_id.target_name if step_id.stage == "critique" else None
        config = agent.config(lm, session.ambient, target)
        request = hash((lm.model, step_id.stage, *sorted(config.items()), *sorted(inputs.items())))
        self.asked.get().add(request)
        if request not in self._known and step_id.stage == "synthesize":
            reply = await ask(session, step_id, predictor, agent, inputs, last)
            self._known[request] = reply, session.recorded[-1][1]
            return reply
        if request not in self._known:
            self._known[request] = self._direct(session, lm, config, step_id, predictor, inputs)
        reply, step = self._known[request]
        same = {"layer": step_id.layer, "agent": step_id.agent_name, "target": step_id.target_name}
        session.recorded.append((step_id, step.model_copy(update=same)))
        return reply

    def _direct(
        self, session: Session, lm: Any, config: dict[str, Any], step_id: StepId, predictor: Any, inputs: dict[str, Any]
    ) -> tuple[Reply, Step]:
        """Return an agent's reply and the step, without DSPy's client."""
        (adapter, *_), signature = default_adapters(predictor.signature, json_first=False), predictor.signature
        system, user = (message["content"] for message in adapter.format(signature, [], dict(inputs)))
        options = Config(temperature=config.get("temperature", lm.kwargs["temperature"]))
        request = Request(lm.model, (Message.user(user),), system, config=options)
        with lm._drawing(config):
            outputs = adapter.parse(signature, lm.engine.answer(request).message.text)
        (only,) = outputs.values() if len(outputs) == 1 else (None,)
        text = only if isinstance(only, str) else session.parts.roles.answer_text(outputs)
        made: Any = {"layer": step_id.layer, "agent": step_id.agent_name, "target": step_id.target_name, "calls": 1}
        step = Step(stage=step_id.stage, model=lm.model, text=text, outputs=outputs, start=0.0, end=0.0, **made)
        return Reply(outputs, text), step


class _Recorded(dspy.Module):
    """A program whose runs note their requests."""

    def __init__(self, program: AttentionMoA, steps: _Steps) -> None:
        super().__init__()
        self.program, self.steps, self.requests = program, steps, dict[str, set[int]]()

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Run the program."""
        self.steps.asked.set(self.requests.setdefault(inputs["question"], set()))
        return await self.program.acall(**inputs)


def exhaustive(world: World, every: int = 1) -> Record:
    """Run every design of a world, or every so many, on every example."""
    bound = BoundSpace(world.space, TASK, world.agents(cache=False), {})
    designs, steps = dict[str, Entry](), _Steps()
    with mock.patch.object(layers, "ask", steps.ask), mock.patch.object(critiques, "ask", steps.ask):
        for design in list(bound.designs())[::every]:
            program, rules = bound.program(design), bound.rules(design)
            noting = _Recorded(program, steps)
            runs = measure(noting, world.examples, world.metric, keep_traces=True).runs
            names = [run.example.question for run in runs]
            seen = dict[Any, dict[str, StopRuleScores]]()
            for metric in {world.metric, world.truth}:
                scored = (score_rules(program, [run], rules, metric).scores for run in runs)
                seen[metric] = dict(zip(names, scored, strict=True))
            requests = {name: frozenset(asked) for name, asked in noting.requests.items()}
            calls = sum(run.trace.calls for run in runs if run.trace is not None)
            agents = tuple(name for name, count in zip(bound.names, design.samples, strict=True) if count)
            designs[key_of(program)] = Entry(seen[world.metric], seen[world.truth], requests, calls, agents)
    return Record(world, designs)


def recorded(world: World, folder: Path | None) -> Record:
    """Return the exhaustive run of a world, from ``folder`` if it is there."""
    path = None if folder is None else folder / f"{world.name}-{world.seed}-{world.errors}-{world.count}.pickle"
    if path is not None and path.exists():
        return Record(world, pickle.loads(path.read_bytes()))
    record = exhaustive(world)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(record.designs))
    return record


def real_search(world: World, seed: int, n_trials: int) -> tuple[float, int]:
    """Search for real; return the score, and the calls that reached a model."""
    with mock.patch.object(dspy, "cache", fresh(Cache)):
        agents = world.agents()
        found = searched(world, agents, seed, n_trials)
    return found.score.value, sum(len(agent.requests) for agent in agents)
