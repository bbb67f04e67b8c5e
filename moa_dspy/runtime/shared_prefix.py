"""Long inputs stand before the instructions, so that the prompts of all roles begin alike and providers reuse that.

A provider or server keeps the beginning of a prompt and reads it again at a tenth of the price. In DSPy's usual order
the instructions come first, and they differ from role to role. From ``SHARED_FROM`` characters on, the inputs of the
task therefore come first, then the instructions of the role, then what only this role reads. Shorter inputs, and
prompts with demos, keep the usual order: providers keep nothing so short, and demos differ from role to role.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, cast

import dspy
from dspy.lm15 import CacheConfig, Message, Request

from moa_dspy._dspy import native_route
from moa_dspy.architecture import Architecture
from moa_dspy.identity import server_of
from moa_dspy.signatures import ROLE_INPUT, TaskSignature

__all__ = ["PREAMBLE", "SHARED_FROM", "are_long", "inputs_first", "keeps", "marked", "rereading", "shared_text"]

SHARED_FROM: Final = 4096
"""Characters of shared inputs from which they come first: 1,024 tokens, the least that OpenAI and Anthropic keep."""

PREAMBLE: Final = (
    "The user's message gives the inputs of a task first, then the instructions. Follow the instructions, and treat "
    "the inputs as material."
)
"""The system message of such a prompt, the same for every role and agent."""


_USUAL: Final = frozenset(
    {
        *("messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "response_format"),
        *("presence_penalty", "frequency_penalty", "reasoning_effort", "cache", "rollout_id", "n", "prompt_cache"),
        *("api_key", "timeout", "num_retries", "max_retries"),
    }
)
_WRITER: Final = dspy.ChatAdapter()


class _Formats(Protocol):
    def format_user_message_content(self, signature: Any, inputs: dict[str, Any], /) -> Any: ...


def shared_text(signature: TaskSignature, inputs: Mapping[str, Any]) -> str:
    """Return the inputs that every role reads, in the notation of DSPy's ChatAdapter; empty if they are short.

    Roles have different adapters. The notation of the shared inputs is the same in all of them.
    """
    shared = _without_role_inputs(cast("Any", signature))
    if not are_long({name: inputs.get(name) for name in shared.input_fields}):
        return ""
    return _written(_WRITER, shared, inputs)


def are_long(inputs: Mapping[str, Any]) -> bool:
    """Return whether inputs are so long that they stand first. A conversation does not count."""
    counted = (value for value in inputs.values() if value is not None and not isinstance(value, dspy.History))
    return sum(len(value if isinstance(value, str) else str(value)) for value in counted) >= SHARED_FROM


def inputs_first(
    adapter: _Formats, signature: TaskSignature, inputs: Mapping[str, Any], messages: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the messages of a prompt without demos, with long shared inputs in front of the instructions.

    The adapter has written the system message with the instructions, earlier turns, and the inputs.
    """
    shared = shared_text(signature, inputs)
    if not shared or len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    system, *turns, last = messages
    own, content = _written(adapter, _without_role_inputs(cast("Any", signature)), inputs), last["content"]
    if not own or not isinstance(content, str) or not content.startswith(own):
        return messages
    parts = (shared, f"Instructions:\n{system['content']}", content[len(own) :].strip())
    content = "\n\n".join(part for part in parts if part)
    return [{**system, "content": PREAMBLE}, *turns, {**last, "content": content}]


def _written(adapter: _Formats, signature: TaskSignature, inputs: Mapping[str, Any]) -> str:
    written = adapter.format_user_message_content(signature, dict(inputs))
    return written if isinstance(written, str) else ""


def rereading(architecture: Architecture, agents: Sequence[str], aggregator: str) -> frozenset[str]:
    """Return the models for which a mark pays off: later calls of a run save more than writing costs.

    Anthropic charges a quarter more for a marked prompt and a tenth for a prompt read again. The proposals of a model
    start at once, so each of them writes.
    """
    first, later = Counter(agents), Counter(dict.fromkeys({aggregator} - {*agents}, -1))
    later[aggregator] += len(architecture.output_layers) * architecture.aggregate_calls
    later[aggregator] += (architecture.layers - 1) * architecture.synthesizes
    for layer, of_layer in enumerate(architecture.critics_by_layer):
        for target, critics in enumerate(of_layer):
            later[agents[target]] += (layer > 0) + bool(critics)
            later.update(agents[critic] for critic in critics)
    return frozenset(model for model, calls in later.items() if 0.9 * calls > 0.25 * max(first[model], 1))


def marked(
    lm: Any, shared: str, args: tuple[Any, ...], options: dict[str, Any], *, reread: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call that tell the provider to keep the shared text.

    OpenAI keeps prefixes by itself. It gets a key, so that calls with the same text reach the same machine. Other
    providers keep what is marked, so the shared text becomes a message of its own. Without a word of the user only
    OpenAI and Anthropic are told, at their own addresses. ``dspy.LM(prompt_cache=CacheConfig())`` asks for it on any
    server, and ``CacheConfig(mode="off")`` forbids it.

    A call has a request, or else its messages in the options. Nothing is told if the shared text is empty. ``reread``
    says whether later calls of the run save more than writing costs.
    """
    asked = _asked_for(lm, options, reread=reread)
    request: Request | None = args[0] if args and isinstance(args[0], Request) else None
    messages: list[dict[str, Any]] = [] if request is not None else options.get("messages") or []
    last = request.messages[-1].text if request is not None else messages[-1]["content"] if messages else None
    if asked is None or not shared or not isinstance(last, str) or not last.startswith(shared) or last == shared:
        return args, options
    rest = last[len(shared) :].lstrip("\n")
    if lm.model.startswith("openai/"):
        beginning = shared[:SHARED_FROM].encode()  # other questions about the same document have it, too
        config = replace(asked, key=f"moa-{hashlib.blake2b(beginning, digest_size=12).hexdigest()}")
    elif request is not None:
        turns = request.messages[:-1]
        config = replace(asked, prefix_until_index=len(turns))
        request = replace(request, messages=(*turns, Message.user(shared), Message.user(rest)))
    else:
        config = replace(asked, prefix_until_index=sum(message["role"] != "system" for message in messages) - 1)
        # In place: DSPy knows the list that its adapter made for this call by its identity.
        messages[-1:] = [{**messages[-1], "content": text} for text in (shared, rest)]
    if request is not None:
        return (replace(request, config=replace(request.config, cache=config)), *args[1:]), options
    return args, {**options, "prompt_cache": config}


def keeps(lm: Any, options: Mapping[str, Any], *, reread: bool) -> bool:
    """Return whether the provider keeps the shared text of a call, so that the next call reads it at a lower price."""
    return _asked_for(lm, options, reread=reread) is not None


def _asked_for(lm: Any, options: Mapping[str, Any], *, reread: bool) -> CacheConfig | None:
    """Return the user's wish without a place, or the default; None if the provider is not to be told anything."""
    if not isinstance(lm, dspy.LM):
        return None
    wish = {**lm.kwargs, **options}.get("prompt_cache")
    if wish is not None:
        is_open = wish.mode == "auto" and wish.key is wish.prefix is wish.prefix_until_index is wish.resource is None
        return wish if is_open else None
    provider = lm.model.partition("/")[0]
    is_known = provider == "openai" or (provider == "anthropic" and reread)
    if not is_known or not isinstance(lm.engine, str) or server_of(lm) is not None:
        return None
    # Only DSPy's own engine can tell a provider. It passes calls with unusual options on to LiteLLM.
    is_usual = {*lm.kwargs, *options} <= _USUAL and (options.get("n") or 1) == 1
    return CacheConfig() if is_usual and native_route(lm)[0] is not None else None


@functools.lru_cache(maxsize=256)
def _without_role_inputs(signature: Any) -> Any:
    """Return a signature without what only a role reads, and without its conversation, which is sent as turns."""
    for name, field in signature.input_fields.items():
        if (field.json_schema_extra or {}).get(ROLE_INPUT) or field.annotation is dspy.History:
            signature = signature.delete(name)
    return signature
