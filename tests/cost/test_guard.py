"""The guard of a budget: reservations, what remains for other work, and shares."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import threading
import time
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMServerError

from moa_dspy import (
    AllProposalsFailedError,
    AttentionMoA,
    Budget,
    BudgetExhaustedError,
    Tokens,
    Tolerance,
    Usage,
    single_model,
)
from moa_dspy.cost.budget import Amounts, BudgetGuard
from moa_dspy.cost.meter import BudgetCallback, UsageMeter, metered
from moa_dspy.cost.own_price import OwnPrice
from moa_dspy.cost.prices import with_price
from moa_dspy.errors import BudgetInterruptError
from moa_dspy.runtime.degrade import RunBudget
from moa_dspy.runtime.session import RunLM
from moa_dspy.runtime.step_meter import StepMeter
from moa_dspy.testing import ScriptedLM


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Silent(dspy.BaseLM):
    """A model whose usage DSPy does not report."""

    async def acall(self, *args: Any, **kwargs: Any) -> list[str]:
        return ["Paris"]


def used(calls: int = 1, tokens: int = 0, usd: float | None = 0.0, cached: int = 0, seconds: float = 1.0) -> Usage:
    return Usage(
        calls=calls, cached_calls=cached, tokens=Tokens(prompt=tokens), cost_usd=usd, seconds=seconds
    )  # fmt: skip


def test_reserved_calls_count_until_they_are_settled_and_cached_ones_no_longer() -> None:
    guard = BudgetGuard(Budget(calls=3))
    assert guard.reserve(2)
    assert not guard.reserve(2)
    assert guard.reserve(1)
    assert (guard.left.calls, guard.under_way) == (0, 2)
    guard.settle(used(2, cached=1), calls=2)
    assert (guard.left.calls, guard.spent.calls, guard.under_way) == (1, 1, 1)


def test_calls_that_are_kept_for_other_work_are_not_given_away() -> None:
    guard = BudgetGuard(Budget(calls=3))
    assert guard.reserve(keep=Amounts(calls=2))
    assert not guard.reserve(keep=Amounts(calls=2))
    assert guard.reserve(keep=Amounts(calls=1))


def test_something_has_to_be_left_beyond_what_is_kept_and_ones_own_need_has_to_fit() -> None:
    guard = BudgetGuard(Budget(tokens=100))
    guard.spend(used(tokens=60))
    assert guard.has_room(keep=Amounts(tokens=39))
    assert not guard.has_room(keep=Amounts(tokens=40))
    assert guard.has_room(own=Amounts(tokens=40))
    assert not guard.has_room(own=Amounts(tokens=41))
    assert not guard.has_room(own=Amounts(tokens=11), keep=Amounts(tokens=30))


def test_work_tells_how_large_and_how_long_it_was() -> None:
    guard = BudgetGuard(Budget(usd=1))
    for usage in (used(tokens=10, usd=0.1), used(tokens=30, usd=None, seconds=3), used(seconds=0)):
        guard.reserve()
        guard.settle(usage)
    assert guard.largest == Amounts(1, 30, 0.1, 3)
    assert guard.mean.tokens == 20  # the call without an answer is not one more
    assert guard.spent.usd == 0.1


def test_time_runs_from_the_beginning() -> None:
    clock = Clock()
    clock.now = 100.0
    guard = BudgetGuard(Budget(seconds=10), clock=clock)
    clock.now = 104.0
    assert (guard.seconds_left, guard.left.seconds) == (6, 6)
    assert guard.has_room(keep=Amounts(seconds=5))
    assert not guard.has_room(keep=Amounts(seconds=6))
    clock.now = 110.0
    assert not guard.reserve()


def test_a_share_keeps_to_its_part_and_counts_for_the_whole() -> None:
    guard = BudgetGuard(Budget(calls=10, tokens=100, usd=1.0))
    guard.spend(used(2, tokens=20, usd=0.2))
    half = guard.share(0.5)
    assert half.budget == Budget(calls=4, tokens=40, usd=0.4)
    assert half.reserve(4)
    assert not half.reserve(1)
    assert guard.left.calls == 4
    half.settle(used(3, tokens=30, usd=0.1), calls=4)
    assert (guard.spent.calls, guard.spent.tokens, half.left.calls) == (5, 50, 1)
    assert guard.reserve(5)
    assert not half.reserve(1)  # its own budget has room, the whole has none
    with pytest.raises(BudgetExhaustedError, match="nothing is left"):
        guard.share()


def test_a_meter_counts_while_work_goes_on() -> None:
    meter = UsageMeter()
    meter.add(used(5, tokens=50))
    guard = BudgetGuard(Budget(calls=3, tokens=20), meter=meter)
    assert guard.spent.calls == 0  # what was used before does not count
    assert guard.reserve(2)
    meter.add(used(1, tokens=10))
    assert guard.left.calls == 0
    guard.settle(calls=2)
    assert guard.left.calls == 2
    meter.add(used(1, tokens=10))
    assert not guard.reserve()  # of tokens nothing is left
    assert copy.deepcopy(guard) is guard


def test_a_run_waits_for_room_while_others_are_under_way() -> None:
    guard = BudgetGuard(Budget(calls=4))

    async def run(seconds: float) -> bool:
        if not await guard.admit(3):
            return False
        await asyncio.sleep(seconds)
        guard.settle(used(1), calls=3)
        return True

    async def both() -> None:
        assert await asyncio.gather(run(0.1), run(0)) == [True, True]
        assert not await run(0)

    asyncio.run(both())
    assert guard.spent.calls == 2


def test_no_second_run_starts_before_the_size_of_the_first_is_known() -> None:
    guard = BudgetGuard(Budget(tokens=100))

    async def start(order: list[str], name: str) -> None:
        assert await guard.admit(1)
        order.append(f"{name} starts")
        await asyncio.sleep(0.05)
        order.append(f"{name} ends")
        guard.settle(used(tokens=40))

    async def both() -> list[str]:
        order: list[str] = []
        await asyncio.gather(start(order, "first"), start(order, "second"))
        assert not await guard.admit(1), "20 tokens are left, and a run takes 40"
        return order

    assert asyncio.run(both()) == ["first starts", "first ends", "second starts", "second ends"]


def test_a_guard_within_another_has_its_limits_and_counts_for_both() -> None:
    clock = Clock()
    whole = BudgetGuard(Budget(calls=5, seconds=10), clock=clock)
    clock.now = 4.0
    part = BudgetGuard(parent=whole)
    assert part.seconds_left == 6
    assert whole.reserve(3)
    assert part.reserve(2)
    assert not part.reserve(1)
    whole.settle(used(1), calls=3)
    part.settle(used(2), calls=2)
    assert (whole.spent.calls, part.spent.calls, part.left.calls) == (3, 2, 2)
    assert part.largest.calls == 2


def test_dspys_own_optimizers_are_stopped_call_by_call() -> None:
    model = ScriptedLM("Paris", cache=False)
    with metered() as meter:
        guard = BudgetGuard(Budget(calls=3), meter=meter)
        callback = BudgetCallback(guard)
        with dspy.context(callbacks=[callback]):
            model("one")
            with pytest.raises(BudgetInterruptError):
                model("three", n=3)
            with pytest.raises(BudgetInterruptError):
                model("two, which has room")
        callback.drain()
    assert len(model.requests) == 1
    assert guard.under_way == 0
    assert meter.usage.paid_calls == 1


def test_calls_under_way_on_other_threads_take_their_room() -> None:
    entered, go = threading.Barrier(3), threading.Event()

    def hold(request: object) -> str:
        entered.wait(10)
        go.wait(10)
        return "Paris"

    lm = ScriptedLM(hold, cache=False)
    with metered() as meter:
        callback = BudgetCallback(BudgetGuard(Budget(calls=2), meter=meter))
        with dspy.context(callbacks=[callback]):
            contexts = [contextvars.copy_context() for _ in range(2)]
            parallel = [threading.Thread(target=context.run, args=(lm, "?")) for context in contexts]
            for thread in parallel:
                thread.start()
            entered.wait(10)
            with pytest.raises(BudgetInterruptError):
                lm("one too many")
            assert callback.drain(seconds=0.01) == 2
            go.set()
            for thread in parallel:
                thread.join()
    assert callback.drain() == 0


@pytest.mark.parametrize("reply", ["Paris", RuntimeError("down"), asyncio.CancelledError()])
def test_the_room_of_a_steps_call_is_not_free_before_the_step_has_counted_it(reply: Any) -> None:
    with metered() as meter:
        guard = BudgetGuard(Budget(calls=1), meter=meter)
        callback, step = BudgetCallback(guard), StepMeter(meter)
        failed = isinstance(reply, BaseException)

        async def call() -> None:
            step.under_way = True
            callback.on_lm_start("one", lm, {})
            callback.on_lm_end("one", None, reply if failed else None)
            assert not guard.reserve()
            answered, lost = (None, True) if failed else (1.0, None)
            budget = RunBudget(Budget(), time.perf_counter)
            await step.settle(budget, RunLM(lm), lambda: "?", reply, answered, sent=True, lost=lost)

        lm = Silent("own/silent")
        with dspy.context(usage_tracker=step):
            asyncio.run(call())
    assert meter.usage.calls == 1
    assert guard.under_way == 0


def test_calls_of_a_model_with_a_method_of_its_own_are_within_the_budget() -> None:
    class Passing(ScriptedLM):
        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            return await super().acall(*args, **kwargs)

    for lm in (Silent("own/silent"), Passing("Paris", cache=False)):
        program = single_model("question -> answer", lm)
        with metered() as meter:
            callback = BudgetCallback(BudgetGuard(Budget(calls=3), meter=meter))
            with dspy.context(callbacks=[callback]):
                for _ in range(3):
                    program(question="?")
                with pytest.raises(BudgetInterruptError):
                    program(question="?")
        assert meter.usage.calls == 3


def test_a_failed_call_in_a_thread_is_counted_once() -> None:
    class Down(dspy.BaseLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise LMServerError("down")

    program = AttentionMoA("question -> answer", [Down("own/sync")], layers=1, attention="none")
    for guarded in (False, True):
        with metered() as meter:
            callbacks = [BudgetCallback(BudgetGuard(Budget(calls=9), meter=meter))] if guarded else []
            with dspy.context(callbacks=callbacks), pytest.raises(AllProposalsFailedError):
                program(question="?")
        assert (meter.usage.calls, meter.usage.unanswered) == (1, 0)


def test_the_meter_of_a_caller_counts_what_dspy_does_not_report() -> None:
    slow = ScriptedLM("Paris", "scripted/slow", latency=60)
    program = AttentionMoA(
        "question -> answer", [ScriptedLM("Paris"), Silent("own/silent"), slow], layers=1, attention="none",
        aggregation="vote", tolerance=Tolerance(timeout=0.2, retries=0),
    )  # fmt: skip
    with metered() as meter:
        used = program(question="?").trace.usage
    assert (used.calls, used.unanswered, used.estimated) == (3, 1, True)
    assert meter.usage.model_copy(update={"seconds": used.seconds}) == used


def test_a_reply_whose_run_ends_while_its_tokens_are_counted_has_its_price() -> None:
    async def cut_short() -> Usage:
        meter, known = StepMeter(), RunLM(with_price(Silent("own/silent"), OwnPrice(prompt=3, completion=15)))
        budget = RunBudget(Budget(), time.perf_counter)
        task = asyncio.create_task(meter.settle(budget, known, lambda: "What?" * 40, ["Paris"], 1.0, sent=True))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return meter.usage

    used = asyncio.run(cut_short())
    assert used.cost_usd == pytest.approx((used.tokens.prompt * 3 + used.tokens.completion * 15) / 1e6)
    assert used.tokens.prompt > 0 < used.tokens.completion


def test_old_costs_of_optimizers_and_spendings_of_evaluations_can_be_read() -> None:
    old = Usage.model_validate({"calls": 3, "tokens": 70, "usd": 0.5, "seconds": 2.0})
    assert old == Usage(calls=3, tokens=Tokens(prompt=70), cost_usd=0.5, seconds=2.0)
    spending = {"calls": 2, "cached_calls": 1, "tokens": {"prompt": 1, "cached": 0, "completion": 2}, "cost_usd": None}
    assert Usage.model_validate(spending).tokens.total == 3
