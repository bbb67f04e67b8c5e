"""A trace in the order in which people read it: by layer, by agent, each critique beside the answer it is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from moa_dspy.positions import Position
from moa_dspy.run_view.word_diff import Piece, word_diff
from moa_dspy.trace import Stage, Step, Trace

__all__ = ["AgentView", "LayerView", "RunView", "TimeBar"]

_OF_AGENTS: Final[tuple[Stage, ...]] = ("propose", "critique", "refine")


@dataclass
class AgentView:
    """An agent's answer in one layer, and what others wrote about it.

    Attributes:
        agent: its name.
        proposals: its proposals; several if one failed and was asked for again.
        critiques: the critiques of its answer.
        refinements: its refinements; several if a prompt was too long.
        position: whose answers equal its own; None if unknown.
        dissents: whether its proposal is not that of the largest group.
    """

    agent: str
    proposals: list[Step] = field(default_factory=list)
    critiques: list[Step] = field(default_factory=list)
    refinements: list[Step] = field(default_factory=list)
    position: Position | None = None
    dissents: bool = False

    @property
    def changed(self) -> bool:
        """Return whether the agent gave up its proposal for another answer."""
        return self.position is not None and self.position.changed

    @property
    def difference(self) -> list[Piece] | None:
        """Return the proposal and the refinement, compared word by word; None if one of them is missing."""
        before = [step for step in self.proposals if step.status == "ok"]
        after = [step for step in self.refinements if step.status == "ok"]
        return word_diff(before[-1].text, after[-1].text) if before and after else None


@dataclass
class LayerView:
    """One layer.

    Attributes:
        number: from 1.
        agents: in order of their first step.
        finals: the steps that are not an agent's own: comparisons, aggregates, syntheses.
    """

    number: int
    agents: dict[str, AgentView] = field(default_factory=dict)
    finals: list[Step] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Add a step. A call for several critiques is left out, because each of them is a step, too."""
        if step.stage not in _OF_AGENTS:
            self.finals.append(step)
        elif step.stage != "critique" or step.target is not None:
            name = step.target or step.agent
            agent = self.agents.setdefault(name, AgentView(name))
            {"propose": agent.proposals, "critique": agent.critiques, "refine": agent.refinements}[step.stage].append(
                step
            )


class TimeBar(NamedTuple):
    """A row of the waterfall.

    Attributes:
        step: the step.
        left: start of its bar, in percent of the run's time.
        width: width of its bar, likewise.
        usd_so_far: dollars of all steps that had ended by then; None if a price is unknown.
    """

    step: Step
    left: float
    width: float
    usd_so_far: float | None


@dataclass(frozen=True)
class RunView:
    """A run, ready to be shown.

    Attributes:
        trace: the record of the run.
        layers: its layers.
        bars: its waterfall, in order of the starts.
    """

    trace: Trace
    layers: tuple[LayerView, ...]
    bars: tuple[TimeBar, ...]

    @classmethod
    def of(cls, trace: Trace) -> RunView:
        """Return the view of a trace."""
        layers: dict[int, LayerView] = {}
        for step in trace.steps:
            layers.setdefault(step.layer, LayerView(step.layer)).add(step)
        dissenting = {agent for dissent in trace.dissent for agent in dissent.agents}
        compared = {position.layer for position in trace.compared}
        for position in trace.positions:
            agent = layers[position.layer].agents.get(position.agent) if position.layer in layers else None
            if agent is not None:
                agent.position = position
                agent.dissents = position.layer in compared and position.agent in dissenting
        return cls(trace, tuple(layers.values()), tuple(_waterfall(trace.steps)))

    @property
    def answer(self) -> dict[str, object]:
        """Return the outputs of the run by name; empty if it has none."""
        return dict(self.trace.outputs[-1]) if self.trace.outputs else {}

    @property
    def changed(self) -> list[tuple[str, int]]:
        """Return who gave up a proposal for another answer, with the layer."""
        return [(position.agent, position.layer) for position in self.trace.positions if position.changed]


def _waterfall(steps: Sequence[Step]) -> list[TimeBar]:
    called = sorted((step for step in steps if step.status != "skipped"), key=lambda step: (step.start, step.end))
    whole = max((step.end for step in called), default=0.0) or 1.0
    total: float | None = 0.0
    paid: dict[int, float | None] = {}
    for step in sorted(called, key=lambda step: step.end):
        total = None if total is None or step.cost_usd is None else total + step.cost_usd
        paid[id(step)] = total
    widths = (max(0.5, 100 * (step.end - step.start) / whole) for step in called)
    return [
        TimeBar(step, 100 * step.start / whole, width, paid[id(step)])
        for step, width in zip(called, widths, strict=True)
    ]
