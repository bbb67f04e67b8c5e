"""Held-out acceptance: planted overfits are rejected, real gains accepted, and false alarms as rare as promised."""

from __future__ import annotations

import json
from typing import Any

import dspy
import numpy as np
import pytest
from support.simulated_tasks import exact, examples, simulated

from moa_dspy import AttentionMoA, ConfigurationError, RunError, single_model
from moa_dspy.evaluation.statistics import Gain, Score, examples_needed, holm
from moa_dspy.optimizers import Acceptance, accept
from moa_dspy.optimizers.comparison.acceptance import decide
from moa_dspy.testing import ScriptedLM, prompt_of

TASKS = examples(60)
TRAIN, HELDOUT = TASKS[:20], TASKS[20:]


def knows(level: float, name: str = "a", seed: int = 0, **skill: Any) -> AttentionMoA:
    return single_model("question -> answer", simulated(name, knows=level, seed=seed, **skill))


def remembers(seen: list[dspy.Example], elsewhere: float) -> AttentionMoA:
    """It answers what it was tuned on, and is no better than that elsewhere."""
    return single_model(
        "question -> answer",
        simulated("m", knows=lambda request: 1.0 if any(e.question in prompt_of(request) for e in seen) else elsewhere),
    )


def test_a_program_that_only_looks_better_on_its_training_data_is_rejected() -> None:
    baseline, overfit = knows(0.5), remembers(TRAIN, 0.5)
    on_training_data = accept(baseline, overfit, valset=TRAIN, metric=exact)
    assert on_training_data.accepted
    assert on_training_data.after.value == 1

    outcome = accept(baseline, overfit, valset=HELDOUT, metric=exact, tuned_on=TRAIN)
    assert not outcome.accepted
    assert outcome.program is baseline
    assert outcome.score == outcome.before
    assert outcome.reason.startswith("The baseline is kept")
    assert str(outcome) == outcome.reason
    assert "\n" not in outcome.reason


def test_a_real_improvement_is_accepted() -> None:
    baseline, better = knows(0.4), knows(0.9, "b", seed=1)
    outcome = accept(baseline, better, valset=HELDOUT, metric=exact, tuned_on=TRAIN)
    assert outcome.accepted
    assert outcome.program is better
    assert outcome.score == outcome.after
    assert outcome.gain.low > 0
    assert outcome.p <= outcome.alpha
    assert outcome.needed is not None
    assert outcome.needed <= len(HELDOUT)
    assert outcome.checked == len(TRAIN)
    assert outcome.won > outcome.lost
    assert outcome.cost.paid_calls == 2 * len(HELDOUT)
    assert "accepted" in outcome.reason


def test_the_outcome_is_json_without_the_program() -> None:
    outcome = accept(knows(0.4), knows(0.9, "b"), valset=HELDOUT[:8], metric=exact)
    written = json.loads(json.dumps(outcome.report))
    assert written == outcome.report
    assert written["kind"] == "acceptance"
    assert "program" not in written
    assert written["gain"]["examples"] == 8


def test_equal_seeds_give_equal_outcomes() -> None:
    first, second = (accept(knows(0.4), knows(0.7, "b"), valset=HELDOUT, metric=exact, seed=3).report for _ in range(2))
    assert {**first, "cost": None} == {**second, "cost": None}


def test_a_worse_candidate_is_rejected_whatever_its_p_value() -> None:
    outcome = accept(knows(0.9), knows(0.1, "b"), valset=HELDOUT, metric=exact)
    assert not outcome.accepted
    assert outcome.p > 0.9
    assert outcome.needed is None
    assert "does not gain" in outcome.reason


def test_equal_programs_are_told_apart_by_nothing() -> None:
    outcome = accept(knows(0.5), knows(0.5), valset=HELDOUT[:10], metric=exact)
    assert not outcome.accepted
    assert outcome.gain.value == 0
    assert outcome.p >= 0.5


def test_too_few_examples_show_nothing_and_it_is_said_how_many_would() -> None:
    outcome = accept(knows(0.0), knows(1.0, "b"), valset=HELDOUT[:3], metric=exact)
    assert not outcome.accepted
    assert outcome.gain.value == 1
    assert outcome.needed == 5
    assert "takes about 5 examples" in outcome.reason


@pytest.mark.parametrize("question", ["task 003", "  TASK   003 "])
def test_held_out_examples_that_were_tuned_on_are_refused(question: str) -> None:
    lm = ScriptedLM("x")
    program = single_model("question -> answer", lm)
    seen = [dspy.Example(question=question, answer="another", note="kept apart").with_inputs("question")]
    with pytest.raises(ConfigurationError, match="1 of 60 held-out examples are among those that the program was"):
        accept(program, program, valset=TASKS, metric=exact, tuned_on=seen)
    assert not lm.requests


def broken(fails: Any = lambda request: True) -> AttentionMoA:
    def reply(request: Any) -> str:
        if fails(request):
            raise ValueError("no")
        return "a guess"

    return single_model("question -> answer", ScriptedLM(reply))


def test_failed_runs_count_as_zero_and_are_told() -> None:
    outcome = accept(
        knows(0.9), broken(lambda request: "task 020" in prompt_of(request)), valset=HELDOUT[:6], metric=exact
    )
    assert outcome.failed == (0, 1)
    assert outcome.after.value == 0


def test_a_program_that_never_answers_is_neither_kept_nor_rejected() -> None:
    with pytest.raises(RunError, match="the baseline fails on the held-out examples"):
        accept(broken(), knows(0.9), valset=HELDOUT[:6], metric=exact)
    with pytest.raises(RunError, match="the candidate fails on the held-out examples"):
        accept(knows(0.9), broken(), valset=HELDOUT[:6], metric=exact)


def test_a_question_that_is_asked_again_is_no_further_evidence() -> None:
    question = HELDOUT[0]
    again = dspy.Example(question=f" {question.question.upper()}  ", answer=question.answer).with_inputs("question")
    outcome = accept(knows(0.0), knows(1.0, "b"), valset=[question, again] * 4, metric=exact)
    assert not outcome.accepted
    assert outcome.gain.examples == 1
    assert outcome.repeated == 7


def test_what_a_program_shows_its_models_cannot_be_held_out() -> None:
    program = knows(0.5)
    program.propose.demos = [dspy.Example(question="task 020", answer="answer 20")]  # type: ignore[union-attr]
    for pair in ((program, knows(0.5)), (knows(0.5), program)):
        with pytest.raises(ConfigurationError, match="1 of 40 held-out examples are among those that a program shows"):
            accept(*pair, valset=HELDOUT, metric=exact)


@pytest.mark.parametrize("alpha", [0, 0.5, 0.6, 1, float("nan")])
def test_levels_out_of_range_are_refused(alpha: float) -> None:
    with pytest.raises(ConfigurationError, match="must be above 0 and below"):
        accept(knows(0.5), knows(0.5), valset=HELDOUT, metric=exact, alpha=alpha)
    with pytest.raises(ConfigurationError, match="must be above 0 and below"):
        decide([0.0], [1.0], alpha=alpha)


def test_a_power_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be between 0 and 1"):
        accept(knows(0.5), knows(0.5), valset=HELDOUT, metric=exact, power=1.5)


def test_scores_that_are_no_numbers_decide_nothing() -> None:
    with pytest.raises(ValueError, match="finite"):
        decide([0.0, 1.0], [1.0, float("nan")])


def test_few_examples_that_all_agree_are_not_taken_for_certain() -> None:
    found = decide([0.0] * 5, [1.0] * 5)
    assert found.after.low == pytest.approx(0.025 ** (1 / 5))
    assert found.gain.low < 1
    assert Gain.of([1.0] * 5, [1.0] * 5).high > 0.4


@pytest.mark.parametrize(("share", "count"), [(0.9, 12), (0.9, 20), (0.8, 10)])
def test_published_scores_have_the_widened_interval(share: float, count: int) -> None:
    random = np.random.default_rng(3)
    draws = [(random.random(count) < share).astype(float).tolist() for _ in range(200)]
    held = sum(Score.of(one).low <= share <= Score.of(one).high for one in draws)
    assert held / 200 >= 0.85


@pytest.mark.parametrize("kind", ["right or wrong", "graded"])
def test_of_candidates_that_are_no_better_about_alpha_are_accepted(kind: str) -> None:
    random = np.random.default_rng(7)
    draws = random.random((2, 300, 40))
    before, after = (draws < 0.6).astype(float) if kind == "right or wrong" else draws
    accepted = sum(decide(*pair, alpha=0.1).accepted for pair in zip(before.tolist(), after.tolist(), strict=True))
    assert 0.04 <= accepted / 300 <= 0.145  # 0.1, less what the test's steps cost, and 2.6 standard errors


def test_a_difference_is_found_as_often_as_planned_with_the_examples_needed() -> None:
    random = np.random.default_rng(8)
    needed = examples_needed(random.normal(0.3, 1, 4000).tolist(), 0.05, 0.8)
    assert needed is not None
    assert 60 <= needed <= 82
    found = [decide([0.0] * needed, random.normal(0.3, 1, needed).tolist()).accepted for _ in range(120)]
    assert 0.68 <= np.mean(found) <= 0.92


def test_holm_adjusts_in_order_and_never_below_the_p_value_before() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_outcome_has_a_type() -> None:
    assert isinstance(accept(knows(0.5), knows(0.6, "b"), valset=HELDOUT[:4], metric=exact), Acceptance)
