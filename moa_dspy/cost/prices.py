"""Prices of models: DSPy's own price for a call, or else the price in LiteLLM's list."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias
from weakref import WeakKeyDictionary

import dspy
import pydantic

from moa_dspy._dspy import price_call, remember_prices
from moa_dspy.cost.meter import reported_tokens
from moa_dspy.cost.own_price import ATTRIBUTE, OwnPrice, is_free, own_price
from moa_dspy.errors import ConfigurationError
from moa_dspy.identity import server_of

__all__ = [
    "ModelPrice",
    "PriceTable",
    "check_prices",
    "litellm_folder",
    "models_without_price",
    "offline_prices",
    "price_list",
    "with_price",
]

Source: TypeAlias = Literal["own", "dspy", "litellm", "free"]

_MILLION: Final = 1_000_000
_OFFLINE_VARIABLE: Final = "LITELLM_LOCAL_MODEL_COST_MAP"

remember_prices()

_lock = threading.Lock()
_values_before: list[str | None] = []  # of the variable, one per active use; the first is the user's own


class ModelPrice(pydantic.BaseModel):
    """The price of a model.

    Attributes:
        input: dollars per million prompt tokens.
        output: dollars per million completion tokens.
        source: ``own`` (the user's price of an agent), ``dspy`` (DSPy's copy of LiteLLM's list, which prices recorded
            calls), ``litellm`` (the list of the installed LiteLLM) or ``free`` (the model runs on this machine).
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    input: float
    output: float
    source: Source


class PriceTable:
    """Prices of models. Each model is looked up once."""

    def __init__(self) -> None:
        self._rates: dict[tuple[str, str | None, OwnPrice | None], _Rates] = {}

    def price(self, lm: dspy.BaseLM) -> ModelPrice | None:
        """Return the price of ``lm``'s model, or None if it is unknown."""
        return self._rates_of(lm).price

    def cost(self, lm: dspy.BaseLM, prompt: int, completion: int) -> float | None:
        """Return the dollars of a call with these tokens, or None if the price is unknown."""
        return self._rates_of(lm).cost(prompt, completion)

    def price_of(self, model: str, server: str | None = None) -> ModelPrice | None:
        """Return the price of a model that was looked up before, and of its server.

        Raises:
            KeyError: if it was not looked up.
        """
        for (name, address, _), rates in self._rates.items():
            if (name, address) == (model, server):
                return rates.price
        raise KeyError(model)

    def _rates_of(self, lm: dspy.BaseLM) -> _Rates:
        key = lm.model, server_of(lm), own_price(lm)
        if key not in self._rates:
            self._rates[key] = _rates_of(lm)
        return self._rates[key]


@dataclass(frozen=True)
class _Rates:
    """The function that computes the cost of a call, and its source."""

    source: Source
    cost: Callable[[int, int], float | None]

    @functools.cached_property
    def price(self) -> ModelPrice | None:
        """Return the price per million tokens, at the rates for a short prompt."""
        thousand = [self.cost(1000, 0), self.cost(0, 1000)]
        prompt, completion = (None if dollars is None else dollars * _MILLION / 1000 for dollars in thousand)
        if prompt is None or completion is None:
            return None
        return ModelPrice(input=round(prompt, 9), output=round(completion, 9), source=self.source)


def _rates_of(lm: dspy.BaseLM) -> _Rates:
    own = own_price(lm)
    if own is not None:
        return _Rates("own", own.cost)
    if is_free(lm):
        return _Rates("free", lambda _prompt, _completion: 0.0)
    recorded = _Rates("dspy", lambda prompt, completion: price_call(lm, prompt, completion))
    return recorded if recorded.price is not None else _Rates("litellm", _listed_cost(lm.model))


def _listed_cost(model: str) -> Callable[[int, int], float | None]:
    """Return a function for the cost of a call by LiteLLM's list. It returns None unless both rates are listed."""
    prices = price_list()
    provider, _, rest = model.partition("/")
    entry = prices.get(model)
    if entry is None and str(prices.get(rest, {}).get("litellm_provider", "")).startswith(provider):
        entry = prices[rest]
    rates = [(entry or {}).get(f"{side}_cost_per_token") for side in ("input", "output")]
    known = [float(rate) for rate in rates if isinstance(rate, (int, float))]
    if len(known) < len(rates):
        return lambda _prompt, _completion: None
    return lambda prompt, completion: prompt * known[0] + completion * known[1]


def price_list() -> Mapping[str, Mapping[str, Any]]:
    """Return LiteLLM's model list: the one in use if LiteLLM is loaded, else its packaged copy.

    A user may have added models to the one in use.
    """
    module = sys.modules.get("litellm")
    if type(module) is ModuleType and "model_cost" in vars(module):  # a lazily imported module has another type
        prices: Mapping[str, Mapping[str, Any]] = vars(module)["model_cost"]
        return prices
    return _packaged_list()


@functools.cache
def _packaged_list() -> Mapping[str, Mapping[str, Any]]:
    folder = litellm_folder()
    if folder is None:
        return {}
    try:
        prices: dict[str, Any] = json.loads((folder / "model_prices_and_context_window_backup.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return {model: entry for model, entry in prices.items() if isinstance(entry, dict)}


def litellm_folder() -> Path | None:
    """Return the folder of the installed LiteLLM without importing it, or None if it is not installed."""
    spec = importlib.util.find_spec("litellm")
    locations = None if spec is None else spec.submodule_search_locations
    return Path(locations[0]) if locations else None


@contextlib.contextmanager
def offline_prices(*, unless_set: bool = False) -> Iterator[None]:
    """Make LiteLLM and DSPy load their packaged price lists within the block.

    Otherwise they download newer ones, which takes up to ten seconds without a network.

    Args:
        unless_set: whether to keep a value of the environment variable that the user set.
    """
    with _lock:
        _values_before.append(os.environ.get(_OFFLINE_VARIABLE))
        if _values_before[0] is None or not unless_set:
            os.environ[_OFFLINE_VARIABLE] = "True"
    try:
        yield
    finally:
        with _lock:
            users = _values_before[0]
            _values_before.pop()  # any entry: only the first one's value matters
            if not _values_before and users is None:
                os.environ.pop(_OFFLINE_VARIABLE, None)
            elif not _values_before and users is not None:
                os.environ[_OFFLINE_VARIABLE] = users


_copies: WeakKeyDictionary[Any, dict[OwnPrice, Any]] = WeakKeyDictionary()


def with_price(lm: Any, price: OwnPrice) -> Any:
    """Return ``lm`` with this price: another object with the same state, whichever of the two is changed later.

    Equal arguments give the same copy.
    """
    if own_price(lm) == price:
        return lm
    copies: dict[OwnPrice, Any] = {}
    with contextlib.suppress(TypeError):  # an LM that cannot be a key has a new copy each time
        copies = _copies.setdefault(lm, copies)
    if price not in copies:
        kind: Any = type(lm)
        key: Any = price  # a frozen model is hashable, which its type does not say
        copied: Any = object.__new__(_priced(vars(kind).get("_moa_unpriced", kind), key))
        object.__setattr__(copied, "__dict__", vars(lm))
        state = object.__getstate__(lm)  # with slots, a pair: attributes and slots
        for slot, value in (state[1] if isinstance(state, tuple) else {}).items():
            object.__setattr__(copied, slot, value)
        copies[price] = copied
    return copies[price]


@functools.lru_cache(maxsize=256)
def _priced(kind: Any, price: OwnPrice) -> Any:
    """Return a class that differs from an LM's class in one method: it records the user's price.

    DSPy decides by the class of an LM how to call it, so this is a subclass. To the user it is none of theirs: neither
    the hooks of their class nor its metaclass see it.
    """

    def update_history(self: Any, entry: dict[str, Any]) -> None:
        """Record a call, with its cost (called by DSPy)."""
        entry["cost"] = _cost(price, entry)
        kind.update_history(self, entry)

    parts = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__slots__": (), "_moa_unpriced": kind}
    parts[ATTRIBUTE] = price
    return type.__new__(type(kind), kind.__name__, (_Unhooked, kind), {**parts, "update_history": update_history})


class _Unhooked:
    __slots__ = ()

    def __init_subclass__(cls) -> None:
        """End the chain of hooks here."""


def _cost(price: OwnPrice, entry: Mapping[str, Any]) -> float | None:
    """Return the cost of a call, or None if the server did not report its usage."""
    tokens = reported_tokens(entry)
    return None if tokens is None else price.cost(tokens.prompt, tokens.completion)


def models_without_price(lms: Iterable[str | dspy.BaseLM | None]) -> list[str]:
    """Return the distinct models whose price per token is unknown; None is DSPy's configured model."""
    configured = [lm or dspy.settings.lm for lm in lms]
    prices = PriceTable()
    with offline_prices():
        return sorted({lm.model for lm in configured if isinstance(lm, dspy.BaseLM) and prices.price(lm) is None})


def check_prices(lms: Iterable[str | dspy.BaseLM | None]) -> None:
    """Raise ConfigurationError if a price is unknown. Calls of that model would count as free in a budget in dollars.

    Args:
        lms: all models that may be called; None is DSPy's configured model.
    """
    unknown = models_without_price(lms)
    if unknown:
        raise ConfigurationError(
            f"a budget in dollars cannot be kept: the price of {', '.join(unknown)} is not known; "
            "limit calls, tokens or seconds instead, or give the agent a price of its own"
        )
