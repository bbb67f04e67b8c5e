"""Faults of providers: typed, kept out of prompts, retried where that helps, and never the end of a run that can go on.

In all of it the calls in the trace are exactly the requests that the server has seen.
"""

from __future__ import annotations

import asyncio
import re
import time
from email.utils import formatdate
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import LMInvalidRequestError
from support.loopback import Body, Call, Hang, Http, Loopback, Reply, Reset, context_too_long, refusal
from support.runs import Watched, in_format, in_role, role_of, until

from benchmarks import fault_runs
from moa_dspy import (
    AllProposalsFailedError,
    AttentionMoA,
    Budget,
    ConfigurationError,
    Prediction,
    StepFailedError,
    Tolerance,
    Trace,
)
from moa_dspy.batches.wire import may_succeed_later
from moa_dspy.runtime.failures import failure_of
from moa_dspy.trace import watch

SIGNATURE = "question -> answer"
SECRET = "WORDS-OF-A-FAILURE"


def replies(*first: Reply, then: Reply = "an answer") -> Any:
    """Give out ``first`` in order of arrival, and then always the same."""
    turns = iter(first)
    return lambda body: next(turns, then)


def one_call(server: Loopback, tolerance: Tolerance | None = None, **options: Any) -> AttentionMoA:
    lm = server.lm(**options)
    return AttentionMoA(SIGNATURE, [lm], layers=1, attention="none", aggregation="none", tolerance=tolerance)


def run(program: AttentionMoA, **options: Any) -> tuple[Prediction | Exception, Trace]:
    seen = Watched()
    with watch(seen):
        try:
            outcome: Any = program(question="?", **options)
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            outcome = error
    return outcome, seen.trace


@pytest.mark.parametrize(
    ("fault", "kind", "again"),
    [
        (refusal(429, SECRET, retry_after="0"), "rate_limit", True),
        (refusal(500, SECRET, retry_after="0"), "server", True),
        (refusal(503, SECRET, retry_after="0"), "server", True),
        (Http(502, b"<html>bad gateway</html>", {"retry-after": "0"}), "server", True),
        (refusal(401, SECRET), "auth", False),
        (refusal(403, SECRET), "auth", False),
        (refusal(402, SECRET), "billing", False),
        (refusal(429, SECRET, "insufficient_quota"), "billing", False),
        (refusal(400, SECRET), "invalid_request", False),
        (refusal(404, SECRET, "model_not_found"), "unsupported_model", False),
        (context_too_long(SECRET), "context_window_exceeded", False),
        (Http(200, b'{"choices": [{"mess', {"retry-after": "0"}), "server", True),
        (Http(200, ["not", "a", "completion"], {"retry-after": "0"}), "server", True),
        (Http(302, b"", {"location": "/login"}), "provider", False),
        (Http(200, {"result": SECRET}), "adapter_parse_error", False),
        ("  ", "adapter_parse_error", False),
    ],
    ids=lambda value: str(value)[:25],
)
def test_a_failure_has_a_kind_and_is_retried_only_where_that_may_help(fault: Reply, kind: str, again: bool) -> None:
    with Loopback(lambda body: fault) as server:
        error, trace = run(one_call(server, num_retries=2))
        assert isinstance(error, AllProposalsFailedError)
        assert list(error.causes) == ["model"]
        assert kind in error.causes["model"]
        (step,) = trace.steps
        assert (step.status, step.error and step.error.kind, step.text, step.outputs) == ("failed", kind, "", {})
        assert step.calls == len(server.calls) == (3 if again else 1)


@pytest.mark.slow
def test_a_reset_connection_and_a_reply_that_never_comes_are_retried() -> None:
    with Loopback(replies(Reset(), Hang())) as server:
        outcome, trace = run(one_call(server, Tolerance(timeout=1.5, retries=2)))
        assert isinstance(outcome, Prediction)
        assert trace.calls == len(server.calls) == 3
        arrived = [call.arrived for call in server.calls]
        # No server said when to come again: half a second after the first failure, twice as long after the next.
        # (The call's time runs from before it arrives, so a little less than 1.5 + 1.0.)
        assert arrived[1] - arrived[0] >= 0.5
        assert arrived[2] - arrived[1] >= 2.0
        assert until(lambda: server.calls[1].hung_up is not None)
        assert trace.steps[0].error is None


def test_a_call_may_take_only_as_long_as_the_timeout() -> None:
    with Loopback(lambda body: Hang()) as server:
        began = time.monotonic()
        error, trace = run(one_call(server, Tolerance(timeout=0.2)))
        assert time.monotonic() - began < 1.2
        assert isinstance(error, AllProposalsFailedError)
        assert trace.steps[0].error is not None
        assert trace.steps[0].error.kind == "timeout"
        assert trace.calls == len(server.calls) == 1


@pytest.mark.parametrize("number", [0, 1, 3])
def test_the_tolerances_retries_go_before_the_models_own(number: int) -> None:
    with Loopback(lambda body: refusal(503, SECRET, retry_after="0")) as server:
        _, trace = run(one_call(server, Tolerance(retries=number), num_retries=2))
        assert trace.calls == len(server.calls) == number + 1


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 0.7])
def test_retry_after_is_honoured_by_the_servers_clock(seconds: float) -> None:
    with Loopback(replies(refusal(429, SECRET, retry_after=str(seconds)))) as server:
        outcome, _ = run(one_call(server, num_retries=1))
        assert isinstance(outcome, Prediction)
        first, second = (call.arrived for call in server.calls)
        assert seconds <= second - first < seconds + 0.5


@pytest.mark.slow
def test_retry_after_may_be_a_date() -> None:
    first = iter([True])

    def reply(body: Any) -> Reply:
        at = formatdate(time.time() + 2, usegmt=True)  # from now on, however slow the first call was
        return refusal(429, SECRET, retry_after=at) if next(first, False) else "an answer"

    with Loopback(reply) as server:
        run(one_call(server, num_retries=1))
        one, two = (call.arrived for call in server.calls)
        assert 0.8 <= two - one < 2.5


def test_a_provider_that_asks_for_more_patience_than_there_is_counts_as_failing() -> None:
    with Loopback(lambda body: refusal(429, SECRET, retry_after="3600")) as server:
        began = time.monotonic()
        error, trace = run(one_call(server, num_retries=5))
        assert time.monotonic() - began < 2
        assert isinstance(error, AllProposalsFailedError)
        assert trace.calls == len(server.calls) == 1


def test_nobody_answers_and_every_cause_is_told() -> None:
    faults = {"a": refusal(401, "bad key"), "b": refusal(402, "no money"), "c": Http(200, {"result": 1})}
    with Loopback(lambda body: faults[body["model"]]) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm(name) for name in faults], layers=2)
        error, trace = run(moa)
        assert isinstance(error, AllProposalsFailedError)
        assert set(error.causes) == {"a", "b", "c"}
        assert re.search(r"a: auth.*bad key.*b: billing.*no money.*c: adapter_parse_error", str(error))
        assert trace.calls == len(server.calls) == 3
        assert trace.stopped_by == "failure"


def test_every_cause_of_every_try_is_told_in_order() -> None:
    faults = iter([refusal(503, "first cause", retry_after="0"), refusal(401, "second cause")])
    with Loopback(lambda body: next(faults)) as server:
        error, trace = run(one_call(server, Tolerance(retries=3)))
        assert isinstance(error, AllProposalsFailedError)
        assert re.search(r"server: .*first cause, then auth: .*second cause", error.causes["model"])
        assert [failure.kind for failure in trace.steps[0].failures] == ["server", "auth"]


def test_a_spent_budget_hides_no_cause() -> None:
    with Loopback(lambda body: refusal(503, "the real cause", retry_after="0")) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm(f"m{i}") for i in range(3)], layers=1, tolerance=Tolerance(retries=0))
        error, _ = run(moa, budget=Budget(calls=4))
        assert isinstance(error, AllProposalsFailedError)
        assert set(error.causes) == {"m0", "m1", "m2"}
        for cause in error.causes.values():
            assert "the real cause" in cause
            assert "budget" not in cause


def test_a_provider_that_asks_for_more_patience_than_there_is_has_nothing_to_do_with_the_budget() -> None:
    def reply(body: Body) -> Reply:
        return refusal(429, SECRET, retry_after="3600") if body["model"] == "m2" else in_format(body)

    for retries in (0, 2):
        with Loopback(reply) as server:
            lms = [server.lm(f"m{i}") for i in range(3)]
            moa = AttentionMoA(SIGNATURE, lms, layers=2, tolerance=Tolerance(retries=retries))
            _, trace = run(moa, budget=Budget(seconds=300))
            assert (trace.stopped_by, trace.layers) == ("layers", 2)


@pytest.mark.parametrize(("retry_after", "asked"), [("3600", 1), ("0.3", 2)])
def test_the_last_resort_leaves_a_provider_alone_for_as_long_as_it_asks(retry_after: str, asked: int) -> None:
    with Loopback(lambda body: refusal(429, SECRET, retry_after=retry_after)) as server:
        run(AttentionMoA(SIGNATURE, [server.lm()], layers=1, tolerance=Tolerance(retries=0)), budget=Budget(calls=2))
        first, *again = [call.arrived for call in server.calls]
        assert len(again) == asked - 1
        assert all(later - first >= 0.3 for later in again)


@pytest.mark.parametrize("fault", [refusal(401, "bad key"), refusal(402, "no money")], ids=["key", "account"])
def test_a_model_whose_key_or_account_is_refused_is_not_asked_again_in_the_run(fault: Reply) -> None:
    with Loopback(lambda body: fault if body["model"] == "m0" else in_format(body)) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm(f"m{i}") for i in range(3)], layers=3)
        outcome, trace = run(moa)
        assert isinstance(outcome, Prediction)
        assert [call.body["model"] for call in server.calls].count("m0") == 1
        assert trace.calls == len(server.calls)
        first, *later = [step for step in trace.steps if step.model == "openai/m0"]
        assert first.status == "failed"
        assert {step.status for step in later} == {"skipped"}
        assert all(step.error is not None and "refused before" in step.error.message for step in later)
        # The next run asks anew: the key may have been mended.
        run(moa)
        assert [call.body["model"] for call in server.calls].count("m0") == 2


def failing_in(role: str, fault: Reply, model: str | None = None) -> Any:
    """Every call of a role fails, of one model or of all."""

    def reply(body: Body) -> Reply:
        concerned = role_of(body) == role and model in (None, body["model"])
        return fault if concerned else in_format(body, f"an answer of {body['model']}")

    return reply


@pytest.mark.parametrize("role", ["propose", "critique", "refine", "aggregate", "improve", "synthesize"])
@pytest.mark.parametrize("fault", [refusal(500, SECRET), Http(200, {"result": SECRET}), Reset()], ids=str)
@pytest.mark.slow
def test_one_failing_role_never_stops_a_run_and_its_words_reach_no_prompt(role: str, fault: Reply) -> None:
    with Loopback(failing_in(role, fault, "m0")) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm(f"m{i}") for i in range(3)], layers=2, tolerance=Tolerance(retries=0))
        outcome, trace = run(moa)
        assert isinstance(outcome, Prediction)
        assert outcome.answer.startswith("an answer")
        assert [step.stage for step in trace.steps if step.error] != []
        assert {step.model for step in trace.steps if step.error} == {"openai/m0"}
        assert trace.calls == len(server.calls)
        assert not any(SECRET in call.prompt or "None" in call.prompt for call in server.calls)


def test_in_a_failed_aggregators_place_goes_the_next_model_and_in_the_end_the_answer_most_agents_gave() -> None:
    def reply(body: Body) -> Reply:
        if role_of(body) == "aggregate":
            return refusal(500, SECRET)
        return "odd" if body["model"] == "m0" else "even"

    with Loopback(reply) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm(f"m{i}") for i in range(3)], layers=1, attention="none")
        outcome, trace = run(moa)
        assert isinstance(outcome, Prediction)
        assert outcome.answer == "even"
        tried = [(step.agent, step.model, step.status) for step in trace.select(stage="aggregate")]
        assert tried == [
            ("aggregator", "openai/m0", "failed"),
            ("m1", "openai/m1", "failed"),
            ("m2", "openai/m2", "failed"),
            ("vote", None, "ok"),
        ]
        assert trace.calls == len(server.calls) == 6


# Deadlines and quorums.


def latencies(seconds: dict[tuple[str, str], float]) -> Any:
    """What each model takes for each role."""

    async def hold(call: Call) -> None:
        await asyncio.sleep(seconds.get((call.body["model"], role_of(call)), 0.0))

    return hold


def test_the_same_model_on_another_server_stands_in_for_the_aggregator() -> None:
    with Loopback(lambda body: refusal(500, SECRET)) as down, Loopback(in_format) as up:
        moa = AttentionMoA(
            SIGNATURE, [up.lm("m"), up.lm("m")], layers=1, aggregator=down.lm("m"), tolerance=Tolerance(retries=0)
        )
        outcome, trace = run(moa)
        assert isinstance(outcome, Prediction)
        assert [step.status for step in trace.select(stage="aggregate")] == ["failed", "ok"]
        assert len([call for call in down.calls if role_of(call) == "aggregate"]) == 1


@pytest.mark.slow
def test_at_a_layers_deadline_it_aggregates_what_there_is() -> None:
    with Loopback(in_format, latencies({("m2", "propose"): 30, ("m0", "refine"): 30})) as server:
        moa = AttentionMoA(
            SIGNATURE, [server.lm(f"m{i}") for i in range(3)], layers=1, tolerance=Tolerance(layer_deadline=1)
        )
        began = time.monotonic()
        outcome, trace = run(moa)
        assert time.monotonic() - began < 2
        assert isinstance(outcome, Prediction)
        assert trace.stopped_by == "layers"
        late = [(step.stage, step.agent) for step in trace.steps if step.status == "cancelled"]
        assert ("propose", "m2") in late
        (aggregate,) = [call for call in server.calls if role_of(call) == "aggregate"]
        assert aggregate.prompt.count("</answer>") == 2
        assert until(lambda: [call for call in server.calls if call.hung_up] != [])
        assert trace.calls == len(server.calls)


@pytest.mark.parametrize("attention", ["full", "cross", 1])
@pytest.mark.parametrize("role", ["propose", "critique"])
@pytest.mark.slow
def test_a_late_agent_is_absent_for_its_critiques_too(attention: Any, role: str) -> None:
    with Loopback(in_format, latencies({("m2", role): 30})) as server:
        tolerance = Tolerance(quorum=2, grace=0.1)
        lms = [server.lm(f"m{i}") for i in range(3)]
        began = time.monotonic()
        outcome, trace = run(AttentionMoA(SIGNATURE, lms, layers=1, attention=attention, tolerance=tolerance))
        assert time.monotonic() - began < 5
        assert isinstance(outcome, Prediction)
        assert {step.status for step in trace.select(stage="refine") if step.agent != "m2"} == {"ok"}
        late = [step.error.message for step in trace.steps if step.error is not None]
        assert late
        assert all(re.match(r"the quorum of \d was there, and the grace of 0.1 s over", message) for message in late)


def test_a_step_that_a_deadline_cuts_says_so() -> None:
    with Loopback(lambda body: Hang()) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm("m0")], layers=1, tolerance=Tolerance(layer_deadline=0.3))
        error, trace = run(moa)
        assert isinstance(error, AllProposalsFailedError)
        assert error.causes == {"m0": "cancelled: the layer's deadline of 0.3 s was over"}
        assert trace.steps[0].status == "cancelled"


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [Tolerance(layer_deadline=0.5), Tolerance(timeout=0.5)], ids=["cut", "late"])
def test_what_a_call_without_an_answer_costs_is_not_known_and_not_guessed_as_nothing(tolerance: Tolerance) -> None:
    with Loopback(lambda body: Hang() if body["model"] == "slow" else in_format(body)) as server:
        _, trace = run(
            AttentionMoA(SIGNATURE, [server.lm("gpt-4.1"), server.lm("slow")], layers=1, tolerance=tolerance)
        )
        assert trace.cost_is_lower_bound
        assert sum(step.unanswered for step in trace.steps) == sum(call.answered is None for call in server.calls)
        assert "cut short, which may be billed" in trace.summary()
        _, answered = run(AttentionMoA(SIGNATURE, [server.lm("gpt-4.1")], layers=1))
        assert not answered.cost_is_lower_bound


def test_a_strict_run_keeps_the_deadline_that_was_asked_for() -> None:
    with Loopback(in_format, latencies({("m1", "propose"): 30})) as server:
        tolerance = Tolerance(strict=True, layer_deadline=0.5)
        outcome, _ = run(AttentionMoA(SIGNATURE, [server.lm(f"m{i}") for i in range(2)], layers=1, tolerance=tolerance))
        assert isinstance(outcome, Prediction)


@pytest.mark.slow
@pytest.mark.parametrize("grace", [0.0, 0.5])
def test_a_quorum_goes_on_when_the_grace_is_over(grace: float) -> None:
    with Loopback(in_format, latencies({("m2", "propose"): 30})) as server:
        tolerance = Tolerance(quorum=2, grace=grace)
        moa = AttentionMoA(SIGNATURE, [server.lm(f"m{i}") for i in range(3)], layers=1, tolerance=tolerance)
        began = time.monotonic()
        outcome, trace = run(moa)
        assert grace <= time.monotonic() - began < 2 * grace + 1.5
        assert isinstance(outcome, Prediction)
        (late,) = trace.select(stage="propose", agent="m2")
        assert late.status == "cancelled"
        assert trace.calls == len(server.calls)


def test_the_grace_is_enough_for_those_who_are_nearly_there() -> None:
    with Loopback(in_format, latencies({("m2", "refine"): 0.2})) as server:
        tolerance = Tolerance(quorum=2, grace=5)
        moa = AttentionMoA(SIGNATURE, [server.lm(f"m{i}") for i in range(3)], layers=1, tolerance=tolerance)
        began = time.monotonic()
        _, trace = run(moa)
        assert time.monotonic() - began < 3
        assert not [step for step in trace.steps if step.status != "ok"]


def test_a_critique_that_nobody_will_read_is_given_up() -> None:
    with Loopback(in_format, latencies({("m2", "critique"): 30})) as server:
        moa = AttentionMoA(
            SIGNATURE, [server.lm(f"m{i}") for i in range(3)], layers=1, tolerance=Tolerance(quorum=2, grace=0.3)
        )
        _, trace = run(moa)
        refined_at = max(call.arrived for call in server.calls if role_of(call) == "refine")
        late = [call for call in server.calls if call.body["model"] == "m2" and role_of(call) == "critique"]
        assert len(late) == 3
        assert until(lambda: all(call.hung_up is not None for call in late))
        assert min(call.hung_up or 0 for call in late) < refined_at + 1
        assert {step.status for step in trace.select(stage="critique", agent="m2")} == {"cancelled"}


def test_a_quorum_of_failures_is_none() -> None:
    with Loopback(failing_in("propose", refusal(401, SECRET), "m0")) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm(f"m{i}") for i in range(2)], layers=1, tolerance=Tolerance(quorum=1))
        outcome, _ = run(moa)
        assert isinstance(outcome, Prediction)


# Strictness.


@pytest.mark.parametrize("role", ["propose", "critique", "refine", "aggregate", "synthesize"])
def test_a_strict_run_fails_at_once_and_cancels_the_rest(role: str) -> None:
    async def hold(call: Call) -> None:
        await asyncio.sleep(30 if role_of(call) == role and call.body["model"] == "m1" else 0)

    with Loopback(failing_in(role, refusal(401, SECRET), "m0"), hold) as server:
        lms = [server.lm(f"m{i}") for i in range(2)]
        began = time.monotonic()
        error, trace = run(AttentionMoA(SIGNATURE, lms, layers=2, tolerance=Tolerance(strict=True)))
        assert time.monotonic() - began < 5
        assert isinstance(error, StepFailedError)
        assert (error.stage, error.kind) == (role, "auth")
        assert error.agent == ("aggregator" if role in ("aggregate", "synthesize") else "m0")
        assert error.__cause__ is None
        assert until(lambda: not [call for call in server.calls if not (call.answered or call.hung_up)])
        assert trace.stopped_by == "failure"
        # A call that was cancelled may have been on its way to the server yet.
        cancelled = sum(step.calls for step in trace.steps if step.status == "cancelled")
        assert trace.calls - cancelled <= len(server.calls) <= trace.calls


def test_a_strict_run_within_its_budget_is_no_failure() -> None:
    with Loopback(in_format) as server:
        moa = AttentionMoA(
            SIGNATURE, [server.lm(f"m{i}") for i in range(2)], layers=2, tolerance=Tolerance(strict=True)
        )
        outcome, trace = run(moa, budget=Budget(calls=5))
        assert isinstance(outcome, Prediction)
        assert trace.stopped_by == "budget"


# The context window.


def critiques_of_lengths(limit: int) -> Any:
    """Each critique is longer than the last; a prompt with more than ``limit`` words of them does not fit."""
    words = {"m0": 40, "m1": 20, "m2": 10}

    def reply(body: Body) -> Reply:
        role, prompt = role_of(body), str(body["messages"])
        if role == "critique":
            return " ".join(["lorem"] * words[body["model"]])
        if role == "refine" and prompt.count("lorem") > limit:
            return context_too_long(SECRET)
        return in_format(body)

    return reply


@pytest.mark.parametrize(
    ("limit", "kept"), [(70, [40, 20, 10]), (69, [20, 10]), (30, [20, 10]), (29, [10]), (10, [10]), (9, [])]
)
def test_a_prompt_that_is_too_long_loses_its_longest_critiques(limit: int, kept: list[int]) -> None:
    with Loopback(critiques_of_lengths(limit)) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm(f"m{i}", num_retries=3) for i in range(3)], layers=1)
        outcome, trace = run(moa)
        assert isinstance(outcome, Prediction)
        prompts = [call.prompt for call in server.calls if role_of(call) == "refine" and call.body["model"] == "m1"]
        assert len(prompts) == min(4 - len(kept), 3)
        if kept:
            found = re.findall(r"<critique number=\"\d\">\n(.*?)\n</critique>", prompts[-1], re.DOTALL)
            assert [text.count("lorem") for text in found] == kept
        last = list(trace.select(stage="refine", agent="m1"))[-1]
        assert last.status == ("ok" if kept else "failed")
        assert trace.calls == len(server.calls)


TOO_LONG = {
    "openai": context_too_long(SECRET),
    "vllm": refusal(400, "This model's maximum context length is 10 tokens. However, you requested 99 tokens."),
    "llama.cpp": Http(
        400,
        {
            "error": {
                "code": 400,
                "message": "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
                "type": "exceed_context_size_error",
            }
        },
    ),
    "openrouter": refusal(400, "This endpoint's maximum context length is 10 tokens. You requested about 99 tokens"),
    "anthropic": refusal(400, "prompt is too long: 99 tokens > 10 maximum"),
    "payload": refusal(413, "Payload Too Large"),
}


@pytest.mark.parametrize("words", TOO_LONG)
def test_whatever_words_a_server_has_for_a_prompt_that_is_too_long(words: str) -> None:
    def reply(body: Body) -> Reply:
        if role_of(body) == "critique":
            return " ".join(["lorem"] * 20)
        long = role_of(body) == "refine" and str(body["messages"]).count("lorem") > 20
        return TOO_LONG[words] if long else in_format(body)

    with Loopback(reply) as server:
        _, trace = run(AttentionMoA(SIGNATURE, [server.lm(f"m{i}") for i in range(2)], layers=1))
        tried = [(step.status, step.error and step.error.kind) for step in trace.select(stage="refine", agent="m0")]
        assert tried == [("failed", "context_window_exceeded"), ("ok", None)]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("context_window_exceeded", "The total length of all messages is too long."),
        ("context_window_exceeded", "The input (9000 tokens) is longer than the model's context length (8192 tokens)."),
        ("context_window_exceeded", "Input tokens exceed the configured limit of 8000 tokens."),
        ("context_window_exceeded", "input length and `max_tokens` exceed context limit: 9000 + 200 > 8192"),
        (
            "context_window_exceeded",
            "The input token count (1200) exceeds the maximum number of tokens allowed (1000).",
        ),
        ("context_window_exceeded", "Range of input length should be [1, 30720]"),
        ("context_window_exceeded", "`inputs` tokens + `max_new_tokens` must be <= 4096"),
        ("context_window_exceeded", "Please reduce the length of the messages or completion."),
        ("context_window_exceeded", "This model's maximum prompt length is 1000 but the request contains 2000 tokens."),
        ("context_window_exceeded", "prompt token count of 70000 exceeds the limit of 64000"),
        ("context_window_exceeded", "Your request exceeded model token limit: 262144"),
        ("context_window_exceeded", "The sequence length is longer than the maximum"),
        ("context_window_exceeded", "tokens in request exceeds max message tokens: 8192"),
        ("context_window_exceeded", "Message is too long. The maximum number of tokens is 4096"),
        ("context_window_exceeded", "输入内容超过模型最大长度限制"),
        ("invalid_request", "Too many tokens per minute"),
        ("invalid_request", "Request too large on tokens per min (TPM): Limit 30000, Requested 40000"),
        ("invalid_request", "You have exceeded your daily token limit"),
        ("invalid_request", "max_completion_tokens exceeds the maximum output length 8192 of this model"),
        ("invalid_request", "Invalid 'stop': too long"),
        ("content_filter", "The prompt triggered the provider's content management policy"),
        ("content_filter", "rejected (content_policy_violation)"),
        ("content_filter", "rejected as a result of our safety system"),
        ("content_filter", "Content Exists Risk"),
        ("content_filter", "Input may contain inappropriate content. (data_inspection_failed)"),
        ("content_filter", "输入可能包含不安全或敏感内容"),
    ],
)
def test_an_error_of_a_request_has_its_kind_by_its_words(kind: str, words: str) -> None:
    assert failure_of(LMInvalidRequestError(words, model="m")).kind == kind


def test_a_flagged_prompt_does_not_take_the_model_out_of_the_run() -> None:
    def reply(body: Body) -> Reply:
        flagged = role_of(body) == "propose" and body["model"] == "m0"
        return refusal(403, "The input was flagged by moderation") if flagged else in_format(body)

    with Loopback(reply) as server:
        _, trace = run(AttentionMoA(SIGNATURE, [server.lm("m0"), server.lm("m1")], layers=1))
        assert [step.error.kind for step in trace.steps if step.error is not None] == ["content_filter"]
        assert len([call for call in server.calls if call.body["model"] == "m0"]) == 2, "it critiques"


def test_what_a_model_writes_of_context_windows_is_no_overflow() -> None:
    with Loopback(lambda body: "the maximum context length is exceeded") as server:
        moa = AttentionMoA("question -> answer: int", [server.lm()], layers=1, attention="none", aggregation="none")
        _, trace = run(moa)
        assert [failure.kind for failure in trace.steps[0].failures] == ["adapter_parse_error"] * 2


# Nothing where something should be.


@pytest.mark.parametrize("nothing", ["", "\u200b\u200b", "\u3164", "\u2800 \ufe0f"])
def test_an_empty_synthesis_is_no_answer(nothing: str) -> None:
    def reply(body: Body) -> Reply:
        return in_format(body, nothing) if role_of(body) == "synthesize" else in_format(body)

    with Loopback(reply) as server:
        outcome, trace = run(AttentionMoA(SIGNATURE, [server.lm(f"m{i}") for i in range(2)], layers=2))
        assert isinstance(outcome, Prediction)
        assert outcome.answer == "an answer"
        assert trace.stopped_by == "failure"
        assert {step.status for step in trace.select(stage="synthesize")} == {"failed"}


@pytest.mark.parametrize("adapter", [None, dspy.ChatAdapter(), dspy.JSONAdapter()], ids=["own", "chat", "json"])
def test_an_agent_that_writes_nothing_visible_is_out_whatever_the_adapter(adapter: dspy.Adapter | None) -> None:
    def reply(body: Body) -> Reply:
        return in_role(body, "\u200b" if body["model"] == "m0" else "an answer", typed=False)

    with Loopback(reply) as server, dspy.context(adapter=adapter):
        outcome, trace = run(
            AttentionMoA(SIGNATURE, [server.lm(f"m{i}") for i in range(2)], layers=1, aggregator=server.lm("m1"))
        )
        assert isinstance(outcome, Prediction)
        assert outcome.answer == "an answer"
        assert [step.status for step in trace.select(stage="propose")] == ["failed", "ok"]


def test_a_typed_answer_needs_no_words_beside_it() -> None:
    marked = "[[ ## note ## ]]\n\n[[ ## answer ## ]]\n3\n\n[[ ## completed ## ]]"
    with Loopback(lambda body: marked) as server:
        moa = AttentionMoA(
            "question -> note, answer: int",
            [server.lm()],
            layers=1,
            attention="none",
            aggregation="none",
            reasoning=False,
        )
        outcome, _ = run(moa)
        assert isinstance(outcome, Prediction)
        assert (outcome.note, outcome.answer) == ("", 3)


# What a user sees of a model whose retries are made elsewhere.


class Ears(BaseCallback):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.heard.append(instance.model)


@pytest.mark.parametrize("retries", [0, 3])
def test_history_and_callbacks_stay_those_of_the_users_model(retries: int) -> None:
    with Loopback(replies(refusal(500, SECRET, retry_after="0"), then="fine")) as server:
        lm = server.lm(num_retries=retries)
        moa = AttentionMoA(
            SIGNATURE, [lm], layers=1, attention="none", aggregation="none", tolerance=Tolerance(retries=1)
        )
        early, late = Ears(), Ears()
        lm.callbacks.append(early)
        assert moa(question="?").answer == "fine"
        lm.callbacks.append(late)
        moa(question="?")
        assert [entry["outputs"] for entry in lm.history] == [["fine"], ["fine"]]
        lm.history = []
        moa(question="?")
        assert len(lm.history) == 1
        assert (len(early.heard), len(late.heard)) == (4, 2)
        assert lm.num_retries == retries
        assert len(server.calls) == 4


def test_a_connection_that_the_server_has_closed_meanwhile_costs_no_second_request() -> None:
    with Loopback() as server:
        moa = one_call(server)
        for number in range(1, 4):
            assert moa(question="?").trace.calls == 1
            assert len(server.calls) == number
            server.drop_connections()
        assert server.connections_made == 3


# Everything at once.


@pytest.mark.slow
def test_runs_against_a_provider_that_fails_all_the_time() -> None:
    figures = fault_runs.measure(runs=10, processes=1, timeout=1.5, under_way=24)
    assert figures.broken == []
    assert figures.answered + figures.errors["AllProposalsFailedError"] == figures.runs == 10
    assert figures.calls == figures.server_calls + figures.never_sent
    assert figures.never_sent <= figures.unanswered
    assert figures.tokens == figures.server_tokens > 0
    assert set(fault_runs.FAULTS) - set(figures.faults) <= {
        "no system role",
        "dashes",
    }  # of one model, of typed outputs


def test_typed_answers_survive_wrong_formats() -> None:
    formats = {"m0": "no format at all", "m1": '{"answer": "many"}', "m2": None}

    def reply(body: Body) -> Reply:
        return formats[body["model"]] or in_role(body, "3", typed=True)

    with Loopback(reply) as server:
        moa = AttentionMoA(
            "question -> answer: int", [server.lm(name) for name in formats], layers=1, aggregator=server.lm("m2")
        )
        outcome, trace = run(moa)
        assert isinstance(outcome, Prediction)
        assert outcome.answer == 3
        # Each of the two tried both formats, and was out.
        assert [step.calls for step in trace.select(stage="propose")] == [2, 2, 1]
        assert trace.calls == len(server.calls)


def test_a_model_that_is_not_there_is_a_mistake_and_no_failure() -> None:
    with pytest.raises(ConfigurationError):
        AttentionMoA(SIGNATURE, [None], layers=1)(question="?")  # type: ignore[list-item]


STATUSES = {
    **dict.fromkeys((400, 404, 422, 424, 499, 501), None),
    401: None,
    402: None,
    403: None,
    **dict.fromkeys((408, 504), "timeout"),
    **dict.fromkeys((429, 498), "rate_limit"),  # 498: the flex tier of Groq is full
    **dict.fromkeys((409, 425), "server"),
    **dict.fromkeys((500, 502, 503, 520, 521, 522, 523, 524, 529), "server"),  # 520 to 524: Cloudflare; 529: Anthropic
}
"""HTTP statuses of providers, and the kind of failure if the same request may succeed later."""


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("inside", [False, True])  # an error in the place of an answer
def test_a_status_is_retried_if_the_request_may_succeed_later(status: int, inside: bool) -> None:
    fault = refusal(status, SECRET, str(status) if inside else None, retry_after="0")
    fault = Http(200, fault.body, fault.headers) if inside else fault
    with Loopback(replies(fault)) as server:
        outcome, trace = run(one_call(server, Tolerance(retries=1)))
    (failure,) = trace.steps[0].failures or [trace.steps[0].error]
    assert failure is not None
    assert isinstance(outcome, Prediction) == (STATUSES[status] is not None)
    assert failure.kind == STATUSES[status] or STATUSES[status] is None or inside


@pytest.mark.parametrize("status", STATUSES)
def test_batches_and_calls_agree_on_what_may_succeed_later(status: int) -> None:
    assert may_succeed_later(status) == (STATUSES[status] is not None)
