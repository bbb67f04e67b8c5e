"""Watching a run while it goes on: a live view, a progress log, a test."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from moa_dspy.trace import Stage, Step, Trace

__all__ = ["StepStarted", "Watcher", "emit", "watch"]


@dataclass(frozen=True)
class StepStarted:
    """A step has what it needs and makes its call."""

    layer: int
    stage: Stage
    agent: str
    target: str | None


# Whoever wants to know of a step's start, of the finished step, and of the whole run when it has ended (also by an
# error or a cancellation). Called on the loop that runs the program, so it must be quick and must not raise.
Watcher: TypeAlias = Callable[[StepStarted | Step | Trace], None]

_watchers: contextvars.ContextVar[tuple[Watcher, ...]] = contextvars.ContextVar("moa_dspy_watchers", default=())


@contextlib.contextmanager
def watch(watcher: Watcher) -> Iterator[None]:
    """Let ``watcher`` see the runs that start within the block: every step, and the trace, however a run ends."""
    token = _watchers.set((*_watchers.get(), watcher))
    try:
        yield
    finally:
        _watchers.reset(token)


def emit(event: StepStarted | Step | Trace) -> None:
    """Tell the watchers of the current context."""
    for watcher in _watchers.get():
        watcher(event)
