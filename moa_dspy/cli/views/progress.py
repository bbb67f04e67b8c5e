"""Progress of a run, and of many examples, on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from moa_dspy.architecture import Architecture
from moa_dspy.cli.output import is_terminal, note, warning
from moa_dspy.cli.views.failures import brief, grouped
from moa_dspy.cost.usage import Usage
from moa_dspy.trace import Step, StepStarted, StoppedBy, Trace, watch

__all__ = [
    "SECONDS_BETWEEN_LINES",
    "ExampleCounter",
    "describe",
    "dollars",
    "note_totals",
    "time_left",
    "totals",
    "usage_line",
    "watching_run",
]

SECONDS_BETWEEN_LINES: Final = 15.0

_STOPPED: Final[dict[StoppedBy, str]] = {
    "layers": "",
    "agreement": ", stopped early: the proposals agree",
    "no_improvement": ", stopped early: no improvement",
    "budget": ", stopped by the budget",
    "failure": ", ended by a failure",
    "cancelled": ", interrupted",
}


@contextmanager
def watching_run(architecture: Architecture, *, silent: bool) -> Iterator[list[Trace]]:
    """Show the steps of a run on standard error: in a live table on a terminal, otherwise a line for each.

    With ``silent``, nothing is shown.

    Yields:
        A list that gets the run's trace when the run ends, even if it fails or is interrupted.
    """
    ended: list[Trace] = []
    with ExitStack() as stack:
        live = None
        if not silent and is_terminal(sys.stderr):
            from moa_dspy.cli.views.live import LiveTable  # imports rich's live display

            live = stack.enter_context(LiveTable(architecture))

        def on_event(event: StepStarted | Step | Trace) -> None:
            if isinstance(event, Trace):
                ended.append(event)
            elif live is not None:
                live.show(event)
            elif isinstance(event, Step) and not silent:
                note(describe(event))

        stack.enter_context(watch(on_event))
        yield ended


def note_totals(trace: Trace, architecture: Architecture | None = None) -> None:
    """Write the failures and the totals of a run, unless ``--quiet`` is set; see ``totals``."""
    failed = [step for step in trace.steps if step.status == "failed"]
    if failed:
        warning(f"{len(failed)} of {len(trace.steps)} steps failed and were left out: {grouped(failed)}")
    if trace.dissent_report is not None:
        for title, points in trace.dissent_report:
            for point in points:
                note(f"{title.replace('_', ' ')}: {point.point} ({', '.join(point.agents) or 'no agent'})")
    if trace.usage.remark is not None:
        note(trace.usage.remark)
    note(totals(trace, architecture))


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


def totals(trace: Trace, architecture: Architecture | None = None) -> str:
    """Return the agreement and the totals of a run in one line, with the most calls that its architecture makes."""
    answered = len(trace.compared)
    agreed = "" if trace.agreement is None else f"{trace.agreement * answered:.0f} of {answered} agents agreed, "
    layers = f"{trace.layers} layer{'s' if trace.layers != 1 else ''}"
    most = "" if architecture is None or architecture.max_calls < trace.calls else f" of {architecture.max_calls}"
    calls = f"{trace.calls}{most} calls{f' ({trace.cached_calls} cached)' if trace.cached_calls else ''}"
    cost = "cost unknown" if trace.cost_usd is None else dollars(trace.cost_usd)
    cut = trace.usage.unanswered
    more = f" and {cut} call{'s' if cut != 1 else ''} cut short, which may be billed" if cut else ""
    end = f"{cost}{more}, {trace.seconds:.1f} s{_STOPPED[trace.stopped_by]}"
    return f"{agreed}{layers}, {calls}, {trace.tokens.total} tokens, {end}"


def usage_line(usage: Usage) -> str:
    """Return calls, tokens and dollars in one line."""
    cached = f" ({usage.cached_calls:,} cached)" if usage.cached_calls else ""
    cost = "cost unknown" if usage.cost_usd is None else dollars(usage.cost_usd)
    return f"{usage.calls:,} calls{cached}, {usage.tokens.total:,} tokens, {cost}"


def dollars(amount: float) -> str:
    """Return an amount with enough digits to differ from zero."""
    return "$0" if amount == 0 else f"${amount:.4f}" if amount >= 0.001 else f"${amount:.2g}"


def time_left(seconds: float, done: float) -> str:
    """Return the time left in words, if the share ``done`` took ``seconds``."""
    if not 0 < done < 1:
        return ""
    left = seconds * (1 - done) / done
    return f", about {left:.0f} s left" if left < 100 else f", about {left / 60:.0f} min left"
