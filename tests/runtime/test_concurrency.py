"""Limits on how many calls are under way: across programs, threads and event loops, and no place is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import dspy
import pytest
from dspy.lm15 import Request
from support.loopback import Body, Call, Hang, Loopback, refusal
from support.runs import environment, in_format, role_of, until

from moa_dspy import AttentionMoA, ConfigurationError, Tolerance
from moa_dspy.cost.budget import Budget
from moa_dspy.cost.prices import offline_prices
from moa_dspy.local import local_lm
from moa_dspy.local.server import LocalSettings
from moa_dspy.presets import single_model
from moa_dspy.runtime import concurrency
from moa_dspy.runtime.concurrency import admitted, limit_concurrency
from moa_dspy.runtime.waiting import Limit
from moa_dspy.testing import ScriptedLM
from moa_dspy.trace import Step, watch

SIGNATURE = "question -> answer"
MODEL = "openai/model"


@pytest.fixture(autouse=True)
def no_limit_stays() -> Iterator[None]:
    yield
    for model in (None, MODEL, "openai/a", "openai/b"):
        limit_concurrency(None, model=model)


class Gauge:
    """Counts how many are inside at once, and remembers the most."""

    def __init__(self) -> None:
        self.inside = self.most = self.entered = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.inside += 1
            self.entered += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.inside -= 1


def measured(gauges: dict[str, Gauge], seconds: float = 0.02) -> Any:
    async def hold(call: Call) -> None:
        with gauges.setdefault(call.body["model"], Gauge()), gauges["all"]:
            await asyncio.sleep(seconds)

    return hold


@pytest.mark.parametrize("calls", [0, -1, 1.5, True, "3"])
def test_a_limit_is_a_whole_number_from_one(calls: Any) -> None:
    with pytest.raises(ConfigurationError, match="whole number from 1"):
        limit_concurrency(calls)


@pytest.mark.slow
def test_without_a_limit_all_critiques_are_under_way_at_once() -> None:
    gauges = {"all": Gauge()}
    with Loopback(in_format, measured(gauges, 0.3)) as server:
        AttentionMoA(SIGNATURE, [server.lm(name) for name in "abc"], layers=1)(question="?")
    assert gauges["all"].most >= 8


def test_a_server_that_says_how_many_calls_it_handles_gets_no_more_unless_the_user_says_so() -> None:
    script: Any = ScriptedLM("text").engine
    script.slots = 2

    class Engine:
        gauge = Gauge()

        async def complete(self, request: Request) -> Any:
            with self.gauge:
                await asyncio.sleep(0.01)
                return script.answer(request)

    engine: Any = Engine()
    lm = dspy.LM("slotted/model", engine=script, async_engine=engine, temperature=1.0, cache=False)
    program = AttentionMoA(SIGNATURE, [lm] * 3, layers=1)
    program(question="?")
    assert (engine.gauge.most, engine.gauge.entered) == (2, 16)
    limit_concurrency(None, model="slotted/model")
    program(question="?")
    assert engine.gauge.most > 4


def test_the_embedded_model_is_asked_as_many_calls_as_its_server_handles() -> None:
    pytest.importorskip("xllamacpp")
    engine: Any = local_lm().engine
    assert engine.slots == LocalSettings().slots


def test_a_free_place_finds_its_next_call_among_many_without_looking_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    has_room, looked = Limit.has_room, 0

    def counted(limit: Limit, blocked: Any) -> bool:
        nonlocal looked
        looked += 1
        return has_room(limit, blocked)

    async def call(group: int) -> None:
        async with admitted(MODEL, group):
            await asyncio.sleep(0)

    async def all_at_once(number: int) -> None:
        await asyncio.gather(*(call(one // 3) for one in range(number)))

    monkeypatch.setattr(Limit, "has_room", counted)
    limit_concurrency(2, model=MODEL)
    asyncio.run(all_at_once(600))
    assert looked < 4 * 600


def test_the_oldest_call_goes_first_if_all_groups_are_under_way() -> None:
    order: list[str] = []

    async def main() -> None:
        ends = {name: asyncio.Event() for name in ("A0", "B0", "C0")}

        async def call(name: str) -> None:
            async with admitted(MODEL, name[0]):
                order.append(name)
                await ends.get(name, asyncio.Event()).wait()

        tasks = [asyncio.create_task(call(name)) for name in ("A0", "B0", "C0", "A1", "B1", "A2")]
        await asyncio.sleep(0.01)
        for name in ("A0", "C0"):
            ends[name].set()
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    limit_concurrency(3, model=MODEL)
    asyncio.run(main())
    assert order[:5] == ["A0", "B0", "C0", "A1", "B1"]


def test_limits_of_models_and_of_the_process_hold_together() -> None:
    gauges = {"all": Gauge()}
    limit_concurrency(3)
    limit_concurrency(1, model="openai/a")
    limit_concurrency(2, model="openai/b")
    with Loopback(in_format, measured(gauges)) as server:
        AttentionMoA(SIGNATURE, [server.lm(name) for name in "abc"], layers=1)(question="?")
    assert gauges["all"].most == 3
    assert gauges["a"].most == 1
    assert gauges["b"].most <= 2
    assert gauges["all"].entered == 16


def test_limits_hold_across_threads_and_event_loops() -> None:
    gauges = {"all": Gauge()}
    limit_concurrency(2, model=MODEL)
    with Loopback(in_format, measured(gauges, 0.01)) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm()] * 2, layers=1, tolerance=Tolerance(timeout=20))

        async def both() -> None:
            await asyncio.gather(moa.acall(question="1"), moa.acall(question="2"))

        with ThreadPoolExecutor(4) as pool:
            on_own_loops = [pool.submit(asyncio.run, both()) for _ in range(2)]
            on_the_shared_one = [pool.submit(moa, question=str(number)) for number in range(2)]
            for done in (*on_own_loops, *on_the_shared_one):
                done.result()
        assert len(server.calls) == 6 * moa.architecture.max_calls
    assert gauges["model"].most == 2


@pytest.mark.slow
def test_waiting_for_a_turn_is_on_record_and_is_not_counted_into_the_timeout() -> None:
    limit_concurrency(1, model=MODEL)

    async def hold(call: Call) -> None:
        await asyncio.sleep(0.2)

    with Loopback(in_format, hold) as server:
        tolerance = Tolerance(timeout=1.0)
        moa = AttentionMoA(SIGNATURE, [server.lm()] * 8, layers=1, attention="none", tolerance=tolerance)
        began = time.monotonic()
        trace = moa(question="?").trace
        took = time.monotonic() - began
    queued = sorted(step.queued for step in trace.select(stage="propose"))
    assert took > 9 * 0.2
    assert {step.status for step in trace.steps} == {"ok"}
    assert queued[0] < 0.15
    assert queued[-1] > 7 * 0.2
    assert all(step.end - step.start - step.queued < 1.0 for step in trace.steps)


def ask_at_once(program: AttentionMoA, questions: int) -> list[Any]:
    async def ask() -> list[Any]:
        asked = (program.acall(question=str(number)) for number in range(questions))
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(ask())


def test_more_calls_than_dspy_has_connections_are_under_way_together() -> None:
    questions, arrived = 120, asyncio.Event()

    async def hold(call: Call) -> None:
        if len(server.calls) == questions:
            arrived.set()
        await arrived.wait()

    limit_concurrency(questions)
    with Loopback(in_format, hold) as server:
        predictions = ask_at_once(single_model(SIGNATURE, server.lm(), tolerance=Tolerance(timeout=60)), questions)
    assert [prediction.answer for prediction in predictions]


@pytest.mark.slow
@pytest.mark.parametrize(("configured", "connections"), [(None, 4), (8, 8)])
def test_waiting_for_a_connection_is_queueing_and_no_time_of_the_provider(
    monkeypatch: pytest.MonkeyPatch, configured: int | None, connections: int
) -> None:
    monkeypatch.setattr(concurrency, "_FEWEST_CONNECTIONS", 4)
    monkeypatch.setattr(concurrency, "_MOST_FILES", 0)
    limit_concurrency(configured, MODEL)
    gauges = {"all": Gauge()}
    with Loopback(in_format, measured(gauges, 0.4)) as server:
        program = single_model(SIGNATURE, server.lm(), tolerance=Tolerance(timeout=1.5, retries=0))
        steps = [prediction.trace.steps[0] for prediction in ask_at_once(program, 5 * connections)]
        assert gauges["all"].most == server.connections_made == connections
        assert len(server.calls) == len(steps)
    assert {(step.status, step.calls, step.unanswered) for step in steps} == {("ok", 1, 0)}
    assert max(step.queued for step in steps) > 4 * 0.4
    assert all(step.end - step.start - step.queued < 1.5 for step in steps)


@pytest.mark.slow
def test_a_call_that_never_got_a_connection_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "_FEWEST_CONNECTIONS", 2)
    monkeypatch.setattr(concurrency, "_MOST_FILES", 0)
    with Loopback(lambda _: Hang()) as server:
        program = single_model(SIGNATURE, server.lm(), budget=Budget(seconds=2.0), tolerance=Tolerance(retries=0))
        steps: list[Step] = []
        with watch(lambda event: steps.append(event) if isinstance(event, Step) else None):
            ask_at_once(program, 6)
        assert 2 <= len(server.calls) <= sum(step.calls for step in steps) < 6
    assert all(step.calls == step.unanswered for step in steps)


def test_a_wait_between_tries_holds_no_place() -> None:
    limit_concurrency(1, model=MODEL)
    tries: list[str] = []

    def reply(body: Body) -> Any:
        question = "first" if "first" in str(body["messages"]) else "second"
        tries.append(question)
        return refusal(429, "wait", retry_after="0.5") if tries.count("first") == 1 and question == "first" else "fine"

    async def both() -> None:
        await asyncio.gather(moa.acall(question="first"), moa.acall(question="second"))

    with Loopback(reply) as server:
        lm = server.lm(num_retries=1)
        moa = AttentionMoA(SIGNATURE, [lm], layers=1, attention="none", aggregation="none")
        asyncio.run(both())
    assert tries == ["first", "second", "first"]


async def holder(order: list[str], name: str, group: str, release: asyncio.Event | None = None) -> None:
    async with admitted(MODEL, group):
        order.append(name)
        if release is not None:
            await release.wait()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def affinity() -> list[str]:
    order: list[str] = []
    release = asyncio.Event()
    first = asyncio.create_task(holder(order, "a1", "a", release))
    await settled()
    others = [asyncio.create_task(holder(order, name, name[0])) for name in ("b1", "c1", "a2", "b2", "a3")]
    await settled()
    release.set()
    await asyncio.gather(first, *others)
    return order


def test_those_of_the_same_group_go_on_and_the_rest_in_order_of_arrival() -> None:
    limit_concurrency(1, model=MODEL)
    assert asyncio.run(affinity()) == ["a1", "a2", "a3", "b1", "b2", "c1"]


def test_the_critiques_of_one_agent_follow_one_another_within_each_run() -> None:
    limit_concurrency(1, model=MODEL)
    with Loopback(in_format) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm()] * 3, layers=1)

        async def both() -> None:
            await asyncio.gather(moa.acall(question="one?"), moa.acall(question="two?"))

        asyncio.run(both())
        asked = ["one" if "one?" in call.prompt else "two" for call in server.calls if role_of(call) == "critique"]
    # Runs that ask for different things share no prefix: they are different groups.
    changes = sum(before != after for before, after in pairwise(asked))
    assert len(asked) == 18
    assert changes <= 11


@pytest.mark.parametrize("when", ["waiting", "admitted", "inside"])
def test_whoever_is_cancelled_loses_no_place(when: str) -> None:
    limit_concurrency(1, model=MODEL)

    async def body() -> None:
        order: list[str] = []
        release, never = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(holder(order, "first", "a", release))
        await settled()
        second = asyncio.create_task(holder(order, "second", "b", never))
        await settled()
        if when == "waiting":
            second.cancel()
            await settled()
            release.set()
        elif when == "admitted":
            release.set()
            await asyncio.sleep(0)  # the first is leaving: the second has been let in and does not know it yet
            second.cancel()
        else:
            release.set()
            await settled()
            second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        await asyncio.wait_for(holder(order, "third", "c"), 2)
        assert order[-1] == "third"

    for _ in range(5):
        asyncio.run(body())


def test_a_closed_event_loop_takes_no_place_with_it() -> None:
    limit_concurrency(1, model=MODEL)
    entered, leave = threading.Event(), threading.Event()

    async def occupy() -> None:
        async with admitted(MODEL, "a"):
            entered.set()
            await asyncio.to_thread(leave.wait)

    occupier = threading.Thread(target=asyncio.run, args=(occupy(),))
    occupier.start()
    entered.wait()
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(holder([], "abandoned", "a"))
    loop.run_until_complete(settled())
    loop.close()  # as a program does that is not tidy
    leave.set()
    occupier.join()
    asyncio.run(asyncio.wait_for(holder([], "next", "b"), 2))
    abandoned._log_destroy_pending = False  # type: ignore[attr-defined]
    abandoned.get_coro().close()  # type: ignore[union-attr]


def test_lifting_a_limit_lets_those_in_that_wait() -> None:
    limit_concurrency(1, model=MODEL)

    async def body() -> list[str]:
        order: list[str] = []
        release = asyncio.Event()
        tasks = [asyncio.create_task(holder(order, "first", "a", release))]
        await settled()
        tasks.append(asyncio.create_task(holder(order, "waiting", "a")))
        await settled()
        limit_concurrency(None, model=MODEL)
        await asyncio.wait_for(holder(order, "new", "a"), 2)
        release.set()
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(body()) == ["first", "new", "waiting"]


@pytest.mark.slow
def test_a_limit_that_is_set_again_counts_the_calls_that_are_under_way() -> None:
    gauges = {"all": Gauge()}
    with Loopback(in_format, measured(gauges, 0.3)) as server, ThreadPoolExecutor(8) as pool:
        limit_concurrency(2)
        moa = AttentionMoA(SIGNATURE, [server.lm()], layers=1, attention="none", aggregation="none")
        runs = [pool.submit(moa, question=str(number)) for number in range(8)]
        assert until(lambda: gauges["all"].inside == 2)
        limit_concurrency(2)
        assert [run.result().answer for run in runs] == ["an answer"] * 8
        assert gauges["all"].most == 2
        limit_concurrency(4)
        runs = [pool.submit(moa, question=str(number)) for number in range(8)]
        assert until(lambda: gauges["all"].inside == 4)
        assert [run.result().answer for run in runs] == ["an answer"] * 8
        assert gauges["all"].most == 4


FORKED = """
import asyncio, os, sys, threading
from moa_dspy import AttentionMoA, limit_concurrency
from support.loopback import Loopback
from support.runs import until

async def hold(call):
    if "slow" in call.prompt:
        await asyncio.sleep(1)

with Loopback(hold=hold) as server:
    limit_concurrency(1)
    moa = AttentionMoA("question -> answer", [server.lm()], layers=1, attention="none", aggregation="none")
    thread = threading.Thread(target=lambda: moa(question="slow"))
    thread.start()
    assert until(lambda: bool(server.calls))
    child = os.fork()
    if child == 0:
        own = AttentionMoA("question -> answer", [server.lm()], layers=1, attention="none", aggregation="none")
        os._exit(0 if own(question="quick").answer == "a reply" else 1)
    thread.join()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
@pytest.mark.slow
def test_a_forked_child_has_the_limit_and_none_of_the_calls_under_way() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    assert subprocess.run(command, env=environment(), timeout=60, check=False).returncode == 0


def test_many_runs_under_a_limit_all_end() -> None:
    gauges = {"all": Gauge()}
    limit_concurrency(4)
    with Loopback(in_format, measured(gauges, 0.001)) as server:
        moa = AttentionMoA(SIGNATURE, [server.lm("a"), server.lm("b")], layers=1)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda number: moa(question=str(number)).answer, range(12)))
    assert answers == ["an answer"] * 12
    assert gauges["all"].most <= 4


def test_overlapping_uses_of_the_carried_tables_leave_the_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LITELLM_LOCAL_MODEL_COST_MAP", raising=False)
    first, second = offline_prices(), offline_prices()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"
    second.__exit__(None, None, None)
    assert "LITELLM_LOCAL_MODEL_COST_MAP" not in os.environ
