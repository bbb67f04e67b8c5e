"""Listeners to DSPy's calls: the usage meter, and the callback that keeps DSPy's own optimizers within a budget."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.usage_tracker import UsageTracker

from moa_dspy._dspy import CALLERS, USAGE_TRACKER
from moa_dspy.cost.budget import BudgetGuard
from moa_dspy.cost.own_price import is_free
from moa_dspy.cost.reported import original_tokens, tokens_of
from moa_dspy.cost.usage import Reading, Tokens, Usage
from moa_dspy.errors import BudgetInterruptError
from moa_dspy.local import is_local

__all__ = ["BudgetCallback", "UsageMeter", "metered"]

_DRAIN_SECONDS: Final = 30.0
_NO_TOKENS: Final = Tokens()
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
        on_paid: called with the usage so far at every paid call, on the thread of the call and before its price is
            known.

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
            tokens=now.paid,
            cost_usd=None if now.unpriced_calls else now.known_usd,
            estimated=now.estimated,
            seconds=time.perf_counter() - self._began,
        )

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Count a paid call (called by DSPy)."""
        with self._lock:
            self._count(calls=1, tokens=tokens_of(usage_entry), unpriced=not self._is_free(lm))
            if self._outer is not None:
                self._outer.add_usage(lm, usage_entry)
        self._reported[threading.get_ident()] = lm, usage_entry
        if self._on_paid is not None:
            self._on_paid(self.usage)

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
                self.saved += Usage(tokens=original_tokens(entry, model), cost_usd=cost or 0.0 if free else cost)
                return
            further = len(response) - 1 if isinstance(response, tuple) else 0  # one request per completion
            usd = None if free and not cost else cost  # a model on this machine may have a price of the user's
            self._count(calls=further, usd=usd or 0.0, unpriced=-(usd is not None and not free))

    def add(self, used: Usage) -> None:
        """Add usage that DSPy does not report: a call, or a call's missing tokens and dollars."""
        with self._lock:
            unpriced = used.cost_usd is None
            self._count(used.paid_calls, used.tokens, used.cost_usd or 0.0, unpriced, estimated=used.estimated)

    def set_price(self, usd: float, calls: int) -> None:
        """Set the total price of the last ``calls`` calls, which DSPy cannot price."""
        with self._lock:
            self._count(usd=usd, unpriced=-calls, estimated=True)

    def _count(
        self,
        calls: int = 0,
        tokens: Tokens = _NO_TOKENS,
        usd: float = 0.0,
        unpriced: int = 0,
        *,
        cached: int = 0,
        estimated: bool = False,
    ) -> None:
        now = self.reading
        self.reading = Reading(
            now.paid_calls + calls,
            now.cached_calls + cached,
            now.paid + tokens,
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

    The guard needs a meter, because DSPy does not pass a call's usage to a callback.

    Args:
        guard: the budget.
    """

    def __init__(self, guard: BudgetGuard) -> None:
        super().__init__()
        self._guard = guard
        self._under_way: dict[str, int] = {}
        self._changed = threading.Condition()

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Reserve a call (called by DSPy). A call for n completions counts as n.

        Raises:
            BudgetInterruptError: if the budget does not cover it.
        """
        options = {**getattr(instance, "kwargs", {}), **inputs.get("kwargs", {})}
        calls = options.get("n") or 1
        with self._changed:
            if not self._guard.reserve(calls):
                raise BudgetInterruptError("the budget has no room for another call")
            self._under_way[call_id] = calls

    def on_lm_end(self, call_id: str, outputs: dict[str, Any] | None, exception: BaseException | None = None) -> None:
        """Release a call's reservation (called by DSPy)."""
        del outputs, exception
        with self._changed:
            calls = self._under_way.pop(call_id, None)
            if calls is not None:
                self._guard.settle(calls=calls)
            self._changed.notify_all()

    def drain(self, seconds: float = _DRAIN_SECONDS) -> None:
        """Wait at most ``seconds`` for running calls to end, so that their usage is counted."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, seconds)


_is_local = functools.lru_cache(maxsize=256)(is_local)
