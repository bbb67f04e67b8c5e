"""The expected usage of a run's first proposals, for budgets of tokens or dollars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dspy

from moa_dspy.cost.budget import Amounts, Budget
from moa_dspy.cost.prices import PriceTable, check_prices, offline_prices
from moa_dspy.cost.tokens import TokenCounter
from moa_dspy.errors import ConfigurationError

__all__ = ["ANSWER_TOKENS", "Prompt", "forecast"]

ANSWER_TOKENS: Final = 450
"""Assumed length of an answer. docs/plan.md gives the source."""


@dataclass(frozen=True)
class Prompt:
    """The first request of a step.

    Attributes:
        lm: the LM that receives it.
        messages: in OpenAI's format.
        max_tokens: longest completion, in tokens; None if it is not limited.
    """

    lm: dspy.BaseLM
    messages: list[dict[str, Any]]
    max_tokens: int | None


def forecast(budget: Budget, prompts: Sequence[Prompt], others: Iterable[dspy.BaseLM]) -> list[Amounts]:
    """Return the expected usage of each proposal: the tokens of its prompt and of an answer of assumed length.

    ``others`` are other models that the run may call.

    Raises:
        ConfigurationError: if the first proposal's prompt alone exceeds the budget, or the budget is in dollars and a
            price is unknown.
    """
    if budget.usd is not None:
        check_prices([*(prompt.lm for prompt in prompts), *others])
    prices, counter = PriceTable(), TokenCounter()
    with offline_prices():
        expected: list[Amounts] = []
        for prompt in prompts:
            tokens = counter.count(prompt.lm.model, prompt.messages)
            if not expected:
                _check_room(budget, tokens, prices.cost(prompt.lm, tokens, 0) if budget.usd is not None else None)
            completion = min(ANSWER_TOKENS, prompt.max_tokens or ANSWER_TOKENS)
            usd = None if budget.usd is None else prices.cost(prompt.lm, tokens, completion)
            expected.append(Amounts(tokens=tokens + completion, usd=usd or 0.0))
        return expected


def _check_room(budget: Budget, tokens: int, usd: float | None) -> None:
    if budget.tokens is not None and tokens >= budget.tokens:
        raise ConfigurationError(
            f"budget tokens={budget.tokens} is too small for a single proposal, whose prompt alone has {tokens}"
        )
    if budget.usd is not None and (usd or 0.0) >= budget.usd:
        raise ConfigurationError(
            f"budget usd={budget.usd:g} is too small for a single proposal, whose prompt alone costs ${usd:.2g}"
        )
