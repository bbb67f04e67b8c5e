"""Listeners to DSPy's calls: the usage meter, and the callback that keeps DSPy's own optimizers within a budget.

Also reads the tokens that a provider reports for a call.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

import dspy
from dspy.lm15 import Response
from dspy.utils.callback import BaseCallback
from dspy.utils.usage_tracker import UsageTracker

from moa_dspy._dspy import CALLERS, USAGE_TRACKER, usage_dict
from moa_dspy.cost.budget import Budget, BudgetGuard
from moa_dspy.cost.own_price import is_free
from moa_dspy.cost.usage import Reading, Tokens, Usage
from moa_dspy.errors import BudgetInterruptError
from moa_dspy.local import is_local

__all__ = ["BudgetCallback", "CallsOfItem", "UsageMeter", "metered", "reported_tokens"]

_DRAIN_SECONDS: Final = 30.0
_LETTERS_PER_TOKEN: Final = 4
_NO_TOKENS: Final = (0, 0, 0)
_NO_USAGE: Final = Usage()
_NO_READING: Final = Reading()


class UsageMeter(UsageTracker):
    """Sum the usage of LM calls, on any number of threads.

    DSPy reports a paid call to the usage tracker. Right after that, on the same thread, it appends the call's history
    entry, which has the price, to the histories of the calling modules. A history entry without a report comes from
    the response cache. So the meter acts as both tracker and module, see ``metered``.

    DSPy's parallel threads deep-copy the usage tracker. A copy of a meter is the meter itself.

    Args:
        outer: the caller's usage tracker. It receives every report, too.
        free: names of models that cost nothing, besides those on this machine.
        on_paid: called with the usage so far at every paid call, on the thread of the call.

    Attributes:
        history: receives DSPy's history entries without storing them.
        response: the last whole response, in the form that DSPy keeps; None if DSPy keeps no history.
        reading: the sums so far. They are cheaper to read than ``usage``.
        saved: original usage of the cached calls. Dollars are None if a price is unknown.
    """

    def __init__(
        self,
        outer: UsageTracker | None = None,
        *,
        free: Collection[str] = (),
        on_paid: Callable[[Usage], None] | None = None,
    ) -> None:
        super().__init__()
        self.history = _History(self)
        self.response: Any = None
        self.reading = _NO_READING
        self.saved = _NO_USAGE
        self._outer, self._free, self._on_paid = outer, free, on_paid
        self._lock = threading.Lock()
        self._reported: dict[int, tuple[str, dict[str, Any]]] = {}  # by thread, until the price is known
        self._began = time.perf_counter()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @property
    def usage(self) -> Usage:
        """Return the usage so far, with the seconds since the meter was created."""
        now = self.reading
        return Usage(
            calls=now.paid_calls + now.cached_calls,
            cached_calls=now.cached_calls,
            unanswered=now.unanswered,
            tokens=_tokens((now.prompt, now.prompt_cached, now.completion)),
            cost_usd=None if now.unpriced_calls else now.known_usd,
            estimated=now.estimated,
            seconds=time.perf_counter() - self._began,
        )

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Count a paid call (called by DSPy)."""
        with self._lock:
            self._count(1, _tokens_in(usage_entry), unpriced=not self._is_free(lm))
            if self._outer is not None:
                self._outer.add_usage(lm, usage_entry)
        self._reported[threading.get_ident()] = lm, usage_entry

    def add_entry(self, entry: Mapping[str, Any]) -> None:
        """Add the price of the call just reported, or count a cached call (called by DSPy)."""
        reported = self._reported.pop(threading.get_ident(), None)
        model, usage = reported or (str(entry.get("model")), None)
        # A call that failed after its report has no entry. The next entry may belong to a cached call.
        paid = reported is not None and entry.get("usage", usage) == usage
        response, cost = entry.get("response"), entry.get("cost")
        self.response = response
        free = self._is_free(model)
        with self._lock:
            if not paid:
                self._count(cached=1)
                self.saved += Usage(tokens=_original_tokens(entry, model), cost_usd=cost or 0.0 if free else cost)
                return
            further = len(response) - 1 if isinstance(response, tuple) else 0  # one request per completion
            usd = None if free and not cost else cost  # a model on this machine may have a price of the user's
            self._count(calls=further, usd=usd or 0.0, unpriced=-(usd is not None and not free))
        if self._on_paid is not None:
            self._on_paid(self.usage)

    def add(self, used: Usage) -> None:
        """Add usage that DSPy does not report: a call, or a call's missing tokens and dollars."""
        with self._lock:
            self._count(
                used.paid_calls,
                (used.tokens.prompt, used.tokens.cached, used.tokens.completion),
                used.cost_usd or 0.0,
                used.cost_usd is None,
                unanswered=used.unanswered,
                estimated=used.estimated,
            )
            if isinstance(self._outer, UsageMeter):
                self._outer.add(used)

    def after_count(self, release: Callable[[], None]) -> bool:
        """Return whether the call that just ended will be counted later. If so, ``release`` is called after that."""
        del release
        return False

    def set_price(self, usd: float, calls: int) -> None:
        """Set the total price of the last ``calls`` calls, which DSPy cannot price."""
        with self._lock:
            self._count(usd=usd, unpriced=-calls, estimated=True)
            if isinstance(self._outer, UsageMeter):
                self._outer.set_price(usd, calls)

    def _count(
        self,
        calls: int = 0,
        tokens: tuple[int, int, int] = _NO_TOKENS,
        usd: float = 0.0,
        unpriced: int = 0,
        *,
        cached: int = 0,
        unanswered: int = 0,
        estimated: bool = False,
    ) -> None:
        now = self.reading
        self.reading = Reading(
            now.paid_calls + calls,
            now.cached_calls + cached,
            now.unanswered + unanswered,
            now.prompt + tokens[0],
            now.prompt_cached + tokens[1],
            now.completion + tokens[2],
            now.known_usd + usd,
            now.unpriced_calls + unpriced,
            now.estimated or estimated,
        )

    def _is_free(self, model: str) -> bool:
        return model in self._free or _is_local(model)


class _History(list[dict[str, Any]]):
    """Replaces the history of a calling module. It passes entries to the meter and stores nothing."""

    def __init__(self, meter: UsageMeter) -> None:
        super().__init__()
        self._meter = meter

    def append(self, entry: dict[str, Any]) -> None:
        self._meter.add_entry(entry)


@contextmanager
def metered(lms: Collection[dspy.BaseLM] = (), on_paid: Callable[[Usage], None] | None = None) -> Iterator[UsageMeter]:
    """Measure the LM calls made within the block, on all threads and tasks that inherit its context.

    Args:
        lms: models that may be called. Those on this machine count as free.
        on_paid: see ``UsageMeter``.
    """
    settings = dspy.settings
    meter = UsageMeter(settings.get(USAGE_TRACKER), free={lm.model for lm in lms if is_free(lm)}, on_paid=on_paid)
    with dspy.context(**{USAGE_TRACKER: meter, CALLERS: [*(settings.get(CALLERS) or ()), meter]}):
        yield meter


class BudgetCallback(BaseCallback):
    """Reserve every LM call from a budget, including calls of models that write prompts.

    The budget's guard needs a meter, because DSPy does not pass a call's usage to a callback.
    """

    def __init__(self, guard: BudgetGuard) -> None:
        super().__init__()
        self._guard = guard
        self._under_way: dict[str, int] = {}
        self._closed = False
        self._changed = threading.Condition()

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Reserve a call (called by DSPy). A call for n completions counts as n. After a refused one none may start.

        Raises:
            BudgetInterruptError: if the budget does not cover it, or did not cover an earlier one.
        """
        calls = _completions(instance, inputs)
        with self._changed:
            self._closed = self._closed or not self._guard.reserve(calls)
            if self._closed:
                raise BudgetInterruptError("the budget has no room for another call")
            self._under_way[call_id] = calls

    def on_lm_end(self, call_id: str, outputs: dict[str, Any] | None, exception: BaseException | None = None) -> None:
        """Release a call's reservation once the call is counted (called by DSPy)."""
        del outputs
        release = functools.partial(self._release, call_id)
        tracker = dspy.settings.get(USAGE_TRACKER)
        if isinstance(tracker, UsageMeter) and tracker.after_count(release):
            return
        if exception is not None and call_id in self._under_way:
            _count_failed(self._under_way[call_id], exception)
        release()

    def _release(self, call_id: str) -> None:
        with self._changed:
            calls = self._under_way.pop(call_id, None)
            if calls is not None:
                self._guard.settle(calls=calls)
            self._changed.notify_all()

    def drain(self, seconds: float = _DRAIN_SECONDS) -> int:
        """Let no further call start, and wait at most ``seconds`` for running calls, so that their usage is counted.

        DSPy's threads go on after an optimizer has ended. Their next calls would be paid, but not reported.

        Returns:
            The number of calls that still run.
        """
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._under_way, seconds)
            return sum(self._under_way.values())


class CallsOfItem(BaseCallback):
    """Keep the calls of one item within a budget: its reservation, and what else the budget has room for.

    A reservation does not contain repeated calls, nor those of a metric. They are reserved as they start.

    Args:
        guard: the budget. It has reserved calls for the item.
        calls: their number.

    Attributes:
        reserved: the calls that are reserved now.
    """

    def __init__(self, guard: BudgetGuard, calls: int) -> None:
        super().__init__()
        self.reserved = calls
        self._guard, self._started, self._meter = guard, 0, UsageMeter()
        self._under_way: dict[str, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Watch the calls that are made within the block. Without any limit, nothing is watched."""
        if self._guard.budget == Budget():
            yield
            return
        callbacks = [*(dspy.settings.get("callbacks") or ()), self]
        with metered() as self._meter, dspy.context(callbacks=callbacks):
            yield

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Count a call (called by DSPy).

        Raises:
            BudgetInterruptError: if the budget has no room for it.
        """
        with self._lock:
            calls = _completions(instance, inputs)
            beyond = self._started + calls - self._meter.reading.cached_calls - self.reserved
            if beyond > 0 and self._guard.budget.calls is not None:
                if not self._guard.extend(beyond):
                    raise BudgetInterruptError("the budget has no room for another call")
                self.reserved += beyond
            self._started += calls
            self._under_way[call_id] = calls

    def on_lm_end(self, call_id: str, outputs: dict[str, Any] | None, exception: BaseException | None = None) -> None:
        """Count a call that failed (called by DSPy)."""
        del outputs
        calls = self._under_way.pop(call_id, None)
        if calls is not None and exception is not None:
            _count_failed(calls, exception)


def _count_failed(calls: int, exception: BaseException) -> None:
    """Count a call that DSPy does not report because it failed, unless a step of a run counts it."""
    tracker = dspy.settings.get(USAGE_TRACKER)
    if type(tracker) is UsageMeter:
        tracker.add(Usage(calls=calls, unanswered=0 if isinstance(exception, Exception) else calls))


def _completions(lm: Any, inputs: Mapping[str, Any]) -> int:
    """Return how many completions a call asks for. A provider may be asked for each of them."""
    return {**getattr(lm, "kwargs", {}), **inputs.get("kwargs", {})}.get("n") or 1


_is_local = functools.lru_cache(maxsize=256)(is_local)


def reported_tokens(entry: Mapping[str, Any]) -> Tokens | None:
    """Return the reported usage of a call in DSPy's history, also if it was cached; None if there is none."""
    usage = entry.get("usage")
    made = _tokens(_tokens_in(usage)) if usage else _tokens_of_responses(entry, str(entry.get("model")))
    return made if made is not None and made.total else None


def _original_tokens(entry: Mapping[str, Any], model: str) -> Tokens:
    """Return the original usage of a cached call, estimated from its texts if the entry does not contain it."""
    made = _tokens_of_responses(entry, model)
    if made is not None:
        return made
    letters = sum(len(str(message.get("content"))) for message in entry.get("messages") or ())
    return Tokens(prompt=letters // _LETTERS_PER_TOKEN, completion=len(str(entry.get("outputs"))) // _LETTERS_PER_TOKEN)


def _tokens_of_responses(entry: Mapping[str, Any], model: str) -> Tokens | None:
    """Return the usage in the responses of a call, or None if the entry does not contain DSPy's responses."""
    response = entry.get("response")
    responses: tuple[Any, ...] = response if isinstance(response, tuple) else (response,)
    if not all(isinstance(one, Response) for one in responses):
        return None
    provider = model.partition("/")[0]
    return sum((_tokens(_tokens_in(usage_dict(one, provider))) for one in responses), start=Tokens())


def _tokens_in(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return prompt, cached prompt and completion tokens in a provider's usage report. An invalid count is 0."""
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else getattr(details, "cached_tokens", 0)
    return _whole(usage.get("prompt_tokens")), _whole(cached), _whole(usage.get("completion_tokens"))


def _tokens(counts: tuple[int, int, int]) -> Tokens:
    return Tokens(prompt=counts[0], cached=counts[1], completion=counts[2])


def _whole(count: Any) -> int:
    if type(count) is int:
        return max(count, 0)
    try:
        number = float(count)
    except (TypeError, ValueError):
        return 0
    return int(number) if math.isfinite(number) and number > 0 else 0
