"""How a reply ended, by the words of its provider."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal, TypeAlias

__all__ = ["End", "end_of"]

End: TypeAlias = Literal["finished", "truncated", "filtered", "refused", "failed"]

# Parts of the words of providers for a reply that did not finish.
_ENDS: Final[tuple[tuple[End, tuple[str, ...]], ...]] = (
    ("refused", ("refus",)),
    ("filtered", ("filter", "safety", "sensitiv", "prohibit", "block", "recitation", "spii", "guardrail", "moderat")),
    ("truncated", ("length", "max_", "maxtoken", "token_limit", "truncat", "context_window")),
    ("failed", ("error", "abort", "cancel", "fail", "timeout", "unavailable", "insufficient", "overload", "malformed")),
)


@lru_cache(maxsize=256)
def end_of(words: str) -> End:
    """Return how a reply ended by its finish reason, or several of them."""
    said = words.lower()
    for end, parts in _ENDS:
        if any(part in said for part in parts):
            return end
    return "finished"
