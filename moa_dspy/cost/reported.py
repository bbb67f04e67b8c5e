"""The tokens that a provider reports for a call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from dspy.lm15 import Response

from moa_dspy._dspy import usage_dict
from moa_dspy.cost.usage import Tokens

__all__ = ["original_tokens", "reported_tokens", "tokens_of"]

_LETTERS_PER_TOKEN: Final = 4


def tokens_of(usage: Mapping[str, Any]) -> Tokens:
    """Return the tokens in a provider's usage report. An invalid count is 0."""
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else getattr(details, "cached_tokens", 0)
    return Tokens(
        prompt=_count(usage.get("prompt_tokens")),
        cached=_count(cached),
        completion=_count(usage.get("completion_tokens")),
    )


def reported_tokens(entry: Mapping[str, Any]) -> Tokens | None:
    """Return the reported usage of a call in DSPy's history, also if it was cached; None if there is none."""
    usage, model = entry.get("usage"), str(entry.get("model"))
    responses = entry.get("response")
    responses = responses if isinstance(responses, tuple) else (responses,)
    made = tokens_of(usage) if usage else None
    if made is None and all(isinstance(one, Response) for one in responses):
        made = original_tokens(entry, model)
    return made if made is not None and made.total else None


def _count(value: Any) -> int:
    if type(value) is int:
        return max(value, 0)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0
    return int(number) if math.isfinite(number) and number > 0 else 0


def original_tokens(entry: Mapping[str, Any], model: str) -> Tokens:
    """Return the original usage of a cached call, estimated from its texts if the entry does not contain it."""
    response = entry.get("response")
    responses: tuple[Any, ...] = response if isinstance(response, tuple) else (response,)
    if all(isinstance(one, Response) for one in responses):
        provider = model.partition("/")[0]
        return sum((tokens_of(usage_dict(one, provider)) for one in responses), start=Tokens())
    letters = sum(len(str(message.get("content"))) for message in entry.get("messages") or ())
    return Tokens(prompt=letters // _LETTERS_PER_TOKEN, completion=len(str(entry.get("outputs"))) // _LETTERS_PER_TOKEN)
