"""How an optimization divides its budget."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from support.simulated_tasks import examples, simulated

from moa_dspy import AttentionMoA, Budget, BudgetExhaustedError, single_model
from moa_dspy.cost.budget import Amounts, BudgetGuard
from moa_dspy.cost.usage import Price
from moa_dspy.optimizers import ceiling, measure, profile
from moa_dspy.optimizers.measuring import CachedRuns, sharing
from moa_dspy.optimizers.optimize_budget import affordable, least_paid, share_of
from moa_dspy.planning import CostEstimate
from moa_dspy.testing import ScriptedLM

UNLIMITED = math.inf


def left(calls: float = UNLIMITED, tokens: float = UNLIMITED) -> Amounts:
    return Amounts(calls, tokens, UNLIMITED, UNLIMITED)


@pytest.mark.parametrize(
    ("stages", "test", "share"),
    [
        (["architecture", "acceptance"], 100, 4 / 6),  # its weight is enough
        (["architecture", "acceptance"], 1200, 0.6),
        (["architecture", "acceptance"], 9000, 0.5),  # but not more than half
        (["prompts", "architecture", "acceptance", "explanation"], 1200, 0.6 * 6 / 10),
        (["acceptance", "explanation"], 1200, 1.0),
    ],
)
def test_tuning_leaves_enough_for_the_test(stages: list[str], test: int, share: float) -> None:
    assert share_of(stages, left(calls=3000), CostEstimate(calls=test, prompt_tokens=10)) == pytest.approx(share)


def test_a_test_that_the_budget_does_not_cover_is_made_on_fewer_examples() -> None:
    lm, held = ScriptedLM("x"), examples(40)
    one, three = (
        single_model("question -> answer", lm),
        AttentionMoA("question -> answer", [lm] * 3, layers=1, attention="none", aggregation="vote"),
    )
    both: dict[AttentionMoA, Price | None] = {one: None, three: None}
    assert len(affordable(held, both, left())) == 40
    assert len(affordable(held, both, left(calls=200))) == 40  # 160, and a quarter more
    fewer = affordable(held, both, left(calls=100))
    assert len(fewer) == 20
    fewest = affordable(held, both, left(calls=60))
    assert {example.question for example in fewest} < {example.question for example in fewer}
    with pytest.raises(BudgetExhaustedError):
        affordable(held, both, left(calls=40))
    few: list[dspy.Example] = held[:4]
    assert len(affordable(few, both, left(calls=20))) == 4


def test_measured_prices_count_more_than_planned_ones() -> None:
    program, held = single_model("question -> answer", ScriptedLM("x")), examples(40)
    with pytest.raises(BudgetExhaustedError):
        affordable(held, {program: None}, left(tokens=3000))  # a long answer is planned
    assert len(affordable(held, {program: Price(calls=1, tokens=50)}, left(tokens=3000))) == 40
    assert len(affordable(held, {program: Price(calls=3, tokens=50)}, left(calls=75))) == 20


class TestCachedRuns:
    @pytest.mark.parametrize(
        "value", [dataclasses.make_dataclass("Point", ["x"])(1), object()], ids=["typed", "object"]
    )
    def test_a_program_that_no_file_can_hold_is_measured(self, value: Any) -> None:
        program = single_model("question -> answer", simulated("a"))
        program.propose.demos = [dspy.Example(question=object(), answer="x")]  # type: ignore[union-attr]
        assert measure(program, examples(2), lambda *_: 1.0).score().value == 1.0

    def test_a_type_that_no_file_can_hold_is_measured(self) -> None:
        kind = dataclasses.make_dataclass("Point", [("x", int)])
        task: Any = dspy.Signature({"question": (str, dspy.InputField()), "point": (kind, dspy.OutputField())})  # type: ignore[call-arg, arg-type]
        lm = ScriptedLM('{"point": {"x": 1}}')
        lm.cache = True
        assert measure(single_model(task, lm), examples(2), lambda *_: 1.0).score().value == 1.0

    def test_a_model_of_dspy_that_no_agent_could_be_is_no_obstacle(self) -> None:
        with dspy.context(lm=dspy.LM("openai/a", temperature=3.0)):
            assert measure(single_model("question -> answer", simulated("a")), examples(2), lambda *_: 1.0).runs

    def test_runs_are_told_apart_by_all_that_their_requests_depend_on(self) -> None:
        asked = examples(2)

        def unpaid(own: dspy.BaseLM | None = None, **settings: Any) -> int:
            program = single_model("question -> answer", own)  # type: ignore[arg-type]
            with dspy.context(**settings):
                return least_paid(program, asked)

        one, other = (dspy.LM(f"openai/{name}", api_base="http://127.0.0.1:1/v1") for name in "ab")
        elsewhere = dspy.LM("openai/a", api_base="http://127.0.0.1:2/v1")
        with dspy.context(lm=one):
            for program in (single_model("question -> answer", one), single_model("question -> answer", None)):  # type: ignore[arg-type]
                for example in asked:
                    CachedRuns(program).add(example)
        assert (unpaid(one, lm=one), unpaid(lm=one)) == (0, 0)
        assert (unpaid(elsewhere, lm=one), unpaid(lm=other), unpaid(lm=elsewhere)) == (2, 2, 2)
        assert unpaid(one, lm=one, adapter=dspy.JSONAdapter()) == 2

    def test_runs_with_code_of_a_user_are_not_noted(self) -> None:
        class Peers:
            def __init__(self, *critics: int) -> None:
                self._critics = critics

            def critics(self, target: int, agents: int, layer: int) -> tuple[int, ...]:
                del target, agents, layer
                return self._critics

        one, other = (
            AttentionMoA("question -> answer", [simulated("a"), simulated("b")], layers=1, attention=Peers(*critics))
            for critics in ((0,), (0, 1))
        )
        for example in examples(2):
            CachedRuns(one).add(example)
        assert len(CachedRuns(other).lacks(examples(2))) == 2


@pytest.mark.parametrize(("part", "calls"), [(measure, 3), (profile, 3), (ceiling, 2)])
def test_what_a_metric_measures_is_counted_once_in_a_shared_budget(part: Callable[..., object], calls: int) -> None:
    inner = single_model("question -> answer", ScriptedLM("x"))

    def metric(example: dspy.Example, prediction: dspy.Prediction) -> float:
        asked = dspy.Example(question=f"{example.question} Is it {prediction.answer}?").with_inputs("question")
        return measure(inner, [asked], lambda *_: 1.0).score().value

    program = AttentionMoA("question -> answer", [ScriptedLM("x")] * 2, layers=1, attention="none")
    guard = BudgetGuard(Budget(calls=100))
    with sharing(guard):
        part(program, examples(4), metric)
    assert guard.spent.calls == 4 * (calls + 1)
