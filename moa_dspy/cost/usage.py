"""Amounts of use: what calls took, what a run costs without a cache, and the sums of a meter."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import pydantic

__all__ = ["Price", "Reading", "Tokens", "Usage"]


class _Sum(pydantic.BaseModel):
    """Numbers that are added and subtracted field by field. None is an unknown number, and so is a sum with it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    def __add__(self, other: Self) -> Self:
        return self._combined(other, operator.add)

    def __sub__(self, other: Self) -> Self:
        return self._combined(other, operator.sub)

    def _combined(self, other: Self, combine: Callable[[Any, Any], Any]) -> Self:
        theirs, values = other.__dict__, dict[str, Any]()
        for name, one in self.__dict__.items():
            two = theirs[name]
            if isinstance(one, bool):
                values[name] = one or two
            else:
                values[name] = None if one is None or two is None else combine(one, two)
        return type(self)(**values)


class Tokens(_Sum):
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


class Usage(_Sum):
    """The usage of some calls. Usages can be added and subtracted.

    Attributes:
        calls: LM calls, including cached calls and retries.
        cached_calls: calls answered by DSPy's response cache.
        unanswered: calls that were cut short. A provider may bill them, so tokens and dollars are a lower bound.
        cut: replies that ended at ``max_tokens``, as far as traces say so.
        tokens: paid tokens.
        cost_usd: dollars paid; None if the price of a call is unknown.
        estimated: whether a part is estimated, because the provider reported no usage or DSPy knew no price.
        seconds: wall time, if measured.
    """

    calls: int = 0
    cached_calls: int = 0
    unanswered: int = 0
    cut: int = 0
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

    @property
    def remark(self) -> str | None:
        """Return what happened to replies that were cut, and what to change; None if none was."""
        if not self.cut:
            return None
        were = "1 reply was" if self.cut == 1 else f"{self.cut:,} replies were"
        return f"{were} cut at max_tokens, and asked for again where no answer could be read; raise max_tokens"


class Price(_Sum):
    """The cost of a run without the response cache; for one example or as a total.

    Attributes:
        calls: LM calls.
        tokens: prompt plus completion tokens.
        usd: dollars; None if the price of a call is unknown.
    """

    calls: float = 0.0
    tokens: float = 0.0
    usd: float | None = 0.0

    def per(self, examples: int) -> Price:
        """Return the mean over ``examples``."""
        usd = None if self.usd is None else self.usd / examples
        return Price(calls=self.calls / examples, tokens=self.tokens / examples, usd=usd)


class Reading(NamedTuple):
    """Sums of a usage meter.

    Attributes:
        paid_calls: calls not answered by a cache, including unanswered ones.
        cached_calls: calls answered by DSPy's response cache.
        unanswered: calls that were cut short.
        prompt: paid prompt tokens, including cached ones.
        prompt_cached: prompt tokens from the provider's own cache.
        completion: paid completion tokens.
        known_usd: dollars of the calls whose price is known.
        unpriced_calls: paid calls whose price is not yet known.
        estimated: whether a part is estimated.
    """

    paid_calls: int = 0
    cached_calls: int = 0
    unanswered: int = 0
    prompt: int = 0
    prompt_cached: int = 0
    completion: int = 0
    known_usd: float = 0.0
    unpriced_calls: int = 0
    estimated: bool = False

    @property
    def tokens(self) -> int:
        """Return the paid tokens."""
        return self.prompt + self.completion
