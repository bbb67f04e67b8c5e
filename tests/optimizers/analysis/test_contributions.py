"""Leave one agent out: who adds what, at which price."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest
from support.simulated_tasks import exact, examples, simulated

from moa_dspy import Agent, AttentionMoA, ConfigurationError, RunError
from moa_dspy.optimizers import contributions
from moa_dspy.optimizers.analysis.contributions import without
from moa_dspy.testing import ScriptedLM

TASKS = examples(40)
HARMLESS: dict[str, Any] = {"finds": 0.0, "adopts": 1.0, "misled": 0.0, "wrong": ["a decoy"]}


def team(**options: Any) -> AttentionMoA:
    """One agent that knows and finds what is wrong, one that half knows, and one that only costs."""
    strong = simulated("strong", knows=0.9, **{**HARMLESS, "finds": 1.0})
    middling = simulated("middling", knows=0.5, seed=1, **HARMLESS)
    useless = simulated("useless", knows=0.5, seed=2, **HARMLESS)
    return AttentionMoA("question -> answer", [middling, strong, useless], **{"layers": 1, **options})


@pytest.mark.slow
def test_a_strong_agent_comes_first_and_a_useless_one_adds_nothing() -> None:
    result = contributions(team(), TASKS, exact)
    first, *others = result.rows
    assert first.agent == "strong"
    assert first.adds.low > 0
    assert first.p < 0.05
    assert first.score.value < result.score.value
    for row in others:
        assert row.adds.low <= 0 < 0.05 < row.p
    assert result.row("useless").adds.value == pytest.approx(0, abs=0.1)


def test_the_price_is_what_an_agent_causes_and_shared_calls_come_from_the_cache() -> None:
    result = contributions(team(), TASKS[:10], exact)
    assert result.price.calls == 16  # N = 3, L = 1
    assert [row.price.calls for row in result.rows] == [7, 7, 7]  # two agents: 9 calls
    assert all(row.price.tokens > 0 for row in result.rows)
    assert result.cost.paid_calls < 10 * (16 + 3 * 9)  # proposals and many critiques are shared


def test_it_prints_as_a_table_and_as_json() -> None:
    result = contributions(team(), TASKS[:6], exact)
    text = str(result)
    assert text.index("strong") < text.index("useless")
    assert "adds to the score" in text
    assert json.loads(result.to_json()) == result.report
    with pytest.raises(LookupError, match="use one of: "):
        result.row("nobody")


def test_the_others_keep_prompts_names_and_aggregator() -> None:
    program = team(shared_prompts=False)
    for number, predictor in enumerate(program.propose):  # type: ignore[arg-type]
        predictor.signature = predictor.signature.with_instructions(f"Tuned {number}.")
    rest = without(program, 0)
    assert [one.signature.instructions for one in rest.propose] == ["Tuned 1.", "Tuned 2."]  # type: ignore[union-attr]
    assert [spec.name for spec in rest.architecture.agents] == ["strong", "useless"]
    assert rest._aggregator.agent.lm is program.agents[0].lm
    assert len(program.agents) == 3


@pytest.mark.parametrize(
    ("attention", "agents", "expected"),
    [(2, 3, 1), (1, 3, 1), (1, 2, "self"), ("full", 2, "full"), ("cross", 2, "cross")],
)
def test_the_attention_pattern_fits_the_fewer(attention: Any, agents: int, expected: Any) -> None:
    lms = [Agent(ScriptedLM("Paris"), name=f"n{number}") for number in range(agents)]
    rest = without(AttentionMoA("question -> answer", lms, attention=attention), 1)
    assert rest.architecture.attention == expected
    assert rest(question="France?").answer == "Paris"


def test_agents_on_one_model_are_samples_of_it() -> None:
    lm = simulated("a", knows=0.6)
    result = contributions(AttentionMoA("question -> answer", [lm, lm], layers=1, attention="none"), TASKS[:8], exact)
    assert result.rows[0].adds == result.rows[1].adds


def test_votes_go_on_with_fewer() -> None:
    program = team(attention="none", aggregation="vote")
    assert contributions(program, TASKS[:4], exact).price.calls == 3


def test_one_agent_cannot_be_left_out() -> None:
    program = AttentionMoA("question -> answer", [ScriptedLM("x")], layers=1)
    with pytest.raises(ConfigurationError, match="has one agent"):
        contributions(program, TASKS, exact)


def test_a_program_that_only_fails_is_an_error() -> None:
    def refuse(request: Any) -> str:
        raise ValueError("no")

    program = AttentionMoA("question -> answer", [ScriptedLM(refuse), ScriptedLM(refuse)], layers=1)
    with pytest.raises(RunError, match="fails on every example"):
        contributions(program, TASKS[:2], exact)


def test_no_examples_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no examples"):
        contributions(team(), [], exact)


def test_metrics_and_demos_are_left_as_they_are() -> None:
    program = team()
    program.propose.demos.append(dspy.Example(question="q", answer="a"))  # type: ignore[union-attr]
    rest = without(program, 2)
    assert rest.propose.demos == program.propose.demos  # type: ignore[union-attr]
    rest.propose.demos.clear()  # type: ignore[union-attr]
    assert program.propose.demos  # type: ignore[union-attr]
