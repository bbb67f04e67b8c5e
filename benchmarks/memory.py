"""Memory over many questions, and memory that an evaluation holds for each example.

    uv run python -m benchmarks.memory questions
    uv run python -m benchmarks.memory evaluate

`questions` prints the resident set after each tenth of the questions over that after the first tenth. `evaluate` prints
the Python memory that the result of an evaluation holds for each example, over the text that the agents wrote for it.
It is measured after as many calls as DSPy keeps in its process-wide history, which is of constant size.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import dspy
from dspy.clients.base_lm import MAX_HISTORY_SIZE

from benchmarks.common import arguments, moa_at, provider, question, table
from moa_dspy import AttentionMoA, evaluate


def main(argv: Sequence[str] | None = None) -> list[tuple[int, float]]:
    """Print and return the figures of a command."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words else ""
    if command not in ("questions", "evaluate"):
        raise SystemExit("usage: python -m benchmarks.memory questions|evaluate [--help]")
    return questions(words) if command == "questions" else held(words)


def held(argv: Sequence[str]) -> list[tuple[int, float]]:
    """Return the KiB that a result holds for each example, by the number of examples."""
    options = arguments(__doc__, argv, examples=60, agents=5, layers=2, words=130, history=MAX_HISTORY_SIZE)
    sizes: list[tuple[int, float]] = []
    results = []
    with provider(0.0, words=options.words) as url:
        moa = moa_at(url, options.agents, options.layers)
        written = sum(len(step.text) for step in moa(question=question(0)).trace.steps) / 1024
        tracemalloc.start(1)
        first = -(-options.history // moa.architecture.max_calls)
        for start, count in ((0, first), (first, options.examples), (first + options.examples, 2 * options.examples)):
            before = tracemalloc.get_traced_memory()[0]
            results.append(evaluate(moa, _examples(start, count), lambda *_: 1.0))
            gc.collect()
            sizes.append((count, (tracemalloc.get_traced_memory()[0] - before) / 1024 / count))
        tracemalloc.stop()
    rows = [(str(count), f"{size:.1f}", f"{size / written:.2f}") for count, size in sizes[1:]]
    table([("examples", "KiB each", f"over {written:.1f} KiB of text"), *rows])
    return sizes[1:]


def _examples(start: int, count: int) -> list[dspy.Example]:
    numbers = range(start, start + count)
    return [dspy.Example(question=question(number), answer="").with_inputs("question") for number in numbers]


def questions(argv: Sequence[str]) -> list[tuple[int, float]]:
    """Return the resident set, in MiB, after every tenth of the questions."""
    options = arguments(__doc__, argv, questions=5000, concurrency=16, agents=3, layers=1)
    with provider(0.0) as url:
        moa = moa_at(url, options.agents, options.layers)
        sizes = asyncio.run(_measure(moa, options.questions, options.concurrency))
    base = sizes[0][1]
    table([("questions", "MiB", "ratio"), *((str(done), f"{size:.0f}", f"{size / base:.2f}") for done, size in sizes)])
    return sizes


async def _measure(moa: AttentionMoA, questions: int, concurrency: int) -> list[tuple[int, float]]:
    numbers = iter(range(questions))
    tenth = max(questions // 10, 1)
    sizes: list[tuple[int, float]] = []
    done = 0

    async def work() -> None:
        nonlocal done
        for number in numbers:
            await moa.acall(question=question(number))
            done += 1
            if done % tenth == 0:
                gc.collect()
                sizes.append((done, _resident()))
                print(f"{done} questions: {sizes[-1][1]:.0f} MiB", file=sys.stderr)

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return sizes


def _resident() -> float:
    """The resident set of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
