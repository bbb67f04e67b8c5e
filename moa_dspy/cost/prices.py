"""What models charge: an account for each of them, its tokens counted and its calls priced."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final, Literal

import dspy
import pydantic
from dspy.clients._litellm import get_litellm
from dspy.clients.capabilities import resolve
from dspy.clients.execution import _price_result
from dspy.lm15 import LM15Error, Message, Response, Usage

from moa_dspy.cost.tokens import Counters, TokenCounter

__all__ = ["Account", "Books", "ModelPrice"]

_MILLION: Final = 1_000_000


class ModelPrice(pydantic.BaseModel):
    """What a model costs.

    Attributes:
        input: dollars for a million prompt tokens.
        output: dollars for a million completion tokens.
        source: ``dspy`` (its copy of LiteLLM's table, which a run's record uses), ``litellm`` (the table of the
            installed LiteLLM) or ``free`` (it runs on this machine).
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    input: float
    output: float
    source: Literal["dspy", "litellm", "free"]


class Books:
    """An account for every model of a plan, in order of first use.

    Args:
        roughly: count letters instead of tokens, without loading LiteLLM.
    """

    def __init__(self, *, roughly: bool = False) -> None:
        self._accounts: dict[str, Account] = {}
        self._counters = Counters(roughly=roughly)

    def account(self, lm: dspy.BaseLM) -> Account:
        """Return the account of ``lm``'s model."""
        if lm.model not in self._accounts:
            self._accounts[lm.model] = Account(lm, self._counters.of(lm.model))
        return self._accounts[lm.model]

    def of(self, model: str) -> Account:
        """Return the account of a model that was asked."""
        return self._accounts[model]


class Account:
    """Tokens and dollars of one model.

    Attributes:
        count: its token counter.
        shortened_to: every ``max_tokens`` that shortened what the model was assumed to write.
    """

    def __init__(self, lm: dspy.BaseLM, counter: TokenCounter) -> None:
        self.model = lm.model
        self.count = counter
        self.shortened_to: set[int] = set()
        self._lm = lm

    @functools.cached_property
    def price(self) -> ModelPrice | None:
        """Return the price of a million tokens; None where it is unknown."""
        return self._tariff.price()

    def cost(self, prompt: int, completion: int) -> float | None:
        """Return the dollars of one call; None where the price is unknown."""
        return self._tariff.cost(prompt, completion)

    @functools.cached_property
    def _tariff(self) -> _Tariff:
        """Looked up when it is asked for, since that may load LiteLLM."""
        return _tariff(self._lm)


@dataclass(frozen=True)
class _Tariff:
    """How the price of a call is found."""

    source: Literal["dspy", "litellm", "free"]
    cost: Callable[[int, int], float | None]

    def price(self) -> ModelPrice | None:
        """Return the price of a million tokens, at the rates of a short prompt."""
        rates = [self.cost(1000, 0), self.cost(0, 1000)]
        prompt, completion = (None if rate is None else rate * _MILLION / 1000 for rate in rates)
        if prompt is None or completion is None:
            return None
        return ModelPrice(input=round(prompt, 9), output=round(completion, 9), source=self.source)


def _tariff(lm: dspy.BaseLM) -> _Tariff:
    """Return the first of: free, DSPy's table, LiteLLM's table; of the last also where that knows no price."""
    if getattr(getattr(lm, "engine", None), "free", False):
        return _Tariff("free", lambda *_tokens: 0.0)
    recorded = _Tariff("dspy", lambda prompt, completion: _recorded_cost(lm, prompt, completion))
    if recorded.price() is not None:
        return recorded
    return _Tariff("litellm", _listed_cost(lm.model))


def _recorded_cost(lm: dspy.BaseLM, prompt: int, completion: int) -> float | None:
    """Return what DSPy would write down as the dollars of such a call."""
    try:
        route = resolve(lm)
    except LM15Error:
        return None
    usage = Usage(input_tokens=prompt, output_tokens=completion)
    reply = Response(id=None, model=route.model, message=Message.assistant(""), finish_reason="stop", usage=usage)
    result = SimpleNamespace(cost=None, cost_details=None)
    _price_result(lm, result, reply, route.provider, None)
    return result.cost


def _listed_cost(model: str) -> Callable[[int, int], float | None]:
    """Return how LiteLLM's table prices a call of ``model``: by both of its rates, or not at all."""
    table = get_litellm(feature="moa-dspy").model_cost
    provider, _, rest = model.partition("/")
    entry = table.get(model)
    if entry is None and str(table.get(rest, {}).get("litellm_provider", "")).startswith(provider):
        entry = table[rest]
    rates = [(entry or {}).get(f"{side}_cost_per_token") for side in ("input", "output")]
    known = [float(rate) for rate in rates if isinstance(rate, (int, float))]
    if len(known) < len(rates):
        return lambda *_tokens: None
    return lambda prompt, completion: prompt * known[0] + completion * known[1]
