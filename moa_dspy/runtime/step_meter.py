"""The usage of one step: what DSPy reports of its requests, completed where it reports nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

import dspy

from moa_dspy.cost.budget import Amounts
from moa_dspy.cost.meter import UsageMeter
from moa_dspy.cost.own_price import own_price
from moa_dspy.cost.prices import PriceTable, offline_prices
from moa_dspy.cost.tokens import TokenCounter, estimate_tokens
from moa_dspy.cost.usage import Reading, Tokens, Usage
from moa_dspy.runtime.degrade import RunBudget
from moa_dspy.runtime.event_loop import in_thread
from moa_dspy.runtime.reading import Text, texts_in
from moa_dspy.runtime.session import RunLM

__all__ = ["StepMeter"]

T = TypeVar("T")

_ESTIMATE_SECONDS: Final = 2.0


class StepMeter(UsageMeter):
    """Meter of a step. It settles each request with the run's budget.

    Attributes:
        from_cache: number of requests that the response cache answered.
        under_way: whether a request is sent that ``settle`` has not counted yet.
    """

    from_cache = 0
    under_way = False
    _before = Reading()  # of the meter, before the current request
    _releases: tuple[Callable[[], None], ...] = ()

    def after_count(self, release: Callable[[], None]) -> bool:
        """Call ``release`` when ``settle`` has counted the request under way. Return False if it is counted now.

        A call's room in a budget must not be free before the call is counted.
        """
        with self._lock:
            before, now = self._before, self.reading
            counted = (before.paid_calls, before.cached_calls) != (now.paid_calls, now.cached_calls)
            if counted or not self.under_way:
                return False
            self._releases = (*self._releases, release)
            return True

    async def settle(
        self,
        budget: RunBudget,
        known: RunLM,
        prompt: Callable[[], Text],
        reply: Any,
        seconds: float | None,
        *,
        sent: bool,
        lost: bool | None = None,
        price: float = 1.0,
    ) -> None:
        """Count the usage of a request. DSPy may have reported a paid call, a cached one, or nothing.

        Args:
            budget: the run's budget.
            known: the LM that was called.
            prompt: returns its prompt.
            reply: its return value.
            seconds: duration of the call; None if there was no answer.
            sent: whether it was called at all.
            lost: of a call that DSPy will never report: True if it was cut short, False if it failed with an error.
            price: share of the usual price that it costs.
        """
        before, after = self._before, self.reading
        paid, cached = after.paid_calls - before.paid_calls, after.cached_calls > before.cached_calls
        from_cache = cached and not paid
        self.from_cache += from_cache
        if lost is not None and not paid:
            self.add(Usage(calls=1, unanswered=int(lost)))
            after = self.reading
        try:
            if seconds is not None and not from_cache:
                if not paid:
                    self.add(Usage(calls=1, cost_usd=0.0 if known.free else None))
                    after = self.reading
                unpriced = after.unpriced_calls - before.unpriced_calls
                reported = Tokens(prompt=after.prompt - before.prompt, completion=after.completion - before.completion)
                wanted = unpriced and (budget.limits.usd is not None or known.priced)
                if wanted or not (reported.prompt and reported.completion):
                    text = "".join(texts_in(reply, self.response))
                    await self._complete(budget, known.lm, prompt(), text, reported, unpriced)
                    after = self.reading
            saved = (after.known_usd - before.known_usd) * (1 - price)
            if saved:
                self.add(Usage(cost_usd=-saved))
                after = self.reading
        finally:
            self._before = after
            if budget.limited:
                paid = int(sent and not from_cache)
                usd = after.known_usd - before.known_usd
                budget.settle(Amounts(paid, after.tokens - before.tokens, usd, seconds or 0.0))
            with self._lock:
                releases, self._releases, self.under_way = self._releases, (), False
            for release in releases:
                release()

    async def _complete(
        self, budget: RunBudget, lm: dspy.BaseLM, prompt: Text, reply: str, reported: Tokens, unpriced: int
    ) -> None:
        """Add what the provider did not report for an answered call: tokens of either kind, and dollars.

        Without any text and any report there is most likely no bill.
        """
        own, missing, price = own_price(lm), Tokens(), None
        is_partial = bool(reply) and not (reported.prompt and reported.completion)
        counted = Tokens(prompt=estimate_tokens(prompt), completion=estimate_tokens(reply)) if is_partial else Tokens()
        try:
            if is_partial:
                counted = await _in_time(lambda: _counted(lm, prompt, reply)) or counted
        finally:  # also if the run ends meanwhile
            if is_partial:
                missing = Tokens(
                    prompt=0 if reported.prompt else counted.prompt,
                    completion=0 if reported.completion else counted.completion,
                )
                self.add(Usage(tokens=missing, estimated=True))
            priced = reported + missing if unpriced else missing  # DSPy has priced what was reported
            if not priced.total:
                price = 0.0 if unpriced else None
            elif own is not None:
                price = own.cost(priced.prompt, priced.completion)
            if price is not None:
                self.set_price(price, unpriced)
        if priced.total and own is None and (not unpriced or budget.limits.usd is not None):
            price = await _in_time(lambda: _list_price(lm, priced))
            if price is not None:
                self.set_price(price, unpriced)


async def _in_time(work: Callable[[], T]) -> T | None:
    """Return the result of work in a thread; None if it fails or takes too long, because the reply is paid."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_ESTIMATE_SECONDS):
            return await in_thread(work)
    return None


def _counted(lm: dspy.BaseLM, prompt: Text, reply: str) -> Tokens:
    counter = TokenCounter()
    return Tokens(prompt=counter.count(lm.model, prompt), completion=counter.count(lm.model, reply))


def _list_price(lm: dspy.BaseLM, tokens: Tokens) -> float | None:
    with offline_prices():
        return PriceTable().cost(lm, tokens.prompt, tokens.completion)
