"""Tokens, counted as LiteLLM counts them, without the tokenizers that it would have to fetch."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from dspy.clients._litellm import get_litellm

from moa_dspy.cost.token_estimate import rough_tokens

__all__ = ["WORD", "Counter", "Counters", "TokenCounter"]

Counter: TypeAlias = Literal["tiktoken", "anthropic", "stand-in", "characters"]

WORD: Final = "the"  # one token in every tokenizer, and with its space four characters, as English has for a token

# LiteLLM would fetch tokenizers of Llama and Cohere models, and try again for half a minute. Named by its type, the one
# of tiktoken that it carries is used.
_CARRIED: Final[Mapping[str, Any]] = {"type": "openai_tokenizer", "tokenizer": None}


class Counters:
    """A token counter for every model of a plan.

    Args:
        roughly: count letters instead of tokens, without loading LiteLLM.
    """

    def __init__(self, *, roughly: bool = False) -> None:
        self._roughly = roughly
        self._counters: dict[str, TokenCounter] = {}

    def of(self, model: str) -> TokenCounter:
        """Return the token counter of a model."""
        if model not in self._counters:
            self._counters[model] = TokenCounter(model, roughly=self._roughly)
        return self._counters[model]


class TokenCounter:
    """LiteLLM's token counter for one model, without the tokenizers that it would have to fetch.

    Args:
        model: with its provider, or without.
        roughly: count letters instead, without loading LiteLLM.

    Attributes:
        kind: which tokenizer it is.
    """

    def __init__(self, model: str, *, roughly: bool = False) -> None:
        self._known: dict[str, int] = {}
        self.kind: Counter = "characters"
        if roughly:
            return
        self._litellm = get_litellm(feature="moa-dspy")
        provider, _, rest = model.partition("/")
        name = rest if rest and provider in self._litellm.provider_list else model
        if not self._litellm.disable_token_counter:
            self.kind = _usable_counter(name)
        self._options: dict[str, Any] = {"model": name, "use_default_image_token_count": True}
        if self.kind == "stand-in":
            self._options["custom_tokenizer"] = _CARRIED

    def __call__(self, content: str | Sequence[Mapping[str, Any]]) -> int:
        """Return the tokens of a text, or of messages with what a provider puts around them."""
        key = content if isinstance(content, str) else json.dumps(content, default=str)
        if key not in self._known:
            self._known[key] = self._count(content)
        return self._known[key]

    def _count(self, content: str | Sequence[Mapping[str, Any]]) -> int:
        if self.kind == "characters":
            return rough_tokens(content)
        if isinstance(content, str):
            return int(self._litellm.token_counter(text=content, **self._options))
        return int(self._litellm.token_counter(messages=list(content), **self._options))


@functools.lru_cache(maxsize=256)  # LiteLLM tries for seconds to load what it cannot load
def _usable_counter(name: str) -> Counter:
    """Return how the tokens of the model ``name`` can be counted without a network."""
    litellm = get_litellm(feature="moa-dspy")
    try:
        if name in litellm.open_ai_chat_completion_models:
            litellm.token_counter(model=name, text=WORD)
            return "tiktoken"
        if name in litellm.anthropic_models and litellm.utils.select_tokenizer(name)["type"] != _CARRIED["type"]:
            litellm.token_counter(model=name, text=WORD)
            return "anthropic"
        litellm.token_counter(model=name, text=WORD, custom_tokenizer=_CARRIED)
    except Exception:  # noqa: BLE001 (whatever keeps it from loading a tokenizer, there is a rule of thumb)
        return "characters"
    return "stand-in"
