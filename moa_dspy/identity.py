"""What makes two models the same: name, server and settings.

DSPy's response cache distinguishes models by name and settings only. Servers behind one name, such as two vLLM servers
with ``openai/model``, are different models.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import dspy

from moa_dspy._dspy import declared_address

__all__ = ["at_its_server", "connection_of", "rollout_of", "server_of"]

# Options of an LM that say how it is reached and how often it is asked, not what it answers.
_REACH: Final = frozenset(
    {"api_key", "api_base", "base_url", "headers", "extra_headers", "timeout", "api_version", "organization", "project"}
    | {"azure_ad_token_provider", "extra_query", "num_retries", "cache", "rollout_id", "n", "num_generations"}
    | {"prompt_cache", "callbacks", "max_retries"}
)
# Options that an agent's specification contains.
_SPECIFIED: Final = frozenset(
    {"temperature", "max_tokens", "max_completion_tokens", "top_p", "top_k", "min_p", "seed", "stop"}
    | {"presence_penalty", "frequency_penalty", "reasoning_effort", "logit_bias"}
)
_SECRET: Final = re.compile(r"key|secret|password|credential|token|auth", re.IGNORECASE)


def server_of(lm: Any) -> str | None:
    """Return the address of an LM's server without user, password and query; None for the provider's usual one.

    The address is the LM's own (``api_base``, ``base_url``), that of a provider declared with
    ``dspy.lm15.register_provider``, or that in the provider's environment variable, such as ``OPENAI_API_BASE``.
    """
    options = getattr(lm, "kwargs", None) or {}
    address = options.get("api_base") or options.get("base_url")
    if address is None and isinstance(lm, dspy.LM) and isinstance(lm.engine, str):
        address = declared_address(lm) or _address_in_environment(lm.model)
    return None if not address else _plain(str(address))


def connection_of(lm: Any) -> dict[str, Any]:
    """Return what identifies an LM besides its name and its specified settings: the server and further settings.

    Keys, headers, timeouts and retries are left out. It is empty for most models of a provider.
    """
    server = server_of(lm)
    options = getattr(lm, "kwargs", None) or {}
    settings = {
        name: _plain_value(value)
        for name, value in sorted(options.items())
        if name not in _REACH | _SPECIFIED and value is not None and not _SECRET.search(name)
    }
    kind = getattr(lm, "model_type", "chat")
    if kind not in (None, "chat"):
        settings["model_type"] = kind
    return {**({} if server is None else {"server": server}), **({"settings": settings} if settings else {})}


@functools.lru_cache(maxsize=4096)  # the same agents ask each question
def rollout_of(*parts: Any) -> int:
    """Return the rollout id of these parts: a hash that is equal in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest(), "big")


def at_its_server(lm: dspy.BaseLM) -> dspy.BaseLM:
    """Return an LM whose cached replies are those of its server: a copy if it has an address, else ``lm``."""
    server, options = server_of(lm), getattr(lm, "kwargs", None) or {}
    if server is None:
        return lm
    copied: Any = lm.copy(rollout_id=rollout_of(options.get("rollout_id"), server))
    copied.history = lm.history
    copied._warned_zero_temp_rollout = True  # a rollout separates equal requests at temperature 0, too
    return copied


def _address_in_environment(model: str) -> str | None:
    prefix = model.split("/", 1)[0].upper() if "/" in model else "OPENAI"
    return os.environ.get(f"{prefix}_API_BASE") or os.environ.get(f"{prefix}_BASE_URL")


def _plain(address: str) -> str:
    try:
        parts = urlsplit(address)
        host = parts.netloc.rpartition("@")[2].lower()
        return urlunsplit((parts.scheme.lower(), host, parts.path.rstrip("/"), "", "")) or address
    except ValueError:
        return re.sub(r"//[^/]*@", "//", address)


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain_value(part) for name, part in value.items() if not _SECRET.search(str(name))}
    if isinstance(value, (list, tuple)):
        return [_plain_value(part) for part in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__
