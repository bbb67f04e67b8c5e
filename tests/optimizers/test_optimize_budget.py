"""How an optimization divides its budget."""

from __future__ import annotations

import math

import dspy
import pytest
from support.simulated_tasks import examples

from moa_dspy import AttentionMoA, BudgetExhaustedError, single_model
from moa_dspy.cost.budget import Amounts
from moa_dspy.cost.usage import Price
from moa_dspy.optimizers.optimize_budget import affordable, share_of
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
