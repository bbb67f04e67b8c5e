"""What calls to language models cost, whoever makes them: a program, a module of DSPy's, or a judge."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import dspy
import pydantic
from dspy.utils.usage_tracker import UsageTracker

from moa_dspy.local import is_local
from moa_dspy.trace import Tokens, Trace

__all__ = ["Meter", "Spending", "metered"]


class Spending(pydantic.BaseModel):
    """What some work took.

    Attributes:
        calls: LM calls, cached ones included.
        cached_calls: those of them that DSPy's response cache answered.
        tokens: paid tokens.
        cost_usd: dollars paid; None where the price of a call is not known.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    calls: int = 0
    cached_calls: int = 0
    tokens: Tokens = Tokens()
    cost_usd: float | None = 0.0

    def __add__(self, other: Spending) -> Spending:
        unknown = self.cost_usd is None or other.cost_usd is None
        return Spending(
            calls=self.calls + other.calls,
            cached_calls=self.cached_calls + other.cached_calls,
            tokens=self.tokens + other.tokens,
            cost_usd=None if unknown else (self.cost_usd or 0.0) + (other.cost_usd or 0.0),
        )

    @classmethod
    def of(cls, trace: Trace) -> Spending:
        """Return what the run of a trace took."""
        return cls(calls=trace.calls, cached_calls=trace.cached_calls, tokens=trace.tokens, cost_usd=trace.cost_usd)


class Meter(UsageTracker):
    """Hears of every LM call within ``metered``, on whatever thread or task it is made.

    DSPy first tells the usage tracker of a call that is billed, then hands the call's history entry, which has the
    price, to the modules that called; both happen on the calling thread, one right after the other. An entry without
    such notice was answered from the response cache. DSPy's parallel threads copy the usage tracker and lose what the
    copies hear; this one is its own copy.

    Args:
        outer: the caller's usage tracker, which still hears of everything.
        free: names of models that cost nothing, beside those that run on this machine.
        on_paid: told of every call that is paid for, in the thread that makes it; its price comes a moment later.
    """

    def __init__(
        self, outer: UsageTracker | None, free: Collection[str] = (), on_paid: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self.history = _Entries(self)
        self._outer, self._free, self._on_paid = outer, frozenset(free), on_paid
        self._lock = threading.Lock()
        self._billed = threading.local()
        self._spent, self._unpriced = Spending(), 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @property
    def spent(self) -> Spending:
        """Return what the calls so far took; its dollars are unknown while the price of one is."""
        with self._lock:
            return self._spent.model_copy(update={"cost_usd": None}) if self._unpriced else self._spent

    @property
    def known_usd(self) -> float:
        """Return the dollars of those calls whose price is known."""
        with self._lock:
            return self._spent.cost_usd or 0.0

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Count a call that is paid for (called by DSPy)."""
        with self._lock:
            self._spent += Spending(calls=1, tokens=_tokens(usage_entry))
            self._unpriced += 1
            if self._outer is not None:
                self._outer.add_usage(lm, usage_entry)
        self._billed.waits = True
        if self._on_paid is not None:
            self._on_paid()

    def note(self, entry: Mapping[str, Any]) -> None:
        """Take the price of the call that was just billed out of its history entry, or count a cached call."""
        billed, self._billed.waits = getattr(self._billed, "waits", False), False
        model = str(entry.get("model"))
        cost = 0.0 if model in self._free or is_local(model) else entry.get("cost")
        with self._lock:
            if not billed:
                self._spent += Spending(calls=1, cached_calls=1)
                return
            self._spent += Spending(calls=_requests(entry) - 1)
            if cost is not None:
                self._spent += Spending(cost_usd=cost)
                self._unpriced -= 1


class _Entries(list[dict[str, Any]]):
    """Stands where DSPy expects a module's history, and keeps nothing."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def append(self, entry: dict[str, Any]) -> None:
        self._meter.note(entry)


@contextmanager
def metered(free: Collection[str] = (), on_paid: Callable[[], None] | None = None) -> Iterator[Meter]:
    """Measure the LM calls that are made within the block, and from it on other threads in the same context.

    Args:
        free: see ``Meter``.
        on_paid: see ``Meter``.
    """
    settings = dspy.settings
    meter = Meter(settings.usage_tracker, free, on_paid)
    with dspy.context(usage_tracker=meter, caller_modules=[*(settings.caller_modules or ()), meter]):
        yield meter


def _requests(entry: Mapping[str, Any]) -> int:
    """How many requests a call was: DSPy's engines make one for each of several completions that are asked for."""
    responses = entry.get("response")
    return len(responses) if isinstance(responses, tuple) else 1


def _tokens(usage: Mapping[str, Any]) -> Tokens:
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else getattr(details, "cached_tokens", 0)
    return Tokens(
        prompt=usage.get("prompt_tokens") or 0, cached=cached or 0, completion=usage.get("completion_tokens") or 0
    )
