"""Many questions at once on few models: is an answer lost because calls wait for a connection?

    uv run python -m benchmarks.connections

Every call takes the same time. Without waiting, a question takes as long as its sequential calls. Nothing may be lost,
and no wait may count as the provider's time, however many calls are under way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import median

from benchmarks.common import arguments, moa_at, provider, question, table
from moa_dspy import Tolerance
from moa_dspy.trace import Step


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print the figures and return them."""
    options = arguments(__doc__, argv, questions=150, agents=3, layers=1, seconds=4.0, timeout=12.0)
    with provider(options.seconds) as url:
        moa = moa_at(url, options.agents, options.layers).replace(tolerance=Tolerance(timeout=options.timeout))

        async def ask() -> list[float]:
            return await asyncio.gather(*(one(number) for number in range(options.questions)))

        async def one(number: int) -> float:
            trace = (await moa.acall(question=question(number))).trace
            steps.extend(trace.steps)
            return trace.seconds

        steps: list[Step] = []
        began = time.perf_counter()
        took = asyncio.run(ask())
        wall = time.perf_counter() - began
    path = moa.architecture.depth * options.seconds
    figures = _figures(steps) | {"wall over the critical path": wall / path, "median question": median(took) / path}
    table([("figure", "value"), *((name, f"{value:.2f}") for name, value in figures.items())])
    return figures


def _figures(steps: Sequence[Step]) -> dict[str, float]:
    lost = sum(step.status != "ok" for step in steps)
    own = [step.end - step.start - step.queued for step in steps]
    queued = [step.queued for step in steps]
    return {
        "steps": len(steps),
        "steps lost": lost,
        "calls unanswered": sum(step.unanswered for step in steps),
        "longest wait, seconds": max(queued),
        "longest call, seconds": max(own),
    }


if __name__ == "__main__":
    main()
