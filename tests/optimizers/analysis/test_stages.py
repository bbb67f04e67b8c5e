"""Which stage gains and which loses: attribution, the profile's numbers, and what GEPA is told."""

from __future__ import annotations

import json
from typing import Any, cast

import dspy
import pydantic
import pytest

from moa_dspy import AttentionMoA, ConfigurationError, RunError
from moa_dspy.data import ExactMatch
from moa_dspy.optimizers import Gain, StageFeedback, attribute, profile
from moa_dspy.optimizers.measuring import Metric
from moa_dspy.testing import ScriptedLM

EXAMPLES = [dspy.Example(question=q, answer="Paris").with_inputs("question") for q in ("France?", "Its capital?")]
GOOD, MISLEADING = "It is right.", "The answer should be: Rome. It is larger."


def exact(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def graded(example: Any, prediction: Any, trace: Any = None) -> float:
    return {"Paris": 0.9, "Lyon": 0.6, "Rome": 0.2}[prediction.answer]


class Agent:
    """An agent that says the same in each role."""

    def __init__(self, proposal: str, refinement: str, critiques: dict[str, str], aggregate: str = "Paris") -> None:
        self.proposal, self.refinement, self.critiques, self.aggregate = proposal, refinement, critiques, aggregate

    def __call__(self, request: Any) -> str:
        prompt = request.messages[-1].text or ""
        if "Candidate Answers:" in prompt:
            return self.aggregate
        if "Critiques:" in prompt:
            return self.refinement
        if "Own Answer:" in prompt:
            shown = prompt.rpartition("<answer>\n")[2].partition("\n</answer>")[0]
            return self.critiques.get(shown if "Peer Answer:" in prompt else "own", GOOD)
        return self.proposal


def program_of(*minds: Any, **options: Any) -> AttentionMoA:
    lms = [ScriptedLM(mind, f"scripted/{'abc'[index]}") for index, mind in enumerate(minds)]
    return AttentionMoA("question -> answer", lms, **{"layers": 1, **options})


def misled(**options: Any) -> AttentionMoA:
    """Agents a and b are right, c is wrong; c's critique talks a out of it, and a's helps nobody."""
    return program_of(
        Agent("Paris", "Rome", {}),
        Agent("Paris", "Paris", {"Rome": "The answer should be: Paris. Look again."}),
        Agent("Rome", "Paris", {"Paris": MISLEADING}),
        **options,
    )


def feedback_of(program: AttentionMoA, metric: Metric, example: dspy.Example = EXAMPLES[0]) -> list[tuple[str, Any]]:
    """What GEPA would be told about each call of a run: predictors' names and the metric's results."""
    names = {id(predictor): name for name, predictor in program.named_predictors()}
    with dspy.context(trace=[]):
        prediction = program(**example.inputs())
        captured = cast("list[Any]", dspy.settings.trace)
        judge = StageFeedback(metric, program)
        return [
            (name := names[id(entry[0])], judge(example, prediction, captured, name, [entry])) for entry in captured
        ]


# Attribution


def test_every_answer_of_a_run_is_scored_and_equal_answers_once():
    asked: list[str] = []

    def counting(example: Any, prediction: Any) -> float:
        asked.append(prediction.answer)
        return float(prediction.answer == example.answer)

    program = misled()
    run = program(question="France?")
    scores = attribute(run.trace, EXAMPLES[0], counting, program)
    found = [(s.step.stage, s.step.agent, s.score) for s in scores.steps]
    assert found == [
        ("propose", "a", 1.0), ("propose", "b", 1.0), ("propose", "c", 0.0),
        ("refine", "a", 0.0), ("refine", "b", 1.0), ("refine", "c", 1.0),
        ("aggregate", "aggregator", 1.0),
    ]  # fmt: skip
    assert sorted(asked) == ["Paris", "Rome"]
    assert scores.answer == 1.0
    assert scores.pairs(1, "refine") == [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    assert scores.pairs(1, "propose") == []
    assert scores.mean(1, "refine") == pytest.approx(2 / 3)
    assert scores.mean(2, "refine") is None


class City(pydantic.BaseModel):
    name: str
    people: int


class Typed(dspy.Signature):
    """Name the city."""

    question: str = dspy.InputField()
    city: City = dspy.OutputField()
    sure: bool = dspy.OutputField()


def test_answers_are_rebuilt_with_the_types_of_the_task():
    reply = '[[ ## reasoning ## ]]\nso\n\n[[ ## city ## ]]\n{"name": "Paris", "people": 2}\n\n[[ ## sure ## ]]\nTrue'
    program = AttentionMoA(Typed, [ScriptedLM(reply + "\n\n[[ ## completed ## ]]")], layers=1, attention="none")
    run = program(question="?")
    seen: list[Any] = []

    def metric(example: Any, prediction: Any) -> bool:
        seen.append(prediction)
        return isinstance(prediction.city, City) and prediction.city.people == 2 and prediction.sure is True

    scores = attribute(run.trace, EXAMPLES[0], metric, program)
    assert [scored.score for scored in scores.steps] == [1.0, 1.0]
    assert seen[0].trace is run.trace


def test_failed_steps_have_no_score_and_the_proposal_stands_in():
    def broken(request: Any) -> str:
        if "Critiques:" in (request.messages[-1].text or ""):
            raise RuntimeError("no")
        return "Rome"

    program = program_of(Agent("Paris", "Paris", {}), broken)
    scores = attribute(program(question="France?").trace, EXAMPLES[0], exact, program)
    assert [s.step.agent for s in scores.select(1, "refine")] == ["a"]
    assert [(s.step.stage, s.step.agent) for s in scores.candidates(1)] == [("refine", "a"), ("propose", "b")]


# The profile


def test_the_profiles_numbers_are_those_that_one_counts_by_hand():
    result = profile(misled(), EXAMPLES, exact)
    rows = {(row.stage, row.agent): row for row in result.rows}
    assert list(rows) == [
        ("propose", None), ("propose", "a"), ("propose", "b"), ("propose", "c"),
        ("critique", None), ("critique", "a"), ("critique", "b"), ("critique", "c"),
        ("refine", None), ("refine", "a"), ("refine", "b"), ("refine", "c"),
        ("aggregate", None),
    ]  # fmt: skip
    scores = {key: None if row.score is None else round(row.score.value, 3) for key, row in rows.items()}
    assert scores["propose", None] == scores["refine", None] == 0.667
    assert [scores["propose", name] for name in "abc"] == [1, 1, 0]
    assert [scores["refine", name] for name in "abc"] == [0, 1, 1]
    assert scores["critique", "a"] is None
    gains = {key: row.gain.value for key, row in rows.items() if row.gain is not None}
    assert gains == {
        ("refine", None): 0, ("refine", "a"): -1, ("refine", "b"): 0, ("refine", "c"): 1,
        ("aggregate", None): pytest.approx(1 / 3),
    }  # fmt: skip
    assert {key: (row.lost, row.won) for key, row in rows.items() if row.lost or row.won} == {
        ("refine", None): (2, 2), ("refine", "a"): (2, 0), ("refine", "c"): (0, 2),
    }  # fmt: skip
    assert [rows[key].calls for key in (("propose", None), ("critique", None), ("critique", "a"))] == [6, 18, 6]
    stages = [row for row in result.rows if row.agent is None]
    assert sum(row.calls for row in stages) == result.cost.paid_calls == 32
    assert sum(row.tokens for row in stages) == result.cost.tokens.total
    assert sum(row.share for row in stages) == pytest.approx(1)
    assert (result.score.value, result.examples, result.failed) == (1, 2, 0)


def test_the_profile_is_a_table_for_people_and_json_for_machines():
    program = misled()
    result = profile(program, EXAMPLES, exact)
    assert result.program is program
    table = str(result)
    assert table.splitlines()[0].split()[:2] == ["layer", "stage"]
    assert "1 refine 0.667 [0.105, 0.947] +0.000 [-0.842, +0.842] 2 2 6 " in " ".join(table.split())
    assert table.endswith("answer 1.000 [0.158, 1.000] over 2 examples")
    written = json.loads(json.dumps(result.report))
    assert written == result.report
    assert (written["kind"], written["examples"], "program" in written) == ("profile", 2, False)
    assert result.row(1, "refine", "a").lost == 2
    with pytest.raises(LookupError, match="layer 3"):
        result.row(3, "refine")


def test_later_layers_are_compared_with_what_they_started_from():
    def stubborn(request: Any) -> str:
        prompt = request.messages[-1].text or ""
        if "improved" in (request.system or ""):
            return "[[ ## improved ## ]]\nTrue\n\n[[ ## answer ## ]]\nRome\n\n[[ ## completed ## ]]"
        return "Paris" if "Previous Answer:" in prompt or "Candidate Answers:" in prompt else "Rome"

    result = profile(program_of(stubborn, layers=2, attention="none"), EXAMPLES, exact)
    gains = {(row.layer, row.stage): row.gain and row.gain.value for row in result.rows}
    assert gains == {
        (1, "propose"): None, (1, "aggregate"): 1, (2, "propose"): 0, (2, "aggregate"): 0, (2, "synthesize"): -1,
    }  # fmt: skip


def test_agents_that_read_all_answers_are_compared_with_these():
    def reader(request: Any) -> str:
        return "Paris" if "Candidate Answers:" in (request.messages[-1].text or "") else "Rome"

    program = program_of(reader, reader, layers=3, attention="none", residual="answers")
    result = profile(program, EXAMPLES, exact)
    gains = {(row.layer, row.stage): row.gain and row.gain.value for row in result.rows if row.agent is None}
    assert gains == {(1, "propose"): None, (2, "propose"): 1, (3, "aggregate"): 0}
    told = [said.feedback for name, said in feedback_of(program, exact) if name == "improve"]
    assert told
    assert all("It was to improve on 2 answers, the best of which was wrong." in text for text in told)


def test_the_cost_of_cached_calls_counts_in_the_shares():
    lm = ScriptedLM("Paris", cache=True)
    program = AttentionMoA("question -> answer", [lm], layers=1, attention="none")
    first, again = profile(program, EXAMPLES, exact), profile(program, EXAMPLES, exact)
    assert [row.share for row in again.rows] == [row.share for row in first.rows]
    assert (first.cost.paid_calls, again.cost.paid_calls) == (4, 0)


def test_a_program_that_fails_everywhere_has_no_profile():
    def broken(request: Any) -> str:
        raise RuntimeError("down")

    with pytest.raises(RunError, match="fails on every example"):
        profile(program_of(broken), EXAMPLES, exact)


def test_an_answer_that_the_metric_raises_on_counts_as_zero_and_the_others_as_they_are():
    def replies(request: Any) -> str:
        return "12" if "Candidate Answers:" in (request.messages[-1].text or "") else "no number"

    def number(example: Any, prediction: Any, trace: Any = None) -> bool:
        return int(prediction.answer) == 12

    result = profile(program_of(replies), EXAMPLES, number)
    assert result.score.value == result.row(1, "aggregate").score.value == 1  # type: ignore[union-attr]
    assert result.row(1, "propose").score.value == 0  # type: ignore[union-attr]
    assert result.unjudged == len(EXAMPLES)
    assert "the metric raised on 2 answers, which count as 0" in str(result)


@pytest.mark.parametrize("metric", [None, "exact"])
def test_what_is_no_metric_is_refused_before_anything_is_paid(metric: Any):
    lm = ScriptedLM("Paris")
    with pytest.raises(ConfigurationError, match="metric"):
        profile(AttentionMoA("question -> answer", [lm], layers=1), EXAMPLES, metric)
    assert not lm.requests


@pytest.mark.parametrize("score", [-1.0, 1.5, float("nan"), float("inf"), "good"])
def test_a_score_is_from_0_to_1(score: Any):
    with pytest.raises(ConfigurationError, match="from 0"):
        profile(program_of(lambda request: "Paris"), EXAMPLES, lambda *_: score)


def test_gains_come_with_a_paired_test():
    assert Gain.of([0] * 20, [1] * 20).p < 0.001
    assert Gain.of([0, 1] * 10, [1, 0] * 10).p > 0.5
    assert Gain.of([1, 0], [1, 0]).p == 1.0
    assert str(Gain.of([0, 0], [0.5, 0.5])) == "+0.500 [-0.763, +0.921]"
    with pytest.raises(ValueError, match="equally many"):
        Gain.of([1], [])


# Feedback for GEPA


@pytest.mark.parametrize("shared", [True, False])
def test_each_predictor_hears_what_its_own_call_did(shared: bool):
    told = [(name, result.feedback) for name, result in feedback_of(misled(shared_prompts=shared), exact)]
    own = [(name.partition("[")[0], text.partition(" In layer 1")[0]) for name, text in told]
    turned, by_another = (
        "; after the critiques it became",
        "because of another critique, which this one did not prevent",
    )
    texts = [text for _, text in own]
    assert [role for role, _ in own] == [
        "propose", "propose", "propose",
        "self_critique", "critique", "critique",
        "critique", "self_critique", "critique",
        "critique", "critique", "self_critique",
        "refine", "refine", "refine", "aggregate",
    ]  # fmt: skip
    assert texts[:3] == ["This answer was right."] * 2 + ["This answer was wrong. Agent a was right with: 'Paris'."]
    assert [text.removeprefix("This critique was of ") for text in texts[3:12]] == [
        f"its own answer, which was right{turned} wrong, {by_another}.",
        "the answer of agent b, which was right and stayed so.",
        f"the answer of agent c, which was wrong{turned} right, though not by what this critique suggested.",
        f"the answer of agent a, which was right{turned} wrong, {by_another}.",
        "its own answer, which was right and stayed so.",
        f"the answer of agent c, which was wrong{turned} right, as this critique suggested.",
        f"the answer of agent a, which was right{turned} wrong, because of a wrong suggestion of this critique.",
        "the answer of agent b, which was right and stayed so.",
        f"its own answer, which was wrong{turned} right, though not by what this critique suggested.",
    ]
    assert texts[12:] == [
        "This refinement gave up a right answer because of a wrong suggestion from agent c.",
        "This refinement rightly kept an answer that was right.",
        "This refinement made the answer right because of a good suggestion from agent b.",
        "Two of three candidate answers were right (b, c); the aggregate was right.",
    ]
    if not shared:
        assert [name for name, _ in told[:3]] == ["propose[0]", "propose[1]", "propose[2]"]


def test_everyone_hears_how_the_run_went():
    _, result = feedback_of(misled(), exact)[0]
    assert result.feedback.endswith(
        "In layer 1, two of three proposals were right (a, b); the refinement of agent a gave up a right answer "
        "because of a wrong suggestion from agent c; the refinement of agent c made its answer right because of a good "
        "suggestion from agent b; the aggregate was right. The final answer was right."
    )
    assert result.score == 1.0


def test_an_aggregate_that_follows_the_wrong_ones_is_told_whom_to_follow():
    program = program_of(Agent("Rome", "Rome", {}, aggregate="Rome"), Agent("Paris", "Paris", {}), attention="cross")
    told = dict(feedback_of(program, exact))
    assert told["aggregate"].feedback.startswith(
        "One of two candidate answers was right (b); the aggregate was wrong. It should have followed agent b."
    )
    assert told["aggregate"].score == 0.0


def test_metrics_that_are_not_yes_or_no_are_told_in_figures():
    told = feedback_of(misled(), graded)
    texts = [result.feedback for _, result in told]
    assert "This refinement gave up a better answer, which scored 0.90 because of a wrong suggestion" in texts[12]
    assert "the proposals scored a 0.90, b 0.90, c 0.20" in texts[0]
    assert all("right" not in text for text in texts[:3])
    assert {result.score for _, result in told} == {0.9}


def test_a_synthesis_hears_whether_its_decision_was_right():
    def reply(request: Any) -> str:
        prompt = request.messages[-1].text or ""
        if "improved" in (request.system or ""):
            return "[[ ## improved ## ]]\nFalse\n\n[[ ## answer ## ]]\nRome\n\n[[ ## completed ## ]]"
        return "Paris" if "Previous Answer:" in prompt or '<answer number="1">\nParis' in prompt else "Rome"

    told = dict(feedback_of(program_of(reply, layers=2, attention="none"), exact))
    assert told["synthesize"].feedback.startswith(
        "The newest layer's answer was right and improved on the one before it, which was wrong. "
        "The decision was that it does not improve, which is wrong. The synthesis was wrong."
    )
    assert "It was to improve on an answer that was wrong." in told["improve"].feedback


def test_what_the_tasks_own_metric_has_to_say_is_passed_on():
    def talking(example: Any, prediction: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
        score = float(prediction.answer == example.answer)
        return score if pred_name is None else dspy.Prediction(score=score, feedback="It is on the Seine.")

    name, result = feedback_of(misled(), talking)[0]
    assert name == "propose"
    assert result.feedback.endswith("About the final answer: It is on the Seine.")
    program = misled()
    assert StageFeedback(talking, program)(EXAMPLES[0], program(question="France?")) == 1.0


def test_a_call_is_found_by_what_it_wrote_where_the_captured_trace_does_not_match():
    program = misled(shared_prompts=False)
    with dspy.context(trace=[]):
        prediction = program(question="France?")
        captured = cast("list[Any]", dspy.settings.trace)
    judge = StageFeedback(exact, program)
    result = judge(EXAMPLES[0], prediction, captured[:3], "refine[0]", [captured[12]])
    assert result.feedback.startswith("This refinement gave up a right answer")
    bare = judge(EXAMPLES[0], dspy.Prediction(answer="Rome"), captured, "refine[0]", [captured[12]])
    assert (bare.score, bare.feedback) == (0.0, "The answer scored 0.")


def test_a_metric_by_name_compares_the_output_of_the_task_in_every_stage():
    lm = ScriptedLM("billing")
    program = AttentionMoA("ticket -> category", [lm, lm], layers=1)
    tickets = [dspy.Example(ticket=f"t{number}", category="billing").with_inputs("ticket") for number in range(3)]
    result = profile(program, tickets, ExactMatch())
    assert {row.score.value for row in result.rows if row.score is not None} == {1.0}
    assert not result.unjudged
