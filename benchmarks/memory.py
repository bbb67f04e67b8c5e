"""Memory over many questions: resident set at the end over the resident set after the first tenth.

uv run python -m benchmarks.memory
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import arguments, moa_at, provider, question, table
from moa_dspy import AttentionMoA


def main(argv: Sequence[str] | None = None) -> list[tuple[int, float]]:
    """Print and return the resident set, in MiB, after every tenth of the questions."""
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
