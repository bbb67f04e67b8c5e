"""How an optimization divides its budget."""

from __future__ import annotations

import math

import dspy
import pytest
from support.simulated_tasks import examples

from moa_dspy import AttentionMoA, BudgetExhaustedError, single_model
from moa_dspy.cost.budget import Amounts
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
    assert len(affordable(held, [one, three], left())) == 40
    assert len(affordable(held, [one, three], left(calls=200))) == 40  # 160, and a quarter more
    fewer = affordable(held, [one, three], left(calls=100))
    assert len(fewer) == 20
    assert {example.question for example in affordable(held, [one, three], left(calls=60))} < {
        example.question for example in fewer
    }
    with pytest.raises(BudgetExhaustedError):
        affordable(held, [one, three], left(calls=40))
    few: list[dspy.Example] = held[:4]
    assert len(affordable(few, [one, three], left(calls=20))) == 4
