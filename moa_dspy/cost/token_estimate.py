"""Tokens by a rule of thumb, for when counting them would take longer than the call that they are counted for."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["litellm_is_loaded", "rough_tokens"]

_CHARACTERS_PER_TOKEN: Final = 4
_TOKENS_PER_FILE: Final = 250  # what LiteLLM takes an image for


def rough_tokens(content: str | Sequence[Mapping[str, Any]]) -> int:
    """Return about how many tokens a text has, or messages have, whose images and other files count as equally long."""
    if isinstance(content, str):
        return math.ceil(len(content) / _CHARACTERS_PER_TOKEN)
    return sum(_of_part(part) for message in content for part in _parts(message.get("content")))


def litellm_is_loaded() -> bool:
    """Return whether LiteLLM is there already; loading it takes seconds."""
    module = sys.modules.get("litellm")
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def _parts(content: Any) -> Sequence[Any]:
    return content if isinstance(content, list) else [content or ""]


def _of_part(part: Any) -> int:
    if isinstance(part, Mapping) and part.get("type") != "text":
        return _TOKENS_PER_FILE
    return rough_tokens(str(part["text"] if isinstance(part, Mapping) else part))
