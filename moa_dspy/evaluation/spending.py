"""What calls to language models cost, whoever makes them: a program, a module of DSPy's, or a judge."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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


class Meter:
    """Hears of every LM call within ``metered``, on whatever thread or task it is made.

    DSPy first tells the usage tracker of a call that is billed, then hands the call's history entry to the modules
    that called; both happen on the calling thread, one right after the other. An entry without such notice was
    answered from the response cache.
    """

    def __init__(self) -> None:
        self.history = _Entries(self)
        self._billed = threading.local()
        self._lock = threading.Lock()
        self._spent = Spending()

    @property
    def spent(self) -> Spending:
        """Return what the calls so far took."""
        with self._lock:
            return self._spent

    def bill(self, usage: Mapping[str, Any]) -> None:
        """Take note that the call whose entry comes next is paid for."""
        self._billed.usage = usage

    def note(self, entry: Mapping[str, Any]) -> None:
        """Take note of a finished call."""
        usage = getattr(self._billed, "usage", None)
        self._billed.usage = None
        if usage is None:
            call = Spending(calls=1, cached_calls=1)
        else:
            cost = 0.0 if is_local(str(entry.get("model"))) else entry.get("cost")
            call = Spending(calls=1, tokens=_tokens(usage), cost_usd=cost)
        with self._lock:
            self._spent += call


class _Entries(list[dict[str, Any]]):
    """Stands where DSPy expects a module's history."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def append(self, entry: dict[str, Any]) -> None:
        self._meter.note(entry)


class _Billing(UsageTracker):
    """Hears of billed calls and passes them on to the caller's tracker."""

    def __init__(self, meter: Meter, outer: UsageTracker | None) -> None:
        super().__init__()
        self._meter = meter
        self._outer = outer

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        self._meter.bill(usage_entry)
        if self._outer is not None:
            self._outer.add_usage(lm, usage_entry)


@contextmanager
def metered() -> Iterator[Meter]:
    """Measure the LM calls that are made within the block, and from it on other threads in the same context."""
    meter = Meter()
    settings = dspy.settings
    callers = [*(settings.caller_modules or ()), meter]
    with dspy.context(usage_tracker=_Billing(meter, settings.usage_tracker), caller_modules=callers):
        yield meter


def _tokens(usage: Mapping[str, Any]) -> Tokens:
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else getattr(details, "cached_tokens", 0)
    return Tokens(
        prompt=usage.get("prompt_tokens") or 0, cached=cached or 0, completion=usage.get("completion_tokens") or 0
    )
