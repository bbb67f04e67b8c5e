"""Budgets: what a run may cost is never exceeded, and it answers from what it could afford."""

from __future__ import annotations

import asyncio
import random
import re
import time
from itertools import count
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError, Request
from hypothesis import given, settings, strategies as st
from support.loopback import Body, Call, Http, Loopback, completion, refusal
from support.runs import Watched, in_format, role_of, stages, transient, until

from moa_dspy import AllProposalsFailedError, AttentionMoA, Budget, ConfigurationError, Tolerance, Trace
from moa_dspy.runtime.concurrency import limit_concurrency
from moa_dspy.testing import ScriptedLM
from moa_dspy.trace import watch

SIGNATURE = "question -> answer"


def agents(number: int, reply: Any = in_format, **options: Any) -> list[ScriptedLM]:
    return [ScriptedLM(reply, model=f"scripted/{i}", **options) for i in range(number)]


def priced(number: int, **options: Any) -> list[ScriptedLM]:
    """Agents on a model whose price is known."""
    return [ScriptedLM(in_format, model="openai/gpt-4.1", **options) for _ in range(number)]


def program(**options: Any) -> AttentionMoA:
    return AttentionMoA(SIGNATURE, agents(1), **options)


def asked(lms: list[ScriptedLM]) -> int:
    return sum(len(lm.requests) for lm in lms)


@st.composite
def programs(draw: Any) -> dict[str, Any]:
    number, layers = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return {
        "number": number,
        "layers": layers,
        "attention": draw(st.sampled_from(["full", "cross", "self", "none", *range(1, number)])),
        "residual": draw(st.sampled_from(["synthesis", "none", *(["answers"] if layers > 1 else [])])),
    }


@pytest.mark.slow
@settings(max_examples=60)
@given(shape=programs(), data=st.data())
def test_no_call_beyond_the_budget_and_always_an_answer(shape: dict[str, Any], data: st.DataObject) -> None:
    lms = agents(shape.pop("number"))
    moa = AttentionMoA(SIGNATURE, lms, **shape)
    full = moa.architecture.max_calls
    limit = data.draw(st.integers(1, full + 1), label="calls")

    prediction = moa(question="?", budget=Budget(calls=limit))

    assert prediction.answer == "an answer"
    assert asked(lms) == prediction.trace.calls <= limit
    assert prediction.trace.stopped_by == ("layers" if limit >= full else "budget")
    assert (asked(lms) == full) == (limit >= full)


@pytest.mark.slow
@settings(max_examples=60)
@given(shape=programs(), seed=st.integers(), rate=st.floats(0.1, 0.9), retries=st.integers(0, 3), data=st.data())
def test_retries_of_failing_models_count_as_well(
    shape: dict[str, Any], seed: int, rate: float, retries: int, data: st.DataObject
) -> None:
    draws = random.Random(seed)

    def reply(request: Request) -> str:
        if draws.random() < rate:
            raise transient()
        return in_format(request)

    lms = agents(shape.pop("number"), reply)
    moa = AttentionMoA(SIGNATURE, lms, **shape, tolerance=Tolerance(retries=retries))
    limit = data.draw(st.integers(1, moa.architecture.max_calls), label="calls")
    seen = Watched()
    with watch(seen):
        try:
            assert moa(question="?", budget=Budget(calls=limit)).answer == "an answer"
        except AllProposalsFailedError:
            # Only where nobody answered although the budget was spent, or every retry allowed.
            assert not [step for step in seen.trace.steps if step.status == "ok"]
            assert asked(lms) == limit or asked(lms) >= len(lms) * (retries + 1)
    assert asked(lms) == seen.trace.calls <= limit


@pytest.mark.parametrize("calls", range(1, 8))
def test_an_answer_is_worth_more_than_an_aggregate(calls: int) -> None:
    """Agents that cannot answer do not stop those from being asked that can, down to the last call."""

    def broken(request: Request) -> str:
        raise AuthError("bad key")

    lms = [*agents(2, broken), ScriptedLM(in_format, model="scripted/good")]
    moa = AttentionMoA(SIGNATURE, lms, layers=1)
    if calls < 3:
        with pytest.raises(AllProposalsFailedError):
            moa(question="?", budget=Budget(calls=calls))
    else:
        assert moa(question="?", budget=Budget(calls=calls)).answer == "an answer"
    assert asked(lms) <= calls


def test_the_call_kept_for_the_aggregate_is_spent_on_an_answer_where_there_is_none() -> None:
    turns = iter([transient(), "late"])

    def reply(request: Request) -> str:
        turn = next(turns)
        if isinstance(turn, str):
            return turn
        raise turn

    moa = AttentionMoA(SIGNATURE, agents(1, reply), layers=1, tolerance=Tolerance(retries=3))
    prediction = moa(question="?", budget=Budget(calls=2))
    assert (prediction.answer, prediction.trace.calls, prediction.trace.stopped_by) == ("late", 2, "budget")


@pytest.mark.parametrize(
    ("calls", "made"),
    [
        (33, {"propose": 6, "critique": 18, "refine": 6, "aggregate": 2, "synthesize": 1}),
        (32, {"propose": 3, "critique": 9, "refine": 3, "aggregate": 1}),
        (16, {"propose": 3, "critique": 9, "refine": 3, "aggregate": 1}),
        (15, {"propose": 3, "critique": 6, "refine": 2, "aggregate": 1}),
        (11, {"propose": 3, "critique": 3, "refine": 1, "aggregate": 1}),
        (7, {"propose": 3, "aggregate": 1}),
        (4, {"propose": 3, "aggregate": 1}),
        (3, {"propose": 2, "aggregate": 1}),
        (2, {"propose": 1, "aggregate": 1}),
        (1, {"propose": 1}),
    ],
)
def test_further_layers_go_first_then_refinements_and_critiques_then_agents(calls: int, made: dict[str, int]) -> None:
    trace = AttentionMoA(SIGNATURE, agents(3), layers=2)(question="?", budget=Budget(calls=calls)).trace
    assert stages(trace) == made


def test_a_layer_that_was_left_out_is_not_in_the_trace() -> None:
    trace = AttentionMoA(SIGNATURE, agents(3), layers=3)(question="?", budget=Budget(calls=20)).trace
    assert (trace.layers, len(trace.outputs), trace.stopped_by) == (1, 1, "budget")


@pytest.mark.parametrize("attention", ["none", "self", "cross", "full", 1])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_budget_that_is_just_enough_leaves_nothing_out(attention: Any, layers: int) -> None:
    moa = AttentionMoA(SIGNATURE, agents(3), layers=layers, attention=attention)
    trace = moa(question="?", budget=Budget(calls=moa.architecture.max_calls)).trace
    assert (trace.stopped_by, trace.calls) == ("layers", moa.architecture.max_calls)


@pytest.mark.parametrize(("aggregation", "number"), [("vote", 3), ("none", 1)])
def test_nothing_is_kept_back_where_no_model_aggregates(aggregation: Any, number: int) -> None:
    moa = AttentionMoA(SIGNATURE, agents(number), layers=1, attention="none", aggregation=aggregation)
    trace = moa(question="?", budget=Budget(calls=number)).trace
    assert (trace.stopped_by, trace.calls) == ("layers", number)


def test_a_budget_that_is_never_reached_changes_nothing() -> None:
    moa = AttentionMoA(SIGNATURE, priced(3), layers=2, budget=Budget(calls=1000, tokens=10**9, usd=1e9, seconds=1e6))
    trace = moa(question="?").trace
    assert (trace.stopped_by, trace.calls) == ("layers", moa.architecture.max_calls)


def only_calls_under_way_crossed(trace: Trace, limit: float, amount: Any) -> bool:
    """No step began after those that had ended by then had used up the limit."""
    return all(
        sum(amount(done) for done in trace.steps if done.end <= step.start) < limit
        for step in trace.steps
        if step.calls
    )


@settings(max_examples=40)
@given(tokens=st.integers(100, 6000), latency=st.sampled_from([0.0, 0.002]))
@pytest.mark.slow
def test_tokens_are_exceeded_by_nothing_but_calls_under_way(tokens: int, latency: float) -> None:
    lms = agents(3, latency=latency)
    moa = AttentionMoA(SIGNATURE, lms, layers=2)
    prediction = moa(question="?", budget=Budget(tokens=tokens))
    trace = prediction.trace
    assert prediction.answer == "an answer"
    assert only_calls_under_way_crossed(trace, tokens, lambda step: step.tokens.total)
    assert (trace.stopped_by == "budget") == (asked(lms) < moa.architecture.max_calls)


def test_the_aggregate_is_still_paid_when_tokens_run_out_in_the_layer() -> None:
    everything = AttentionMoA(SIGNATURE, agents(3), layers=1)(question="?").trace.tokens.total
    lms = agents(3, max_tokens=20)  # so that nobody expects longer answers
    trace = AttentionMoA(SIGNATURE, lms, layers=1)(question="?", budget=Budget(tokens=int(everything * 0.8))).trace
    assert stages(trace)["propose"] == 3
    assert stages(trace)["aggregate"] == 1
    assert stages(trace).get("refine", 0) < 3
    assert trace.stopped_by == "budget"


@pytest.fixture
def a_cent_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspy.clients.costs.estimate_cost", lambda *args, **options: (0.01, {"kind": "estimate"}))


@pytest.mark.usefixtures("a_cent_a_call")
@pytest.mark.parametrize("usd", [0.02, 0.04, 0.1, 0.15, 0.155, 0.2, 0.331, 1.0])
def test_dollars_are_exceeded_by_nothing_but_calls_under_way(usd: float) -> None:
    lms = priced(3)
    moa = AttentionMoA(SIGNATURE, lms, layers=2)
    prediction = moa(question="?", budget=Budget(usd=usd))
    trace = prediction.trace
    assert prediction.answer == "an answer"
    assert trace.cost_usd == pytest.approx(asked(lms) / 100)
    assert only_calls_under_way_crossed(trace, usd + 1e-9, lambda step: step.cost_usd or 0.0)
    assert (trace.stopped_by == "budget") == (asked(lms) < moa.architecture.max_calls)


@pytest.mark.usefixtures("a_cent_a_call")
def test_a_further_layer_is_not_begun_for_less_than_the_last_one_took() -> None:
    lms = priced(3)
    trace = AttentionMoA(SIGNATURE, lms, layers=3)(question="?", budget=Budget(usd=0.30)).trace
    assert (trace.layers, asked(lms), trace.stopped_by) == (1, 16, "budget")


@pytest.mark.parametrize("settings", [{"disable_history": True}, {"max_history_size": 0}])
def test_a_budget_in_dollars_is_refused_where_prices_cannot_be_seen(settings: dict[str, Any]) -> None:
    lms = agents(1)
    moa = AttentionMoA(SIGNATURE, lms, layers=1, budget=Budget(usd=1))
    with dspy.context(**settings), pytest.raises(ConfigurationError, match="history"):
        moa(question="?")
    assert asked(lms) == 0
    with dspy.context(**settings):
        trace = AttentionMoA(SIGNATURE, lms, layers=1)(question="?").trace
    assert trace.tokens.total > 0
    assert trace.cost_usd is None


@pytest.mark.parametrize(
    "limits",
    [
        {"calls": 0}, {"calls": -1}, {"calls": True}, {"calls": 1.5}, {"tokens": 0}, {"usd": 0}, {"usd": float("nan")},
        {"seconds": 0}, {"seconds": -0.1},
    ],
)  # fmt: skip
def test_a_budget_too_small_for_one_proposal_is_refused_before_anything_is_spent(limits: dict[str, Any]) -> None:
    lms = agents(1)
    with pytest.raises(ConfigurationError, match="too small for a single proposal"):
        AttentionMoA(SIGNATURE, lms, layers=1)(question="?", budget=Budget(**limits))
    assert asked(lms) == 0


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (Budget, {"usd": "5"}), (Tolerance, {"retries": 1.5}), (Tolerance, {"quorum": 2.5}),
        (Tolerance, {"quorum": "3"}),
        (Tolerance, {"timeout": "5"}), (Tolerance, {"grace": None}), (Tolerance, {"strict": "yes"}),
        (program, {"budget": 5}), (program, {"budget": {}}), (program, {"tolerance": {"timeout": 3}}),
        (lambda **options: program()(question="?", **options), {"budget": {"calls": 3}}),
        (lambda **options: program()(question="?", **options), {"budget": 0}),
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused_where_it_is_written(make: Any, options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(
        ConfigurationError, match=rf"{name}={re.escape(repr(value))} is (no|not|invalid|out of range|too small)"
    ):
        make(**options)


def test_a_calls_budget_narrows_the_programs_and_never_widens_it() -> None:
    lms = agents(3)
    moa = AttentionMoA(SIGNATURE, lms, layers=1, budget=Budget(calls=4))
    assert moa(question="?", budget=Budget(calls=2)).trace.calls == 2
    assert moa(question="?", budget=Budget(calls=100)).trace.calls == 4
    assert moa(question="?", budget=Budget(tokens=10**9)).trace.calls == 4
    assert moa(question="?").trace.calls == 4


def test_cached_calls_give_their_place_back() -> None:
    numbers = count()
    lms = agents(3, lambda request: in_format(request, f"answer {next(numbers)}"), cache=True)
    AttentionMoA(SIGNATURE, lms, layers=1)(question="?")
    trace = AttentionMoA(SIGNATURE, lms, layers=2)(question="?", budget=Budget(calls=17)).trace
    assert (trace.calls, trace.cached_calls, trace.stopped_by) == (33, 16, "layers")
    assert asked(lms) == 33


def test_an_unreadable_reply_from_the_cache_is_asked_for_again_and_paid() -> None:
    lm = ScriptedLM("no format at all", cache=True)
    moa = AttentionMoA("question -> answers: list[int]", [lm], layers=1, attention="none", aggregation="none")
    for run in range(1, 4):
        seen = Watched()
        with watch(seen), pytest.raises(AllProposalsFailedError):
            moa(question="?")
        assert seen.trace.calls - seen.trace.cached_calls == 2  # each format once
        assert len(lm.requests) == 2 * run


def test_a_second_question_to_the_cache_is_asked_again_only_where_its_reply_is_unreadable() -> None:
    lm = ScriptedLM("no format at all", cache=True)
    moa = AttentionMoA("question -> answer: int", [lm], layers=1, attention="none", aggregation="none")
    for run in range(1, 4):
        with pytest.raises(AllProposalsFailedError):
            moa(question="?")
        assert len(lm.requests) == 1 + run, "the first reply stands; the second question is asked again"


@pytest.mark.parametrize("bad", ["", "\u200b", Http(200, {"result": 1})], ids=["empty", "invisible", "wrong shape"])
def test_a_bad_reply_in_the_cache_is_no_bar_to_a_good_one(bad: Any) -> None:
    replies = [bad]
    with Loopback(lambda body: replies.pop() if replies else "fine") as server:
        moa = AttentionMoA(SIGNATURE, [server.lm(cache=True)], layers=1, attention="none", aggregation="none")
        with pytest.raises(AllProposalsFailedError):
            moa(question="?")
        traces = [moa(question="?").trace for _ in range(2)]
        assert [trace.steps[0].text for trace in traces] == ["fine"] * 2
        assert [trace.calls - trace.cached_calls for trace in traces] == [1, 0]
        assert len(server.calls) == 2


# Tokens and dollars that nobody tells.


def without_usage(body: Body) -> Http:
    content = completion(body, in_format(body, "one two three four"))
    del content["usage"]
    return Http(200, content)


def test_where_a_server_reports_no_usage_tokens_are_counted_and_the_step_says_so() -> None:
    with Loopback(without_usage) as server:
        trace = AttentionMoA(SIGNATURE, [server.lm() for _ in range(2)], layers=1)(question="?").trace
        assert all(step.estimated and step.tokens.completion >= 4 for step in trace.steps)
        assert all(step.tokens.prompt > 10 for step in trace.steps)
        server.calls.clear()
        moa = AttentionMoA(SIGNATURE, [server.lm() for _ in range(2)], layers=2)
        limited = moa(question="?", budget=Budget(tokens=trace.tokens.total)).trace
        assert limited.stopped_by == "budget"
        assert len(server.calls) < moa.architecture.max_calls


def test_a_server_that_reports_its_usage_is_taken_at_its_word() -> None:
    with Loopback(in_format) as server:
        trace = AttentionMoA(SIGNATURE, [server.lm()], layers=1)(question="?").trace
    assert not any(step.estimated for step in trace.steps)


def test_a_budget_in_dollars_is_refused_where_a_price_is_not_known() -> None:
    with Loopback(in_format) as server:
        lms = [server.lm("gpt-4.1"), server.lm("nobody-knows-it")]
        with pytest.raises(ConfigurationError, match=r"price of openai/nobody-knows-it is not known; limit calls,"):
            AttentionMoA(SIGNATURE, lms, layers=1)(question="?", budget=Budget(usd=100))
        with pytest.raises(ConfigurationError, match="nobody-knows-it"):
            AttentionMoA(SIGNATURE, lms[:1], layers=1, aggregator=lms[1])(question="?", budget=Budget(usd=100))
        assert server.calls == []


def test_a_budget_in_dollars_holds_where_a_server_reports_no_usage() -> None:
    with Loopback(without_usage) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm("gpt-4.1") for _ in range(3)], layers=2)
        trace = moa(question="why " * 300, budget=Budget(usd=0.02)).trace
        assert trace.stopped_by == "budget"
        assert 0 < (trace.cost_usd or 0) < 0.04
        assert len(server.calls) < moa.architecture.max_calls


@pytest.mark.parametrize("limits", [{"tokens": 1}, {"tokens": 300}, {"usd": 1e-12}])
def test_a_prompt_that_alone_is_beyond_the_budget_is_not_sent(limits: dict[str, Any]) -> None:
    with Loopback(in_format) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm("gpt-4.1") for _ in range(5)], layers=2)
        with pytest.raises(ConfigurationError, match="too small for a single proposal, whose prompt alone"):
            moa(question="why " * 300, budget=Budget(**limits))
        assert server.calls == []


def test_only_so_many_first_proposals_are_sent_as_are_expected_to_fit() -> None:
    with Loopback(in_format) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm("gpt-4.1", max_tokens=100) for _ in range(5)], layers=2)
        prediction = moa(question="why " * 300, budget=Budget(tokens=1000))
        # 330 tokens of prompt and at most 100 of an answer for each.
        assert len([call for call in server.calls if role_of(call) == "propose"]) == 2
        assert prediction.trace.stopped_by == "budget"


@pytest.mark.parametrize(("attention", "tokens", "least"), [("none", 2000, 6), ("full", 2400, 20)])
def test_answers_that_are_shorter_than_expected_leave_room_for_the_rest(
    attention: Any, tokens: int, least: int
) -> None:
    moa = AttentionMoA(SIGNATURE, [ScriptedLM("42")] * 5, layers=1, attention=attention)
    trace = moa(question="?", budget=Budget(tokens=tokens)).trace
    assert stages(trace)["propose"] == 5
    assert trace.calls >= least


@pytest.mark.parametrize("calls", [1, 2])
def test_the_second_call_of_an_adapter_that_the_user_configured_is_counted(calls: int) -> None:
    """``dspy.ChatAdapter()`` asks again for JSON, inside one call of a predictor."""
    lm = ScriptedLM(["gibberish", '{"answer": "4"}'])
    moa = AttentionMoA(SIGNATURE, [lm], layers=1, attention="none", aggregation="none")
    seen = Watched()
    with dspy.context(adapter=dspy.ChatAdapter()), watch(seen):
        if calls == 1:
            with pytest.raises(AllProposalsFailedError):
                moa(question="?", budget=Budget(calls=1))
        else:
            assert moa(question="?", budget=Budget(calls=2)).answer == "4"
    assert seen.trace.calls == len(lm.requests) == calls


def test_a_retried_aggregate_leaves_the_call_that_is_held_for_the_synthesis() -> None:
    failed: list[Body] = []

    def reply(body: Body) -> Any:
        if role_of(body) == "aggregate" and "improve" in seen and not failed:
            failed.append(body)
            return refusal(503, "busy", retry_after="0")
        seen.add(role_of(body))
        return in_format(body)

    seen = set[str]()
    with Loopback(reply) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm(f"m{i}", num_retries=2) for i in range(3)], layers=2)
        trace = moa(question="?", budget=Budget(calls=moa.architecture.max_calls)).trace
        assert trace.calls == len(server.calls) == moa.architecture.max_calls
        # The vote stands in for the second layer's aggregate, and the synthesis is paid.
        assert [(step.agent, step.status) for step in trace.select(layer=2, stage="aggregate")] == [
            ("aggregator", "failed"),
            ("m1", "skipped"),
            ("vote", "ok"),
        ]
        assert [step.status for step in trace.select(stage="synthesize")] == ["ok"]
        assert len(trace.outputs) == 2


def test_the_calls_of_a_two_step_adapter_are_counted() -> None:
    marked = "[[ ## reasoning ## ]]\nr\n\n[[ ## answer ## ]]\n4\n\n[[ ## completed ## ]]"
    lm, extractor = ScriptedLM("It is four."), ScriptedLM(marked, model="scripted/extractor")
    moa = AttentionMoA("question -> answer: int", [lm], layers=1, attention="none", aggregation="none")
    with dspy.context(adapter=dspy.TwoStepAdapter(extractor)):
        prediction = moa(question="?")
        assert prediction.answer == 4
        assert prediction.trace.calls == len(lm.requests) + len(extractor.requests) == 2
        seen = Watched()
        with watch(seen), pytest.raises(AllProposalsFailedError):
            moa(question="?", budget=Budget(calls=1))
        assert seen.trace.calls == 1
        assert len(extractor.requests) == 1


# Seconds.


def slow(seconds: dict[str, float]) -> Any:
    """Each role takes as long as it says."""

    async def hold(call: Call) -> None:
        await asyncio.sleep(seconds.get(role_of(call), 0.0))

    return hold


@pytest.mark.slow
@pytest.mark.parametrize(
    ("latencies", "made", "answered"),
    [
        ({"critique": 30}, {"propose", "critique"}, True),
        ({"refine": 30}, {"propose", "critique", "refine"}, True),
        ({"aggregate": 30}, {"propose", "critique", "refine", "aggregate"}, True),
        ({"improve": 30}, {"propose", "critique", "refine", "aggregate"}, True),
        ({"synthesize": 30}, {"propose", "critique", "refine", "aggregate", "synthesize"}, True),
        ({"propose": 30}, {"propose"}, False),
    ],
)
def test_at_the_limit_calls_under_way_are_cancelled_and_the_run_answers(
    latencies: dict[str, float], made: set[str], answered: bool
) -> None:
    seen = Watched()
    with Loopback(in_format, slow(latencies)) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm(f"model-{i}") for i in range(2)], layers=2)
        began = time.monotonic()
        with watch(seen):
            try:
                moa(question="?", budget=Budget(seconds=1.5))
            except AllProposalsFailedError:
                assert not answered
            else:
                assert answered
        assert time.monotonic() - began < 1.5 + 1
        assert until(lambda: not [call for call in server.calls if call.answered is None and call.hung_up is None])
        # A call may be given up on its way, before the server has seen it.
        assert 0 <= seen.trace.calls - len(server.calls) <= 1
        assert set(stages(seen.trace)) >= made
        if answered:
            assert seen.trace.stopped_by == "budget"


@pytest.mark.slow
def test_one_agent_that_hangs_does_not_take_the_others_time() -> None:
    async def hold(call: Call) -> None:
        await asyncio.sleep(30 if call.body["model"] == "slow" else 0.5)

    with Loopback(in_format, hold) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm("quick"), server.lm("slow")], layers=1)
        prediction = moa(question="?", budget=Budget(seconds=3))
    assert prediction.answer == "an answer"
    assert prediction.trace.stopped_by == "budget"
    (late,) = prediction.trace.select(stage="propose", agent="slow")
    assert late.status == "cancelled"
    (aggregate,) = prediction.trace.select(stage="aggregate")
    assert aggregate.status == "ok"


def test_waiting_for_a_turn_ends_at_the_limit_too() -> None:
    async def hold(call: Call) -> None:
        await asyncio.sleep(30 if "hold the line" in call.prompt else 0)

    async def both() -> tuple[Any, float]:
        with Loopback(in_format, hold) as server:
            lm = server.lm()
            one = AttentionMoA(SIGNATURE, [lm], layers=1, attention="none", aggregation="none")
            first = asyncio.create_task(one.acall(question="hold the line"))
            while not server.calls:
                await asyncio.sleep(0.01)
            seen, began = Watched(), time.monotonic()
            with watch(seen), pytest.raises(AllProposalsFailedError):
                await one.acall(question="?", budget=Budget(seconds=0.3))
            took = time.monotonic() - began
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert len(server.calls) == 1
            return seen.trace, took

    limit_concurrency(1, model="openai/model")
    try:
        trace, took = asyncio.run(both())
    finally:
        limit_concurrency(None, model="openai/model")
    assert took < 1.3
    assert trace.calls == 0
    assert trace.steps[0].queued > 0.2


def test_a_wait_between_tries_that_is_longer_than_the_budget_is_not_begun() -> None:
    def reply(request: Request) -> str:
        error = transient()
        error.retry_after = 10.0
        raise error

    lms = [ScriptedLM(reply, num_retries=3, model="scripted/busy"), *agents(1)]
    began = time.monotonic()
    prediction = AttentionMoA(SIGNATURE, lms, layers=1)(question="?", budget=Budget(seconds=5))
    assert time.monotonic() - began < 2
    assert prediction.trace.stopped_by == "budget"
    assert len(lms[0].requests) < 5
