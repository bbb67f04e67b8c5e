"""``moa_dspy.run``: overhead for each row, memory, and many questions at once.

    uv run python -m benchmarks.run_rows rows                 # 100,000 rows, a model without latency
    uv run python -m benchmarks.run_rows rows --out 0         # without a file
    uv run python -m benchmarks.run_rows questions            # 1,000 questions, N=3, L=2, 200 ms a call

``rows``: the time of the whole run over the rows, less the time of the same questions asked without it, with the same
concurrency. Both are CPU times, because other processes may use the machine; wall times are shown, too. The memory is
what the process holds after 1,000 rows and at the end.

``questions``: wall time against the CPU time of the same run, which is the least that one process could take.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import TASK, arguments, moa_at, provider, question, table
from moa_dspy import RunProgress, run, single_model
from moa_dspy.testing import ScriptedLM

_CONCURRENCY = 8
_EARLY = 1_000  # rows after which the memory is compared
_BARE = 5_000  # rows asked without ``run``


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print a table and return its figures."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words else ""
    commands = {"rows": rows, "questions": questions}
    if command not in commands:
        raise SystemExit(f"usage: python -m benchmarks.run_rows {'|'.join(commands)} [--help]")
    return commands[command](words)


def rows(argv: Sequence[str]) -> dict[str, float]:
    """Milliseconds for each row above the calls themselves, and memory at the end over that after 1,000 rows."""
    options = arguments(__doc__, argv, rows=100_000, out=1)
    model = ScriptedLM("Paris")
    program = single_model(TASK, model)
    asyncio.run(_bare(program, 200))  # imports
    bare_cpu, bare = asyncio.run(_bare(program, min(_BARE, options.rows)))
    memory: dict[int, int] = {}

    def watch(state: RunProgress) -> None:
        model.requests.clear()  # a scripted model keeps them all
        if state.done in (_EARLY, options.rows):
            gc.collect()
            memory[state.done] = _held()

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.jsonl"
        with source.open("w") as file:
            file.writelines(
                json.dumps({"id": number, "question": question(number)}) + "\n" for number in range(options.rows)
            )
        out = Path(folder) / "answers.jsonl" if options.out else None
        cpu, wall = time.process_time(), time.perf_counter()
        result = run(program, source, out=out, concurrency=_CONCURRENCY, progress=watch)
        cpu, wall = (time.process_time() - cpu) / options.rows, (time.perf_counter() - wall) / options.rows
    assert result.answered == options.rows
    figures = {
        "call": 1000 * bare_cpu,
        "row": 1000 * cpu,
        "overhead": 1000 * (cpu - bare_cpu),
        "wall overhead": 1000 * (wall - bare),
        "memory": memory[options.rows] / memory[_EARLY],
    }
    table([("", "figure"), *((name, f"{value:.3f}") for name, value in figures.items())])
    return figures


async def _bare(program: object, number: int) -> tuple[float, float]:
    """Return CPU and wall seconds of a question, asked with the same concurrency and without ``run``."""
    waiting = iter(range(number))

    async def worker() -> None:
        for one in waiting:
            await program.acall(question=question(one))  # type: ignore[attr-defined]

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(_CONCURRENCY)))
    return (time.process_time() - cpu) / number, (time.perf_counter() - wall) / number


def questions(argv: Sequence[str]) -> dict[str, float]:
    """Wall time of many questions against the CPU time of the same run."""
    options = arguments(__doc__, argv, questions=1_000, agents=3, layers=2, latency=0.2, concurrency=400)
    with provider(options.latency) as url, tempfile.TemporaryDirectory() as folder:
        program = moa_at(url, options.agents, options.layers)
        inputs = [{"question": question(number)} for number in range(options.questions)]
        run(program, itertools.islice(inputs, 20), concurrency=20)  # imports
        cpu, wall = time.process_time(), time.perf_counter()
        result = run(program, inputs, out=Path(folder) / "answers.jsonl", concurrency=options.concurrency)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert result.answered == options.questions
    figures = {"wall": wall, "CPU": cpu, "share of the CPU bound": cpu / wall}
    table([("", "figure"), *((name, f"{value:.2f}") for name, value in figures.items())])
    return figures


def _held() -> int:
    """Return the memory that this process holds now, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise RuntimeError("no memory figure in /proc/self/status")


if __name__ == "__main__":
    main()
