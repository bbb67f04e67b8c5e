"""What models are known to reject, before any of them is asked."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

from moa_dspy.cost.prices import price_list

__all__ = ["LEAST_REASONING_TOKENS", "takes_system", "takes_temperature"]

# OpenAI's reasoning models take the default temperature only: o1, o3-mini, o4-mini-2025-04-16, gpt-5, gpt-5.1-mini, ...
# The chat variants of gpt-5 are ordinary models.
_REASONING: Final = re.compile(
    r"o[1-9](?:-(?:mini|nano|pro|preview|deep-research|high|low|medium))*(?:-\d{4}-\d{2}-\d{2})?"
    r"|gpt-5(?:\.\d+)*(?!-chat)(?![\d.])(?:[-:@].*)?"
)

LEAST_REASONING_TOKENS: Final = 16_000
"""DSPy builds no LM of a reasoning model with a lower ``max_tokens``. A call may have a lower one."""


@functools.lru_cache(maxsize=1024)
def takes_temperature(model: Any) -> bool:
    """Return whether ``model`` takes a temperature. Unknown models do."""
    return _REASONING.fullmatch(str(model).rsplit("/", 1)[-1].lower()) is None


@functools.lru_cache(maxsize=1024)
def takes_system(model: str) -> bool:
    """Return whether ``model`` takes the system role, by LiteLLM's list. Unknown models do."""
    prices = price_list()
    entry = prices.get(model) or prices.get(model.partition("/")[2]) or {}
    return entry.get("supports_system_messages") is not False
