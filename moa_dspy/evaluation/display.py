"""Progress of an evaluation on standard error: a bar for people, a line every few items for logs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from moa_dspy.evaluation.results import Progress

__all__ = ["shown", "status"]

_LINES: Final = 20
"""So many lines a log gets, whatever the number of items."""


@contextmanager
def shown(progress: Callable[[Progress], None] | bool) -> Iterator[Callable[[Progress], None]]:
    """Give the function that shows progress: none, the caller's, a bar on a terminal, or lines."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda _: None
    elif sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar() as show:
            yield show
    else:
        yield _line


def status(progress: Progress) -> str:
    """Return score, failures and cost so far in one line."""
    parts = ["no score yet" if progress.mean is None else f"score {100 * progress.mean:.1f} %"]
    parts += [f"{progress.errors} errors"] if progress.errors else []
    parts += [f"{progress.unparsed} unparsed"] if progress.unparsed else []
    cost = progress.spent.cost_usd
    calls = progress.spent.calls
    parts += [
        f"{calls} call{'' if calls == 1 else 's'}",
        "cost unknown" if cost is None else f"${cost:.4f}" if cost else "$0",
    ]
    return ", ".join(parts)


def _line(progress: Progress) -> None:
    step = max(1, progress.total // _LINES)
    failed = progress.record is not None and progress.record.status == "error"
    if progress.done % step and progress.done != progress.total and not failed:
        return
    text = f"{progress.done} of {progress.total} items: {status(progress)}, {progress.seconds:.0f} s"
    if failed and progress.record is not None and progress.record.error is not None:
        text += f"; item {progress.record.id} failed: {progress.record.error.message[:200]}"
    if sys.stderr is not None:  # it is None where it was closed, and then print would write to standard output
        with suppress(OSError):
            print(text.replace("\n", " "), file=sys.stderr, flush=True)


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False)
    with Bar(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda progress: bar.update(
            task, completed=progress.done, total=progress.total, description=status(progress)
        )
