"""What optimizers report of their cost."""

from __future__ import annotations

import pydantic

from moa_dspy.evaluation.statistics import Gain, Score

__all__ = ["Cost", "Gain", "Score"]


class _Value(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Cost(_Value):
    """What was spent.

    Attributes:
        calls: LM calls, those answered by the response cache left out.
        tokens: prompt plus completion tokens paid for.
        usd: dollars paid; None where the price of a call is not known.
        seconds: wall time.
    """

    calls: int = 0
    tokens: int = 0
    usd: float | None = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        known = self.usd is not None and other.usd is not None
        return Cost(
            calls=self.calls + other.calls,
            tokens=self.tokens + other.tokens,
            usd=(self.usd or 0.0) + (other.usd or 0.0) if known else None,
            seconds=self.seconds + other.seconds,
        )

    def __sub__(self, other: Cost) -> Cost:
        known = self.usd is not None and other.usd is not None
        return Cost(
            calls=self.calls - other.calls,
            tokens=self.tokens - other.tokens,
            usd=(self.usd or 0.0) - (other.usd or 0.0) if known else None,
            seconds=self.seconds - other.seconds,
        )
