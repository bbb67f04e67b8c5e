"""One deep run tells how every shallower program, and every stop rule, would have done."""

from __future__ import annotations

import datetime
from typing import Any

import dspy
import pydantic
import pytest
from support.simulated_tasks import exact, examples, simulated

from moa_dspy import AttentionMoA, ConfigurationError
from moa_dspy.evaluation.runner import price_of
from moa_dspy.optimizers import Price, StopRule, depth_curve, fit_stop, fit_stop_rule, measure
from moa_dspy.optimizers.stop_fitting.replay import Decision, decisions_of, end_of, stop_rules, thresholds_of
from moa_dspy.optimizers.stop_fitting.rescoring import readings_of
from moa_dspy.testing import ScriptedLM


def program(layers: int, early_stop: bool = False, **options: Any) -> AttentionMoA:
    lms = [simulated("a", knows=0.4, finds=0.4), simulated("b", knows=0.6, finds=0.3)]
    return AttentionMoA("question -> answer", lms, layers=layers, early_stop=early_stop, **options)


def paid(moa: AttentionMoA) -> int:
    return sum(len(agent.lm.requests) for agent in moa.agents if isinstance(agent.lm, ScriptedLM))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"residual": "none"}, {"attention": "none"}, {"attention": 1}])
def test_depths_1_to_4_cost_exactly_the_calls_of_one_run_at_depth_4(options: dict[str, Any]) -> None:
    deep = program(4, **options)
    measured = measure(deep, examples(12), exact, keep_traces=True)
    calls = paid(deep)
    curve = depth_curve(deep, measured.runs, exact)
    assert paid(deep) == calls == measured.cost.paid_calls
    assert {depth.rule.layers for depth in curve} == {1, 2, 3, 4}


@pytest.mark.slow
@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_what_is_read_off_is_what_the_shallower_program_does(layers: int, early_stop: bool) -> None:
    deep = program(4)
    measured = measure(deep, examples(12), exact, keep_traces=True)
    rule = StopRule(layers, early_stop and layers > 1)
    read = next(depth for depth in depth_curve(deep, measured.runs, exact) if depth.rule == rule)
    shallow = program(layers, early_stop)
    really = measure(shallow, examples(12), exact, keep_traces=True)
    assert paid(shallow) == really.cost.paid_calls == 0, "its calls are those of the deep run, and come from the cache"
    assert read.score == really.score()
    traces = [run.trace for run in really.runs if run.trace is not None]
    total = sum((price_of(trace, layers) for trace in traces), start=Price())
    assert read.price == total.per(12)
    assert read.price.calls * 12 == sum(trace.calls for trace in traces)
    outputs = [readings_of(run.trace, [rule], deep)[rule].outputs for run in measured.runs if run.trace is not None]
    assert outputs == [{"answer": run.prediction.answer} for run in really.runs if run.prediction is not None]


def test_a_program_that_passes_all_answers_on_is_scored_at_its_own_depth_alone() -> None:
    deep = program(3, residual="answers", attention="none")
    measured = measure(deep, examples(12), exact, keep_traces=True)
    (depth,) = depth_curve(deep, measured.runs, exact)
    assert (depth.rule, depth.price.calls) == (StopRule(3), 5)
    assert depth.score == measured.score()


def test_a_cached_run_still_tells_its_full_price() -> None:
    moa = program(2)
    first, again = moa(question="task 001").trace, moa(question="task 001").trace
    assert again.cached_calls == again.calls
    assert price_of(again, 2).calls == price_of(first, 2).calls == first.calls
    assert price_of(again, 2).tokens == price_of(first, 2).tokens >= first.tokens.total > 0
    assert again.tokens.total == 0


def test_typed_outputs_reach_the_metric_as_they_would_from_the_program() -> None:
    reply = "[[ ## reasoning ## ]]\nx\n\n[[ ## improved ## ]]\ntrue\n\n[[ ## number ## ]]\n7\n\n[[ ## completed ## ]]"
    moa = AttentionMoA("question -> number: int", [ScriptedLM(reply)], layers=2, early_stop=False)
    seen: list[Any] = []

    def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
        seen.append(prediction.number)
        return prediction.number == 7

    runs = measure(moa, examples(1), metric, keep_traces=True).runs
    assert [depth.score.value for depth in depth_curve(moa, runs, metric)] == [1.0, 1.0, 1.0]
    assert all(isinstance(number, int) for number in seen)


def test_equal_answers_are_judged_once() -> None:
    moa = AttentionMoA("question -> answer", [ScriptedLM("the same")], layers=3, residual="none", aggregation="none")
    runs = measure(moa, examples(1), exact, keep_traces=True).runs
    judged: list[str] = []

    def judge(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        judged.append(prediction.answer)
        return 1.0

    assert len(depth_curve(moa, runs, judge)) == 3
    assert judged == ["the same"]


def test_the_stop_rule_is_fitted_on_recorded_decisions_without_a_call() -> None:
    deep = program(3)
    measured = measure(deep, examples(20), exact, keep_traces=True)
    calls = paid(deep)
    best = fit_stop(deep, measured.runs, exact)
    curve = depth_curve(deep, measured.runs, exact)
    assert paid(deep) == calls
    assert best.score.value == max(depth.score.value for depth in curve)
    assert best.price.calls == min(depth.price.calls for depth in curve if depth.score.value == best.score.value)


def test_where_a_run_ends() -> None:
    yes, no, failed = Decision(True), Decision(False), Decision(None)
    stop = StopRule(3, early_stop=True)
    assert end_of(stop, [yes, yes], 3) == end_of(StopRule(3), [no, no], 3) == end_of(stop, [], 3)
    assert (end_of(stop, [yes, no], 3).answer, end_of(stop, [yes, no], 3).paid) == (2, 3)
    assert (end_of(stop, [no, yes], 3).answer, end_of(stop, [no, yes], 3).paid) == (1, 2)
    assert (end_of(StopRule(3), [yes, failed], 2).answer, end_of(StopRule(3), [yes, failed], 2).paid) == (2, 3)


def test_probabilities_are_used_where_they_are_on_record() -> None:
    runs = [[Decision(True, 0.9), Decision(True, 0.6)], [Decision(False, 0.2), Decision(None)]]
    assert thresholds_of(runs) == (0.4, 0.75)
    assert thresholds_of([*runs, [Decision(True)]]) == ()
    assert len(thresholds_of([[Decision(True, i / 100)] for i in range(100)], most=9)) == 9
    rule = StopRule(3, True, 0.75)
    assert end_of(rule, runs[0], 3).answer == 2
    assert StopRule.parse(str(rule)) == rule
    assert StopRule.parse(str(StopRule(2, True))) == StopRule(2, True)
    assert StopRule.parse("4") == StopRule(4)
    assert StopRule.parse(str(StopRule(3, True, 2 / 3))) == StopRule(3, True, 2 / 3)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [None, dspy.ChatAdapter(), dspy.JSONAdapter()])
def test_a_graded_decision_is_read_from_the_trace(adapter: Any) -> None:
    plain, graded = program(2), program(2)
    graded.synthesize.fields["improved"] = {"threshold": 0.7}
    with dspy.context(adapter=adapter):
        for example in examples(12):
            (yes_or_no,) = decisions_of(plain(question=example.question).trace)
            trace = graded(question=example.question).trace
            (decision,) = decisions_of(type(trace).from_json(trace.to_json()))
            assert yes_or_no.probability is None
            assert decision.probability in (0.05, 0.6, 0.95)
            assert decision.improved == (decision.probability >= 0.7)
            assert trace.improved == (decision.improved,)


def test_a_program_of_one_layer_has_nothing_to_stop() -> None:
    assert stop_rules([1], [True, False]) == (StopRule(1),)
    assert stop_rules([1, 2], [True]) == (StopRule(1), StopRule(2, True))
    assert [str(rule) for rule in stop_rules([2], [True], [0.5])] == ["2+stop", "2+stop@0.5"]


class OnAgreement:
    def stops(self, accepted: Any, newest: Any, improved: bool | None) -> bool:
        return newest.text == accepted[-1].text


def test_a_stop_condition_of_ones_own_is_not_replaced_in_silence() -> None:
    moa = program(2).replace(early_stop=OnAgreement())
    with pytest.raises(ConfigurationError, match="OnAgreement cannot be fitted"):
        fit_stop_rule(moa, trainset=examples(2), metric=exact)
    assert paid(moa) == 0


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    day: datetime.date


class OneWay(pydantic.BaseModel):
    day: datetime.date = pydantic.Field(validation_alias="read", serialization_alias="written")


def dated(kind: type, reply: str) -> Any:
    make: Any = dspy.Signature
    signature = make({"question": (str, dspy.InputField()), "answer": (kind, dspy.OutputField())})
    program = AttentionMoA(signature, [ScriptedLM(f"[[ ## answer ## ]]\n{reply}")], layers=1, reasoning=False)
    measured = measure(program, examples(2), lambda *_: True, keep_traces=True)
    return depth_curve(program, measured.runs, lambda example, prediction: prediction.answer.day.year == 2024)


def test_recorded_answers_of_strict_types_are_scored() -> None:
    (depth,) = dated(Strict, '{"day": "2024-01-02"}')
    assert depth.score.value == 1


def test_types_that_do_not_read_what_they_write_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"do not give the output type again \(answer.read: Field required\)"):
        dated(OneWay, '{"read": "2024-01-02"}')
