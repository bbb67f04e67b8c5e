"""Stop rules, replayed on a recorded run without an LM call.

A run through all layers without stopping records a decision for each layer after the first. A program with early
stopping makes the same calls up to the first negative decision, and ends there. The recorded run therefore gives its
answer and its cost.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moa_dspy.errors import ConfigurationError
from moa_dspy.program import AttentionMoA
from moa_dspy.trace import Trace

__all__ = ["Decision", "End", "StopRule", "decisions_of", "end_of", "grade", "stop_rules", "thresholds_of"]


@dataclass(frozen=True, order=True)
class StopRule:
    """The depth and the stop condition of a program.

    Attributes:
        layers: the largest depth, at least 1.
        early_stop: whether the run ends after a layer that is judged no better.
        threshold: the minimum probability that counts as "improved"; None uses the model's own decision.
    """

    layers: int
    early_stop: bool = False
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ConfigurationError(f"layers={self.layers} must be at least 1")

    def __str__(self) -> str:
        stop = "" if not self.early_stop else "+stop" if self.threshold is None else f"+stop@{self.threshold!r}"
        return f"{self.layers}{stop}"

    @classmethod
    def parse(cls, text: str) -> StopRule:
        """Parse the output of ``str``."""
        layers, stop, rest = text.partition("+stop")
        return cls(int(layers), bool(stop), float(rest[1:]) if rest else None)


@dataclass(frozen=True)
class Decision:
    """The decision of a residual synthesis.

    Attributes:
        improved: the decision; None if the synthesis failed.
        probability: the model's probability of an improvement; None if it is not recorded.
    """

    improved: bool | None
    probability: float | None = None


class End(NamedTuple):
    """The end of a run under a rule: the layer whose output is the answer, and the last layer that is paid for."""

    answer: int
    paid: int


def decisions_of(trace: Trace) -> tuple[Decision, ...]:
    """Return the decisions of a run, from layer 2 on, with their recorded probabilities."""
    recorded = {
        step.layer: next((step.probabilities[name] for name in step.outputs if name in step.probabilities), None)
        for step in trace.select(stage="synthesize")
        if step.status == "ok"
    }
    return tuple(Decision(improved, recorded.get(layer)) for layer, improved in enumerate(trace.improved, start=2))


def end_of(rule: StopRule, decisions: Sequence[Decision], outputs: int) -> End:
    """Return where a run that was recorded without stopping would have ended under ``rule``.

    Args:
        rule: no deeper than the recorded program.
        decisions: the decisions from layer 2 on.
        outputs: number of layers with an output; less than the program's depth if a layer failed.
    """
    for layer in range(2, rule.layers + 1):
        if layer > outputs:
            return End(outputs, layer)
        if rule.early_stop and layer - 2 < len(decisions):
            decision, least = decisions[layer - 2], rule.threshold
            if least is None or decision.probability is None:
                continues = bool(decision.improved)
            else:
                continues = decision.probability >= least
            if not continues:
                return End(layer - 1, layer)
    return End(rule.layers, rule.layers)


def stop_rules(depths: Iterable[int], stops: Iterable[bool], thresholds: Iterable[float] = ()) -> tuple[StopRule, ...]:
    """Return all combinations of the choices. A rule of one layer does not stop early.

    Args:
        depths: the allowed depths.
        stops: whether to run all layers (False), to stop early (True), or both.
        thresholds: additional candidates for early stopping, if probabilities are recorded.
    """
    rules = {StopRule(layers, stop and layers > 1) for layers in depths for stop in stops}
    rules |= {StopRule(rule.layers, True, value) for rule in rules if rule.early_stop for value in thresholds}
    return tuple(sorted(rules, key=lambda rule: (rule.layers, rule.early_stop, rule.threshold or 0.0)))


def grade(program: AttentionMoA, threshold: float | None = None) -> None:
    """Make the residual synthesis of ``program`` return the probability of an improvement, instead of yes or no.

    Args:
        program: a program whose layers are joined by synthesis; it is changed.
        threshold: the minimum probability at which a run continues; None is 0.5.
    """
    name = program.roles.decision
    program.synthesize.fields[name] = {
        **program.synthesize.fields.get(name, {}),
        "threshold": 0.5 if threshold is None else threshold,
    }


def thresholds_of(runs: Iterable[Sequence[Decision]], most: int = 9) -> tuple[float, ...]:
    """Return at most ``most`` thresholds, each halfway between two recorded probabilities.

    Return none if a decision has no probability.
    """
    made = [decision for decisions in runs for decision in decisions if decision.improved is not None]
    values = sorted({decision.probability for decision in made if decision.probability is not None})
    if not values or any(decision.probability is None for decision in made):
        return ()
    middles = [(low + high) / 2 for low, high in itertools.pairwise(values)]
    if len(middles) <= most:
        return tuple(middles)
    return tuple(middles[round(i * (len(middles) - 1) / (most - 1))] for i in range(most))
