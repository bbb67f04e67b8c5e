"""The live table: agents as rows, the stages of the current layer as columns."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import Self, TypeAlias

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from moa_dspy.architecture import Architecture
from moa_dspy.cli.output import printable
from moa_dspy.trace import Stage, Step, StepStarted

__all__ = ["LiveTable"]

_Cell: TypeAlias = tuple[int, str, Stage]


class LiveTable:
    """Redraw the state of a run several times a second. The table disappears when the run ends."""

    def __init__(self, architecture: Architecture, console: Console | None = None) -> None:
        self._architecture = architecture
        self._console = console or Console(file=sys.stderr)
        self._began = time.monotonic()
        self._layer = 1
        self._calls = 0
        self._lock = threading.Lock()  # events come from the program's thread; drawing runs on another
        self._running: Counter[_Cell] = Counter()
        self._done: dict[_Cell, list[Step]] = {}
        self._live = Live(
            console=self._console,
            get_renderable=self.render,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, event: StepStarted | Step) -> None:
        """Record an event. The next redraw shows it."""
        cell = event.layer, event.agent, event.stage
        with self._lock:
            self._layer = max(self._layer, event.layer)
            if isinstance(event, StepStarted):
                self._running[cell] += 1
            else:
                self._running[cell] -= 1
                self._calls += event.calls
                self._done.setdefault(cell, []).append(event)

    def render(self) -> Group:
        """Return the current table."""
        with self._lock:
            shape, layer = self._architecture, self._layer
            seconds = time.monotonic() - self._began
            most = f" of {shape.max_calls}" if self._calls <= shape.max_calls else ""  # more if replies cannot be read
            head = f"layer {layer} of {shape.layers}   {self._calls}{most} calls   {seconds:.0f} s"
            past = [Text(line, style="dim") for line in self._past(layer)]
            return Group(*past, Text(head, style="bold"), self._table(layer))

    def _table(self, layer: int) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        stages: list[Stage] = ["propose", "critique", "refine"] if self._architecture.critique_count else ["propose"]
        for name in ("", *stages):
            table.add_column(name, style="" if name else "cyan", header_style="dim", no_wrap=True, overflow="ellipsis")
        proposing = layer <= self._architecture.proposing_layers
        for number, spec in enumerate(self._architecture.agents if proposing else ()):
            cells = [self._cell((layer, spec.name, stage), self._expected(number, stage)) for stage in stages]
            table.add_row(Text(printable(spec.name)), *cells)
        for stage in self._final_stages(layer):
            table.add_row(Text(stage), self._final_cell(layer, stage))
        return table

    def _final_stages(self, layer: int) -> list[Stage]:
        """Return the aggregator's stages in this layer. Another agent may perform them as a substitute."""
        shape = self._architecture
        stages: list[Stage] = ["agree"] if shape.gate_calls and layer <= shape.proposing_layers else []
        if shape.aggregation != "none" and layer in shape.output_layers:
            stages.append("aggregate")
        if shape.synthesizes and layer > 1:
            stages.append("synthesize")
        return [*stages, "dissent"] if shape.reports_dissent and layer == shape.layers else stages

    def _final_cell(self, layer: int, stage: Stage) -> Text:
        cells = [cell for cell in {**self._running, **self._done} if cell[0] == layer and cell[2] == stage]
        if not cells:
            return Text("·", style="dim")
        return self._cell(max(cells, key=lambda cell: (self._running[cell], len(self._done.get(cell, ())))), 1)

    def _expected(self, agent: int, stage: Stage) -> int:
        if stage != "critique":
            return 1
        targets = sum(agent in critics for critics in self._architecture.critics(self._layer))
        return targets + (self._architecture.critiques == "joint" and targets > 1)

    def _cell(self, cell: _Cell, expected: int) -> Text:
        done, running = self._done.get(cell, []), self._running[cell]
        failed = sum(step.status != "ok" for step in done)
        count = f"{len(done)}/{expected} " if expected > 1 else ""
        if running > 0:
            return Text(f"{count}working", style="yellow")
        if failed:
            return Text(f"{count}{failed} failed" if expected > 1 else "failed", style="red")
        if not done:
            return Text("·", style="dim")
        seconds = max(step.end for step in done) - min(step.start for step in done)
        took = "cached" if all(step.cached for step in done) else f"{seconds:.1f} s"
        return Text(f"{count}{took}", style="green")

    def _past(self, layer: int) -> list[str]:
        lines = []
        for number in range(1, layer):
            steps = [step for cell, done in self._done.items() if cell[0] == number for step in done]
            seconds = max((step.end for step in steps), default=0.0) - min((step.start for step in steps), default=0.0)
            lines.append(f"layer {number} done: {sum(step.calls for step in steps)} calls, {seconds:.1f} s")
        return lines
