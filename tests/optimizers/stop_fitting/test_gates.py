"""Gates replayed on recorded runs, and fitted with a bound on what they lose."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import dspy
import numpy as np
import pytest

from moa_dspy import AttentionMoA, ConfigurationError, Gate
from moa_dspy.errors import MetricError
from moa_dspy.optimizers import SearchSpace, StopRule, fit_gate, measure
from moa_dspy.optimizers.report.page import render
from moa_dspy.optimizers.stop_fitting.gates import choose_gate, replay_gates
from moa_dspy.optimizers.stop_fitting.replay import gate_end, stop_rules
from moa_dspy.optimizers.stop_fitting.rescoring import readings_of
from moa_dspy.optimizers.stop_fitting.risk import loss_bound, loss_p_value, losses_needed
from moa_dspy.testing import ScriptedLM, SimulatedLM

ANSWERS = {f"task {number:02}": str(number) for number in range(16)}
EXAMPLES = [dspy.Example(question=task, answer=int(text)).with_inputs("question") for task, text in ANSWERS.items()]


def exact(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.answer == prediction.answer)


def program(knows: float = 0.7, agents: int = 4, **options: Any) -> AttentionMoA:
    lms = [
        SimulatedLM(ANSWERS, knows=knows, wrong=["98", "99"], seed=seed, model=f"s/{seed}") for seed in range(agents)
    ]
    return AttentionMoA("question -> answer: int", lms, **options)


@pytest.mark.slow
@pytest.mark.parametrize("gate", [Gate(), Gate(agreement=0.75), Gate(first=2), Gate(first=3, agreement=0.6)])
def test_a_replay_is_what_the_gated_program_does(gate: Gate) -> None:
    full = program(layers=2)
    recorded = measure(full, EXAMPLES, exact, keep_traces=True).runs
    ran = measure(full.replace(gate=gate), EXAMPLES, exact, keep_traces=True).runs
    rule = StopRule(2, True, gate=str(gate))
    for one, other in zip(recorded, ran, strict=True):
        assert one.trace is not None
        assert other.trace is not None
        end = gate_end(one.trace, gate)
        assert (end is not None) == (other.trace.stopped_by == "agreement")
        reading = readings_of(one.trace, [rule], full)[rule]
        assert (reading.outputs, reading.price.calls) == (other.trace.outputs[-1], other.trace.calls)
        assert end is None or (end.outputs, end.price.calls) == (*reading[:1], other.trace.calls)


def test_the_bound_holds_as_often_as_it_says_and_is_not_far_above() -> None:
    draw = np.random.default_rng(0)
    worlds: list[tuple[Any, float]] = [
        (lambda n: draw.random(n) < 0.02, 0.02),
        (lambda n: draw.choice([-1.0, 0.0, 1.0], n, p=[0.05, 0.88, 0.07]), 0.02),
        (lambda n: draw.uniform(-0.3, 0.4, n), 0.05),
        (lambda n: np.where(draw.random(n) < 0.01, 1.0, -0.005), 0.00505),
    ]
    for sample, mean in worlds:
        bounds = [loss_bound(list(map(float, sample(200))), 0.9) for _ in range(60)]
        assert sum(bound < mean for bound in bounds) <= 12  # 6 are allowed on average
        assert np.median(bounds) < mean + 0.15


@pytest.mark.parametrize(("count", "worse"), [(322, 0), (500, 1), (1000, 4)])
def test_rare_losses_are_bounded_almost_as_by_the_exact_binomial_test(count: int, worse: int) -> None:
    losses = [1.0] * worse + [0.0] * (count - worse)
    assert loss_p_value(losses, 0.01) <= 0.05
    assert loss_bound(losses, 0.95) == pytest.approx(0.01, abs=0.0011)
    assert loss_p_value([*losses[:worse], *[0.0] * (count // 2)], 0.01) > 0.05
    assert losses_needed([0.0] * 50, 0.01, 0.05) == pytest.approx(322, abs=5)
    assert losses_needed([1.0] + [0.0] * 19, 0.01, 0.05) is None
    gains = [-1.0] * 60 + [1.0] * 10 + [0.0] * 130  # gains make up for losses
    assert loss_p_value(gains, 0.01) < 0.05 < loss_p_value([-loss for loss in gains], 0.01)


@pytest.mark.slow
def test_a_gate_opens_only_as_far_as_the_runs_permit() -> None:
    full = program(0.9, layers=1)
    runs = measure(full, EXAMPLES, exact, keep_traces=True).runs
    closed = fit_gate(runs, exact)
    assert (closed.gate, closed.runs, closed.chosen, closed.saved) == ("off", 16, None, 0.0)
    assert closed.needed is not None
    assert closed.needed > 300
    assert "would take about" in str(closed)
    wide = fit_gate(runs, exact, max_loss=0.4)
    assert wide.chosen is not None
    assert wide.saved == pytest.approx(1 - wide.chosen.price.calls / full.architecture.max_calls)
    assert wide.chosen.bound <= 0.4
    assert "saves" in str(wide)
    page = render([wide.report, closed.report])
    assert f"{wide.gate} (chosen)" in page
    assert "Loss against savings" in page
    assert full.replace(gate=wide.gate).architecture.gate == wide.gate


def test_the_sequences_end_at_the_first_gate_that_fails() -> None:
    full = program(0.9, layers=1)
    replays = replay_gates(measure(full, EXAMPLES, exact, keep_traces=True).runs, exact)
    names = [[str(gate) for gate in sequence] for sequence in replays.sequences]
    assert names == [["unanimous", "first=3", "first=2"], ["unanimous", "agreement=0.75"]]
    idle = [replace(run, prices=dict.fromkeys(run.prices, run.full)) for run in replays.runs]
    assert str(choose_gate(replace(replays, runs=tuple(idle)), 0.9, 0.9)).endswith("save no calls")
    for run in idle:
        run.losses.update(dict.fromkeys(run.losses, 0.0))
    few = choose_gate(replace(replays, runs=tuple(idle[:8])), 0.29, 0.9)
    assert [trial.certified for trial in few.trials] == [True, False, False, False]
    assert str(few).endswith(f"; to show it for a further one would take about {few.needed}")
    for run in replays.runs:
        run.losses.update(dict.fromkeys(run.losses, 0.0) | {Gate(first=3): 1.0})
    fit = choose_gate(replays, 0.4, 0.9)
    assert {str(trial.gate): trial.certified for trial in fit.trials} == {
        **dict.fromkeys(("unanimous", "agreement=0.75"), True),
        **dict.fromkeys(("first=3", "first=2"), False),
    }


class Passing(dspy.Module):  # type: ignore[misc]
    """Passes questions on to a program."""

    def __init__(self) -> None:
        super().__init__()
        self.program = program(1.0, layers=1)

    def forward(self, question: str) -> Any:
        return self.program(question=question)


def test_what_cannot_be_fitted_is_refused() -> None:
    gated = measure(program(1.0, gate="unanimous", layers=1), EXAMPLES[:2], exact, keep_traces=True).runs
    plain = measure(program(1.0, layers=1), EXAMPLES[:2], exact, keep_traces=True).runs
    single = measure(program(agents=1, layers=1), EXAMPLES[:2], exact, keep_traces=True).runs
    other = measure(Passing(), EXAMPLES[:2], exact, keep_traces=True).runs
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (gated, {}, "ended by a gate"),
        (other, {}, "not of an AttentionMoA"),
        (single, {}, "two agents"),
        ([], {}, "no run has a trace"),
        (
            [*plain, *measure(program(1.0, layers=2), EXAMPLES[:2], exact, keep_traces=True).runs],
            {},
            "several programs",
        ),
        (plain, {"max_loss": 0}, "max_loss"),
        (plain, {"confidence": 1}, "confidence"),
        (plain, {"sequences": []}, "no gate to test"),
        (plain, {"sequences": [[]]}, "no gate to test"),
        (plain, {"sequences": [[Gate(compare="meaning")]]}, "meaning"),
    ]
    for runs, options, message in refused:
        with pytest.raises(ConfigurationError, match=message):
            fit_gate(runs, exact, **options)


def test_a_gate_is_replayed_with_the_equality_of_the_task() -> None:
    """In free text "A" and "a" are equal, among labels they are not."""
    lms = [ScriptedLM(f"#### {label}", model=f"s/{number}") for number, label in enumerate("AaA")]
    full = AttentionMoA("question -> answer: Literal['A', 'a']", lms, layers=1, attention="none", aggregation="vote")
    examples = [dspy.Example(question=f"q{number}", answer="A").with_inputs("question") for number in range(3)]
    runs = measure(full, examples, exact, keep_traces=True).runs
    fit = fit_gate(runs, exact)
    assert str(fit_gate(pickle.loads(pickle.dumps(runs)), exact)) == str(fit)
    assert {str(trial.gate)[:9]: trial.opened for trial in fit.trials} == {"unanimous": 0, "first=2": 0, "agreement": 1}


def test_answers_that_no_metric_judged_open_no_gate() -> None:
    def fails_on(*wrong: int) -> Any:
        def metric(example: Any, prediction: Any, trace: Any = None) -> float:
            return -1.0 if prediction.answer in wrong else 1.0

        return metric

    runs = measure(program(1.0, layers=1), EXAMPLES, exact, keep_traces=True).runs
    with pytest.raises(MetricError, match=r"every answer; .*scores are from 0"):
        fit_gate(runs, fails_on(*range(16)), 0.5)
    assert "raised on 1 answers, which score 0" in str(fit_gate(runs, fails_on(3), 0.5))


def test_repeated_questions_show_nothing_more() -> None:
    runs = measure(program(1.0, layers=1), EXAMPLES, exact, keep_traces=True).runs
    fit = fit_gate(runs * 30, exact)
    assert (fit.gate, fit.runs, fit.repeated) == ("off", 16, 464)
    assert fit.trials == fit_gate(runs, exact).trials
    assert "464 further runs of the same questions are left out" in str(fit)


def test_gates_and_critiques_are_choices_of_a_search() -> None:
    space = SearchSpace(
        gate=("off", "0.8"), critiques=("single", "joint"), attention=("full", "disagreeing"), layers=(1,)
    )
    assert space.gate == ("off", "agreement=0.8")
    assert [str(rule) for rule in space.rules] == ["1", "1+gate:agreement=0.8"]
    assert SearchSpace.from_dict(space.to_dict()) == space
    for rule in stop_rules([2], [True], [0.5], ["off", "first=2"]):
        assert StopRule.parse(str(rule)) == rule
    with pytest.raises(ConfigurationError, match="meaning"):
        SearchSpace(gate=("compare=meaning",))
