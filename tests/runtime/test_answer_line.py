"""Short typed answers: the model thinks in plain text, and the last line or a second question has the value."""

from __future__ import annotations

import enum
import json
from typing import Any

import dspy
import pytest
from dspy.lm15 import Request
from hypothesis import given, settings, strategies as st
from support.loopback import Cut, Loopback

import moa_dspy
from moa_dspy import Agent, AttentionMoA, Budget, single_model
from moa_dspy.run_view import run_page
from moa_dspy.runtime.answer_line import AnswerLineAdapter, NoValueError, has_answer_line
from moa_dspy.runtime.formats import adapters_for
from moa_dspy.signatures import derive_roles
from moa_dspy.testing import ScriptedLM, prompt_of


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Review(dspy.Signature):
    """Judge the mood."""

    text: str = dspy.InputField()
    mood: Mood = dspy.OutputField()


NUMBER = derive_roles("question -> answer: float").task


def parsed(text: str, kind: str = "float") -> Any:
    return AnswerLineAdapter().parse(derive_roles(f"question -> answer: {kind}").task, text)["answer"]


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("question -> answer: float", True),
        ("question -> answer: int", True),
        ("question -> answer: bool", True),
        ("question -> answer: Literal['a', 'b']", True),
        ("question -> answer: Optional[int]", True),
        (Review, True),
        ("question -> answer", False),
        ("question -> answer: list[int]", False),
        ("question -> a: int, b: int", False),
        ("question -> reasoning, answer: int", False),
    ],
)
def test_one_short_typed_output_has_an_answer_line(signature: Any, expected: bool) -> None:
    task = derive_roles(signature).task
    assert has_answer_line(task) is expected
    first = adapters_for(task, ScriptedLM("x"), None)[0]
    assert isinstance(first, AnswerLineAdapter) is expected
    own = dspy.ChatAdapter()
    assert adapters_for(task, ScriptedLM("x"), own) == (own,), "the user's adapter wins"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16 - 3 - 4 = 9 eggs.\n9 * 2 = $18.\n#### 18", 18),
        ("9 * 2 = 18\n\n#### $1,800.50 per week", 1800.5),
        ("2 + 1 = 3\nAnswer: 3", 3),
        ("2 + 1 = 3\n\n**Answer:** 3 bolts.", 3),
        ("Therefore:\n$$\n\\boxed{5}\n$$", 5),
        ("So, the final answer is:\n\n$\\boxed{5}$", 5),
        ("**Final answer:**\n\n42", 42),
        ("3 + 4 = 7.\nSo it takes 7 bolts in total.", 7),
        ("3 * 5 = 15\nThus the profit is $70,000.", 70000),
        ("####\n18", 18),
        ("#### Answer: 18", 18),
        ("18", 18),
        ("<think>17?</think>\n#### 18", 18),
        ("[[ ## reasoning ## ]]\n1 + 2\n\n[[ ## answer ## ]]\n3\n\n[[ ## completed ## ]]", 3),
        ('{"reasoning": "1 + 2", "answer": 3}', 3),
        ("The answer is -3.5.", -3.5),
        ("It is 12.5%.\n#### 12.5%", 12.5),
        ("Reasoning: 3 and 4\nAnswer: 7", 7),
        ("First 3, then 4.\n\nThe final answer is **7**.", 7),
        ("Step 1: halve it.\nStep 2: 50 / 2 = 25", 25),
    ],
)
def test_the_value_is_read_from_plain_text(text: str, value: float) -> None:
    assert parsed(text) == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("x = 3 or x = 4", "float"),
        ("Answer: 3\nor\nAnswer: 4", "float"),
        ("I cannot say.", "int"),
        ("yes or no", "Literal['yes', 'no']"),
        ("The text mentions a and b.", "Literal['a', 'b']"),
        ('{"answer": "many"}', "int"),
        ("[[ ## answer ## ]]\nneutral", "Literal['positive', 'negative']"),
        ("It says positive things, and\nnegative ones.", "Literal['positive', 'negative']"),
    ],
)
def test_what_is_not_clear_is_not_guessed(text: str, kind: str) -> None:
    with pytest.raises(NoValueError):
        parsed(text, kind)


def test_the_second_question_continues_the_conversation_and_is_counted() -> None:
    lm = ScriptedLM(["Three and four,\nor so.", "7"])
    prediction = single_model("question -> answer: int", lm)(question="3 + 4?")
    assert (prediction.answer, prediction.reasoning) == (7, "Three and four,\nor so.")
    (step,) = prediction.trace.steps
    assert (step.status, step.calls, [failure.kind for failure in step.failures]) == ("ok", 2, ["adapter_parse_error"])
    first, second = lm.requests
    assert second.system == first.system
    assert [message.role for message in second.messages] == ["user", "assistant", "user"]
    assert "Write only the answer, a whole number." in prompt_of(second)


def test_after_two_unclear_replies_the_step_fails() -> None:
    lm = ScriptedLM("no idea")
    with pytest.raises(moa_dspy.AllProposalsFailedError, match="does not say clearly what the answer is"):
        single_model("question -> answer: int", lm)(question="3 + 4?")
    assert len(lm.requests) == 2


def test_the_second_question_stays_within_the_budget() -> None:
    lm = ScriptedLM("no idea")
    with pytest.raises(moa_dspy.AllProposalsFailedError):
        single_model("question -> answer: int", lm)(question="3 + 4?", budget=Budget(calls=1))
    assert len(lm.requests) == 1


def test_reasoning_that_was_cut_off_is_not_asked_about_and_never_shown() -> None:
    lm = ScriptedLM(["<think>Perhaps 5, perhaps", "#### 7"])
    prediction = single_model("question -> answer: int", lm)(question="3 + 4?")
    assert prediction.answer == 7
    assert all("Perhaps" not in prompt_of(request) for request in lm.requests)


def test_the_plan_says_how_many_calls_there_are_if_no_reply_can_be_read() -> None:
    lms = [ScriptedLM("no idea", f"scripted/{name}") for name in "ab"]
    moa = AttentionMoA("question -> answer: Literal['x', 'y']", lms, layers=1, attention="none", aggregation="vote")
    plan = moa.plan(question="?", times=10)
    assert (plan.full.calls, plan.full.most_calls, moa.most_calls, plan.total.most_calls) == (2, 4, 4, 40)
    assert "20 calls (at most 40)" in plan.to_table()
    with pytest.raises(moa_dspy.AllProposalsFailedError):
        moa(question="?")
    assert sum(len(lm.requests) for lm in lms) == plan.full.most_calls
    assert moa.plan(question="?", budget=Budget(calls=3)).full.most_calls == 3
    assert AttentionMoA("question -> answer", lms, layers=1).plan(question="?").full.most_calls == 9


@given(
    st.sampled_from(["question -> answer", "question -> answer: int", "question -> a: int, b: int"]),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from(["full", "none", "self"]),
    st.sampled_from(["single", "joint"]),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_plan_and_a_program_agree_on_the_bound(
    task: str, agents: int, layers: int, attention: Any, critiques: Any, dissent: bool
) -> None:
    lms = [ScriptedLM("x", f"scripted/{number}") for number in range(agents)]
    moa = AttentionMoA(task, lms, layers=layers, attention=attention, critiques=critiques, dissent=dissent)
    plan = moa.plan()
    assert plan.full.most_calls == moa.most_calls >= plan.full.calls == moa.architecture.max_calls


def test_replies_that_were_cut_are_in_the_record_although_a_later_try_succeeded() -> None:
    replies: list[Any] = [Cut("Three and four are"), "7"]
    with Loopback(lambda _: replies.pop(0)) as server:
        trace = single_model("question -> answer: int", server.lm())(question="3 + 4?").trace
    (step,) = trace.steps
    assert (step.status, step.truncated, step.cut, trace.usage.cut) == ("ok", False, 1, 1)
    assert trace.usage.remark is not None
    assert "1 reply was cut at max_tokens" in trace.summary()
    assert "raise max_tokens" in step.failures[0].message
    page = run_page(trace)
    assert "1 reply was cut at max_tokens" in page
    assert "after 1 failed try" in page
    assert "failed try 1: adapter_parse_error: the reply was cut at max_tokens" in page


def test_without_reasoning_only_the_value_is_asked_for() -> None:
    lm = ScriptedLM("Good!")
    moa = AttentionMoA(Review, [lm], layers=1, attention="none", aggregation="none", reasoning=False)
    assert moa(text="Nice.").mood is Mood.GOOD
    assert "Write only the mood, one of: good, bad." in prompt_of(lm.requests[0])


def test_demos_are_their_reasoning_and_the_answer_line() -> None:
    lm = ScriptedLM("#### 7")
    moa = single_model("question -> answer: int", lm)
    predictor: Any = moa.propose
    predictor.demos = [
        {"question": "1 + 1?", "reasoning": "One and one.", "answer": 2},
        {"question": "2 + 2?", "answer": 4},
    ]
    assert moa(question="3 + 4?").answer == 7
    texts = [message.text for message in lm.requests[0].messages if message.role == "assistant"]
    assert texts == ["#### 4", "One and one.\n\n#### 2"], "DSPy puts incomplete demos first"


def test_votes_and_all_roles_work_on_answer_lines() -> None:
    def reply(request: Request) -> str:
        prompt = prompt_of(request)
        return "Check it." if "critique" in prompt.lower() and "####" not in prompt else "3 + 4 = 7\n#### 7"

    agents = [Agent(ScriptedLM(reply, f"scripted/{name}"), name=name) for name in "abc"]
    moa = AttentionMoA("question -> answer: int", agents, layers=1)
    prediction = moa(question="3 + 4?")
    assert prediction.answer == 7
    assert {step.status for step in prediction.trace.steps} == {"ok"}
    assert moa.replace(aggregation="vote")(question="3 + 4?").answer == 7


def test_a_bootstrapped_program_keeps_its_answer_lines() -> None:
    lm = ScriptedLM("3 + 4 = 7\n#### 7")
    moa = single_model("question -> answer: int", lm)
    trainset = [dspy.Example(question=f"{n} + {7 - n}?", answer=7).with_inputs("question") for n in range(4)]
    tuned = dspy.BootstrapFewShot(metric=lambda example, prediction, trace=None: example.answer == prediction.answer)
    compiled = tuned.compile(moa, trainset=trainset)
    assert compiled(question="0 + 7?").answer == 7
    assert "#### 7" in prompt_of(lm.requests[-1])


@pytest.mark.slow
@pytest.mark.xdist_group("local")
def test_the_embedded_model_is_held_to_the_value_by_a_schema() -> None:
    pytest.importorskip("xllamacpp")
    moa = single_model("question -> answer: Literal['Paris', 'Rome']", Agent("local", max_tokens=40))
    assert moa(question="What is the capital of France?").answer in ("Paris", "Rome")


@given(value=st.integers(-(10**12), 10**12), text=st.text(max_size=80), kind=st.sampled_from(["int", "float"]))
def test_any_text_before_the_answer_line_is_reasoning(value: int, text: str, kind: str) -> None:
    reply = f"{json.dumps(text)}\n\n#### {value}"
    assert parsed(reply, kind) == value
