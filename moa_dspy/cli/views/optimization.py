"""Progress and result of an optimization, as text."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from moa_dspy.cli.output import is_terminal, note, table
from moa_dspy.cli.views.progress import SECONDS_BETWEEN_LINES, dollars, time_left
from moa_dspy.cost.usage import Usage

if TYPE_CHECKING:
    from moa_dspy.architecture import Architecture
    from moa_dspy.optimizers.optimize import OptimizeResult
    from moa_dspy.optimizers.optimize_plan import OptimizeProgress
    from moa_dspy.optimizers.search.search import SearchResult

__all__ = ["result_parts", "watching"]


@contextmanager
def watching(*, silent: bool) -> Iterator[Callable[[OptimizeProgress], None] | None]:
    """Show progress on standard error: a bar on a terminal, otherwise occasional lines."""
    if silent:
        yield None
    elif is_terminal(sys.stderr):
        with _bar() as bar:
            yield bar
    else:
        yield _Lines()


def result_parts(result: OptimizeResult) -> Iterator[RenderableType]:
    """Yield the verdict, the program and the spending, for ``write_parts``."""
    yield f"{result}\n"
    if result.score is not None:
        yield f"score on {result.score.examples} held-out examples: {result.score}"
    yield f"program: {_described(result.program.architecture)}"
    if not result.accepted and result.acceptance is not None:
        yield f"the candidate's score on the same: {result.acceptance.after}"
        yield f"candidate: {_described(result.candidate.architecture)}"
    for search in result.searched:
        yield from _front(search)
    spent = [(part["stage"], Usage.model_validate(part["cost"])) for part in result.report["spent"]]
    rows = [_cost(part, cost) for part, cost in (*spent, ("all", result.cost))]
    yield ""
    yield table([("spent", "calls", "tokens", "cost", "seconds"), *rows])
    for analysis in (result.ceiling, result.profile, result.contributions):
        if analysis is not None:
            yield f"\n{analysis}"


class _Lines:
    """Write a line when a part begins, and every 15 seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._part = 0
        self._last = self._began = 0.0

    def __call__(self, at: OptimizeProgress) -> None:
        with self._lock:
            new, now = at.number != self._part, time.monotonic()
            if not new and now - self._last < SECONDS_BETWEEN_LINES:
                return
            self._part, self._last = at.number, now
            self._began = now if new else self._began
        share = "" if new else f" {at.done:.0%}{time_left(now - self._began, at.done)}"
        note(f"{at.number} of {at.of}: {at.part}{share}{', ' if at.detail else ''}{at.detail}; {_so_far(at)}")


@contextmanager
def _bar() -> Iterator[Callable[[OptimizeProgress], None]]:
    """Draw a bar for the current part, with cost and time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%")]
    columns += [TimeRemainingColumn(), TextColumn("{task.fields[so_far]}", style="dim")]
    progress = Progress(*columns, console=Console(file=sys.stderr), transient=True)
    task, part, lock = progress.add_task("", total=1.0, so_far=""), 0, threading.Lock()

    def show(at: OptimizeProgress) -> None:
        nonlocal part
        with lock:
            if not part:
                progress.start()  # only now: an earlier start would hide the confirmation question
            if at.number != part:
                part = at.number
                progress.reset(task, total=1.0)
            head = f"{at.number} of {at.of}: {at.part}"
            progress.update(task, completed=at.done, description=head, so_far=f"{at.detail}  {_so_far(at)}")

    try:
        yield show
    finally:
        progress.stop()


def _so_far(at: OptimizeProgress) -> str:
    best = "" if at.best is None else f"best {at.best:.3f}, "
    return f"{best}{at.cost.paid_calls} calls, {_price(at.cost, 'price unknown')}"


def _cost(part: str, cost: Usage) -> tuple[str, ...]:
    return part, f"{cost.paid_calls:,}", f"{cost.tokens.total:,}", _price(cost, "unknown"), f"{cost.seconds:.0f}"


def _price(cost: Usage, unknown: str) -> str:
    return unknown if cost.cost_usd is None else dollars(cost.cost_usd)


def _described(shape: Architecture) -> str:
    agents = ", ".join(
        spec.name if spec.temperature is None else f"{spec.name}@{spec.temperature:g}" for spec in shape.agents
    )
    layers = f"{shape.layers} layer{'' if shape.layers == 1 else 's'}"
    stop = ", stops early" if shape.synthesizes and shape.early_stop else ""
    calls = f"{shape.max_calls} call{'' if shape.max_calls == 1 else 's'}"
    return f"{layers} of {agents}; attention {shape.attention}{stop}; {calls} a question, without repeated ones"


def _front(search: SearchResult) -> Iterator[str]:
    """Yield the Pareto front of a search, if it has more than one point."""
    if len(search.pareto) < 2:
        return
    yield "\nwhat a higher score costs (score on the examples that were searched with; calls and tokens each):"
    for point in search.pareto:
        price = point.price
        usd = "" if price.usd is None else f"  {dollars(price.usd)}"
        figures = f"{price.calls:>7.1f} calls {price.tokens:>9.0f} tokens{usd}"
        yield f"  {point.score}  {figures}  {_described(point.architecture)}"
