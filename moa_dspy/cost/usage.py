"""Usage of language model calls: calls, tokens, dollars, seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pydantic

__all__ = ["Reading", "Tokens", "Usage"]


class _Value(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Tokens(_Value):
    """Token counts as the provider reports them.

    Attributes:
        prompt: prompt tokens, including cached ones.
        cached: prompt tokens from the provider's own cache.
        completion: completion tokens.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        """Return prompt plus completion tokens."""
        return self.prompt + self.completion

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            prompt=self.prompt + other.prompt,
            cached=self.cached + other.cached,
            completion=self.completion + other.completion,
        )

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(
            prompt=self.prompt - other.prompt,
            cached=self.cached - other.cached,
            completion=self.completion - other.completion,
        )


class Usage(_Value):
    """The usage of some calls. Usages can be added and subtracted.

    Attributes:
        calls: LM calls, including cached calls and retries.
        cached_calls: calls answered by DSPy's response cache.
        unanswered: calls that were cut short. A provider may bill them, so tokens and dollars are a lower bound.
        tokens: paid tokens.
        cost_usd: dollars paid; None if the price of a call is unknown.
        estimated: whether a part is estimated, because the provider reported no usage or DSPy knew no price.
        seconds: wall time, if measured.
    """

    calls: int = 0
    cached_calls: int = 0
    unanswered: int = 0
    tokens: Tokens = Tokens()
    cost_usd: float | None = 0.0
    estimated: bool = False
    seconds: float = 0.0

    @pydantic.model_validator(mode="before")
    @classmethod
    def _upgrade(cls, value: Any) -> Any:
        """Read the format of versions before 0.2: a token total, and dollars as ``usd``."""
        if not isinstance(value, Mapping) or not isinstance(value.get("tokens"), int):
            return value
        value = dict(value)
        if "usd" in value:
            value["cost_usd"] = value.pop("usd")
        return {**value, "tokens": {"prompt": value["tokens"]}}

    @property
    def paid_calls(self) -> int:
        """Return the number of calls not answered by a cache."""
        return self.calls - self.cached_calls

    def __add__(self, other: Usage) -> Usage:
        known = self.cost_usd is not None and other.cost_usd is not None
        return Usage(
            calls=self.calls + other.calls,
            cached_calls=self.cached_calls + other.cached_calls,
            unanswered=self.unanswered + other.unanswered,
            tokens=self.tokens + other.tokens,
            cost_usd=(self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None,
            estimated=self.estimated or other.estimated,
            seconds=self.seconds + other.seconds,
        )

    def __sub__(self, other: Usage) -> Usage:
        known = self.cost_usd is not None and other.cost_usd is not None
        return Usage(
            calls=self.calls - other.calls,
            cached_calls=self.cached_calls - other.cached_calls,
            unanswered=self.unanswered - other.unanswered,
            tokens=self.tokens - other.tokens,
            cost_usd=(self.cost_usd or 0.0) - (other.cost_usd or 0.0) if known else None,
            estimated=self.estimated,
            seconds=self.seconds - other.seconds,
        )


class Reading(NamedTuple):
    """Sums of a usage meter.

    Attributes:
        paid_calls: calls not answered by a cache.
        cached_calls: calls answered by DSPy's response cache.
        tokens: paid tokens.
        known_usd: dollars of the calls whose price is known.
        unpriced_calls: paid calls whose price is not yet known.
    """

    paid_calls: int = 0
    cached_calls: int = 0
    tokens: int = 0
    known_usd: float = 0.0
    unpriced_calls: int = 0
