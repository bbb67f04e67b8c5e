"""What is left out when budget, time or agents run short."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from typing import Any, Final, TypeVar

from moa_dspy.cost.budget import Amounts, Budget, BudgetGuard
from moa_dspy.run.failures import TRANSIENT
from moa_dspy.run.tolerance import Tolerance
from moa_dspy.trace import Failure, Stage

__all__ = ["RunBudget", "enough", "last_resort"]

T = TypeVar("T")

# A call that reads and unites all answers may need this much more than the largest call so far. So may a call under
# way compared with the average call, since later roles read more.
_LONGER: Final = 2.0
# A call of a further layer may need this much more than one of the layer before: its proposers read one answer more.
_GROWTH: Final = 1.25


class RunBudget:
    """The budget of one run: holds back the calls that write a layer's answer, and admits layers as a whole.

    Args:
        budget: the limits of the run.
        clock: seconds since the run began.

    Attributes:
        limits: the limits of the run.
        limited: whether there are any. Without, nothing needs to be reserved or settled.
        refused: whether a call, or a part of a layer, was left out because of the budget.
    """

    def __init__(self, budget: Budget, clock: Callable[[], float]) -> None:
        self.limits = budget
        self.refused = False
        self.limited = budget != Budget()
        if self.limited:
            self._guard = BudgetGuard(budget, clock=clock)
        self._held: set[Stage] = set()  # the stages that write the layer's answer, while a call is kept for each
        self._before_layer = Amounts()

    def reserve(self, stage: Stage) -> bool:
        """Reserve one call of a stage, if there is room for it; ``settle`` ends the reservation.

        Room is kept for each other stage whose call is held: the call, and twice the tokens, dollars and seconds of the
        largest call so far. Each call under way is taken to need twice the tokens and dollars of an average call.
        """
        guard, held = self._guard, self._held_from(stage)
        largest, ahead = guard.largest, guard.mean * (_LONGER * guard.under_way)
        keep = Amounts(
            held,
            held * _LONGER * largest.tokens + ahead.tokens,
            held * _LONGER * largest.usd + ahead.usd,
            held * _LONGER * largest.seconds,
        )
        if not guard.reserve(keep=keep):
            self.refused = True
            return False
        self._held.discard(stage)
        return True

    def settle(self, used: Amounts) -> None:
        """End a reservation: ``used`` is what the call really used; its seconds are 0 if there was no answer."""
        self._guard.settle(used)

    def seconds_left(self, stage: Stage) -> float:
        """Return the seconds left, less what other stages may need; infinite without a limit."""
        if self.limits.seconds is None:
            return math.inf
        return self._guard.seconds_left - self._held_from(stage) * _LONGER * self._guard.largest.seconds

    def first_layer(self, critics: Sequence[int], finals: Sequence[Stage]) -> tuple[int, int]:
        """Return how many proposals, and how many of their refinements, the first layer can afford.

        Args:
            critics: the number of critiques that each agent's answer gets.
            finals: the stages that write the layer's answer.
        """
        agents, left = len(critics), self._guard.left.calls if self.limited else math.inf
        proposals = int(max(1, min(agents, left - len(finals))))
        self._held = set(finals if left - proposals >= len(finals) else ())
        left, refined = left - len(self._held) - proposals, 0
        if proposals == agents:
            for count in critics:
                left -= count + bool(count)
                if left < 0:
                    break
                refined += 1
        if len(self._held) < len(finals) or proposals < agents or refined < agents:
            self.refused = True
        return proposals, refined

    def at_once(self, needs: Sequence[Amounts]) -> int:
        """Return how many of the first proposals may start before it is known what one really uses; at least one.

        Args:
            needs: what each of them is expected to use.
        """
        limits = self.limits
        fitting = sum(
            (limits.tokens is None or total.tokens < limits.tokens) and (limits.usd is None or total.usd < limits.usd)
            for total in accumulate(needs)
        )
        return max(1, fitting)

    def further_layer(self, calls: int, finals: Sequence[Stage]) -> bool:
        """Return whether there is room for another whole layer, and hold its last calls if so.

        The number of its calls is known. Each is taken to need a quarter more tokens and dollars than a call of the
        layer before, and the layer as many seconds as that layer took.

        Args:
            calls: the layer's calls.
            finals: the stages that write its answer.
        """
        if not self.limited:
            return True
        spent = self._guard.spent
        before = spent - self._before_layer
        larger = _GROWTH * calls / max(1, before.calls)
        keep = Amounts(0, larger * before.tokens, larger * before.usd, before.seconds)
        if not self._guard.has_room(calls, keep=keep):
            self.refused = True
            return False
        self._held, self._before_layer = set(finals), spent
        return True

    def release(self) -> None:
        """Hold nothing back any more: there is nothing yet from which an answer could be made."""
        self._held.clear()

    def _held_from(self, stage: Stage) -> int:
        """Return the number of calls held for other stages than ``stage``."""
        return len(self._held - {stage})


async def enough(
    tasks: Sequence[asyncio.Task[Any]],
    tolerance: Tolerance,
    budget: RunBudget,
    *,
    absent: int = 0,
    deadline: float | None = None,
) -> str | None:
    """Wait until all tasks are done, or the quorum has answered and its grace is over, or time is up.

    Args:
        tasks: those of which a quorum is enough.
        tolerance: has the quorum and its grace.
        budget: has the time left.
        absent: how many of the agents that a quorum counts have no task here.
        deadline: seconds; None for no deadline.

    Returns:
        Why the remaining tasks are not waited for, or None if all are done.
    """
    if tolerance.quorum is None and deadline is None and budget.limits.seconds is None:
        await asyncio.wait(tasks)
        return None
    clock = asyncio.get_running_loop().time
    quorum = len(tasks) if tolerance.quorum is None else max(1, min(tolerance.quorum - absent, len(tasks)))
    latest = clock() + (deadline or math.inf)
    waiting_since: float | None = None
    pending = set(tasks)
    while pending:
        if waiting_since is None and sum(map(_answered, tasks)) >= quorum:
            waiting_since = clock()
        grace = math.inf if waiting_since is None else waiting_since + tolerance.grace - clock()
        left = budget.seconds_left("refine")
        if left <= 0:
            budget.refused = True
            return "the budget's time was over, but for what the layer's answer may need"
        if grace <= 0:
            return f"the quorum of {quorum} was there, and the grace of {tolerance.grace:g} s over"
        if clock() >= latest:
            return f"the layer's deadline of {deadline:g} s was over"
        # The time that has to be left for the layer's answer grows with the longest call: look again at half time.
        seconds = min(latest - clock(), grace, max(left / 2, 0.01))
        timeout = None if seconds == math.inf else max(seconds, 0.0)
        _, pending = await asyncio.wait(pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return None


async def last_resort(
    propose: Callable[[int], Awaitable[tuple[T | None, Failure | None]]],
    asked: int,
    failures: Sequence[Failure | None],
    tolerance: Tolerance,
    budget: RunBudget,
) -> T | None:
    """Return the first answer that an agent can still give for what the budget has left.

    Agents that were not asked come first, then those whose failure may have passed, in the order of their waits.

    Args:
        propose: asks one agent.
        asked: how many agents were asked.
        failures: the failure of each agent.
        tolerance: has the longest wait.
        budget: what is left. Nothing is done unless it was to blame.
    """
    if not budget.refused:
        return None
    budget.release()
    waits: dict[int, float] = {}
    for agent, failure in enumerate(failures[:asked]):
        if failure is not None and failure.kind in TRANSIENT:
            wait = failure.retry_after or 0.0
            if wait <= tolerance.patience and wait < budget.seconds_left("propose"):
                waits[agent] = wait
    for agent in (*range(asked, len(failures)), *sorted(waits, key=lambda agent: waits[agent])):
        await asyncio.sleep(waits.get(agent, 0.0))
        answer, failure = await propose(agent)
        if answer is not None or (failure is not None and failure.kind == "budget"):
            return answer
    return None


def _answered(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None and task.result() is not None
