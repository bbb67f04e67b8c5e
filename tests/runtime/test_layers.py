"""The algorithm, seen from the models' side: how many calls, in which order, and what each of them reads."""

from __future__ import annotations

import json
import re
from itertools import count
from typing import Any

import dspy
import pytest
from dspy.lm15 import Request
from hypothesis import given, settings, strategies as st

import moa_dspy
from moa_dspy import AllProposalsFailedError, AttentionMoA
from moa_dspy.testing import ScriptedLM, prompt_of

DECISION = "[[ ## improved ## ]]\n{improved}\n\n[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]"


def is_synthesis(request: Request) -> bool:
    return "improved" in prompt_of(request)


def in_role(text: str, improved: bool = True) -> Any:
    """A reply in the format that the role asks for."""
    return lambda request: DECISION.format(improved=improved, answer=text) if is_synthesis(request) else text


def numbered_agents(agents: int, improved: bool = True) -> list[ScriptedLM]:
    """Agents whose every reply is unique: ``<agent>-<n>``, as one word."""

    def replies(agent: str) -> Any:
        numbers = count()
        return lambda request: in_role(f"{agent}{next(numbers)}z", improved)(request)

    return [ScriptedLM(replies(f"agent{chr(65 + i)}"), model=f"scripted/{chr(65 + i)}") for i in range(agents)]


def calls_by_formula(agents: int, layers: int, attention: str | int, residual: str) -> int:
    critiques = {"full": agents**2, "cross": agents * (agents - 1), "self": agents, "none": 0}.get(
        str(attention), 0 if isinstance(attention, str) else agents * (attention + 1)
    )
    layer = agents + critiques + (agents if critiques else 0) + 1
    if residual == "answers":
        return (layers - 1) * (layer - 1) + 1
    return layers * layer + (layers - 1 if residual == "synthesis" else 0)


shapes = (
    st.integers(1, 6)
    .flatmap(
        lambda agents: st.tuples(
            st.just(agents),
            st.integers(1, 4),
            st.sampled_from(["full", "cross", "self", "none", *range(1, agents)]),
            st.sampled_from(["synthesis", "none", "answers"]),
            st.booleans(),
        )
    )
    .filter(lambda shape: shape[1] > 1 or shape[3] != "answers")
)


@settings(deadline=None, max_examples=60)
@given(shape=shapes)
@pytest.mark.slow
def test_the_number_of_calls_is_exactly_the_formulas(shape: tuple[int, int, Any, Any, bool]) -> None:
    agents, layers, attention, residual, shared = shape
    lms = numbered_agents(agents)
    moa = AttentionMoA(
        "question -> answer", lms, layers=layers, attention=attention, residual=residual, shared_prompts=shared
    )

    trace = moa(question="?").trace

    asked = sum(len(lm.requests) for lm in lms)
    assert asked == calls_by_formula(agents, layers, attention, residual)
    assert asked == trace.calls == moa.architecture.max_calls
    assert trace.layers == layers
    assert trace.stopped_by == "layers"


def words(text: str) -> list[str]:
    return re.findall(r"agent\w\d+z", text)


def test_a_refinement_reads_exactly_the_critiques_of_its_own_answer() -> None:
    trace = AttentionMoA("question -> answer", numbered_agents(3), layers=1)(question="?").trace
    for agent in ("A", "B", "C"):
        (refined,) = trace.select(stage="refine", agent=agent)
        critiques = [step.text for step in trace.select(stage="critique", target=agent)]
        (own,) = [step.text for step in trace.select(stage="propose", agent=agent)]

        read = prompts_with_reply(trace, refined.text)
        assert words(read) == [own, *critiques]


def prompts_with_reply(trace: moa_dspy.Trace, reply: str) -> str:
    """The last user message of the call that was answered with ``reply``, from DSPy's history."""
    from dspy.clients.base_lm import GLOBAL_HISTORY

    (entry,) = [e for e in GLOBAL_HISTORY if any(reply in str(output) for output in e["outputs"])][-1:]
    return str(entry["messages"][-1]["content"])


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("reads", ["critique", ""])
def test_a_reasoning_that_a_user_adds_to_a_role_is_no_critique(at_end: bool, reads: str) -> None:
    lm = ScriptedLM(json.dumps({"reasoning": "thought", "critique": reads, "answer": "7"}))
    program = AttentionMoA("question -> answer", [lm], layers=1, aggregation="none")
    predictor: Any = program.self_critique
    add = predictor.signature.append if at_end else predictor.signature.prepend
    predictor.signature = add("reasoning", dspy.OutputField(), str)
    steps = program(question="?").trace.steps
    assert [step.text for step in steps if step.stage == "critique"] == [reads]


def test_who_reads_what_in_every_stage_of_every_layer() -> None:
    lms = numbered_agents(3)
    trace = AttentionMoA("question -> answer", lms, layers=3)(question="?").trace

    def text(**where: Any) -> str:
        (step,) = trace.select(**where)
        return step.text

    def read(**where: Any) -> list[str]:
        return words(prompts_with_reply(trace, text(**where)))

    accepted = [str(output["answer"]) for output in trace.outputs]
    for layer in (1, 2, 3):
        before = accepted[layer - 2 : layer - 1] if layer > 1 else []
        for agent in "ABC":
            own = text(layer=layer, stage="propose", agent=agent)
            # A proposal reads the previous layer's output and nothing else.
            assert read(layer=layer, stage="propose", agent=agent) == before
            assert read(layer=layer, stage="critique", agent=agent, target=agent) == [own]
            for peer in set("ABC") - {agent}:
                other = text(layer=layer, stage="propose", agent=peer)
                # The critic's own answer comes first: servers can reuse that prefix for all its critiques.
                assert read(layer=layer, stage="critique", agent=agent, target=peer) == [own, other]
        refined = [text(layer=layer, stage="refine", agent=agent) for agent in "ABC"]
        assert read(layer=layer, stage="aggregate") == refined
        if layer > 1:
            aggregate = text(layer=layer, stage="aggregate")
            # The synthesizer reads the whole stack, oldest first: H_1 .. H_{l-1}, then A_l.
            assert read(layer=layer, stage="synthesize") == [*accepted[: layer - 1], aggregate]


def test_the_first_layers_aggregate_is_its_output() -> None:
    trace = AttentionMoA("question -> answer", numbered_agents(2), layers=2)(question="?").trace
    (aggregate,) = trace.select(layer=1, stage="aggregate")
    assert trace.outputs[0] == {"answer": aggregate.text}


def test_early_stop_returns_the_last_accepted_output_and_later_layers_cost_nothing() -> None:
    lms = numbered_agents(3, improved=False)
    prediction = AttentionMoA("question -> answer", lms, layers=4)(question="?")
    trace = prediction.trace

    assert trace.stopped_by == "no_improvement"
    assert trace.layers == 2
    assert trace.improved == (False,)
    (first,) = trace.select(layer=1, stage="aggregate")
    assert prediction.answer == first.text
    assert sum(len(lm.requests) for lm in lms) == calls_by_formula(3, 2, "full", "synthesis")


def test_without_early_stop_the_decision_is_on_record_and_all_layers_are_run() -> None:
    lms = numbered_agents(2, improved=False)
    prediction = AttentionMoA("question -> answer", lms, layers=3, early_stop=False)(question="?")

    assert prediction.trace.layers == 3
    assert prediction.trace.improved == (False, False)
    (last,) = prediction.trace.select(layer=3, stage="synthesize")
    assert prediction.answer == last.outputs["answer"]


def test_without_residual_a_layers_aggregate_is_handed_on() -> None:
    prediction = AttentionMoA("question -> answer", numbered_agents(2), layers=3, residual="none")(question="?")
    aggregates = [step.text for step in prediction.trace.select(stage="aggregate")]
    assert [output["answer"] for output in prediction.trace.outputs] == aggregates
    assert prediction.answer == aggregates[-1]


def test_where_all_answers_are_passed_on_later_agents_read_each_of_them_and_the_aggregator_is_the_last_layer() -> None:
    prediction = moa_dspy.mixture_of_agents("question -> answer", numbered_agents(3), layers=3)(question="?")
    trace = prediction.trace
    first, second = ([step.text for step in trace.select(layer=layer, stage="propose")] for layer in (1, 2))
    for text in second:
        assert words(prompts_with_reply(trace, text)) == first
    (last,) = trace.select(layer=3)
    assert (last.stage, last.agent) == ("aggregate", "aggregator")
    assert words(prompts_with_reply(trace, last.text)) == second
    assert trace.outputs == ({"answer": prediction.answer},)


def test_answers_that_are_passed_on_survive_agents_and_layers_that_fail() -> None:
    lms = [*numbered_agents(2), failing("Candidate Answers")]
    program = moa_dspy.mixture_of_agents("question -> answer", lms, layers=3, aggregator=lms[0])
    trace = program(question="?").trace
    assert [step.status for step in trace.select(layer=2)] == ["ok", "ok", "failed"]
    assert trace.stopped_by == "layers"
    aggregates = ScriptedLM(in_role("unitedZ"), model="scripted/judge")
    all_fail = moa_dspy.mixture_of_agents(
        "question -> answer",
        [failing("Candidate Answers"), failing("Candidate Answers")],
        layers=4,
        aggregator=aggregates,
    )(question="?")
    assert (all_fail.answer, all_fail.trace.stopped_by) == ("unitedZ", "failure")


def test_a_window_holds_the_answer_so_far_and_new_answers_in_equal_parts() -> None:
    judge = numbered_agents(1)[0]
    lms = [ScriptedLM(f"agent{chr(75 + i)}{i}z", model=f"scripted/{chr(75 + i)}") for i in range(8)]
    program = AttentionMoA("question -> answer", lms, layers=1, attention="none", aggregation=4, aggregator=judge)
    prediction = program(question="?")
    assert program.architecture.aggregate_calls == len(judge.requests) == 3
    answers = [step.text for step in prediction.trace.select(stage="propose")]
    so_far = [step.text for step in prediction.trace.select(stage="aggregate")]
    assert [words(prompt_of(request)) for request in judge.requests] == [
        answers[:4],
        [so_far[0], so_far[0], *answers[4:6]],
        [so_far[1], so_far[1], *answers[6:]],
    ]
    assert prediction.answer == so_far[-1]


def test_the_aggregator_writes_aggregates_and_syntheses_and_nothing_else() -> None:
    judge = ScriptedLM(in_role("judged"), model="scripted/judge")
    prediction = AttentionMoA("question -> answer", numbered_agents(2), layers=2, aggregator=judge)(question="?")
    assert prediction.answer == "judged"
    by_judge = [step.stage for step in prediction.trace.steps if step.model == "scripted/judge"]
    assert by_judge == ["aggregate", "aggregate", "synthesize"]


def test_a_persona_is_read_by_its_agent_alone() -> None:
    lms = numbered_agents(2)
    pirate = moa_dspy.Agent(lms[0], persona="You are a pirate.")
    AttentionMoA("question -> answer", [pirate, lms[1]], layers=2, aggregator=lms[1])(question="?")
    assert all("pirate" in prompt_of(request) for request in lms[0].requests)
    assert not any("pirate" in prompt_of(request) for request in lms[1].requests)


def failing(stage_marker: str, text: str = "fine") -> ScriptedLM:
    """A model that breaks down wherever its prompt holds ``stage_marker``."""

    def reply(request: Request) -> str:
        if stage_marker in prompt_of(request):
            raise ConnectionError("SECRET-ERROR-TEXT")
        return in_role(text)(request)

    return ScriptedLM(reply, model=f"scripted/failing-{text}", num_retries=0)


def test_an_agent_whose_proposal_fails_is_out_of_that_layer() -> None:
    broken, good = failing("Read the question"), numbered_agents(2)
    trace = AttentionMoA("question -> answer", [broken, *good], layers=1, aggregator=good[0])(question="?").trace
    (failed,) = [step for step in trace.steps if step.status == "failed"]
    assert (failed.stage, failed.agent) == ("propose", "failing-fine")
    assert failed.error is not None
    assert "SECRET-ERROR-TEXT" in failed.error.message
    assert {step.target for step in trace.select(stage="critique")} == {"A", "B"}
    assert {step.agent for step in trace.select(stage="critique")} == {"A", "B"}
    assert len(list(trace.select(stage="refine"))) == 2
    assert not any("SECRET" in prompt_of(request) for lm in (broken, *good) for request in lm.requests)


def test_a_failed_critique_is_left_out() -> None:
    broken, good = failing("Suggest"), numbered_agents(1)
    trace = AttentionMoA("question -> answer", [broken, *good], layers=1, aggregator=good[0])(question="?").trace
    assert [step.status for step in trace.select(stage="critique", agent="failing-fine")] == ["failed", "failed"]
    (refined,) = trace.select(stage="refine", agent="A")
    assert len(re.findall("<critique", prompts_with_reply(trace, refined.text))) == 1


def test_a_failed_refinement_falls_back_to_the_proposal() -> None:
    broken, good = failing("reviewers"), numbered_agents(1)
    trace = AttentionMoA("question -> answer", [broken, *good], layers=1, aggregator=good[0])(question="?").trace
    (aggregate,) = trace.select(stage="aggregate")
    assert "fine" in prompts_with_reply(trace, aggregate.text)


def test_a_failed_aggregator_is_stood_in_for_by_the_next_model_and_the_trace_says_so() -> None:
    judge = failing("Several agents", "judge")
    prediction = AttentionMoA("question -> answer", numbered_agents(2), layers=1, aggregator=judge)(question="?")
    attempts = [(step.model, step.status) for step in prediction.trace.select(stage="aggregate")]
    assert attempts == [("scripted/failing-judge", "failed"), ("scripted/A", "ok")]


def test_when_no_model_can_aggregate_the_first_answer_stands() -> None:
    lm = failing("Several agents")
    prediction = AttentionMoA("question -> answer", [lm, lm], layers=1)(question="?")
    assert prediction.answer == "fine"


def test_when_no_model_can_synthesize_the_last_accepted_output_stands() -> None:
    lm = failing("several rounds")
    prediction = AttentionMoA("question -> answer", [lm, lm], layers=3)(question="?")
    assert prediction.answer == "fine"
    assert prediction.trace.stopped_by == "failure"
    assert prediction.trace.improved == (None,)


def test_when_nobody_answers_every_cause_is_listed() -> None:
    moa = AttentionMoA("question -> answer", [failing("?", "one"), failing("?", "two")], layers=1)
    with pytest.raises(AllProposalsFailedError, match=r"failing-one: .*failing-two: "):
        moa(question="?")


def test_empty_text_counts_as_a_failure() -> None:
    silent = ScriptedLM("  ", model="scripted/silent")
    trace = AttentionMoA("question -> answer", [silent, *numbered_agents(1)], layers=1)(question="?").trace
    (step,) = trace.select(stage="propose", agent="silent")
    assert step.status == "failed"


def test_a_two_turn_conversation_reaches_every_role() -> None:
    lms = numbered_agents(2)
    moa = AttentionMoA("history: dspy.History, question -> answer", lms, layers=2)
    history = dspy.History(messages=[{"question": "Who wrote Faust?", "answer": "Goethe."}])
    moa(question="When was he born?", history=history)
    requests = [request for lm in lms for request in lm.requests]
    assert all("Who wrote Faust?" in prompt_of(request) and "Goethe." in prompt_of(request) for request in requests)
    first = lms[0].requests[0]
    assert [message.role for message in first.messages] == ["user", "assistant", "user"]


def test_without_history_a_first_turn_works() -> None:
    moa = AttentionMoA("history: dspy.History, question -> answer", numbered_agents(2), layers=1)
    assert moa(question="?").answer


def test_votes_are_counted_without_a_call_and_ties_go_to_the_first() -> None:
    def typed(value: str) -> str:
        return f"[[ ## reasoning ## ]]\nbecause of {value}\n\n[[ ## answer ## ]]\n{value}\n\n[[ ## completed ## ]]"

    lms = [ScriptedLM(typed(value), model=f"scripted/{i}") for i, value in enumerate(["4", "5", "5", "4", "7"])]
    moa = AttentionMoA("question -> answer: int", lms, layers=1, attention="none", aggregation="vote")
    prediction = moa(question="?")
    assert prediction.answer == 4
    assert prediction.trace.calls == 5
    (vote,) = prediction.trace.select(stage="aggregate")
    assert (vote.agent, vote.model, vote.calls) == ("vote", None, 0)
