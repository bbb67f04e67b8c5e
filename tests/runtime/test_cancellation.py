"""Ending a run before its time: calls under way stop, nothing is left behind, and what was finished is on record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from support.loopback import Call, Hang, Loopback, refusal
from support.runs import Watched, environment, in_format, open_files, role_of, until

from moa_dspy import AllProposalsFailedError, AttentionMoA, MoAError, Tolerance, Trace, single_model
from moa_dspy.runtime.concurrency import limit_concurrency
from moa_dspy.testing import ScriptedLM
from moa_dspy.trace import StepStarted, watch

SIGNATURE = "question -> answer"
ROLES = ("propose", "critique", "refine", "aggregate", "improve", "synthesize")


def stuck_in(role: str) -> Any:
    """Calls of one role never return."""

    async def hold(call: Call) -> None:
        await asyncio.sleep(60 if role_of(call) == role else 0)

    return hold


def under_way(server: Loopback) -> list[Call]:
    return [call for call in list(server.calls) if call.answered is None and call.hung_up is None]


async def until_stuck(server: Loopback, role: str) -> None:
    while not [call for call in under_way(server) if role_of(call) == role]:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.1)  # those that go on beside it get there as well


def agents(server: Loopback, number: int = 3, **options: Any) -> list[Any]:
    return [server.lm(f"m{i}", **options) for i in range(number)]


def finished_is_on_record(trace: Trace, server: Loopback) -> None:
    assert trace.stopped_by == "cancelled"
    answered = [call for call in server.calls if call.answered is not None and call.usage]
    assert len([step for step in trace.steps if step.status == "ok"]) == len(answered)
    assert trace.tokens.total == sum(call.usage["total_tokens"] for call in answered)
    assert trace.calls == len(server.calls)
    cut = [step for step in trace.steps if step.status == "cancelled"]
    assert len(cut) == len(server.calls) - len(answered) > 0
    assert Trace.from_json(trace.to_json()) == trace


@pytest.mark.parametrize("role", ROLES)
def test_a_cancelled_task_stops_its_calls_wherever_it_is(role: str) -> None:
    with Loopback(in_format, stuck_in(role)) as server:
        moa = AttentionMoA(SIGNATURE, agents(server), layers=2)
        seen = Watched()

        async def body() -> None:
            with watch(seen):
                task = asyncio.create_task(moa.acall(question="?"))
            await until_stuck(server, role)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert await asyncio.to_thread(until, lambda: not under_way(server))

        asyncio.run(body())
        finished_is_on_record(seen.trace, server)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["propose", "critique"])
def test_a_timeout_around_a_call_is_an_ordinary_timeout(role: str) -> None:
    with Loopback(in_format, stuck_in(role)) as server:
        moa = AttentionMoA(SIGNATURE, agents(server), layers=2)
        seen = Watched()

        async def body() -> None:
            with watch(seen), pytest.raises(TimeoutError):
                async with asyncio.timeout(0.7):
                    await moa.acall(question="?")
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(body())
        assert until(lambda: not under_way(server))
        finished_is_on_record(seen.trace, server)


def test_a_run_that_waits_between_tries_or_for_its_turn_is_cancelled_at_once() -> None:
    limit_concurrency(1, model="openai/m0")
    try:
        with Loopback(
            lambda body: refusal(429, "wait", retry_after="30") if body["model"] == "m1" else Hang()
        ) as server:
            moa = AttentionMoA(SIGNATURE, [server.lm("m0"), server.lm("m0"), server.lm("m1", num_retries=2)], layers=1)
            seen = Watched()

            async def body() -> None:
                with watch(seen), pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await moa.acall(question="?")

            began = time.monotonic()
            asyncio.run(body())
            assert time.monotonic() - began < 1.5
            assert {step.status for step in seen.trace.steps} == {"cancelled"}
            assert sorted(step.calls for step in seen.trace.steps) == [0, 1, 1]
            assert seen.trace.calls == len(server.calls)
    finally:
        limit_concurrency(None, model="openai/m0")


@pytest.mark.filterwarnings("error")
@pytest.mark.slow
def test_cancelling_many_runs_leaks_no_task_thread_or_file() -> None:
    with Loopback(in_format, stuck_in("critique")) as server:
        moa = AttentionMoA(SIGNATURE, agents(server), layers=1)
        noise: list[dict[str, Any]] = []

        async def cancelled() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))
            for _ in range(3):
                tasks = [asyncio.create_task(moa.acall(question=str(number))) for number in range(4)]
                await until_stuck(server, "critique")
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            for voice in moa.agents:
                await voice.lm.aclose()  # type: ignore[union-attr]

        asyncio.run(cancelled())
        assert until(lambda: server.open_connections == 0)
        threads, files = threading.active_count(), open_files()
        asyncio.run(cancelled())
        assert until(lambda: server.open_connections == 0)
        # What other tests left to the garbage collector may be gone meanwhile; more than before is a leak.
        assert threading.active_count() <= threads
        assert open_files() <= files
        assert noise == []


def test_a_client_that_is_closed_under_a_run_fails_its_calls_and_can_be_used_again() -> None:
    with Loopback(in_format, stuck_in("propose")) as server:
        lms = agents(server, 2)
        moa = AttentionMoA(SIGNATURE, lms, layers=1, tolerance=Tolerance(retries=0))

        async def body() -> None:
            task = asyncio.create_task(moa.acall(question="?"))
            await until_stuck(server, "propose")
            for lm in lms:
                await lm.aclose()
            with pytest.raises(AllProposalsFailedError) as caught:
                await asyncio.wait_for(task, 5)
            assert set(caught.value.causes) == {"m0", "m1"}
            assert asyncio.all_tasks() == {asyncio.current_task()}
            server.hold = None
            assert (await moa.acall(question="?")).answer == "an answer"

        asyncio.run(body())
        assert until(lambda: not under_way(server))


def test_one_run_is_cancelled_and_another_on_the_same_models_goes_on() -> None:
    async def hold(call: Call) -> None:
        await asyncio.sleep(60 if "stuck" in call.prompt else 0.01)

    with Loopback(in_format, hold) as server:
        moa = AttentionMoA(SIGNATURE, agents(server), layers=2)

        async def body() -> None:
            stuck = asyncio.create_task(moa.acall(question="stuck"))
            other = asyncio.create_task(moa.acall(question="fine"))
            await until_stuck(server, "propose")
            stuck.cancel()
            prediction = await other
            assert prediction.trace.calls == moa.architecture.max_calls
            assert {step.status for step in prediction.trace.steps} == {"ok"}
            with pytest.raises(asyncio.CancelledError):
                await stuck

        asyncio.run(body())


CHILD = """
import asyncio, json, sys, threading, dspy, moa_dspy
from moa_dspy.trace import watch
url, how = sys.argv[1:]
lms = [dspy.LM(f"openai/m{i}", api_base=url, api_key="k", cache=False, num_retries=2) for i in range(3)]
moa = moa_dspy.AttentionMoA("question -> answer", lms, layers=2)
last = []
try:
    with watch(lambda event: last.append(event)):
        if how == "blocking":
            moa(question="?")
        else:
            asyncio.run(moa.acall(question="?"))
finally:
    print(last[-1].to_json(), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("how", ["blocking", "asyncio.run"])
@pytest.mark.slow
def test_ctrl_c_stops_all_calls_and_the_trace_says_what_was_done(how: str) -> None:
    with Loopback(in_format, stuck_in("critique")) as server:
        child = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", CHILD, server.url, how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(PYTHONASYNCIODEBUG="0"),
        )
        assert until(lambda: len(under_way(server)) == 9, 60)
        child.send_signal(signal.SIGINT)
        pressed = time.monotonic()
        assert until(lambda: not under_way(server), 5)
        out, err = child.communicate(timeout=30)
        assert time.monotonic() - pressed < 10
        assert child.returncode in (-signal.SIGINT, 130)
        assert err.rstrip().endswith("KeyboardInterrupt")
        for noise in ("never retrieved", "ResourceWarning", "was destroyed", "never awaited"):
            assert noise not in err
        trace = Trace.from_json(json.dumps(json.loads(out)))
        finished_is_on_record(trace, server)
        assert [step.status for step in trace.steps] == ["ok"] * 3 + ["cancelled"] * 9


def test_a_call_that_never_began_is_not_counted() -> None:
    lm = ScriptedLM("yes")
    program = single_model("question -> answer", lm)
    seen = Watched()

    def cancel(event: Any) -> None:
        if isinstance(event, StepStarted):
            step: Any = asyncio.current_task()
            asyncio.get_running_loop().call_soon(step.cancel)  # before the task of its call begins

    with watch(seen), watch(cancel), contextlib.suppress(asyncio.CancelledError, MoAError):
        asyncio.run(program.acall(question="?"))
    (step,) = seen.trace.steps
    assert not lm.requests
    assert (step.status, step.calls, step.unanswered) == ("cancelled", 0, 0)
