"""Wall time of one question under given latencies, against the critical path and against other schedules.

    uv run python -m benchmarks.latency path
    uv run python -m benchmarks.latency path --milliseconds 200
    uv run python -m benchmarks.latency tail

``path``: fixed latency; time over the sequential calls of the architecture (14 for N=5, L=3), and the authors' schedule
and a barrier schedule on the same models. ``tail``: log-normal latency, the same draws for every schedule. Each prints
two tables: the schedule by itself on a virtual clock, where CPU costs nothing (exact, the same every time), and wall
time against a provider process.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, Protocol

from benchmarks import virtual
from benchmarks.common import TASK, arguments, moa_at, provider, question, spread, table
from benchmarks.schedules import Schedule
from benchmarks.server import Behaviour
from benchmarks.virtual import virtual_lm
from moa_dspy import AttentionMoA

Times = dict[str, list[float]]


class Program(Protocol):
    """What answers a question."""

    async def acall(self, **inputs: Any) -> Any: ...


def main(argv: Sequence[str] | None = None) -> tuple[Times, Times]:
    """Print the tables; return the seconds of every question by schedule, on the virtual clock and on the wall."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words else ""
    if command not in ("path", "tail"):
        raise SystemExit("usage: python -m benchmarks.latency path|tail [--help]")
    return path(words) if command == "path" else tail(words)


def path(argv: Sequence[str]) -> tuple[Times, Times]:
    """Fixed latency: every schedule in turn, several times over."""
    options = arguments(__doc__, argv, milliseconds=500.0, agents=5, layers=3, repeats=7)
    behaviour = Behaviour(options.milliseconds / 1000, 0.0, words=40)
    alone = _alone(behaviour, options.agents, options.layers, questions=1)
    with provider(behaviour.median) as url:
        moa = moa_at(url, options.agents, options.layers)
        wall = asyncio.run(_in_turn(_schedules(moa), options.repeats))
    for clock, times in (("virtual", alone), ("wall", wall)):
        _print(clock, times, moa.architecture.depth * behaviour.median)
    return alone, wall


def tail(argv: Sequence[str]) -> tuple[Times, Times]:
    """Log-normal latency: small batches of questions, each answered under one schedule after the other."""
    options = arguments(__doc__, argv, milliseconds=200.0, sigma=0.6, questions=50, agents=5, layers=2, batch=4)
    behaviour = Behaviour(options.milliseconds / 1000, options.sigma, words=40)
    alone = _alone(behaviour, options.agents, options.layers, options.questions)
    with provider(behaviour.median, behaviour.sigma) as url:
        moa = moa_at(url, options.agents, options.layers)
        wall = asyncio.run(_in_batches(_schedules(moa), options.questions, options.batch))
    for clock, times in (("virtual", alone), ("wall", wall)):
        _print(clock, times, moa.architecture.depth * behaviour.median)
    return alone, wall


def _print(clock: str, times: Times, median_path: float) -> None:
    rows = [(f"{clock} clock", "seconds a question", "over the sequential calls", "all", "slower, by question")]
    for name, measured in times.items():
        over = [value / median_path for value in measured]
        slower = [value / ours for value, ours in zip(measured, times["dataflow"], strict=True)]
        total = f"{sum(measured) / sum(times['dataflow']):.2f} times"
        rows.append((name, spread(measured), spread(over, 3), total, spread(slower)))
    table(rows)


def _alone(behaviour: Behaviour, agents: int, layers: int, questions: int) -> Times:
    moa = AttentionMoA(TASK, [virtual_lm(f"model-{i}", behaviour) for i in range(agents)], layers=layers)
    return virtual.run(_in_turn(_schedules(moa), questions))


def _schedules(moa: AttentionMoA) -> dict[str, Program]:
    return {
        "dataflow": moa,
        "barriers": Schedule(moa, in_sequence=False),
        "authors'": Schedule(moa, in_sequence=True),
    }


async def _in_turn(schedules: dict[str, Program], repeats: int) -> Times:
    await asyncio.gather(*(program.acall(question=question(0)) for program in schedules.values()))  # connections
    times: Times = {name: [] for name in schedules}
    for number in range(1, repeats + 1):
        for name, program in schedules.items():
            times[name].append(await _timed(program, number))
    return times


async def _in_batches(schedules: dict[str, Program], questions: int, size: int) -> Times:
    await asyncio.gather(*(program.acall(question=question(0)) for program in schedules.values()))
    times: Times = {name: [] for name in schedules}
    for first in range(1, questions + 1, size):
        numbers = range(first, min(first + size, questions + 1))
        for name, program in schedules.items():
            times[name] += await asyncio.gather(*(_timed(program, number) for number in numbers))
    return times


async def _timed(program: Program, number: int) -> float:
    clock = asyncio.get_running_loop().time
    began = clock()
    await program.acall(question=question(number))
    return clock() - began


if __name__ == "__main__":
    main()
