"""Fits the agreement gate on recorded runs, with a bound on what it loses.

Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei, arXiv 2110.01052): each gate is the hypothesis "it loses
more than allowed". The gates are tested in a fixed order, from the strictest on, and the first that is not rejected
ends its sequence. After the strictest gate there are two sequences, which share the level. So with the given confidence
no certified gate loses more than allowed, and any of them can be chosen.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from moa_dspy.cost.usage import Price
from moa_dspy.errors import ConfigurationError, MetricError
from moa_dspy.evaluation.runner import Run, in_threads, price_of
from moa_dspy.evaluation.scoring import Metric
from moa_dspy.evaluation.statistics import check_share
from moa_dspy.gate import Gate, GateChoice, gate_of
from moa_dspy.optimizers.leakage import distinct_runs
from moa_dspy.optimizers.stop_fitting.replay import gate_end
from moa_dspy.optimizers.stop_fitting.rescoring import AnswerJudge
from moa_dspy.optimizers.stop_fitting.risk import loss_bound, loss_p_value, losses_needed
from moa_dspy.text_table import text_table

__all__ = ["GATE_CONFIDENCE", "GateFit", "GateTrial", "Replays", "choose_gate", "fit_gate", "replay_gates"]

GATE_CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class GateTrial:
    """A gate, replayed on recorded runs.

    Attributes:
        gate: the gate.
        opened: share of the runs that it ends.
        loss: mean score of the full runs minus that of the gated ones.
        bound: upper bound on the loss, with the confidence of this test.
        level: level of this test.
        certified: whether the bound holds together with those of the other certified gates, and is small enough.
        price: mean price of a gated run.
    """

    gate: Gate
    opened: float
    loss: float
    bound: float
    level: float
    certified: bool
    price: Price


@dataclass(frozen=True)
class GateFit:
    """The gate that recorded runs permit; ``str`` gives a table.

    Attributes:
        gate: the certified gate with the fewest calls; ``"off"`` if none is certified.
        trials: all gates in the order of the tests. Gates after a failed test are shown but not tested.
        full: mean price of a full run.
        runs: number of runs, one of each question.
        repeated: number of further runs of the same questions, which are left out.
        failed: number of failed runs, which are left out: a gate changes nothing there.
        max_loss: the allowed loss of the mean score.
        confidence: probability that the chosen gate loses at most that.
        needed: number of runs like these that would certify the first gate that failed; None if none would, or none
            failed.
        errors: errors of the metric. Such answers score 0.
    """

    gate: GateChoice
    trials: tuple[GateTrial, ...]
    full: Price
    runs: int
    failed: int
    max_loss: float
    confidence: float
    needed: int | None
    repeated: int = 0
    errors: tuple[str, ...] = ()

    @property
    def chosen(self) -> GateTrial | None:
        """Return the trial of the chosen gate; None if the gate stays closed."""
        return next((trial for trial in self.trials if gate_of(trial.gate) == self.gate), None)

    @property
    def saved(self) -> float:
        """Return the share of calls that the chosen gate saves."""
        return 0.0 if self.chosen is None else self._saved(self.chosen)

    @property
    def report(self) -> dict[str, Any]:
        """Return the fit as JSON values."""
        curve = [
            {
                "gate": str(trial.gate),
                "opened": trial.opened,
                "loss": trial.loss,
                "bound": trial.bound,
                "certified": trial.certified,
                "saved": self._saved(trial),
                "price": trial.price.model_dump(),
            }
            for trial in self.trials
        ]
        return {
            "kind": "gate",
            "gate": str(self.gate),
            "max_loss": self.max_loss,
            "confidence": self.confidence,
            "runs": self.runs,
            "needed": self.needed,
            "curve": curve,
            "full": self.full.model_dump(),
        }

    def __str__(self) -> str:
        head = ("gate", "runs ended", "calls saved", "loss", "bound", "certified")
        rows = [
            (
                str(trial.gate),
                f"{trial.opened:.0%}",
                f"{self._saved(trial):.0%}",
                f"{trial.loss:+.4f}",
                f"{trial.bound:.4f}",
                "yes" if trial.certified else "no",
            )
            for trial in self.trials
        ]
        lines = [text_table([head, *rows], left=(0,)), "", self.verdict]
        if self.repeated:
            lines.append(f"{self.repeated:,} further runs of the same questions are left out.")
        if self.errors:
            lines.append(f"The metric raised on {len(self.errors):,} answers, which score 0; first: {self.errors[0]}")
        return "\n".join(lines)

    def _saved(self, trial: GateTrial) -> float:
        return 1 - trial.price.calls / self.full.calls if self.full.calls else 0.0

    @property
    def verdict(self) -> str:
        """Return the choice in one sentence."""
        allowed = f"a loss of at most {self.max_loss:g} with a confidence of {100 * self.confidence:g}%"
        if self.chosen is not None:
            return f"gate {self.gate} saves {self.saved:.0%} of the calls; {self.runs} runs show {allowed}"
        if any(trial.certified for trial in self.trials):
            further = "" if self.needed is None else f"; to show it for a further one would take about {self.needed:,}"
            return f"the gate stays off: those for which {self.runs} runs show {allowed} save no calls{further}"
        if self.needed is None:
            return f"the gate stays off: the observed loss is too large for {allowed}"
        return f"the gate stays off: {allowed} would take about {self.needed:,} runs like these {self.runs:,}"


def fit_gate(
    runs: Sequence[Run],
    metric: Metric,
    max_loss: float = 0.01,
    confidence: float = GATE_CONFIDENCE,
    *,
    sequences: Sequence[Sequence[Gate]] | None = None,
    concurrency: int = 1,
) -> GateFit:
    """Choose a gate by recorded runs without a gate. No LM is called.

    Args:
        runs: runs of one program with ``gate="off"``, on independent examples, with traces
            (``measure(..., keep_traces=True).runs``). Of several runs of a question, the first counts.
        metric: the task's metric, with scores from 0 to 1.
        max_loss: the allowed loss of the mean score, above 0 and below 1.
        confidence: probability that the chosen gate loses at most that, above 0 and below 1.
        sequences: gates in the order of their tests, each sequence from the strictest on. Default: all agents agree;
            then the first k agree, for falling k, and at least k of all agree, for falling k.
        concurrency: number of runs scored at once.

    Raises:
        ConfigurationError: if no run has a trace, a run had a gate, the runs are not of one ``AttentionMoA``, or a
            number is out of range.
        MetricError: if the metric raises on every answer.
    """
    check_share("max_loss", max_loss)
    check_share("confidence", confidence)
    replays = replay_gates(runs, metric, sequences=sequences, concurrency=concurrency)
    return choose_gate(replays, max_loss, confidence)


@dataclass(frozen=True)
class Replay:
    """One recorded run under every gate: the loss of its score, whether it ends there, and its prices."""

    losses: dict[Gate, float]
    opened: dict[Gate, bool]
    prices: dict[Gate, Price]
    full: Price
    errors: tuple[str, ...] = ()
    judged: bool = True


@dataclass(frozen=True)
class Replays:
    """Recorded runs under every gate, the sequences in which the gates are tested, and the runs that are left out."""

    runs: tuple[Replay, ...]
    sequences: tuple[tuple[Gate, ...], ...]
    failed: int = 0
    repeated: int = 0


def replay_gates(
    runs: Sequence[Run],
    metric: Metric,
    *,
    sequences: Sequence[Sequence[Gate]] | None = None,
    concurrency: int = 1,
) -> Replays:
    """Replay gates on recorded runs. The arguments and errors are those of ``fit_gate``."""
    traced = [run for run in runs if run.trace is not None and run.trace.outputs]
    if not traced:
        raise ConfigurationError("no run has a trace; make the runs with measure(..., keep_traces=True)")
    if any(run.task is None for run in traced):
        raise ConfigurationError("the runs are not of an AttentionMoA; make them with the program that gets the gate")
    traces = [run.trace for run in traced if run.trace is not None]
    if len({trace.program for trace in traces}) > 1:
        raise ConfigurationError("the runs are of several programs; give those of the one that gets the gate")
    if any(trace.stopped_by == "agreement" for trace in traces):
        raise ConfigurationError("a run was ended by a gate; make the runs with program.replace(gate='off')")
    agents = max(len({step.agent for step in trace.select(stage="propose")}) for trace in traces)
    if agents < 2:
        raise ConfigurationError("a gate needs two agents that can agree, and the runs have one")
    sequences = _sequences(agents) if sequences is None else sequences
    if not sequences or not all(sequences):
        raise ConfigurationError("sequences has no gate to test; give at least one sequence of gates, or None")
    gates = list(dict.fromkeys(gate for sequence in sequences for gate in sequence))
    if any(gate.compare == "meaning" for gate in gates):
        raise ConfigurationError("a gate with compare='meaning' cannot be fitted, because runs record no such calls")
    distinct = distinct_runs(traced)
    replays = in_threads(lambda run: _replay(run, gates, metric), distinct, concurrency)
    if not any(replay.judged for replay in replays):
        raise MetricError(f"the metric raised on every answer; the first one: {replays[0].errors[0]}")
    left_out = len(runs) - len(traced), len(traced) - len(distinct)
    return Replays(tuple(replays), tuple(map(tuple, sequences)), *left_out)


def choose_gate(replays: Replays, max_loss: float, confidence: float) -> GateFit:
    """Test the gates in their sequences, and choose the certified one with the fewest calls."""
    runs, sequences, level = replays.runs, replays.sequences, 1 - confidence
    root = sequences[0][0]
    shared = all(sequence[0] == root for sequence in sequences)  # then it is tested once, at the whole level
    needed, trials = list[int | None](), dict[Gate, GateTrial]()
    for sequence in sequences:
        going = True
        for gate in sequence:
            own = level if shared and gate == root else level / len(sequences)
            if gate in trials and (not going or gate == root):
                going = going and trials[gate].certified
                continue
            losses = [run.losses[gate] for run in runs]
            certified = going and loss_p_value(losses, max_loss) <= own
            if going and not certified:
                needed.append(losses_needed(losses, max_loss, own))
            going = certified
            trials[gate] = GateTrial(
                gate=gate,
                opened=statistics.fmean(run.opened[gate] for run in runs),
                loss=statistics.fmean(losses),
                bound=loss_bound(losses, 1 - own),
                level=own,
                certified=certified,
                price=sum((run.prices[gate] for run in runs), start=Price()).per(len(runs)),
            )
    full = sum((run.full for run in runs), start=Price()).per(len(runs))
    chosen = [trial for trial in trials.values() if trial.certified and trial.price.calls < full.calls]
    best = min(chosen, key=lambda trial: trial.price.calls, default=None)
    return GateFit(
        gate="off" if best is None else gate_of(best.gate),
        trials=tuple(trials.values()),
        full=full,
        runs=len(runs),
        failed=replays.failed,
        max_loss=max_loss,
        confidence=confidence,
        needed=min((count for count in needed if count is not None), default=None),
        repeated=replays.repeated,
        errors=tuple(error for run in runs for error in run.errors),
    )


def _replay(run: Run, gates: Sequence[Gate], metric: Metric) -> Replay:
    assert run.trace is not None
    assert run.task is not None
    trace, answers = run.trace, AnswerJudge(run.task, run.trace, run.example, metric)
    ends = {gate: gate_end(trace, gate) for gate in gates}
    full = answers.score(trace.outputs[-1])
    return Replay(
        losses={gate: 0.0 if end is None else full - answers.score(end.outputs) for gate, end in ends.items()},
        opened={gate: end is not None for gate, end in ends.items()},
        prices={gate: price_of(trace) if end is None else end.price for gate, end in ends.items()},
        full=price_of(trace),
        errors=answers.errors,
        judged=answers.judged,
    )


def _sequences(agents: int) -> list[list[Gate]]:
    """Return the gates of ``agents`` agents in sequences. A gate opens wherever the one before it opens."""
    every = Gate()
    first = [replace(every, first=k) for k in range(agents - 1, 1, -1)]
    shares = [replace(every, agreement=k / agents) for k in range(agents - 1, 0, -1) if 2 * k > agents]
    return [[every, *first], [every, *shares]] if shares else [[every, *first]]
