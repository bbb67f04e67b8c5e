"""CPU time of this process for one LM call, against a bare ``dspy.Predict`` call; and many questions at once.

    uv run python -m benchmarks.cpu call
    uv run python -m benchmarks.cpu throughput
    uv run python -m benchmarks.cpu waiting

``call``: no latency; over the real HTTP client, and on ``ScriptedLM``, which needs none. ``throughput``: wall time of
many questions at once, against the CPU time of as many bare calls, which is the least that any program could take.
``waiting``: CPU for each of many calls that wait for a limit.
Where other programs use the CPUs, wall times say little: then compare CPU time with CPU time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import dspy

from benchmarks.common import TASK, arguments, lm_at, moa_at, provider, question, spread, table
from benchmarks.schedules import Schedule
from moa_dspy import AttentionMoA
from moa_dspy.runtime.concurrency import admitted, limit_concurrency
from moa_dspy.testing import ScriptedLM

Figures = dict[str, list[float]]
Work = Callable[[], Awaitable[object]]

_DECISION = "[[ ## improved ## ]]\ntrue\n\n[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"
_ANSWER = "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"


def main(argv: Sequence[str] | None = None) -> Figures:
    """Print a table and return its figures."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words else ""
    commands = {"call": call, "throughput": throughput, "waiting": waiting}
    if command not in commands:
        raise SystemExit("usage: python -m benchmarks.cpu call|throughput|waiting [--help]")
    return commands[command](words)


def call(argv: Sequence[str]) -> Figures:
    """CPU for each call: a bare one, one within the program, and one of the program's own calls made bare."""
    options = arguments(__doc__, argv, agents=5, layers=3, repeats=15)
    with provider(0.0) as url:
        remote = moa_at(url, options.agents, options.layers)
        figures = _per_call("HTTP", remote, lm_at(url), options.repeats)
    scripted = [_scripted() for _ in range(options.agents)]
    figures |= _per_call("scripted", AttentionMoA(TASK, scripted, layers=options.layers), _scripted(), options.repeats)
    rows = [("client", "call", "CPU ms", "over bare")]
    for name, values in figures.items():
        client, _, kind = name.partition(" ")
        bare = figures[f"{client} bare"]
        ratios = [value / least for value, least in zip(values, bare, strict=True)]
        rows.append((client, kind, spread([1000 * value for value in values]), spread(ratios)))
    table(rows)
    return figures


def throughput(argv: Sequence[str]) -> Figures:
    """Questions a second: the program's, and those that the CPU time of as many bare calls would allow."""
    options = arguments(__doc__, argv, questions=64, agents=5, layers=2, milliseconds=50.0, repeats=5)
    with provider(options.milliseconds / 1000) as url:
        moa = moa_at(url, options.agents, options.layers)
        figures = asyncio.run(_rates(moa, lm_at(url), options.questions, options.repeats))
    bound = figures["bare calls, CPU time"]
    rows = [("what", "questions a second", "over the CPU bound")]
    for name, rates in figures.items():
        rows.append((name, spread(rates), spread([rate / most for rate, most in zip(rates, bound, strict=True)])))
    table(rows)
    return figures


def waiting(argv: Sequence[str]) -> Figures:
    """CPU for each call of 500 and more that wait for one of four places, nine calls in a group."""
    options = arguments(__doc__, argv, most=8000, repeats=5)
    numbers = [number for number in (500, 2000, 8000) if number <= options.most]
    figures: Figures = {str(number): [] for number in numbers}
    limit_concurrency(4, model="waited for")
    for number in numbers * options.repeats:
        began = time.process_time()
        asyncio.run(_wait(number))
        figures[str(number)].append((time.process_time() - began) / number)
    limit_concurrency(None, model="waited for")
    least = figures[str(numbers[0])]
    rows = [("calls", "CPU us for each", f"over that of {numbers[0]}")]
    for name, values in figures.items():
        ratios = [value / one for value, one in zip(values, least, strict=True)]
        rows.append((name, spread([1e6 * value for value in values]), spread(ratios)))
    table(rows)
    return figures


async def _wait(calls: int) -> None:
    async def call(group: int) -> None:
        async with admitted("waited for", group):
            await asyncio.sleep(0)

    await asyncio.gather(*(call(number // 9) for number in range(calls)))


def _per_call(client: str, moa: AttentionMoA, lm: dspy.LM, repeats: int) -> Figures:
    calls = moa.architecture.max_calls
    works: dict[str, Work] = {
        f"{client} bare": lambda: _bare(lm, calls, at_once=len(moa.agents) ** 2),
        f"{client} in the program": lambda: moa.acall(question=question(1)),
        f"{client} the program's calls, bare": lambda: Schedule(moa, in_sequence=False).acall(question=question(1)),
    }

    async def measure() -> Figures:
        for work in works.values():
            await work()
        figures: Figures = {name: [] for name in works}
        for _ in range(repeats):
            for name, work in works.items():
                began = time.process_time()
                await work()
                figures[name].append((time.process_time() - began) / calls)
        return figures

    return asyncio.run(measure())


async def _rates(moa: AttentionMoA, lm: dspy.LM, questions: int, repeats: int) -> Figures:
    calls = questions * moa.architecture.max_calls
    await moa.acall(question=question(0))
    figures: Figures = {
        f"{what}, {kind}": [] for what in ("bare calls", "the program") for kind in ("CPU time", "wall time")
    }
    for _ in range(repeats):
        began, cpu = time.perf_counter(), time.process_time()
        await _bare(lm, calls, at_once=questions * len(moa.agents))
        figures["bare calls, CPU time"].append(questions / (time.process_time() - cpu))
        figures["bare calls, wall time"].append(questions / (time.perf_counter() - began))
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(moa.acall(question=question(number)) for number in range(questions)))
        figures["the program, CPU time"].append(questions / (time.process_time() - cpu))
        figures["the program, wall time"].append(questions / (time.perf_counter() - began))
    return figures


async def _bare(lm: dspy.LM, calls: int, at_once: int) -> None:
    predict = dspy.Predict(TASK)
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            await predict.acall(lm=lm, question=question(number))

    await asyncio.gather(*(work() for _ in range(at_once)))


def _scripted() -> ScriptedLM:
    def reply(request: dspy.lm15.Request) -> str:
        system = str(request.system)
        if "[[ ##" not in system:
            return "yes"
        return _DECISION if "`improved`" in system else _ANSWER

    return ScriptedLM(reply, temperature=1.0)


if __name__ == "__main__":
    main()
