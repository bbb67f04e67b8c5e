"""A user's own price of a model: for self-hosted models, discounts and models that no list has.

The price is set on a copy of the LM. The copy writes the cost of each call into DSPy's history, where DSPy writes its
own. So runs, budgets, records, judges and DSPy's optimizers all count the same dollars.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

import pydantic

from moa_dspy.errors import ConfigurationError

__all__ = ["OwnPrice", "is_free", "own_price", "with_price"]

_MILLION: Final = 1_000_000
_ATTRIBUTE: Final = "moa_price"


class OwnPrice(pydantic.BaseModel):
    """The price of a model, in dollars per million tokens.

    Attributes:
        prompt: for prompt tokens, those that a server has cached included.
        completion: for completion tokens.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    prompt: float = pydantic.Field(ge=0, allow_inf_nan=False)
    completion: float = pydantic.Field(ge=0, allow_inf_nan=False)

    def cost(self, prompt: int, completion: int) -> float:
        """Return the dollars of a call with these tokens."""
        return (prompt * self.prompt + completion * self.completion) / _MILLION

    @classmethod
    def of(cls, value: Any) -> OwnPrice | None:
        """Return ``value`` as a price; None stays None.

        Raises:
            ConfigurationError: if it is not a price or a mapping with ``prompt`` and ``completion``.
        """
        if value is None or isinstance(value, cls):
            return value
        try:
            return cls.model_validate(dict(value) if isinstance(value, Mapping) else value)
        except pydantic.ValidationError:
            raise ConfigurationError(
                f"price={value!r} is not a price; write price={{'prompt': 0.5, 'completion': 1.5}}, "
                "in dollars per million tokens"
            ) from None


_copies: WeakKeyDictionary[Any, dict[OwnPrice, Any]] = WeakKeyDictionary()


def own_price(lm: Any) -> OwnPrice | None:
    """Return the price that a user gave ``lm``, or None."""
    price = getattr(lm, _ATTRIBUTE, None)
    return price if isinstance(price, OwnPrice) else None


def is_free(lm: Any) -> bool:
    """Return whether calls of ``lm`` cost nothing, because it runs on this machine and the user gave it no price."""
    return own_price(lm) is None and bool(getattr(getattr(lm, "engine", None), "free", False))


def with_price(lm: Any, price: OwnPrice) -> Any:
    """Return ``lm`` with this price: a copy that shares its connection, history and other state.

    Equal arguments give the same copy.
    """
    if own_price(lm) == price:
        return lm
    copies: dict[OwnPrice, Any] = {}
    with contextlib.suppress(TypeError):  # an LM that cannot be a key has a new copy each time
        copies = _copies.setdefault(lm, copies)
    if price not in copies:
        copied: Any = copy.copy(lm)
        kind: Any = type(lm)
        copied.__class__ = _priced(kind)
        setattr(copied, _ATTRIBUTE, price)
        copies[price] = copied
    return copies[price]


@functools.lru_cache(maxsize=256)
def _priced(kind: Any) -> Any:
    """Return a subclass of an LM's class that records the user's price."""
    if "_moa_unpriced" in vars(kind):
        return kind

    def update_history(self: Any, entry: dict[str, Any]) -> None:
        """Record a call, with its cost (called by DSPy)."""
        price = own_price(self)
        if price is not None:
            entry["cost"] = _cost(price, entry)
        kind.update_history(self, entry)

    parts = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__slots__": (), "_moa_unpriced": kind}
    return type(kind.__name__, (kind,), {**parts, "update_history": update_history})


def _cost(price: OwnPrice, entry: Mapping[str, Any]) -> float | None:
    """Return the cost of a call, or None if the server did not report its usage."""
    from moa_dspy.cost.meter import reported_tokens  # imports DSPy, which a configuration does not need

    tokens = reported_tokens(entry)
    return None if tokens is None else price.cost(tokens.prompt, tokens.completion)
