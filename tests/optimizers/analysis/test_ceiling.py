"""The ceiling: a bound that holds, counts that are right, and no call that a later run has to pay for again."""

from __future__ import annotations

import re
from typing import Any

import dspy
import numpy as np
import pytest
from scipy.stats import binom
from support.simulated_tasks import ANSWERS, exact, examples, simulated

from moa_dspy import Agent, AttentionMoA, ConfigurationError
from moa_dspy.optimizers import CeilingRecord, ceiling, measure
from moa_dspy.optimizers.analysis.ceiling import least_rate, most_gain, proposals_of
from moa_dspy.testing import ScriptedLM, prompt_of


@pytest.mark.parametrize("of", [1, 8, 50, 300])
def test_the_bound_holds_as_often_as_it_says(of: int) -> None:
    """Exact: the probability, over all outcomes of ``of`` examples, that the bound is not above the true rate."""
    for rate in (0.0, 0.01, 0.1, 0.37, 0.5, 0.9, 1.0):
        for confidence in (0.8, 0.95):
            bounds = [least_rate(count, of, confidence) for count in range(of + 1)]
            holds = sum(binom.pmf(count, of, rate) for count, bound in enumerate(bounds) if bound <= rate + 1e-12)
            assert holds >= confidence - 1e-9, (of, rate, confidence)
    assert least_rate(of, of, 0.95) == pytest.approx(0.05 ** (1 / of))


@pytest.mark.parametrize(
    ("of", "agents", "skill", "shared"), [(20, 3, 0.9, 0.5), (50, 5, 0.5, 0.0), (150, 2, 0.5, 0.9)]
)
def test_the_room_is_seldom_below_what_a_selection_really_gains(
    of: int, agents: int, skill: float, shared: float
) -> None:
    draw = np.random.default_rng(of)

    def world(examples: int) -> Any:
        same, own = draw.random((examples, 1)) < skill, draw.random((examples, agents)) < skill
        return np.where(draw.random((examples, 1)) < shared, same, own)

    truth = shared * skill + (1 - shared) * (1 - (1 - skill) ** agents) - skill
    rooms = [most_gain(world(of).tolist(), 0.95) for _ in range(200)]
    assert sum(room < truth for room in rooms) <= 18  # 10 are allowed on average


def test_repeated_questions_are_no_further_evidence() -> None:
    lm = knower("a", set(list(ANSWERS)[:3]))
    found = ceiling(AttentionMoA("question -> answer", [lm], layers=1), examples(6) * 3, exact)
    assert (found.examples, found.all_wrong, len(lm.requests)) == (6, 3, 6)


def knower(name: str, known: set[str], **options: Any) -> ScriptedLM:
    """An agent that knows some tasks, and aggregates ``aggregates`` whatever the candidates are."""

    def reply(request: Any) -> str:
        text = request.messages[-1].text or ""
        task = next(task for task in ANSWERS if task in text)
        if "Candidate Answers" in text:
            return ANSWERS[task] if task in known else "lost"
        return ANSWERS[task] if task in known else f"wrong by {name}"

    return ScriptedLM(reply, f"scripted/{name}", cache=True, **options)


def test_what_selection_can_reach_what_synthesis_found_and_what_it_lost() -> None:
    tasks = list(ANSWERS)[:10]
    a, b = knower("a", set(tasks[:4])), knower("b", set(tasks[3:6]))
    aggregator = knower("judge", {*tasks[:2], *tasks[7:9]})
    program = AttentionMoA("question -> answer", [a, b], layers=1, attention="none", aggregator=aggregator)
    found = ceiling(program, examples(10), exact, whole=True)
    assert (found.examples, found.all_wrong, found.found, found.lost) == (10, 4, 2, 4)
    assert [(way.name, way.right.value) for way in found.agents] == [("a", 0.4), ("b", 0.3)]
    assert found.program is not None
    assert (found.selection.right.value, found.program.right.value) == (0.6, 0.4)
    assert found.best.name == "a"
    assert found.most == pytest.approx(1 - least_rate(4, 10, 0.95))
    assert found.room == pytest.approx(1 - least_rate(8, 10, 0.975))  # b alone is right on two more than a
    text = str(found)
    assert "all 2 agents are wrong on 4 of 10 examples" in text
    assert "right on 2 of the 4 examples on which all agents are wrong, and wrong on 4 of the 6" in text
    assert found.report["kind"] == "ceiling"
    older = CeilingRecord.model_validate({name: part for name, part in found.report.items() if name != "room"})
    assert older.sentence == re.sub(r"; a selection gains at most \S+ on the best one \(95%\)", "", found.sentence)


def test_it_takes_one_call_of_each_agent_for_an_example_and_the_program_goes_on_from_there() -> None:
    lms = [simulated(name, knows=0.4) for name in "abc"]
    program = AttentionMoA("question -> answer", lms, layers=2)
    propose: Any = program.propose
    propose.signature = propose.signature.with_instructions("Think of boxes.")
    found = ceiling(program, examples(12), exact)
    assert [len(lm.requests) for lm in lms] == [12, 12, 12]
    assert found.cost.calls == 36
    assert found.vote is not None
    assert (found.program, found.found, found.lost) == (None, None, None)
    proposals = [way.price.calls for way in (*found.agents, found.vote, found.selection)]
    assert proposals == [1, 1, 1, 3, 3]
    measure(program, examples(12), exact)
    for lm in lms:
        prompts = [prompt_of(request) for request in lm.requests]
        assert all(prompts.count(prompt) == 1 for prompt in prompts[:12])  # paid once
    again = measure(proposals_of(program), examples(12), exact)
    assert again.cost.paid_calls == 0


def test_a_price_makes_dollars_for_a_right_answer() -> None:
    tasks = list(ANSWERS)[:4]
    price = {"prompt": 1e6, "completion": 0}  # a dollar for each token of the prompt
    agents = [priced(name, known, price) for name, known in (("a", tasks[:2]), ("b", tasks[:1]))]
    found = ceiling(AttentionMoA("question -> answer", agents, layers=1), examples(4), exact)
    a, b = found.agents
    assert a.price.usd == b.price.usd
    assert a.price.usd is not None
    assert a.usd_per_right == pytest.approx(2 * a.price.usd)
    assert b.usd_per_right == pytest.approx(4 * a.price.usd)
    assert found.selection.usd_per_right == pytest.approx(4 * a.price.usd)  # both are asked, one of two is right


def priced(name: str, known: list[str], price: dict[str, float]) -> Any:
    return Agent(knower(name, set(known)), name=name, price=price)


def test_scores_below_the_threshold_are_wrong() -> None:
    def half(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        return 1.0 if prediction.answer == example.answer else 0.5

    program = AttentionMoA("question -> answer", [knower("a", set(list(ANSWERS)[:3]))], layers=1, attention="none")
    graded = ceiling(program, examples(6), half)
    assert (graded.all_wrong, graded.partly) == (3, 3)
    assert "Scores below 1 count as wrong" in graded.sentence
    nearly = ceiling(program, examples(6), lambda *of: (of[0].answer == of[1].answer) * sum([0.1] * 10))
    assert (nearly.all_wrong, nearly.partly) == (3, 0)
    assert ceiling(program, examples(6), half, right=0.5).all_wrong == 0
    assert ceiling(program, examples(6), half).vote is None
    with pytest.raises(ConfigurationError, match="right=0"):
        ceiling(program, examples(6), half, right=0)
    with pytest.raises(ConfigurationError, match="confidence=1"):
        ceiling(program, examples(6), half, confidence=1)
