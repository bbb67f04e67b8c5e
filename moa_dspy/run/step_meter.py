"""The usage of one step: what DSPy reports of its requests, completed where it reports nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import dspy

from moa_dspy.cost.budget import Amounts
from moa_dspy.cost.meter import UsageMeter
from moa_dspy.cost.prices import PriceTable, offline_prices
from moa_dspy.cost.tokens import TokenCounter, estimate_tokens
from moa_dspy.cost.usage import Reading, Tokens, Usage
from moa_dspy.run.degrade import RunBudget
from moa_dspy.run.event_loop import in_thread
from moa_dspy.run.reading import Text, texts_in
from moa_dspy.run.session import RunLM

__all__ = ["StepMeter"]

_ESTIMATE_SECONDS: Final = 2.0


class StepMeter(UsageMeter):
    """Meter of a step. It settles each request with the run's budget.

    Attributes:
        from_cache: number of requests that the response cache answered.
    """

    from_cache = 0
    _before = Reading()  # of the meter, before the current request

    async def settle(
        self,
        budget: RunBudget,
        known: RunLM,
        prompt: Callable[[], Text],
        reply: Any,
        seconds: float | None,
        *,
        sent: bool,
        lost: bool = False,
    ) -> None:
        """Count the usage of a request. DSPy may have reported a paid call, a cached one, or nothing.

        Args:
            budget: the run's budget.
            known: the LM that was called.
            prompt: returns its prompt.
            reply: its return value.
            seconds: duration of the call; None if there was no answer.
            sent: whether it was called at all.
            lost: whether it was cut short, so that DSPy will never report it.
        """
        before, after = self._before, self.reading
        paid, cached = after.paid_calls - before.paid_calls, after.cached_calls > before.cached_calls
        from_cache = cached and not paid
        self.from_cache += from_cache
        if lost and not paid:
            self.add(Usage(calls=1, unanswered=1))
            after = self.reading
        try:
            if seconds is not None and not from_cache:
                if not paid:
                    self.add(Usage(calls=1, cost_usd=0.0 if known.free else None))
                    after = self.reading
                unpriced = after.unpriced_calls - before.unpriced_calls
                priced = unpriced > 0 and (budget.limits.usd is not None or known.priced)
                unmetered = after.prompt + after.completion == before.prompt + before.completion
                text = "".join(texts_in(reply)) if unmetered or priced else ""
                if text:  # without a completion there is most likely no bill
                    estimate, price = await _estimated(known.lm, prompt(), text, priced)
                    if unmetered:
                        self.add(Usage(tokens=estimate, estimated=True))
                    if price is not None:
                        self.set_price(price, unpriced)
                    after = self.reading
        finally:
            self._before = after
            if budget.limited:
                paid = int(sent and not from_cache)
                usd = after.known_usd - before.known_usd
                budget.settle(Amounts(paid, after.tokens - before.tokens, usd, seconds or 0.0))


async def _estimated(lm: dspy.BaseLM, prompt: Text, reply: str, priced: bool) -> tuple[Tokens, float | None]:
    """Return the estimated usage of a call, and its list price if ``priced``. Never raise: the reply is paid."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_ESTIMATE_SECONDS):
            return await in_thread(_counted_usage, lm, prompt, reply, priced)
    return Tokens(prompt=estimate_tokens(prompt), completion=estimate_tokens(reply)), None


def _counted_usage(lm: dspy.BaseLM, prompt: Text, reply: str, priced: bool) -> tuple[Tokens, float | None]:
    counter = TokenCounter()
    tokens = Tokens(prompt=counter.count(lm.model, prompt), completion=counter.count(lm.model, reply))
    if not priced:
        return tokens, None
    with offline_prices():
        return tokens, PriceTable().cost(lm, tokens.prompt, tokens.completion)
