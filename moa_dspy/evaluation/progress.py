"""Progress of an evaluation, and its display on standard error: a bar on a terminal, lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from moa_dspy.cost.usage import Usage
from moa_dspy.evaluation.records import Record
from moa_dspy.json_safe import printable

__all__ = ["EvaluateProgress", "Totals", "progress_display"]

_LINES: Final = 20  # number of progress lines in a log


@dataclass(frozen=True)
class EvaluateProgress:
    """The progress of an evaluation.

    Attributes:
        total: number of items.
        done: number of items with a record, including those of earlier starts.
        scored: number of items with a score.
        errors: number of failed items.
        unparsed: number of items of which a verdict could not be read.
        unread: number of scored items whose answer could not be read.
        mean: mean score so far; None without a score.
        usage: usage of all items.
        seconds: seconds since this start.
        record: the last finished item; None at the beginning.
    """

    total: int
    done: int
    scored: int
    errors: int
    unparsed: int
    unread: int
    mean: float | None
    usage: Usage
    seconds: float
    record: Record | None = None

    @property
    def status(self) -> str:
        """Return score, failures and cost so far in one line."""
        parts = ["no score yet" if self.mean is None else f"score {100 * self.mean:.1f} %"]
        parts += [f"{self.errors} errors"] if self.errors else []
        parts += [f"{self.unparsed} unparsed"] if self.unparsed else []
        parts += [f"{self.unread} unread"] if self.unread else []
        calls, cost = self.usage.calls, self.usage.cost_usd
        parts += [f"{calls} call{'' if calls == 1 else 's'}"]
        parts += ["cost unknown" if cost is None else f"${cost:.4f}" if cost else "$0"]
        return ", ".join(parts)


class Totals:
    """Running sums over the records of an evaluation.

    Args:
        total: number of items.
        records: those of earlier starts, one per item.
    """

    def __init__(self, total: int, records: Iterable[Record]) -> None:
        self._total, self._began = total, time.perf_counter()
        self._by_status: Counter[str] = Counter()
        self._score, self._usage, self._unread = 0.0, Usage(), 0
        for record in records:
            self.add(record)

    def add(self, record: Record, earlier: Record | None = None) -> None:
        """Add an item's record. It replaces the item's earlier record."""
        if earlier is not None:
            self._by_status[earlier.status] -= 1
            self._score -= earlier.score or 0.0
            self._usage -= earlier.usage
            self._unread -= earlier.unread
        self._by_status[record.status] += 1
        self._score += record.score or 0.0
        self._usage += record.usage
        self._unread += record.unread

    def progress(self, record: Record | None = None) -> EvaluateProgress:
        """Return the state after ``record``."""
        scored = self._by_status["scored"]
        return EvaluateProgress(
            total=self._total,
            done=self._by_status.total(),
            scored=scored,
            errors=self._by_status["error"],
            unparsed=self._by_status["unparsed"],
            unread=self._unread,
            mean=self._score / scored if scored else None,
            usage=self._usage,
            seconds=time.perf_counter() - self._began,
            record=record,
        )


@contextmanager
def progress_display(
    progress: Callable[[EvaluateProgress], None] | bool,
) -> Iterator[Callable[[EvaluateProgress], None] | None]:
    """Yield the function that shows progress: the caller's, None, a bar on a terminal, or lines."""
    if callable(progress) or not progress:
        yield progress or None
    elif sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar() as show:
            yield show
    else:
        yield _print_line


def _print_line(progress: EvaluateProgress) -> None:
    step = max(1, progress.total // _LINES)
    failure = None if progress.record is None else progress.record.error
    if progress.done % step and progress.done != progress.total and failure is None:
        return
    text = f"{progress.done} of {progress.total} items: {progress.status}, {progress.seconds:.0f} s"
    if failure is not None and progress.record is not None:
        text += f"; item {progress.record.id} failed: {failure.message[:200]}"
    if sys.stderr is not None:  # None if it was closed; print would then write to standard output
        with suppress(OSError):
            print(printable(" ".join(text.splitlines())), file=sys.stderr, flush=True)


@contextmanager
def _bar() -> Iterator[Callable[[EvaluateProgress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda state: bar.update(task, completed=state.done, total=state.total, description=state.status)
