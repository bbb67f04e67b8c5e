"""What the calls of one step were billed: tokens and dollars, as DSPy tells of them, or as they can be estimated."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

import dspy
from dspy.clients.call_result import usage_dict
from dspy.lm15 import Response
from dspy.utils.usage_tracker import UsageTracker

from moa_dspy.cost.prices import PriceTable, offline_prices
from moa_dspy.cost.tokens import TokenCounter, estimate_tokens
from moa_dspy.run.reading import Text
from moa_dspy.run.threads import in_thread
from moa_dspy.trace import Tokens

__all__ = ["Meter", "estimated_usage", "is_free"]

_LONGEST: Final = 2.0  # seconds that an exact estimate may take


class Meter(list[dict[str, Any]]):
    """Stands among DSPy's calling modules, and so sees the history entry of each LM call of a step.

    DSPy tells a usage tracker of every call that is billed, just before it writes the call's history entry; an entry
    without such notice was answered from the response cache and cost nothing. Of a call that leaves neither, since its
    LM does not go through DSPy, whoever made it has to tell.

    Attributes:
        estimated: whether some of what it says is an estimate.
        truncated: whether the last reply ended where the model was allowed no further token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.history = self
        self.estimated = False
        self.truncated = False
        self._billed: list[dict[str, Any]] = []
        self._costs: list[float | None] = []
        self._cached: list[dict[str, Any]] = []

    def append(self, entry: dict[str, Any]) -> None:
        """Take note of a call's price and end (called by DSPy)."""
        self.truncated = getattr(entry.get("response"), "finish_reason", None) == "length"
        missing = len(self._billed) - len(self._costs)
        if missing:  # of a billed call that failed afterwards there is no history entry, and so no price
            self._costs += [None] * (missing - 1) + [entry["cost"]]
        else:
            self._cached.append(entry)

    def tracker(self, outer: UsageTracker | None) -> UsageTracker:
        """Return the usage tracker that goes with this meter and passes everything on to ``outer``."""
        return _Billing(self._billed, outer)

    @property
    def calls(self) -> int:
        """Return the number of billed calls."""
        return len(self._billed)

    @property
    def cached(self) -> int:
        """Return the number of calls that the response cache answered."""
        return len(self._cached)

    @property
    def tokens(self) -> Tokens:
        """Return the billed tokens."""
        return self.spent_since(0)[0]

    @property
    def cost(self) -> float | None:
        """Return the dollars billed, or None where the price of one of the calls is not known."""
        known = [cost for cost in self._costs if cost is not None]
        return float(sum(known)) if len(known) == len(self._billed) else None

    def spent_since(self, calls: int) -> tuple[Tokens, float]:
        """Return tokens and known dollars of the billed calls after the first ``calls``."""
        tokens = sum((_tokens(usage) for usage in self._billed[calls:]), start=Tokens())
        return tokens, sum(cost or 0.0 for cost in self._costs[calls:])

    def bill_untold(self) -> None:
        """Enter a call of which DSPy has told nothing: its tokens and its price are not known."""
        self._billed.append({})

    def settle(self, calls: int, *, free: bool) -> None:
        """Close the account of the billed calls after the first ``calls``, whose model may be ``free``."""
        self._costs += [None] * (len(self._billed) - len(self._costs))
        if free:
            self._costs[calls:] = [0.0] * (len(self._billed) - calls)

    def lacks_usage(self, calls: int) -> bool:
        """Return whether of a billed call after the first ``calls`` no tokens are known."""
        return any(not _tokens(usage).total for usage in self._billed[calls:])

    def lacks_price(self, calls: int) -> bool:
        """Return whether of a billed call after the first ``calls`` no price is known."""
        return None in self._costs[calls:]

    def estimate(self, calls: int, usage: Tokens, usd: float | None) -> None:
        """Fill in what is not known of the billed calls after the first ``calls``: tokens and dollars of each."""
        for number in range(calls, len(self._billed)):
            if not _tokens(self._billed[number]).total:
                self._billed[number] = {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion}
                self.estimated = True
            if self._costs[number] is None and usd is not None:
                self._costs[number] = usd
                self.estimated = True

    def saved(self, lm: dspy.BaseLM) -> tuple[Tokens, float | None]:
        """Return the tokens and dollars that the cached calls cost when they were made; None for an unknown price."""
        tokens = sum((_tokens_of_cached(entry, lm.model) for entry in self._cached), start=Tokens())
        costs = [entry["cost"] for entry in self._cached]
        if is_free(lm):
            return tokens, 0.0
        return tokens, None if None in costs else float(sum(costs))


class _Billing(UsageTracker):
    """Hears of every billed call (DSPy leaves out cached ones) and passes it on to the caller's tracker."""

    def __init__(self, billed: list[dict[str, Any]], outer: UsageTracker | None) -> None:
        super().__init__()
        self._billed = billed
        self._outer = outer

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        self._billed.append(usage_entry)
        if self._outer is not None:
            self._outer.add_usage(lm, usage_entry)


def is_free(lm: dspy.BaseLM) -> bool:
    """Return whether calls of ``lm`` cost nothing, since it runs on this machine."""
    return bool(getattr(getattr(lm, "engine", None), "free", False))


async def estimated_usage(lm: dspy.BaseLM, prompt: Text, reply: str, *, priced: bool) -> tuple[Tokens, float | None]:
    """Return what a call must have used, and the list price of that where it is to be ``priced``.

    Its texts are counted where that can be done at once, else their letters. It never fails: the reply is paid.
    """
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_LONGEST):
            return await in_thread(_counted_usage, lm, prompt, reply, priced)
    return Tokens(prompt=estimate_tokens(prompt), completion=estimate_tokens(reply)), None


def _counted_usage(lm: dspy.BaseLM, prompt: Text, reply: str, priced: bool) -> tuple[Tokens, float | None]:
    counter = TokenCounter()
    tokens = Tokens(prompt=counter.count(lm.model, prompt), completion=counter.count(lm.model, reply))
    if not priced:
        return tokens, None
    with offline_prices():
        return tokens, PriceTable().cost(lm, tokens.prompt, tokens.completion)


def _tokens(usage: Mapping[str, Any]) -> Tokens:
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return Tokens(
        prompt=usage.get("prompt_tokens") or 0, cached=cached or 0, completion=usage.get("completion_tokens") or 0
    )


def _tokens_of_cached(entry: Mapping[str, Any], model: str) -> Tokens:
    """What a cached call used when it was made; a guess of four letters a token where its cache entry does not say."""
    responses = entry["response"] if isinstance(entry["response"], tuple) else (entry["response"],)
    if all(isinstance(response, Response) for response in responses):
        provider = model.partition("/")[0]
        return sum((_tokens(usage_dict(response, provider)) for response in responses), start=Tokens())
    letters = sum(len(str(message.get("content"))) for message in entry.get("messages") or ())
    return Tokens(prompt=letters // 4, completion=len(str(entry["outputs"])) // 4)
