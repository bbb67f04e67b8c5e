"""A user's own price of a model: for self-hosted models, discounts and models that no list has.

``with_price`` sets it on a copy of the LM. The copy writes the cost of each call into DSPy's history, where DSPy writes
its own. So runs, budgets, records, judges and DSPy's optimizers all count the same dollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pydantic

from moa_dspy.errors import ConfigurationError

__all__ = ["ATTRIBUTE", "OwnPrice", "is_free", "own_price"]

_MILLION: Final = 1_000_000
ATTRIBUTE: Final = "moa_price"


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


def own_price(lm: Any) -> OwnPrice | None:
    """Return the price that a user gave ``lm``, or None."""
    price = getattr(lm, ATTRIBUTE, None)
    return price if isinstance(price, OwnPrice) else None


def is_free(lm: Any) -> bool:
    """Return whether calls of ``lm`` cost nothing, because it runs on this machine and the user gave it no price."""
    return own_price(lm) is None and bool(getattr(getattr(lm, "engine", None), "free", False))
