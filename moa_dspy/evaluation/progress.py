"""Progress of an evaluation, and its display on standard error: a bar on a terminal, lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from moa_dspy.cost.usage import Usage
from moa_dspy.evaluation.records import Record
from moa_dspy.json_safe import printable

__all__ = ["EvaluateProgress", "Shown", "Totals", "cost_so_far", "progress_display"]

_LINES: Final = 20  # number of progress lines in a log
_SECONDS: Final = 15.0  # between these lines, if the number of items is unknown
_MINUTES: Final = 100.0  # from so many seconds on, a time is told in minutes


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
        return ", ".join([*parts, cost_so_far(self.usage)])

    @property
    def remark(self) -> str | None:
        """Return how the last item failed; None if it did not."""
        if self.record is None or self.record.error is None:
            return None
        return f"item {self.record.id} failed: {self.record.error.message[:200]}"


class Totals:
    """Running sums over the records of an evaluation, those of earlier starts included."""

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


class Shown(Protocol):
    """What a display shows of the progress of a loop over items. ``total`` is None if their number is unknown."""

    @property
    def total(self) -> int | None: ...  # noqa: D102
    @property
    def done(self) -> int: ...  # noqa: D102
    @property
    def seconds(self) -> float: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def remark(self) -> str | None: ...  # noqa: D102


P = TypeVar("P", bound=Shown)


def cost_so_far(usage: Usage) -> str:
    """Return calls and dollars as text."""
    calls, cost = usage.calls, usage.cost_usd
    dollars = "cost unknown" if cost is None else f"${cost:.4f}" if cost else "$0"
    return f"{calls} call{'' if calls == 1 else 's'}, {dollars}"


@contextmanager
def progress_display(progress: Callable[[P], None] | bool, name: str = "items") -> Iterator[Callable[[P], None] | None]:
    """Yield the function that shows progress of ``name``: the caller's, None, a bar on a terminal, or lines."""
    if callable(progress) or not progress:
        yield progress or None
    elif sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar() as show:
            yield show
    else:
        yield _Lines(name)


class _Lines:
    """Prints a line for every twentieth of the items, or from time to time if their number is unknown."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._first: Shown | None = None
        self._last = 0.0

    def __call__(self, state: Shown) -> None:
        first = self._first = self._first or state
        if state.remark is None and not self._is_due(state):
            return
        self._last = state.seconds
        of = "" if state.total is None else f" of {state.total}"
        text = f"{state.done}{of} {self._name}: {state.status}, {state.seconds:.0f} s"
        if state.total and first.done < state.done < state.total:
            left = (state.seconds - first.seconds) * (state.total - state.done) / (state.done - first.done)
            text += f", about {left:.0f} s left" if left < _MINUTES else f", about {left / 60:.0f} min left"
        text += "" if state.remark is None else f"; {state.remark}"
        if sys.stderr is not None:  # None if it was closed; print would then write to standard output
            with suppress(OSError):
                print(printable(" ".join(text.splitlines())), file=sys.stderr, flush=True)

    def _is_due(self, state: Shown) -> bool:
        if state.total is None:
            return not state.done or state.seconds - self._last >= _SECONDS
        return state.done == state.total or not state.done % max(1, state.total // _LINES)


@contextmanager
def _bar() -> Iterator[Callable[[Shown], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda state: bar.update(task, completed=state.done, total=state.total, description=state.status)
