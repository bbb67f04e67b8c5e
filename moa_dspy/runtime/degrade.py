"""Skip or shorten parts of a run when budget, time or agents run short."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from typing import Any, Final, TypeVar

from moa_dspy.cost.budget import Amounts, Budget, BudgetGuard
from moa_dspy.runtime.failures import TRANSIENT
from moa_dspy.runtime.tolerance import Tolerance
from moa_dspy.trace import Failure, Stage

__all__ = ["RunBudget", "enough", "last_resort", "result_of"]

T = TypeVar("T")

# Safety factor for a call compared with the largest call so far: a final call reads all answers. Also for a running
# call compared with the average call, because later roles read more.
_LONGER: Final = 2.0
# Safety factor for a call of a further layer compared with the layer before: its proposers read one answer more.
_GROWTH: Final = 1.25
_UNLIMITED: Final = Budget()


class RunBudget:
    """The budget of one run. It reserves the calls that write a layer's answer, and admits whole layers.

    Attributes:
        limits: the limits of the run.
        limited: whether any limit is set. If not, nothing is reserved, admitted or settled.
        refused: whether a call or a part of a layer was skipped because of the budget.
    """

    def __init__(self, budget: Budget, clock: Callable[[], float]) -> None:
        self.limits = budget
        self.refused = False
        self.limited = budget != _UNLIMITED
        if self.limited:
            self._guard = BudgetGuard(budget, clock=clock)
        self._held: list[Stage] = []  # a stage for each reserved call that writes the layer's answer
        self._before_layer = Amounts()

    def reserve(self, stage: Stage) -> bool:
        """Reserve one call of a stage if the budget covers it. ``settle`` ends the reservation.

        The budget must still cover the reserved calls of every other stage, each with twice the tokens,
        dollars and seconds of the largest call so far. Each running call is assumed to need twice the tokens and
        dollars of an average call.
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
        if stage in self._held:
            self._held.remove(stage)
        return True

    def settle(self, used: Amounts) -> None:
        """End a reservation. ``used`` is the call's actual usage; its seconds are 0 if there was no answer."""
        self._guard.settle(used)

    def seconds_left(self, stage: Stage) -> float:
        """Return the seconds left, minus what other stages may need; infinite without a limit."""
        if self.limits.seconds is None:
            return math.inf
        return self._guard.seconds_left - self._held_from(stage) * _LONGER * self._guard.largest.seconds

    def timeout(self, stage: Stage) -> asyncio.Timeout:
        """Return the context that ends with a TimeoutError when no seconds are left, if they are limited."""
        seconds = self.seconds_left(stage)
        return asyncio.timeout(None if seconds == math.inf else seconds)

    def first_layer(self, refinements: Sequence[int], finals: Sequence[Stage], further: int = 0) -> tuple[int, int]:
        """Return the number of proposals and of refinements that the first layer can afford.

        ``refinements`` are the numbers of calls that refine each agent's answer, critiques included. ``finals`` are the
        stages that write the layer's answer, and ``further`` is the number of its other calls.
        """
        agents, left = len(refinements), self._guard.left.calls - further
        proposals = int(max(1, min(agents, left - len(finals))))
        self._held = list(finals if left - proposals >= len(finals) else ())
        left -= len(self._held) + proposals
        refined = sum(total <= left for total in accumulate(refinements)) if proposals == agents else 0
        if len(self._held) < len(finals) or proposals < agents or refined < agents:
            self.refused = True
        return proposals, refined

    def at_once(self, needs: Sequence[Amounts]) -> int:
        """Return how many of the first proposals may start before the usage of one is known; at least one."""
        limits = self.limits
        fitting = sum(
            (limits.tokens is None or total.tokens < limits.tokens) and (limits.usd is None or total.usd < limits.usd)
            for total in accumulate(needs)
        )
        return max(1, fitting)

    def further_layer(self, calls: int, finals: Sequence[Stage]) -> bool:
        """Return whether the budget covers another whole layer, and reserve its final calls if so.

        Each of its calls is assumed to need a quarter more tokens and dollars than a call of the layer before. The
        layer is assumed to take as long as the layer before.
        """
        spent = self._guard.spent
        before = spent - self._before_layer
        larger = _GROWTH * calls / max(1, before.calls)
        keep = Amounts(0, larger * before.tokens, larger * before.usd, before.seconds)
        if not self._guard.has_room(calls, keep=keep):
            self.refused = True
            return False
        self._held, self._before_layer = list(finals), spent
        return True

    def release(self) -> None:
        """Release all reserved final calls, because there is no answer yet to aggregate."""
        self._held.clear()

    def _held_from(self, stage: Stage) -> int:
        """Return the number of calls reserved for stages other than ``stage``."""
        return sum(held != stage for held in self._held)


async def enough(
    tasks: Sequence[asyncio.Task[Any]],
    tolerance: Tolerance,
    budget: RunBudget,
    *,
    absent: int = 0,
    began: float | None = None,
) -> str | None:
    """Wait until all tasks are done, the quorum has answered and its grace is over, or time is up.

    Args:
        tasks: the tasks.
        tolerance: sets the quorum with its grace, and the deadline.
        budget: sets the time left.
        absent: number of agents that count for the quorum but have no task here.
        began: start of the layer, by the clock of the event loop; None if its deadline does not count here.

    Returns:
        The reason why the remaining tasks are cancelled, or None if all are done.
    """
    clock = asyncio.get_running_loop().time
    quorum = len(tasks) if tolerance.quorum is None else max(1, min(tolerance.quorum - absent, len(tasks)))
    deadline = tolerance.layer_deadline
    latest = math.inf if deadline is None or began is None else deadline + began
    waiting_since: float | None = None
    pending = set(tasks)
    while pending:
        if waiting_since is None and sum(result_of(task) is not None for task in tasks) >= quorum:
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
        # The time reserved for the layer's answer grows with the longest call, so check again at half time.
        seconds = min(latest - clock(), grace, max(left / 2, 0.01))
        timeout = None if seconds == math.inf else max(seconds, 0.0)
        _, pending = await asyncio.wait(pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    return None


async def last_resort(
    propose: Callable[[int], Awaitable[tuple[T | None, str]]],
    asked: int,
    failures: Sequence[Failure | None],
    tolerance: Tolerance,
    budget: RunBudget,
) -> T | None:
    """Return the first answer that an agent can still give within the remaining budget.

    Agents that were not asked come first, then those with a transient failure, in the order of their waits. No agent is
    asked if the budget refused nothing. ``propose`` asks one and returns its answer, and the kind of its failure.
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
        answer, failed = await propose(agent)
        if answer is not None or failed == "budget":
            return answer
    return None


def result_of(task: asyncio.Task[T | None]) -> T | None:
    """Return the task's result, or None if it is pending, cancelled or failed."""
    if not task.done() or task.cancelled() or task.exception() is not None:
        return None
    return task.result()
