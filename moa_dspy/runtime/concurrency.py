"""Limits on concurrent calls, for each model and for the whole process.

Limits hold across programs, threads and event loops, because they protect one provider or one machine.

::

    limit_concurrency(64)                       # for the whole process
    limit_concurrency(4, model="local")         # for one model

A call of a provider also waits for a connection. DSPy opens as many for each LM as the process may open files, divided
among its LMs. The wait is here, not in DSPy, where it would count as the provider's latency.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import os
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from moa_dspy._dspy import widen_pools
from moa_dspy.errors import ConfigurationError
from moa_dspy.runtime.waiting import CallClaim, Limit, Queue

__all__ = [
    "admitted",
    "blocking_run",
    "connections",
    "keeping_places",
    "limit_by_default",
    "limit_concurrency",
    "nested_run",
]

T = TypeVar("T")

_FEWEST_CONNECTIONS: Final = 100  # of an LM; DSPy's own number
_MOST_FILES: Final = 4096  # that may be connections, also if the process may open more
_OTHER_FILES: Final = 224  # left for everything else
_FEWEST_SHARES: Final = 4  # an LM takes at most this part of all connections, since others may follow

widen_pools(1_000_000)  # ``connections`` sets the number


def limit_concurrency(calls: int | None, model: str | None = None) -> None:
    """Allow at most ``calls`` concurrent LM calls. Running calls count towards a new limit.

    When calls wait for a model, those that share the beginning of their prompt with the call that just ended start
    first. A server that caches prompts (llama.cpp, vLLM) then reads a critic's own answer once, not once for every
    peer. This costs no time if the limit equals the number of requests that the server handles at once.

    The embedded model has a limit by default: the four requests that its server handles at once.

    A call of a model that itself calls a program does not count while the calls of that program are under way.

    Args:
        calls: at least 1; None removes the limit.
        model: the model string; None means the whole process.

    Raises:
        ConfigurationError: if ``calls`` is not such a number.
    """
    if calls is not None and (isinstance(calls, bool) or not isinstance(calls, int) or calls < 1):
        raise ConfigurationError(f"a concurrency limit is a whole number from 1, not {calls!r}")
    _queue.resize(limiters.setdefault(model, Limit()), math.inf if calls is None else calls)


def limit_by_default(calls: int, model: str) -> None:
    """Limit the calls of a model unless the user has set or removed its limit."""
    if model not in limiters:
        limit_concurrency(calls, model)


@contextlib.asynccontextmanager
async def admitted(model: str, group: Hashable) -> AsyncIterator[None]:
    """Wait until a call of ``model`` may start, and hold its slot until the block ends.

    Nested calls (of a program that a model's ``forward`` calls) are admitted before others. The group is equal for
    calls whose prompts begin alike, so different for different runs.
    """
    limits = tuple(limit for key in (model, None) if (limit := limiters.get(key)) is not None)
    slot = _Slot(CallClaim(limits, group, asyncio.get_running_loop()))
    try:
        await slot.enter(nested=_current.get() is not None or _waited_for.get())
        token = _current.set(slot)
        try:
            yield
        finally:
            _current.reset(token)
    finally:
        slot.release()


def connections(pool: object, model: str) -> asyncio.Semaphore:
    """Return the connections that calls on the running event loop may open; each call takes one.

    There are as many as the limit on concurrent calls allows, if there is one. If not, the open files that a process
    may have are divided among the pools in use. LMs that share connections share a pool.
    """
    with _pools_lock:
        of_pool = _pools.setdefault(pool, WeakKeyDictionary())
        share = (_files() - _OTHER_FILES) // max(len(_pools), _FEWEST_SHARES)
        limits = [int(limit.places) for key in (model, None) if (limit := limiters.get(key)) and limit.is_set]
        number = max(_FEWEST_CONNECTIONS, share, min(limits, default=0))
        loop = asyncio.get_running_loop()
        known = of_pool.get(loop)
        if known is None or known[0] != number:
            known = of_pool[loop] = number, asyncio.Semaphore(number)
        return known[1]


def _files() -> int:
    """Return how many files this process may open, as far as they may be connections."""
    try:
        import resource
    except ImportError:  # Windows
        return _MOST_FILES
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_FILES if soft == resource.RLIM_INFINITY else min(soft, _MOST_FILES)


def keeping_places(work: Callable[[], T]) -> Callable[[], T]:
    """Return work for a thread. The current call keeps its places until it ends, also if nothing waits for it."""
    slot = _current.get()
    if slot is None:
        return work
    slot.hold()

    def to_its_end() -> T:
        try:
            return work()
        finally:
            slot.release()

    return to_its_end


@contextlib.asynccontextmanager
async def nested_run() -> AsyncIterator[None]:
    """Run a program within the block. If a call is under way here, it gives up its places until the block ends.

    The call waits for the program, so the program's calls must not wait for the call.
    """
    caller = _current.get()
    if caller is None:
        yield
        return
    caller.suspend()
    patient = True
    try:
        yield
    except BaseException as error:
        patient = isinstance(error, Exception)  # and neither cancelled nor interrupted
        raise
    finally:
        await caller.resume(patient=patient)


@contextlib.contextmanager
def blocking_run() -> Iterator[None]:
    """Do as ``nested_run``, in a thread that waits for the program. It may be the thread of a running event loop.

    The calls under way on a blocked loop cannot end. If they have all places of a limit, a call that the loop may wait
    for exceeds the limit by one.
    """
    caller, loop = _current.get(), _running_loop()
    if caller is not None:
        caller.suspend()
    token = _waited_for.set(_waited_for.get() or loop is not None)
    if loop is not None:
        _queue.block(loop)
    patient = True
    try:
        yield
    except BaseException as error:
        patient = isinstance(error, Exception)
        raise
    finally:
        _waited_for.reset(token)
        try:
            if caller is not None:
                caller.resume_in_thread(patient=patient)
        finally:
            if loop is not None:
                _queue.unblock(loop)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class _Slot:
    """A call's places. They are free once every holder has released the slot, from any thread.

    While a program runs within the call, the call only waits for it, so it holds no place.
    """

    def __init__(self, claim: CallClaim) -> None:
        self._claim = claim
        self._held = self._resuming = False
        self._holders = 1
        self._nested = 0  # programs that run within the call
        self._lock = threading.Lock()

    async def enter(self, *, nested: bool) -> None:
        """Wait for the places."""
        await _queue.enter(self._claim, nested=nested)
        self._held = True

    def hold(self) -> None:
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            held = not self._holders and self._give_up()
        if held:
            _queue.leave(self._claim)

    def suspend(self) -> None:
        """Give up the places, because a nested program begins."""
        with self._lock:
            self._nested += 1
            held = self._give_up()
        if held:
            _queue.leave(self._claim)

    async def resume(self, *, patient: bool) -> None:
        """Note the end of a nested program. After the last one, take the places again.

        Args:
            patient: whether to wait until they are free. If not, or if the wait is cancelled, the limits are exceeded
                until another call ends.
        """
        with self._resumed(patient=patient) as waits:
            if waits:
                await _queue.enter(self._claim, nested=True)

    def resume_in_thread(self, *, patient: bool) -> None:
        """Do as ``resume``, and block the thread."""
        with self._resumed(patient=patient) as waits:
            if waits:
                _queue.enter_in_thread(self._claim)

    @contextlib.contextmanager
    def _resumed(self, *, patient: bool) -> Iterator[bool]:
        """Yield whether to wait for the places. After that, hold them unless the call has ended meanwhile."""
        with self._lock:
            self._nested -= 1
            missing = self._holders > 0 and not (self._nested or self._resuming)
            self._resuming |= missing
        waits = missing and patient
        if missing and not waits:
            _queue.enter_now(self._claim)
        try:
            yield waits
        except BaseException:
            if waits:
                _queue.enter_now(self._claim)
            raise
        finally:
            if missing and not self._keep():
                _queue.leave(self._claim)

    def _keep(self) -> bool:
        with self._lock:
            self._resuming = False
            self._held = self._holders > 0 and not self._nested
            return self._held

    def _give_up(self) -> bool:
        held, self._held = self._held, False
        return held


_current: contextvars.ContextVar[_Slot | None] = contextvars.ContextVar("moa_dspy_current_slot", default=None)
_waited_for: contextvars.ContextVar[bool] = contextvars.ContextVar("moa_dspy_loop_waits", default=False)
_queue = Queue()
limiters: dict[str | None, Limit] = {}
_pools: WeakKeyDictionary[object, WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[int, asyncio.Semaphore]]]
_pools, _pools_lock = WeakKeyDictionary(), threading.Lock()


def _renew() -> None:
    """Reset the limits in a forked child, where the parent's calls never end and its threads may hold the lock."""
    global _queue, _pools, _pools_lock
    _queue, _pools, _pools_lock = Queue(), WeakKeyDictionary(), threading.Lock()
    for model, limit in list(limiters.items()):
        limiters[model] = Limit(limit.places)


if hasattr(os, "register_at_fork"):  # not available on Windows
    os.register_at_fork(after_in_child=_renew)
