"""Every use of undocumented DSPy code. It imports nothing of this package.

Each item has a contract test in tests/test_dspy_seam.py, which says what would break. CONTRIBUTING.md has the command
that runs these tests against the newest DSPy pre-release.

What DSPy documents is used directly: the names that ``dspy`` and the ``__all__`` of its packages export, and those of
``dspy.teleprompt``, ``dspy.utils.exceptions``, ``dspy.utils.callback`` and ``dspy.utils.usage_tracker``.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final, TypeAlias

import dspy
import dspy.clients.costs as _costs
import dspy.clients.execution as _execution
from cachetools import LRUCache
from dspy._vendor.lm15.providers.async_base import AsyncBaseProviderLM
from dspy._vendor.lm15.providers.base import HttpResponse as HttpReply
from dspy._vendor.lm15.providers.openai_chat import OpenAIChatLM
from dspy._vendor.lm15.transports import TransportRequest as HttpRequest
from dspy.adapters.chat_adapter import field_header_pattern
from dspy.adapters.decision import record_evidence
from dspy.adapters.utils import (
    annotation_allows_none,
    apply_output_field_defaults,
    format_field_value,
    get_annotation_name,
    parse_value as parse_dspy_value,
)
from dspy.clients import _litellm, base_lm
from dspy.clients._litellm import get_litellm as _get_litellm
from dspy.clients.call_result import usage_dict
from dspy.clients.capabilities import resolve
from dspy.clients.engines.litellm_errors import litellm_errors
from dspy.clients.errors import error_boundary
from dspy.lm15 import LM15Error, Message, ProviderError, Response, RouterConfig, ServerError, Usage
from dspy.signatures.signature import _default_instructions
from dspy.utils.caching import default_cache_dir
from dspy.utils.callback import with_callbacks
from dspy.utils.saving import get_dependency_versions

__all__ = [
    "CALLERS",
    "ENGINE_STATE",
    "FIELD_KIND",
    "USAGE_TRACKER",
    "HttpReply",
    "HttpRequest",
    "Send",
    "annotation_allows_none",
    "apply_output_field_defaults",
    "cache_folder",
    "can_stream",
    "decision_evidence",
    "declared_address",
    "default_instructions",
    "divert_requests",
    "enforces_schema",
    "few_replies_in_memory",
    "field_header_pattern",
    "format_field_value",
    "gepa_sizes",
    "get_annotation_name",
    "get_dependency_versions",
    "get_litellm",
    "has_input_keys",
    "last_prefix",
    "lm_errors",
    "mark_uncompiled",
    "missing_native_keys",
    "native_route",
    "needs_thread",
    "parse_dspy_value",
    "pool_of",
    "postprocess",
    "preprocess",
    "price_call",
    "reanchor_candidates",
    "remember_prices",
    "repair_bodies",
    "repair_litellm",
    "resolve",
    "set_input_keys",
    "usage_dict",
    "watched",
    "widen_pools",
    "with_distinct_instructions",
    "with_postprocess",
]

Send: TypeAlias = Callable[[HttpRequest], Awaitable[HttpReply]]
"""Sends a request of DSPy's engine as it goes to a server, and returns the whole response."""

FIELD_KIND: Final = "__dspy_field_type"
"""The key under which a field says whether it is an input or an output."""

default_instructions = _default_instructions
_REDIRECT: Final = 300
_BAD_REQUEST: Final = 400

cache_folder = default_cache_dir
"""Return the folder of the response cache that DSPy creates when its cache is first used."""


@contextlib.contextmanager
def lm_errors(model: str) -> Iterator[None]:
    """Raise an error of LiteLLM within the block as DSPy's error of the same kind."""
    with error_boundary(model, unexpected=True), litellm_errors(model=model):
        yield


@contextlib.contextmanager
def few_replies_in_memory(most: int) -> Iterator[None]:
    """Keep at most so many replies of DSPy's response cache in memory within the block, in place of a million.

    Those that are there stay. The cache on disk is not changed. DSPy's history of all calls keeps a tenth as many, in
    place of 10,000; each entry holds a prompt and a response.
    """
    cache: Any = dspy.cache
    before, entries = cache.memory_cache, base_lm.MAX_HISTORY_SIZE
    base_lm.MAX_HISTORY_SIZE = min(entries, max(most // 10, 1))
    del base_lm.GLOBAL_HISTORY[: -base_lm.MAX_HISTORY_SIZE]
    if cache.enable_memory_cache and before.maxsize > most:
        cache.memory_cache = LRUCache(maxsize=most)
        for key in list(before)[-most:]:
            cache.memory_cache[key] = before[key]
    try:
        yield
    finally:
        cache.memory_cache, base_lm.MAX_HISTORY_SIZE = before, entries


def get_litellm() -> Any:
    """Return LiteLLM, imported the way DSPy imports it: without its price list being fetched twice."""
    return _get_litellm(feature="moa-dspy")


def repair_litellm(flat: Callable[[Any], tuple[str, str]]) -> None:
    """Let LiteLLM read contents that are lists of parts, by ``flat(content)``: the text and the reasoning in it.

    LiteLLM fails on such a reply, or takes its first part for all of it. LiteLLM is changed once it is imported: its
    import is slow, and most programs do not need it. A second call has no effect.
    """
    configure: Any = _litellm._configure_litellm_defaults
    if hasattr(configure, "flattens"):
        return

    @functools.wraps(configure)
    def configured(litellm: Any) -> None:
        configure(litellm)
        _flatten_contents(flat)

    kind: Any = configured
    kind.flattens = True
    module: Any = _litellm
    module._configure_litellm_defaults = configured
    if _get_litellm.cache_info().currsize:
        _flatten_contents(flat)


@functools.cache
def _flatten_contents(flat: Callable[[Any], tuple[str, str]]) -> None:
    from litellm.litellm_core_utils.llm_response_utils import convert_dict_to_response
    from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper

    whole: Any = convert_dict_to_response
    extract, create = whole.extract_reasoning_content, CustomStreamWrapper.chunk_creator

    @functools.wraps(extract)
    def extracted(message: Any) -> tuple[str | None, str | None]:
        if isinstance(message.get("content"), (list, dict)):
            text, reasoning = flat(message["content"])
            message = {**message, "content": text, **({"reasoning_content": reasoning} if reasoning else {})}
        pair: tuple[str | None, str | None] = extract(message)
        return pair

    @functools.wraps(create)
    def created(self: CustomStreamWrapper, chunk: Any) -> Any:
        for choice in getattr(chunk, "choices", None) or ():
            delta: Any = getattr(choice, "delta", None)
            if isinstance(getattr(delta, "content", None), (list, dict)):
                delta.content, reasoning = flat(delta.content)
                if reasoning:
                    delta.reasoning_content = reasoning
        return create(self, chunk)

    wrapper: Any = CustomStreamWrapper
    whole.extract_reasoning_content, wrapper.chunk_creator = extracted, created


def preprocess(
    adapter: dspy.Adapter, lm: Any, lm_kwargs: dict[str, Any], signature: Any, inputs: dict[str, Any]
) -> Any:
    """Prepare a call as ``adapter`` does before it formats the prompt, and return the signature that it formats."""
    return adapter._call_preprocess(lm, lm_kwargs, signature, inputs)


postprocess = dspy.Adapter._call_postprocess
"""Return the outputs that an adapter makes of the texts of a reply."""


def with_postprocess(adapter: dspy.Adapter, postprocess: Callable[..., Any]) -> dspy.Adapter:
    """Return a copy of an adapter that makes outputs of the texts of a reply by another function."""
    changed: Any = copy.copy(adapter)
    changed._call_postprocess = postprocess
    return changed


def last_prefix(program: dspy.Module, instructions: str) -> str | None:
    """Return the prefix of the last field of the first predictor with these instructions; None if there is none."""
    for predictor in program.predictors():
        signature: Any = predictor.signature
        if signature.instructions == instructions:
            return str(list(signature.fields.values())[-1].json_schema_extra["prefix"])
    return None


def with_distinct_instructions(optimizer: Any) -> Any:
    """Let a ``MIPROv2`` try equal instructions of a predictor once."""
    propose = optimizer._propose_instructions

    def distinct(*args: Any, **options: Any) -> dict[int, list[str]]:
        return {index: list(dict.fromkeys(texts)) for index, texts in propose(*args, **options).items()}

    optimizer._propose_instructions = distinct
    return optimizer


USAGE_TRACKER, CALLERS = "usage_tracker", "caller_modules"
"""The settings by which DSPy reports each LM call.

A paid call is reported to the usage tracker. Right after that, on the same thread, the call's history entry goes to the
``history`` of each calling module. A call from the response cache has an entry and no report.
"""


def price_call(lm: dspy.BaseLM, prompt: int, completion: int) -> float | None:
    """Return the dollars that DSPy would record for a call with so many tokens; None if it knows no price."""
    try:
        route = resolve(lm)
    except LM15Error:
        return None
    usage = Usage(input_tokens=prompt, output_tokens=completion)
    tier = getattr(lm, "kwargs", {}).get("service_tier")
    reply = Response(
        id=None,
        model=route.model,
        message=Message.assistant(""),
        finish_reason="stop",
        usage=usage,
        provider_data=None if tier is None else {"service_tier": tier},
    )
    result = SimpleNamespace(cost=None, cost_details=None)
    _execution._price_result(lm, result, reply, route.provider, None)
    return result.cost


def remember_prices() -> None:
    """Let DSPy look up a model's price once. It searches its whole list at each call of a model that has no price.

    The list is loaded once in a process and does not change.
    """
    module: Any = _costs
    if not hasattr(module.model_info, "cache_info"):
        module.model_info = functools.lru_cache(maxsize=1024)(module.model_info)


@contextlib.contextmanager
def decision_evidence() -> Iterator[list[Any]]:
    """Collect what DSPy's typed decisions are made of: (predictor, output name, evidence) for each output.

    A collector around this one (ReAnchor's) still gets all of it.
    """
    outer = dspy.settings.get("_decision_evidence")
    with record_evidence() as evidence:
        yield evidence
    if outer is not None:
        log, lock = outer
        with lock:
            log.extend(evidence)


ENGINE_STATE: Final = {"num_retries": 0, "_warned_zero_temp_rollout": True}
"""What DSPy's engine reads of an LM so that it makes one attempt and does not warn of a rollout id at temperature 0."""


def enforces_schema(lm: Any) -> bool:
    """Return whether the server of ``lm`` enforces a JSON schema, so that JSON should be tried first."""
    return bool(getattr(getattr(lm, "engine", None), "supports_response_schema", False))


def needs_thread(lm: Any) -> bool:
    """Return whether ``lm`` can be called, but not asynchronously."""
    kind: Any = type(lm)
    if kind.acall not in (dspy.BaseLM.acall, dspy.LM.acall):
        return False
    base = dspy.LM if issubclass(kind, dspy.LM) else dspy.BaseLM
    if kind.forward is not base.forward or "forward" in vars(lm):
        return kind.aforward is base.aforward and "aforward" not in vars(lm)
    engine = getattr(lm, "_engine_spec", "auto")
    return not isinstance(engine, str) and lm._async_engine_spec is None


def can_stream(lm: Any) -> bool:
    """Return whether DSPy's engine sends what ``lm`` writes to the setting ``send_stream`` while it is written."""
    kind: Any = type(lm)
    if not issubclass(kind, dspy.LM) or kind.forward is not dspy.LM.forward or kind.aforward is not dspy.LM.aforward:
        return False
    return not vars(lm).keys() & {"forward", "aforward"} and (
        isinstance(lm.engine, str) or hasattr(lm.engine, "stream")
    )


def repair_bodies(
    repair: Callable[[Any, bytes], Any], repair_error: Callable[[str], str], repair_chunk: Callable[[str], str]
) -> None:
    """Let DSPy's engine read ``repair(body, raw)`` in place of a response's decoded body. A second call has no effect.

    All of its dialects decode bodies with this one method, before they validate them. What is no JSON object, such as
    the page of a gateway or a reply that was cut off, is a failure of the server. ``repair_error`` changes the texts
    of responses with an HTTP status of an error, and ``repair_chunk`` those of the parts of a streamed completion.
    """
    decode: Any = HttpReply.json
    read: Any = HttpReply.text
    if hasattr(decode, "__wrapped__"):
        return

    @functools.wraps(decode)
    def json(self: HttpReply) -> Any:
        try:
            body = repair(decode(self), self.body)
            if isinstance(body, dict):
                return body
            words = f"the reply is no JSON object: {body!r:.200}"
        except ProviderError as error:
            if self.status >= _REDIRECT:
                raise
            words = error.message
        raise ServerError(words, provider=self.provider, status=self.status)

    @functools.wraps(read)
    def text(self: HttpReply) -> str:
        said: str = read(self)
        return repair_error(said) if self.status >= _BAD_REQUEST else said

    parse: Any = OpenAIChatLM.parse_stream_events

    @functools.wraps(parse)
    def parse_chunk(self: OpenAIChatLM, request: Any, event: Any) -> Any:
        return parse(self, request, dataclasses.replace(event, data=repair_chunk(event.data)) if event.data else event)

    HttpReply.json, HttpReply.text = json, text
    kind: Any = OpenAIChatLM
    kind.parse_stream_events = parse_chunk


def divert_requests(divert: Callable[[HttpRequest, Send], Awaitable[HttpReply]]) -> None:
    """Let ``divert(request, send)`` answer the requests of DSPy's engines, in place of ``send(request)``.

    All of its dialects send requests with this one method, asynchronous calls only. A second call has no effect.
    """
    send: Any = AsyncBaseProviderLM._send
    if hasattr(send, "__wrapped__"):
        return

    @functools.wraps(send)
    async def diverted(self: Any, request: HttpRequest) -> HttpReply:
        return await divert(request, functools.partial(send, self))

    AsyncBaseProviderLM._send = diverted


def widen_pools(connections: int) -> None:
    """Let DSPy's engines open up to ``connections`` for each LM, in place of 100. A second call sets another number.

    A custom engine could do so, too, but DSPy prices no calls of it and refuses ``api_key`` and ``api_base`` with it.
    """
    module: Any = _execution
    module.RouterConfig = functools.partial(RouterConfig, max_connections=connections)


def pool_of(lm: Any) -> object | None:
    """Return what all LMs with the same pool of connections share.

    It is None if DSPy opens no connections for ``lm``, or if a method of its own may do something else meanwhile.
    """
    kind: Any = type(lm)
    methods = ("__call__", "acall", "forward", "aforward")
    is_plain = isinstance(lm, dspy.LM) and all(getattr(kind, name) is getattr(dspy.LM, name) for name in methods)
    return lm._engine_lock if is_plain and isinstance(lm.engine, str) else None


def watched(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return an asynchronous method of an LM so that callbacks see its calls, as those of DSPy's own methods.

    A method that passes its calls to another ``acall`` is left alone: callbacks see that one.
    """
    seen = hasattr(call, "__wrapped__") or "acall" in getattr(getattr(call, "__code__", None), "co_names", ())
    return call if seen else with_callbacks(call)


def has_input_keys(example: Any) -> bool:
    """Return whether an example says which of its fields are inputs."""
    return getattr(example, "_input_keys", None) is not None


def set_input_keys(example: Any, names: Sequence[str]) -> None:
    """Say which fields of an example are inputs, without a copy of it."""
    object.__setattr__(example, "_input_keys", set(names))


def mark_uncompiled(program: dspy.Module) -> None:
    """Let DSPy's optimizers take ``program`` for one that none of them has compiled."""
    program._compiled = False


def native_route(lm: dspy.BaseLM) -> tuple[str | None, bool]:
    """Return the provider that DSPy's own engine asks for ``lm``, and whether ``lm`` has a key.

    The provider is None if DSPy leaves the call to LiteLLM.
    """
    from dspy.clients.backend_selection import select_backend  # only the command line needs it

    selection = select_backend(lm)
    resolution = selection.resolution if selection.native else None
    return None if resolution is None else resolution.provider, "api_key" in selection.clients


def declared_address(lm: dspy.BaseLM) -> str | None:
    """Return the address of the provider that the user declared for ``lm``; None if DSPy knows the provider itself."""
    providers = getattr(lm, "_providers", ())
    if not providers:
        return None
    from dspy.lm15 import _binding_for

    try:
        route = resolve(lm)
    except LM15Error:
        return None
    binding = _binding_for(providers, route.provider) if route.declared else None
    return None if binding is None else binding.definition.access.base_url


def missing_native_keys(provider: str, policies: Collection[str]) -> tuple[str, ...]:
    """Return the variables of a provider's key if none is set and its policy for credentials is one of ``policies``."""
    from dspy._vendor.lm15.doctor import explain_auth  # only the command line needs it
    from dspy._vendor.lm15.registry import lookup

    definition = lookup(provider)
    if definition is None or definition.credential_policy not in policies or definition.hosted:
        return ()
    return () if explain_auth(provider).configured else tuple(definition.env_keys)


def gepa_sizes() -> Mapping[str, Any]:
    """Return GEPA's budgets by the names of its ``auto`` option."""
    from dspy.teleprompt.gepa.gepa import AUTO_RUN_SETTINGS  # GEPA is slow to import

    return AUTO_RUN_SETTINGS


def reanchor_candidates() -> int:
    """Return how many thresholds ReAnchor tries."""
    from dspy.teleprompt.reanchor.calibrate import MAX_CANDIDATES  # optimizers are slow to import

    return MAX_CANDIDATES
