"""Overhead of ``evaluate`` for each item, for a program and a metric that do nothing: is it linear, and how small?

    uv run python -m benchmarks.evaluate_overhead
    uv run python -m benchmarks.evaluate_overhead --out 1

``--out 1`` also writes the records to a file. The overhead is the time of the whole call, from its start to its result,
over the number of items. The memory is what the process has held at most, beyond what it held before, over the items.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import dspy

from benchmarks.common import arguments, table
from moa_dspy import evaluate

SIZES = (500, 2_000, 10_000, 100_000)


class Nothing(dspy.Module):
    """A program that gives the same answer to every question."""

    async def aforward(self, question: str) -> dspy.Prediction:
        """Return the answer."""
        return dspy.Prediction(answer="yes")


def always(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    """Return that the answer is right."""
    return True


def main(argv: Sequence[str] | None = None) -> dict[int, tuple[float, float, float]]:
    """Print and return wall and CPU milliseconds and KiB an item, by number of items."""
    options = arguments(__doc__, argv, largest=SIZES[-1], out=0)
    _measure(100, file=False)  # imports
    figures = {size: _measure(size, file=bool(options.out)) for size in SIZES if size <= options.largest}
    rows = [(f"{size:,}", f"{w:.3f}", f"{c:.3f}", f"{k:.1f}") for size, (w, c, k) in figures.items()]
    least, most = min(figures), max(figures)
    ratio = figures[most][1] / figures[least][1]
    table([("items", "wall ms", "CPU ms", "KiB"), *rows, (f"{most:,} over {least:,}", "", f"{ratio:.2f} times", "")])
    return figures


def _measure(size: int, *, file: bool) -> tuple[float, float, float]:
    examples = [dspy.Example(question=f"question {n}", answer="yes").with_inputs("question") for n in range(size)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "records.jsonl" if file else None
        before, began, cpu = _peak(), time.perf_counter(), time.process_time()
        result = evaluate(Nothing(), examples, always, out=out)
        wall, cpu, peak = time.perf_counter() - began, time.process_time() - cpu, _peak() - before
    assert result.scored == size
    return 1000 * wall / size, 1000 * cpu / size, peak / size


def _peak() -> int:
    """Return the most memory that this process has held, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
