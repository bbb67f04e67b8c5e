"""Progress of a run on standard error."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Final, Self

from moa_dspy.architecture import Architecture
from moa_dspy.cli.console import is_terminal, note, warning
from moa_dspy.cli.views.failures import brief, grouped
from moa_dspy.trace import Step, StepStarted, StoppedBy, Trace

if TYPE_CHECKING:
    from moa_dspy.cli.views.live import LiveTable

__all__ = ["SECONDS_BETWEEN_LINES", "ExampleCounter", "Progress", "describe", "dollars", "time_left", "totals"]

SECONDS_BETWEEN_LINES: Final = 15.0

_STOPPED: Final[dict[StoppedBy, str]] = {
    "layers": "",
    "no_improvement": ", stopped early: no improvement",
    "budget": ", stopped by the budget",
    "failure": ", ended by a failure",
    "cancelled": ", interrupted",
}


class Progress:
    """Show the steps of a run on standard error, and keep its trace even if the run fails.

    A terminal shows a live table. Otherwise each finished step is a line.

    Args:
        architecture: architecture of the running program.
        silent: whether to show nothing.

    Attributes:
        trace: the trace of the ended run, even if it failed or was interrupted; None before that.
    """

    def __init__(self, architecture: Architecture, *, silent: bool = False) -> None:
        self.trace: Trace | None = None
        self._silent = silent
        self._live: LiveTable | None = None
        if not silent and is_terminal(sys.stderr):
            from moa_dspy.cli.views.live import LiveTable  # imports rich's live display

            self._live = LiveTable(architecture)

    def __call__(self, event: StepStarted | Step | Trace) -> None:
        """Handle an event. The program's thread calls this."""
        if isinstance(event, Trace):
            self.trace = event
        elif self._live is not None:
            self._live.show(event)
        elif isinstance(event, Step) and not self._silent:
            note(describe(event))

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def conclude(self, trace: Trace) -> None:
        """Write the totals and the failures of the run."""
        if self._silent:
            return
        failed = [step for step in trace.steps if step.status == "failed"]
        if failed:
            warning(f"{len(failed)} of {len(trace.steps)} steps failed and were left out: {grouped(failed)}")
        note(totals(trace))


class ExampleCounter:
    """Write occasional lines with the number of finished examples and the time left."""

    def __init__(self, examples: int) -> None:
        self._examples, self._done = examples, 0
        self._began = self._last = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, run: object) -> None:
        """Count an example."""
        del run
        with self._lock:
            self._done += 1
            now, done = time.monotonic(), self._done
            if done < self._examples and now - self._last < SECONDS_BETWEEN_LINES:
                return
            self._last = now
        note(f"{done} of {self._examples} examples{time_left(now - self._began, done / self._examples)}")


def describe(step: Step) -> str:
    """Return one line for a finished step."""
    who = step.agent if step.target in (None, step.agent) else f"{step.agent} -> {step.target}"
    how = "cached" if step.cached and step.calls else f"{step.end - step.start:.1f} s"
    cause = f"  {brief(step.error)}" if step.error is not None else ""
    return f"layer {step.layer}  {step.stage}  {who}  {step.status}  {how}{cause}"


def totals(trace: Trace) -> str:
    """Return the totals of a run in one line."""
    layers = f"{trace.layers} layer{'s' if trace.layers != 1 else ''}"
    calls = f"{trace.calls} calls ({trace.cached_calls} cached)" if trace.cached_calls else f"{trace.calls} calls"
    cost = "cost unknown" if trace.cost_usd is None else dollars(trace.cost_usd)
    return f"{layers}, {calls}, {trace.tokens.total} tokens, {cost}, {trace.seconds:.1f} s{_STOPPED[trace.stopped_by]}"


def dollars(amount: float) -> str:
    """Return an amount with enough digits to differ from zero."""
    return "$0" if amount == 0 else f"${amount:.4f}" if amount >= 0.001 else f"${amount:.2g}"


def time_left(seconds: float, done: float) -> str:
    """Return the time left in words, if the share ``done`` took ``seconds``."""
    if not 0 < done < 1:
        return ""
    left = seconds * (1 - done) / done
    return f", about {left:.0f} s left" if left < 100 else f", about {left / 60:.0f} min left"
