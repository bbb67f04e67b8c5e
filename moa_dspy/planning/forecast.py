"""What the first proposals of a run will use, before any is sent, for a budget of tokens or dollars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import dspy

from moa_dspy.cost.budget import Budget
from moa_dspy.cost.guard import Spending
from moa_dspy.cost.offline_prices import carried_tables
from moa_dspy.cost.prices import Account, Books
from moa_dspy.errors import ConfigurationError
from moa_dspy.planning.lengths import Lengths

if TYPE_CHECKING:
    from moa_dspy.run.call import Prompt

__all__ = ["forecast"]


def forecast(
    budget: Budget, prompts: Sequence[Prompt], others: Iterable[dspy.BaseLM], *, roughly: bool = False
) -> list[Spending]:
    """Return what each proposal is expected to use: its real prompt, and an answer of the length that plans assume.

    Args:
        budget: of the run, in tokens or dollars.
        prompts: of the first proposals, one for each agent.
        others: models that the run may ask besides.
        roughly: count letters instead of tokens, where there is no time to load a tokenizer; prices are looked up.

    Raises:
        ConfigurationError: the prompt of the first proposal alone would use up the budget, or the budget is in dollars
            and a price is not known.
    """
    with carried_tables():
        books = Books(roughly=roughly)
        if budget.usd is not None:
            _check_prices([books.account(lm) for lm in (*(prompt.lm for prompt in prompts), *others)])
        expected: list[Spending] = []
        for prompt in prompts:
            account = books.account(prompt.lm)
            tokens = account.count(prompt.messages)
            if not expected:
                _check_room(budget, tokens, account)
            completion = min(Lengths().answer, prompt.longest or Lengths().answer)
            usd = None if budget.usd is None else account.cost(tokens, completion)
            expected.append(Spending(tokens + completion, usd or 0.0))
        return expected


def _check_prices(accounts: Iterable[Account]) -> None:
    unknown = dict.fromkeys(account.model for account in accounts if account.price is None)
    if unknown:
        raise ConfigurationError(
            f"a budget in dollars cannot be kept: the price of {', '.join(unknown)} is not known; "
            "limit calls or tokens instead"
        )


def _check_room(budget: Budget, tokens: int, account: Account) -> None:
    if budget.tokens is not None and tokens >= budget.tokens:
        raise ConfigurationError(
            f"budget tokens={budget.tokens} is too small for a single proposal, whose prompt alone has {tokens}"
        )
    if budget.usd is not None and (usd := account.cost(tokens, 0) or 0.0) >= budget.usd:
        raise ConfigurationError(
            f"budget usd={budget.usd:g} is too small for a single proposal, whose prompt alone costs ${usd:.2g}"
        )
