"""Counting every paid LM call of an optimization: those of the program, and those of the models that write prompts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Self

import dspy
from dspy.utils.usage_tracker import UsageTracker

from moa_dspy.optimizers.results import Cost

__all__ = ["Spending", "count_spending"]


class Spending(UsageTracker):
    """What has been paid for since it was made, from any number of threads.

    DSPy tells a usage tracker of every call that is billed, and right after it, in the same thread, writes the call's
    history entry, which has the price. A cached call has an entry alone. DSPy's threads copy the usage tracker and lose
    what the copies hear; this one is its own copy.
    """

    def __init__(
        self, outer: UsageTracker | None, free: Collection[str], progress: Callable[[Cost], None] | None = None
    ) -> None:
        super().__init__()
        self.history = _Entries(self)
        self._outer, self._progress = outer, progress
        self._free = frozenset(free)
        self._lock = threading.Lock()
        self._billed = threading.local()
        self._calls, self._tokens, self._priced, self._usd = 0, 0, 0, 0.0
        self._began = time.perf_counter()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Count a billed call (called by DSPy)."""
        tokens = sum(usage_entry.get(kind) or 0 for kind in ("prompt_tokens", "completion_tokens"))
        with self._lock:
            self._calls += 1
            self._tokens += tokens
            if self._outer is not None:
                self._outer.add_usage(lm, usage_entry)
        self._billed.model = lm
        if self._progress is not None:
            self._progress(self.cost)

    def price(self, entry: Mapping[str, Any]) -> None:
        """Take the price of the call that was just billed out of its history entry."""
        if getattr(self._billed, "model", None) is None:
            return
        self._billed.model = None
        usd = 0.0 if entry["model"] in self._free else entry["cost"]
        if usd is not None:
            with self._lock:
                self._priced += 1
                self._usd += usd

    @property
    def cost(self) -> Cost:
        """Return what has been spent so far."""
        with self._lock:
            usd = self._usd if self._priced == self._calls else None
            return Cost(calls=self._calls, tokens=self._tokens, usd=usd, seconds=time.perf_counter() - self._began)


class _Entries(list[Any]):
    """Stands in for the history of a calling module, and keeps nothing."""

    def __init__(self, spending: Spending) -> None:
        super().__init__()
        self._spending = spending

    def append(self, entry: Any) -> None:
        self._spending.price(entry)


@contextlib.contextmanager
def count_spending(lms: Collection[dspy.BaseLM], progress: Callable[[Cost], None] | None = None) -> Iterator[Spending]:
    """Count what the block pays for; a usage tracker of the caller still hears of everything.

    Args:
        lms: the models that may be asked, for those among them that cost nothing.
        progress: told of the cost so far with every paid call, in the thread that makes it.
    """
    free = {lm.model for lm in lms if getattr(getattr(lm, "engine", None), "free", False)}
    spending = Spending(dspy.settings.usage_tracker, free, progress)
    with dspy.context(usage_tracker=spending, caller_modules=[spending, *(dspy.settings.caller_modules or [])]):
        yield spending
