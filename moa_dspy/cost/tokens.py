"""Count tokens as LiteLLM does, with its packaged tokenizers, but without loading LiteLLM and without a network.

LiteLLM downloads tokenizers of some models, such as Llama's. Here another tokenizer replaces those.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from moa_dspy.cost.prices import litellm_folder, price_list

__all__ = ["WORD", "Counter", "TokenCounter", "estimate_tokens"]

Counter: TypeAlias = Literal["tiktoken", "anthropic", "stand-in", "characters"]
"""How the tokens of a model are counted."""

WORD: Final = "the"  # one token in every tokenizer; with its space four characters, the average of an English token

_CHARACTERS_PER_TOKEN: Final = 4
_TOKENS_PER_FILE: Final = 250  # LiteLLM's value for an image
_TOKENS_PER_MESSAGE: Final = 3
_TOKENS_BEFORE_REPLY: Final = 3
_CHUNK: Final = 1024  # characters encoded at once: tiktoken is quadratic in a run of one character
# File names in LiteLLM's folder of tokenizers. tiktoken names a cached file by the hash of its address.
_ENCODING_FILES: Final = {
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
}

_lock = threading.Lock()


class TokenCounter:
    """Count tokens of texts and messages. Each text is counted once."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def count(self, model: str, content: str | Sequence[Mapping[str, Any]]) -> int:
        """Return the tokens of a text, or of messages including the provider's framing.

        Args:
            model: the model's name, with or without its provider.
            content: a text, or messages in OpenAI's format. Images and other files count as 250 tokens each.
        """
        if isinstance(content, str):
            return self._count_text(model, content)
        if self.kind(model) == "characters":
            return estimate_tokens(content)
        messages = sum(_TOKENS_PER_MESSAGE + self._count_message(model, message) for message in content)
        return messages + _TOKENS_BEFORE_REPLY

    def kind(self, model: str) -> Counter:
        """Return how the tokens of ``model`` are counted."""
        return _tokenizer(model)[0]

    def _count_message(self, model: str, message: Mapping[str, Any]) -> int:
        tokens = 0
        for value in message.values():
            if isinstance(value, str):
                tokens += self._count_text(model, value)
            elif isinstance(value, list):
                tokens += sum(self._count_part(model, part) for part in value)
        return tokens

    def _count_part(self, model: str, part: Any) -> int:
        text = part.get("text") if isinstance(part, Mapping) else part
        return self._count_text(model, text) if isinstance(text, str) else _TOKENS_PER_FILE

    def _count_text(self, model: str, text: str) -> int:
        if (model, text) not in self._counts:
            self._counts[model, text] = _tokenizer(model)[1](text)
        return self._counts[model, text]


def estimate_tokens(content: str | Sequence[Mapping[str, Any]]) -> int:
    """Return a rough token count: four characters are one token, an image or a file is 250."""
    if isinstance(content, str):
        return math.ceil(len(content) / _CHARACTERS_PER_TOKEN)
    return sum(_estimate_part(part) for message in content for part in _parts(message.get("content")))


def _parts(content: Any) -> Sequence[Any]:
    return content if isinstance(content, list) else [content or ""]


def _estimate_part(part: Any) -> int:
    text = part.get("text") if isinstance(part, Mapping) else part
    return _TOKENS_PER_FILE if text is None else estimate_tokens(str(text))


@functools.lru_cache(maxsize=256)
def _tokenizer(model: str) -> tuple[Counter, Callable[[str], int]]:
    """Return the kind of counter for ``model``, and the function that counts a text."""
    name = model.rpartition("/")[2]
    provider = price_list().get(name, {}).get("litellm_provider")
    anthropic = _anthropic_counter() if provider == "anthropic" and "claude-3" not in name else None
    if anthropic is not None:
        return "anthropic", anthropic
    encoding = _encoding_name(name, listed=provider == "openai")
    counter = None if encoding is None else _tiktoken_counter(encoding)
    if counter is None:
        return "characters", estimate_tokens
    return ("tiktoken" if provider == "openai" else "stand-in"), counter


def _encoding_name(name: str, *, listed: bool) -> str | None:
    """Return the encoding that LiteLLM chooses for a model, or None if tiktoken is not installed."""
    try:
        import tiktoken
    except ImportError:
        return None
    if "gpt-4o" in name and listed:
        return "o200k_base"
    try:
        encoding = tiktoken.encoding_name_for_model(name)
    except KeyError:
        return "o200k_base" if listed else "cl100k_base"
    return encoding if encoding in _ENCODING_FILES else "cl100k_base"


@functools.cache
def _tiktoken_counter(encoding_name: str) -> Callable[[str], int] | None:
    """Return the counter of an encoding, or None if its file is missing, because tiktoken would download it."""
    import tiktoken

    chosen = os.environ.get("CUSTOM_TIKTOKEN_CACHE_DIR")  # LiteLLM's variable
    folder = Path(chosen) if chosen else _packaged_tokenizers()
    if folder is None or not (folder / _ENCODING_FILES[encoding_name]).is_file():
        return None
    with _lock:  # tiktoken reads the folder from the environment
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
        try:
            encoding = tiktoken.get_encoding(encoding_name)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before

    def count(text: str) -> int:
        chunks = (text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK))
        return sum(len(encoding.encode(chunk, disallowed_special=())) for chunk in chunks)

    return count


@functools.cache
def _anthropic_counter() -> Callable[[str], int] | None:
    """Return the counter for Anthropic's older, published tokenizer, or None if it is not installed."""
    folder = _packaged_tokenizers()
    file = None if folder is None else folder / "anthropic_tokenizer.json"
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    if file is None or not file.is_file():
        return None
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text))


def _packaged_tokenizers() -> Path | None:
    folder = litellm_folder()
    return None if folder is None else folder / "litellm_core_utils" / "tokenizers"
