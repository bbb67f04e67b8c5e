"""``moa_dspy.run``: overhead for each row, memory, and many questions at once.

    uv run python -m benchmarks.run_rows rows                 # 100,000 rows, a model without latency
    uv run python -m benchmarks.run_rows rows --out 0         # without a file
    uv run python -m benchmarks.run_rows questions            # 1,000 questions, N=3, L=2, 200 ms a call
    uv run python -m benchmarks.run_rows batches              # 10,000 questions, L=2, a simulated provider
    uv run python -m benchmarks.run_rows kills --points 100   # SIGKILL at random points, with and without batches

``rows``: the time of the whole run over the rows, less the time of the same questions asked without it, with the same
concurrency. Both are CPU times, because other processes may use the machine; wall times are shown, too. The memory is
what the process holds after 1,000 rows and at the end.

``questions``: wall time against the CPU time of the same run, which is the least that one process could take.

``batches``: number of batches, cost and answers against single calls (of some of the questions), and memory.

``kills``: a command is killed after a random number of requests, and started again until it ends. Counted are requests
that were processed twice, beyond those in flight when the process died, and answers that are lost or differ.
"""

from __future__ import annotations

import asyncio
import csv
import gc
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import resource
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import dspy
from support.batch_server import BatchServer

from benchmarks.common import TASK, arguments, moa_at, provider, question, table
from moa_dspy import AttentionMoA, Batches, RunProgress, run, single_model
from moa_dspy.testing import ScriptedLM

_CONCURRENCY = 8
_AGENTS, _CALLS = 2, 7  # of the program that is killed
_CONTEXT = multiprocessing.get_context("spawn")
_EARLY = 1_000  # rows after which the memory is compared
_BARE = 5_000  # rows asked without ``run``


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print a table and return its figures."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words else ""
    commands = {"rows": rows, "questions": questions, "batches": batches, "kills": kills}
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


def batches(argv: Sequence[str]) -> dict[str, float]:
    """Batches of many questions, against single calls of some of them."""
    options = arguments(__doc__, argv, questions=10_000, agents=2, layers=2, single=100)
    with _served() as url, tempfile.TemporaryDirectory() as folder:
        lms = [_lm(url) for _ in range(options.agents)]
        program = AttentionMoA(TASK, lms, layers=options.layers)
        inputs = [{"question": question(number)} for number in range(options.questions)]
        singles = run(program, inputs[: options.single], concurrency=50)
        before, wall = _held(), time.perf_counter()
        settings = Batches(poll_seconds=0.2)
        result = run(program, inputs, out=Path(folder) / "answers.jsonl", batch=settings)
        wall = time.perf_counter() - wall
        lines = (Path(folder) / "answers.jsonl").read_text().splitlines()[: options.single]
        with closing(sqlite3.connect(Path(folder) / "answers.jsonl.batches.db")) as journal:
            made, held = journal.execute("select count(*) from batches").fetchone()[0], _peak()
    answered = [json.loads(line) for line in lines]
    equal = sum(one["answer"] == other["answer"] for one, other in zip(answered, singles.answers or (), strict=True))
    cost = sum(one["cost_usd"] for one in answered)
    assert result.answered == options.questions
    figures = {
        "batches": made,
        "cost over single calls": cost / (singles.usage.cost_usd or 0.0),
        "equal answers": equal / options.single,
        "seconds": wall,
        "KiB a question": (held - before) / options.questions,
    }
    table([("", "figure"), *((name, f"{value:.3f}") for name, value in figures.items())])
    return figures


def kills(argv: Sequence[str]) -> dict[str, float]:
    """Requests that are paid twice, and answers that are lost, after SIGKILL at random points."""
    options = arguments(__doc__, argv, points=100, seed=1, rows=30, concurrency=4)
    figures: dict[str, float] = {}
    for kind in ("single", "batch"):
        draw, twice, lost, killed = random.Random(options.seed), 0, 0, 0
        for _ in range(options.points):
            counts = _killed(kind, draw, options.rows, options.concurrency)
            twice, lost, killed = twice + counts[0], lost + counts[1], killed + counts[2]
        figures |= {f"{kind}: kills": killed, f"{kind}: paid twice": twice, f"{kind}: lost or changed": lost}
    table([("", "figure"), *((name, f"{value:.0f}") for name, value in figures.items())])
    return figures


def _killed(kind: str, draw: random.Random, number: int, concurrency: int) -> tuple[int, int, int]:
    """Return requests paid twice beyond those in flight, rows lost or changed, and kills, of one command."""
    most = 4 * number if kind == "single" else 30
    point, seen, victims = draw.randrange(1, most), 0, list[BaseProcess]()

    def on_request(method: str, path: str) -> None:
        nonlocal seen
        seen += 1
        if seen == point and victims:
            victims[-1].kill()

    with tempfile.TemporaryDirectory() as folder, BatchServer(_answer, delay=0.05, kills=on_request) as server:
        out = Path(folder) / "answers.csv"
        source = Path(folder) / "rows.jsonl"
        source.write_text("".join(json.dumps({"question": question(one)}) + "\n" for one in range(number)))
        kills = 0
        ticking = threading.Event()
        threading.Thread(target=_tick, args=(server, ticking), daemon=True).start()
        for _ in range(5):
            victim = _CONTEXT.Process(target=_command, args=(kind, server.url, str(source), str(out), concurrency))
            victims.append(victim)
            victim.start()
            victim.join()
            if victim.exitcode == 0:
                break
            kills += 1
            assert not out.exists() or out.stat().st_size  # never half written
        ticking.set()
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        right = {row["question"] for row in rows if row["answer"] and not row["error"]}
        twice = server.billed.total() - number * _CALLS
    in_flight = 0 if kind == "batch" else kills * concurrency * _AGENTS
    return max(0, twice - in_flight), number - len(right), kills


def _command(kind: str, url: str, source: str, out: str, concurrency: int) -> None:
    """Run one command, in a process of its own."""
    os.environ["DSPY_CACHEDIR"] = str(Path(out).parent / "cache")
    program = AttentionMoA(TASK, [_lm(url, cache=True)] * _AGENTS, layers=1, attention="cross")
    assert program.architecture.max_calls == _CALLS
    batch = Batches(poll_seconds=0.05) if kind == "batch" else False
    run(program, source, out=out, batch=batch, concurrency=None if batch else concurrency)


def _lm(url: str, *, cache: bool = False) -> dspy.LM:
    settings = {"temperature": 1.0, "max_tokens": 100, "num_retries": 0, "cache": cache}
    return dspy.LM("openai/gpt-4.1", api_base=f"{url}/v1", api_key="loopback", **settings)


@contextmanager
def _served() -> Iterator[str]:
    """A provider in a process of its own, so that its memory is not counted; yields its URL."""
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Connection) -> None:
    with BatchServer(_answer, delay=0.1) as server:
        pipe.send(server.url)
        _tick(server, threading.Event())


def _tick(server: BatchServer, ended: threading.Event) -> None:
    """Let the server's clock follow the real one."""
    began = server.now - time.monotonic()
    while not ended.wait(0.01):
        server.now = began + time.monotonic()


def _answer(prompt: str) -> str:
    digest = hashlib.blake2b(prompt.encode(), digest_size=8).hexdigest()
    return f"[[ ## improved ## ]]\ntrue\n\n[[ ## answer ## ]]\n{digest}\n\n[[ ## completed ## ]]"


def _peak() -> int:
    """Return the most memory that this process has held, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _held() -> int:
    """Return the memory that this process holds now, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise RuntimeError("no memory figure in /proc/self/status")


if __name__ == "__main__":
    main()
