"""Held-out acceptance: planted overfits are rejected, real gains accepted, and false alarms as rare as promised."""

from __future__ import annotations

import json
from typing import Any

import dspy
import numpy as np
import pytest
from support.simulated_tasks import exact, examples, simulated

from moa_dspy import AttentionMoA, Budget, BudgetExhaustedError, ConfigurationError, RunError, single_model
from moa_dspy.evaluation.statistics import Gain
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
    assert outcome.cost.paid_calls == 2 * (len(HELDOUT) - outcome.saved)
    assert "accepted" in outcome.reason


def test_the_outcome_is_json_without_the_program() -> None:
    outcome = accept(knows(0.4), knows(0.9, "b"), valset=HELDOUT[:8], metric=exact)
    written = json.loads(json.dumps(outcome.report))
    assert written == outcome.report
    assert written["kind"] == "acceptance"
    assert "program" not in written
    assert written["gain"]["examples"] == 8


def test_the_same_call_gives_the_same_outcome() -> None:
    first, second = (accept(knows(0.4), knows(0.7, "b"), valset=HELDOUT, metric=exact).report for _ in range(2))
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
    with pytest.raises(ValueError, match="from 0 to 1"):
        decide([0.0, 1.0], [1.0, float("nan")])


def test_few_examples_that_all_agree_are_not_taken_for_certain() -> None:
    found = decide([0.0] * 5, [1.0] * 5)
    assert found.after.low == pytest.approx(0.025 ** (1 / 5))
    assert found.gain.low < 1
    assert Gain.of([1.0] * 5, [1.0] * 5).high > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["right or wrong", "graded"])
def test_of_candidates_that_are_no_better_at_most_alpha_are_accepted(kind: str) -> None:
    draws = np.random.default_rng(7).random((2, 200, 40))
    before, after = (draws < 0.6).astype(float) if kind == "right or wrong" else draws
    found = [decide(*pair, alpha=0.1) for pair in zip(before.tolist(), after.tolist(), strict=True)]
    assert 0.02 <= sum(one.accepted for one in found) / 200 <= 0.12
    assert all(one.accepted == (one.p <= 0.1) == (one.gain.low > 0) for one in found)


def test_a_clear_result_half_way_saves_the_other_half() -> None:
    worse = accept(knows(0.9), knows(0.1, "b"), valset=HELDOUT, metric=exact)
    assert (worse.accepted, worse.saved, worse.gain.examples) == (False, 20, 20)
    assert worse.cost.paid_calls == 40
    assert "clear after 20 of 40 examples" in worse.reason
    better = accept(knows(0.0, "c"), knows(1.0, "d"), valset=HELDOUT, metric=exact)
    assert (better.accepted, better.saved) == (True, 20)
    assert better.p <= better.alpha == pytest.approx(0.001)
    assert better.gain.low > 0
    whole = accept(knows(0.0, "c"), knows(1.0, "d"), valset=HELDOUT, metric=exact, interim=False)
    assert (whole.saved, whole.gain.examples, whole.alpha) == (0, 40, 0.05)
    unclear = accept(knows(0.5, "e"), knows(0.7, "f", seed=1), valset=HELDOUT, metric=exact)
    assert (unclear.saved, unclear.alpha) == (0, pytest.approx(0.049))


def test_decisions_on_the_same_held_out_examples_are_counted() -> None:
    first = accept(knows(0.4), knows(0.9, "b"), valset=HELDOUT[:8], metric=exact)
    again = accept(knows(0.4), knows(0.9, "b"), valset=HELDOUT[:8], metric=exact)
    assert (first.reused, again.reused) == (0, 0), "a call that is repeated decides nothing else"
    other = accept(knows(0.4), knows(0.5, "c"), valset=HELDOUT[7::-1], metric=exact)
    assert other.reused == 1
    assert "have decided once before" in other.reason
    assert "up to 0.1, not 0.05" in other.reason
    assert other.report["reused"] == 1
    assert accept(knows(0.4), knows(0.5, "c"), valset=HELDOUT[:9], metric=exact).reused == 0


def test_the_outcome_has_a_type() -> None:
    assert isinstance(accept(knows(0.5), knows(0.6, "b"), valset=HELDOUT[:4], metric=exact), Acceptance)


@pytest.mark.parametrize(("calls", "pairs"), [(11, 1), (20, 10), (31, 11), (45, 20), (79, 39), (80, 40)])
def test_a_budget_that_ends_within_the_test_loses_no_pair(calls: int, pairs: int) -> None:
    baseline, better = knows(0.2, f"a{calls}"), knows(1.0, f"b{calls}", seed=1)
    told: list[str] = []
    outcome = accept(
        baseline, better, valset=HELDOUT, metric=exact, budget=Budget(calls=calls), concurrency=1, interim=False,
        progress=lambda side, run: told.append(side),
    )  # fmt: skip
    assert outcome.gain.examples == pairs
    assert (outcome.cut, outcome.saved, outcome.alpha) == (40 - pairs, 0, 0.05)
    assert outcome.cost.calls == len(told) == calls
    assert ("The budget ended after" in outcome.reason) == (pairs < 40)
    assert outcome.accepted == (pairs >= 10)


def test_a_budget_that_covers_no_pair_is_an_error() -> None:
    with pytest.raises(BudgetExhaustedError, match="before both programs answered"):
        accept(knows(0.2, "c"), knows(1.0, "d"), valset=HELDOUT, metric=exact, budget=Budget(calls=5))


def test_a_budget_that_ends_after_the_interim_test_leaves_the_level_of_the_last_one() -> None:
    outcome = accept(
        knows(0.5), knows(0.6, "b", seed=1), valset=HELDOUT, metric=exact, budget=Budget(calls=55), concurrency=1
    )
    assert outcome.gain.examples > 20 or outcome.gain.value <= 0
    assert outcome.alpha in (0.02 * 0.05, 0.98 * 0.05)


def test_no_examples_are_no_budget_that_ended() -> None:
    with pytest.raises(ConfigurationError, match="no examples"):
        accept(knows(0.5), knows(0.6, "b"), valset=[], metric=exact)
