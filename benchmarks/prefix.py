"""Prompt tokens of the critique stage that the embedded model's server answers from its prefix cache.

    uv run python -m benchmarks.prefix

The server has 4 slots, and the embedded model is asked four requests at once by default. Every schedule gets the same
tasks, each under a number of its own, so that no schedule finds what another has left behind; the model's answers are
drawn anew. Own answer first is how this package orders prompts.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from benchmarks.common import TASK, arguments, spread, table
from benchmarks.schedules import Schedule
from moa_dspy import Agent, AttentionMoA
from moa_dspy.agents import AgentSlot
from moa_dspy.local import local_lm
from moa_dspy.runtime.concurrency import limit_concurrency
from moa_dspy.signatures import TaskSignature

_SLOTS = 4
_TASKS = """\
A farmer has 17 sheep and buys 5 pens of 6 sheep each. He then sells a third of all his sheep at the market in town, \
and on the way home a neighbour gives him 4 lambs. How many animals does he have in the evening?
A train leaves at 9:40 and needs 2 hours and 35 minutes to the coast. It waits 20 minutes at a signal on the way. When \
does it arrive, and how long would a car take that drives the same 180 kilometres at 90 kilometres an hour?
Explain to a child of eight years why the sky is blue at noon and red in the evening. Use one example from daily life, \
avoid technical terms, and end with a question that the child can try to answer.
A bakery sells bread for 3 dollars and cake for 5 dollars. On Monday it sold 48 pieces and took 190 dollars. How many \
cakes were sold, and what would it have taken if every cake had been half a dollar cheaper?""".splitlines()


@dataclass
class Measured:
    """One schedule's critique stages."""

    shares: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cached: int = 0
    prompt: int = 0


@dataclass(frozen=True)
class Contender:
    """A schedule, an order of the prompt, and how many calls may be under way at once."""

    name: str
    peer_first: bool = False
    in_sequence: bool = False
    limit: int | None = None
    ours: bool = False


CONTENDERS = (
    Contender("peer first, all at once", peer_first=True),
    Contender("own first, all at once", ours=True),
    Contender("own first, each agent's in sequence", in_sequence=True),
    Contender("own first, four at once, the default", limit=_SLOTS, ours=True),
)


def main(argv: Sequence[str] | None = None) -> dict[str, Measured]:
    """Print a table and return what was measured, by schedule."""
    options = arguments(__doc__, argv, tasks=8, agents=4, tokens=96, only="")
    lm = local_lm(cache=False, max_tokens=options.tokens)
    contenders = [contender for contender in CONTENDERS if options.only in contender.name]
    results = {contender.name: Measured() for contender in contenders}
    numbers = count(1)
    lm("Are you there?")  # the server starts
    for index in range(options.tasks):
        for contender in contenders:
            task = f"Task {next(numbers)}. {_TASKS[index % len(_TASKS)]}"
            _run(contender, lm, options.agents, task, results[contender.name])
    rows = [("schedule", "cached of all", "cached, by task", "seconds", "tokens")]
    for name, measured in results.items():
        share = f"{measured.cached / measured.prompt:.3f}"
        rows.append((name, share, spread(measured.shares, 3), spread(measured.seconds, 1), str(measured.prompt)))
    table(rows)
    return results


def _run(contender: Contender, lm: dspy.LM, agents: int, task: str, measured: Measured) -> None:
    moa = AttentionMoA(TASK, [Agent(lm, temperature=0.7 + 0.1 * i) for i in range(agents)], layers=1)
    if contender.peer_first:
        moa.critique = dspy.Predict(_peer_first(moa.roles.critique))
    limit_concurrency(contender.limit, model=lm.model)
    try:
        run: Callable[..., tuple[int, int, float]] = _by_trace if contender.ours else _by_history
        cached, prompt, seconds = run(moa, lm, task, contender)
    finally:
        limit_concurrency(None, model=lm.model)
    print(f"{task[:8]} {contender.name}: {cached} of {prompt} in {seconds:.1f} s", file=sys.stderr)
    measured.shares.append(cached / prompt)
    measured.seconds.append(seconds)
    measured.cached += cached
    measured.prompt += prompt


def _by_trace(moa: AttentionMoA, _lm: dspy.LM, task: str, _contender: Contender) -> tuple[int, int, float]:
    steps = list(moa(question=task).trace.select(stage="critique"))
    seconds = max(step.end for step in steps) - min(step.start for step in steps)
    return sum(step.tokens.cached for step in steps), sum(step.tokens.prompt for step in steps), seconds


def _by_history(moa: AttentionMoA, lm: dspy.LM, task: str, contender: Contender) -> tuple[int, int, float]:
    schedule = _Tolerant(moa, in_sequence=contender.in_sequence)

    async def stage() -> float:
        inputs = {"question": task}
        proposals = await schedule.propose(inputs)
        lm.history.clear()
        began = time.perf_counter()
        await schedule.critiques(inputs, proposals)
        return time.perf_counter() - began

    seconds = asyncio.run(stage())
    usages = [entry["usage"] for entry in lm.history]
    cached = sum((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for usage in usages)
    return cached, sum(usage["prompt_tokens"] for usage in usages), seconds


class _Tolerant(Schedule):
    """A small model sometimes writes nothing; its prompt was read all the same."""

    async def _ask(
        self, predictor: dspy.Predict | list[dspy.Predict], voice: AgentSlot, values: Mapping[str, Any]
    ) -> dict[str, Any]:
        try:
            return await super()._ask(predictor, voice, values)
        except AdapterParseError:
            return {"answer": "nothing", "critique": "nothing"}


def _peer_first(critique: TaskSignature) -> TaskSignature:
    """The critique role with its last two inputs exchanged."""
    own = critique.input_fields["own_answer"]
    return critique.delete("own_answer").insert(-1, "own_answer", own, str)


if __name__ == "__main__":
    main()
