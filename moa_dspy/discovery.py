"""What a user already has: keys of providers in the environment, and model servers on this machine."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

__all__ = ["PROVIDERS", "SERVERS", "Offer", "Provider", "Server", "context_at", "discover", "models_at", "three_of"]

_SECONDS: Final = 1.0
_BYTES: Final = 1 << 20
_MODELS: Final = 20
# What a model's name may be in a configuration. Anything else that a server says is not one.
_NAME: Final = re.compile(r"[\w.:@/+-]{1,200}")
# What servers call the longest prompt; of a model that is loaded before that of the model itself.
_CONTEXT: Final = ("loaded_context_length", "max_model_len", "n_ctx", "context_length", "max_context_length")
_NOT_CHATTING: Final = re.compile(r"embed|rerank|whisper|tts|clip|bge-", re.IGNORECASE)


@dataclass(frozen=True)
class Provider:
    """A provider of models.

    Attributes:
        name: for people.
        variable: the environment variable that holds its key.
        models: small models of it, the one to take first first.
    """

    name: str
    variable: str
    models: tuple[str, ...]


@dataclass(frozen=True)
class Server:
    """A program that serves models on this machine.

    Attributes:
        name: for people.
        port: its default port.
    """

    name: str
    port: int


PROVIDERS: Final = (
    Provider("OpenAI", "OPENAI_API_KEY", ("openai/gpt-5.4-mini", "openai/gpt-5.4-nano", "openai/gpt-6-luna")),
    Provider("Google", "GEMINI_API_KEY", ("gemini/gemini-flash-latest", "gemini/gemini-flash-lite-latest")),
    Provider("Anthropic", "ANTHROPIC_API_KEY", ("anthropic/claude-haiku-4-5", "anthropic/claude-haiku-5-5")),
    Provider("Mistral", "MISTRAL_API_KEY", ("mistral/mistral-small-latest", "mistral/mistral-medium-latest")),
    Provider("DeepSeek", "DEEPSEEK_API_KEY", ("deepseek/deepseek-flash", "deepseek/deepseek-v4-pro")),
    Provider("Groq", "GROQ_API_KEY", ("groq/openai/gpt-oss-120b", "groq/openai/gpt-oss-20b")),
    Provider("xAI", "XAI_API_KEY", ("xai/grok-4.3",)),
)

SERVERS: Final = (Server("Ollama", 11434), Server("LM Studio", 1234), Server("vLLM", 8000), Server("llama.cpp", 8080))


@dataclass(frozen=True)
class Offer:
    """Models that a user can use now.

    Attributes:
        source: a provider or a server, for people.
        models: model strings.
        variable: the environment variable of a provider's key; None for a server.
        api_base: the address of a server; None for a provider.
    """

    source: str
    models: tuple[str, ...]
    variable: str | None = None
    api_base: str | None = None


def discover(environment: Mapping[str, str] | None = None, servers: Sequence[Server] = SERVERS) -> list[Offer]:
    """Return the providers that have a key in the environment, then the servers that answer.

    No model is called. All servers are asked at once, each for at most a second.

    Args:
        environment: default: that of this process.
        servers: the servers to look for.
    """
    environment = os.environ if environment is None else environment
    offers = [
        Offer(provider.name, provider.models, variable=provider.variable)
        for provider in PROVIDERS
        if environment.get(provider.variable, "").strip()
    ]
    with ThreadPoolExecutor(max_workers=len(servers) or 1) as pool:
        for server, models in zip(servers, pool.map(lambda server: models_at(server.port), servers), strict=True):
            if models:
                address = f"http://127.0.0.1:{server.port}/v1"
                offers.append(Offer(server.name, tuple(f"openai/{name}" for name in models), api_base=address))
    return offers


def models_at(port: int) -> list[str]:
    """Return the names of the models that a server on this machine lists; empty if none answers in time."""
    content = _json_at(f"http://127.0.0.1:{port}/v1/models")
    names = [entry.get("id") for entry in _entries(content)]
    usable = [name for name in names if isinstance(name, str) and _NAME.fullmatch(name)]
    return [name for name in dict.fromkeys(usable) if not _NOT_CHATTING.search(name)][:_MODELS]


def context_at(address: str, model: str, key: str | None = None) -> int | None:
    """Return the longest prompt that a server takes for a model, in tokens; None if it does not say.

    OpenAI's interface has no place for it, so each server has its own: vLLM and routers list it with their models, LM
    Studio and Ollama with the models that are loaded, llama.cpp with its settings.

    Args:
        address: of OpenAI's interface, such as ``http://127.0.0.1:8000/v1``.
        model: its name there.
        key: sent to the server.
    """
    base = address.rstrip("/")
    root = base.removesuffix("/v1")
    for url in (f"{base}/models", f"{root}/api/v0/models", f"{root}/api/ps", f"{root}/props"):
        content = _json_at(url, key)
        entries = [entry for entry in _entries(content) if model in (entry.get("id"), entry.get("model"))]
        settings = content.get("default_generation_settings") if isinstance(content, dict) else None
        for entry in (*entries, settings):
            sizes = [entry.get(name) for name in _CONTEXT] if isinstance(entry, dict) else []
            known = next((size for size in sizes if isinstance(size, int) and size > 0), None)
            if known is not None:
                return known
    return None


def _entries(content: Any) -> list[dict[str, Any]]:
    """Return the models in a list of models."""
    listed = (content.get("data") or content.get("models")) if isinstance(content, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []


def _json_at(url: str, key: str | None = None) -> Any:
    """Return the JSON value at an address; None if there is none, or if it takes longer than a second."""
    headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=_SECONDS)
        with contextlib.closing(connection), contextlib.ExitStack() as ending:
            connection.connect()
            ending.enter_context(_closed_after(_SECONDS, connection.sock))
            connection.request("GET", parts.path, headers=headers)
            reply = connection.getresponse()
            return json.loads(reply.read(_BYTES)) if reply.status == http.client.OK else None
    except (OSError, ValueError, RecursionError, http.client.HTTPException):
        return None


@contextlib.contextmanager
def _closed_after(seconds: float, connection: socket.socket) -> Iterator[None]:
    """End a connection if the block takes longer. Its own timeout begins anew at each byte."""

    def end() -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def three_of(offers: Sequence[Offer], count: int = 3) -> list[tuple[str, Offer]]:
    """Return so many models with their offers, of as many offers as possible.

    If there are fewer models, they are repeated. Without an offer there is none.
    """
    chosen: list[tuple[str, Offer]] = []
    for model, offer in _turns(offers):
        if len(chosen) < count:
            chosen.append((model, offer))
    return [chosen[number % len(chosen)] for number in range(count)] if chosen else []


def _turns(offers: Sequence[Offer]) -> Iterator[tuple[str, Offer]]:
    """Yield the first model of each offer, then the second of each, and so on."""
    for turn in range(max((len(offer.models) for offer in offers), default=0)):
        yield from ((offer.models[turn], offer) for offer in offers if turn < len(offer.models))
