"""Stop rules and gates, replayed on a recorded run without an LM call.

A run through all layers without stopping records a decision for each layer after the first. A program with early
stopping makes the same calls up to the first negative decision, and ends there. The recorded run therefore gives its
answer and its cost. A gate ends a run after proposals that a run without a gate records, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from moa_dspy.cost.usage import Price
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.runner import price_of_steps
from moa_dspy.gate import Gate, agreement_of
from moa_dspy.program import AttentionMoA
from moa_dspy.trace import Trace

__all__ = ["Decision", "End", "StopRule", "decisions_of", "end_of", "gate_end", "grade", "stop_rules", "thresholds_of"]


@dataclass(frozen=True, order=True)
class StopRule:
    """The depth and the stop condition of a program.

    Attributes:
        layers: the largest depth, at least 1.
        early_stop: whether the run ends after a layer that is judged no better.
        threshold: the minimum probability that counts as "improved"; None uses the model's own decision.
        gate: the agreement gate, as text.
    """

    layers: int
    early_stop: bool = False
    threshold: float | None = None
    gate: str = "off"

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ConfigurationError(f"layers={self.layers} must be at least 1")

    def __str__(self) -> str:
        stop = "" if not self.early_stop else "+stop" if self.threshold is None else f"+stop@{self.threshold!r}"
        return f"{self.layers}{stop}{'' if self.gate == 'off' else f'+gate:{self.gate}'}"

    @classmethod
    def parse(cls, text: str) -> StopRule:
        """Parse the output of ``str``."""
        text, _, gate = text.partition("+gate:")
        layers, stop, rest = text.partition("+stop")
        return cls(int(layers), bool(stop), float(rest[1:]) if rest else None, gate or "off")


@dataclass(frozen=True)
class Decision:
    """The decision of a residual synthesis, None if it failed, and the recorded probability of an improvement."""

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


class GateEnd(NamedTuple):
    """The end of a run by a gate: the answer that stands, as JSON values, and the price of the run."""

    outputs: dict[str, Any]
    price: Price


def gate_end(trace: Trace, gate: Gate, layers: int | None = None) -> GateEnd | None:
    """Return where a run that was recorded without a gate would have ended by ``gate``; None if nowhere.

    ``gate`` compares texts. Recorded positions say whose answers are equal. At most ``layers`` layers are looked at.
    """
    groups = {(one.layer, one.agent): one.proposal for one in trace.positions if one.proposal is not None}
    agents = list(dict.fromkeys(step.agent for step in trace.select(layer=1, stage="propose")))
    for layer in range(1, (trace.layers if layers is None else layers) + 1):
        answered = {step.agent: step for step in trace.select(layer=layer, stage="propose") if step.status == "ok"}
        keys = [str(groups.get((layer, name), f"of {name}")) if name in answered else None for name in agents]
        for asked in gate.rounds(len(agents)):
            agreement = agreement_of(keys[:asked])
            if agreement is not None and gate.accepts(agreement, asked):
                outputs, names = answered[agents[agreement.first]].outputs, agents[:asked]
                proposed = [step for step in trace.select(layer=layer, stage="propose") if step.agent in names]
                paid = [*(step for step in trace.steps if step.layer < layer), *proposed]
                return GateEnd({name: outputs[name] for name in trace.outputs[-1]}, price_of_steps(paid))
    return None


def stop_rules(
    depths: Iterable[int], stops: Iterable[bool], thresholds: Iterable[float] = (), gates: Iterable[str] = ("off",)
) -> tuple[StopRule, ...]:
    """Return all combinations of the choices. A rule of one layer does not stop early.

    Thresholds are further candidates for early stopping, if probabilities are recorded. Gates are texts.
    """
    rules = {StopRule(layers, stop and layers > 1) for layers in depths for stop in stops}
    rules |= {StopRule(rule.layers, True, value) for rule in rules if rule.early_stop for value in thresholds}
    rules = {replace(rule, gate=gate) for rule in rules for gate in gates}
    order = sorted(rules, key=lambda rule: (rule.layers, rule.early_stop, rule.threshold or 0.0, rule.gate))
    return tuple(sorted(order, key=lambda rule: rule.gate != "off"))


def grade(program: AttentionMoA, threshold: float | None = None) -> None:
    """Make the residual synthesis of ``program`` return the probability of an improvement, instead of yes or no.

    ``threshold`` is the minimum probability at which a run continues; None is 0.5. The program is changed.
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
