"""When to stop: what a recorded run tells of every stop rule, without a call.

A run that goes through all its layers without stopping records a decision for each layer after the first. A program
with early stopping makes the same calls up to the first refusal, and ends there. So its answer and its cost can be
read off.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moa_dspy.errors import ConfigurationError
from moa_dspy.program import AttentionMoA
from moa_dspy.trace import Step, Trace

__all__ = ["Decision", "End", "StopRule", "decisions_of", "end_of", "grade", "stop_rules", "thresholds_of"]


@dataclass(frozen=True, order=True)
class StopRule:
    """How far a program goes.

    Attributes:
        layers: the largest depth, at least 1.
        early_stop: whether a layer that is judged no better ends the run.
        threshold: the least probability that counts as "improved"; None takes the decision as the model made it.
    """

    layers: int
    early_stop: bool = False
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ConfigurationError(f"layers={self.layers} is no depth; it must be at least 1")

    def __str__(self) -> str:
        stop = "" if not self.early_stop else "+stop" if self.threshold is None else f"+stop@{self.threshold!r}"
        return f"{self.layers}{stop}"

    @classmethod
    def parse(cls, text: str) -> StopRule:
        """Read what ``str`` wrote."""
        layers, stop, rest = text.partition("+stop")
        return cls(int(layers), bool(stop), float(rest[1:]) if rest else None)


@dataclass(frozen=True)
class Decision:
    """What a residual synthesis decided.

    Attributes:
        improved: the decision; None where the synthesis failed.
        probability: how likely the model held an improvement to be, where that is on record.
    """

    improved: bool | None
    probability: float | None = None

    def continues(self, threshold: float | None) -> bool:
        """Return whether a run goes on after this decision."""
        if threshold is None or self.probability is None:
            return bool(self.improved)
        return self.probability >= threshold


@dataclass(frozen=True)
class End:
    """Where a run ends under a rule: the layer whose output is the answer, and the last layer that is paid for."""

    answer: int
    paid: int


def decisions_of(trace: Trace) -> tuple[Decision, ...]:
    """Return the decisions of a run, from layer 2 on, with their probabilities where the trace has them."""
    by_layer = {step.layer: step for step in trace.select(stage="synthesize") if step.status == "ok"}
    return tuple(
        Decision(improved, _probability(by_layer.get(layer))) for layer, improved in enumerate(trace.improved, start=2)
    )


def end_of(rule: StopRule, decisions: Sequence[Decision], outputs: int) -> End:
    """Return where a run that was recorded without stopping would have ended under ``rule``.

    Args:
        rule: no deeper than the recorded program.
        decisions: from layer 2 on.
        outputs: how many layers the run has an output of; fewer than the program's where a layer failed.
    """
    for layer in range(2, rule.layers + 1):
        if layer > outputs:
            return End(outputs, layer)
        if rule.early_stop and layer - 2 < len(decisions) and not decisions[layer - 2].continues(rule.threshold):
            return End(layer - 1, layer)
    return End(rule.layers, rule.layers)


def stop_rules(depths: Iterable[int], stops: Iterable[bool], thresholds: Iterable[float] = ()) -> tuple[StopRule, ...]:
    """Return every rule there is to choose from; a program of one layer has nothing to stop.

    Args:
        depths: the depths allowed.
        stops: whether to go through all layers (False), to stop early (True), or both.
        thresholds: further candidates for a stop, where probabilities are on record.
    """
    rules = {StopRule(layers, stop and layers > 1) for layers in depths for stop in stops}
    rules |= {StopRule(rule.layers, True, value) for rule in rules if rule.early_stop for value in thresholds}
    return tuple(sorted(rules, key=lambda rule: (rule.layers, rule.early_stop, rule.threshold or 0.0)))


def grade(program: AttentionMoA, threshold: float | None = None) -> None:
    """Have the residual synthesis of ``program`` asked how likely an improvement is, instead of yes or no.

    Args:
        program: its layers are joined by synthesis; it is changed.
        threshold: the least probability from which it goes on; None is one half.
    """
    name = program.roles.decision
    program.synthesize.fields[name] = {
        **program.synthesize.fields.get(name, {}),
        "threshold": 0.5 if threshold is None else threshold,
    }


def thresholds_of(runs: Iterable[Sequence[Decision]], most: int = 9) -> tuple[float, ...]:
    """Return the thresholds worth trying: those that part the recorded probabilities, at most ``most`` of them.

    Empty unless every decision that was made has a probability.
    """
    made = [decision for decisions in runs for decision in decisions if decision.improved is not None]
    values = sorted({decision.probability for decision in made if decision.probability is not None})
    if not values or any(decision.probability is None for decision in made):
        return ()
    middles = [(low + high) / 2 for low, high in itertools.pairwise(values)]
    if len(middles) <= most:
        return tuple(middles)
    return tuple(middles[round(i * (len(middles) - 1) / (most - 1))] for i in range(most))


def _probability(step: Step | None) -> float | None:
    """The probability on record of the decision, which is the first output that can have one."""
    graded = () if step is None else [step.probabilities[name] for name in step.outputs if name in step.probabilities]
    return graded[0] if graded else None
