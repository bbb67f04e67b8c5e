"""Progress on standard error: a live table for a person at a terminal, a line per step for a log, or nothing."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final, Protocol, Self

from moa_dspy.architecture import Architecture
from moa_dspy.cli.console import is_terminal, note, warning
from moa_dspy.cli.views.failures import brief, grouped
from moa_dspy.trace import Step, StepStarted, StoppedBy, Trace

__all__ = ["Progress", "View", "describe", "dollars", "totals"]

_STOPPED: Final[dict[StoppedBy, str]] = {
    "layers": "",
    "no_improvement": ", stopped early: no improvement",
    "budget": ", stopped by the budget",
    "failure": ", ended by a failure",
    "cancelled": ", interrupted",
}


class View(Protocol):
    """One way to show progress."""

    def start(self) -> None:
        """Get ready."""

    def show(self, event: StepStarted | Step) -> None:
        """Show a step's start or end."""

    def stop(self) -> None:
        """Leave standard error in order."""


class Progress:
    """Watches a run: shows its steps, and keeps its trace, however it ends.

    Args:
        architecture: of the program that runs.
        silent: show nothing.

    Attributes:
        trace: of the run, once it has ended; also of one that failed or was interrupted.
    """

    def __init__(self, architecture: Architecture, *, silent: bool = False) -> None:
        self.trace: Trace | None = None
        self._silent = silent
        self._view = _view(architecture, silent)

    def __call__(self, event: StepStarted | Step | Trace) -> None:
        """Take note of an event; called on the program's own thread."""
        if isinstance(event, Trace):
            self.trace = event
        else:
            self._view.show(event)

    def __enter__(self) -> Self:
        self._view.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._view.stop()

    def conclude(self, trace: Trace) -> None:
        """Say what the run took, and what of it failed."""
        if self._silent:
            return
        failed = [step for step in trace.steps if step.status == "failed"]
        if failed:
            warning(f"{len(failed)} of {len(trace.steps)} steps failed and were left out: {grouped(failed)}")
        note(totals(trace))


def describe(step: Step) -> str:
    """Return one line for a finished step."""
    who = step.agent if step.target in (None, step.agent) else f"{step.agent} -> {step.target}"
    how = "cached" if step.cached and step.calls else f"{step.end - step.start:.1f} s"
    cause = f"  {brief(step.error)}" if step.error is not None else ""
    return f"layer {step.layer}  {step.stage}  {who}  {step.status}  {how}{cause}"


def totals(trace: Trace) -> str:
    """Return what a run took, in one line."""
    layers = f"{trace.layers} layer{'s' if trace.layers != 1 else ''}"
    calls = f"{trace.calls} calls ({trace.cached_calls} cached)" if trace.cached_calls else f"{trace.calls} calls"
    cost = "cost unknown" if trace.cost_usd is None else dollars(trace.cost_usd)
    return f"{layers}, {calls}, {trace.tokens.total} tokens, {cost}, {trace.seconds:.1f} s{_STOPPED[trace.stopped_by]}"


def dollars(amount: float) -> str:
    """Return an amount with as many digits as it needs to be told from nothing."""
    return "$0" if amount == 0 else f"${amount:.4f}" if amount >= 0.001 else f"${amount:.2g}"


def _view(architecture: Architecture, silent: bool) -> View:
    if silent:
        return _Nothing()
    if not is_terminal(sys.stderr):
        return _Lines()
    from moa_dspy.cli.views.live import LiveTable

    return LiveTable(architecture)


class _Nothing:
    """Shows nothing."""

    def start(self) -> None:
        """Nothing to do."""

    def show(self, event: StepStarted | Step) -> None:
        """Nothing to show."""

    def stop(self) -> None:
        """Nothing to do."""


class _Lines:
    """One line for each finished step."""

    def start(self) -> None:
        """Nothing to do."""

    def show(self, event: StepStarted | Step) -> None:
        """Write a line for a finished step."""
        if isinstance(event, Step):
            note(describe(event))

    def stop(self) -> None:
        """Nothing to do."""
