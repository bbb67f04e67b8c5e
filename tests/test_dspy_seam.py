"""The contracts of moa_dspy/_dspy.py: what would break if DSPy changed undocumented code that this package uses.

CONTRIBUTING.md has the command that runs these tests against the newest DSPy pre-release.
"""

from __future__ import annotations

import ast
import asyncio
import copy
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import dspy
import pytest
from dspy.clients import base_lm
from dspy.lm15 import (
    AccessPolicy,
    EndpointSupport,
    Message,
    OpenAIChatCompat,
    ProviderDefinition,
    Request,
    Response,
    register_provider,
    unregister_provider,
)
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import LMAuthError, LMBillingError, LMRateLimitError, LMServerError, LMUnexpectedError
from support.batch_server import BatchServer
from support.loopback import Http, Loopback

from moa_dspy import _dspy
from moa_dspy.cli.programs import _KEY_POLICIES
from moa_dspy.testing import ScriptedLM

ROOT = Path(__file__).parents[1]
DOCUMENTED = ("dspy.teleprompt", "dspy.utils.exceptions", "dspy.utils.callback", "dspy.utils.usage_tracker")
CHAT = "[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"


class Tracker:
    """Notes in what order DSPy reports a call."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.history = History(self.events)

    def add_usage(self, lm: str, usage: dict[str, Any]) -> None:
        self.events.append(("usage", usage))


class History(list[Any]):
    def __init__(self, events: list[tuple[str, Any]]) -> None:
        super().__init__()
        self._events = events

    def append(self, entry: dict[str, Any]) -> None:
        self._events.append(("entry", entry))


def reported(lm: dspy.BaseLM, *, asynchronous: bool) -> list[tuple[str, Any]]:
    tracker = Tracker()
    with dspy.context(**{_dspy.USAGE_TRACKER: tracker, _dspy.CALLERS: [tracker]}):
        if asynchronous:
            asyncio.run(lm.acall("?"))
        else:
            lm("?")
    return tracker.events


def task(text: str) -> Any:
    make: Any = dspy.Signature  # declared as a class, called as a function
    return make(text)


def test_undocumented_dspy_code_is_used_in_one_file() -> None:
    folders = [ROOT / name for name in ("moa_dspy", "signatures", "optimizers", "data")]
    files = {path.resolve() for folder in folders for path in folder.rglob("*.py")} - {Path(_dspy.__file__).resolve()}
    assert len(files) > 200
    assert not [f"{path.relative_to(ROOT)}: {use}" for path in files for use in undocumented(path)]


def undocumented(path: Path) -> Iterator[str]:
    """Imports that DSPy does not export, and its private names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (module := node.module or "").split(".")[0] == "dspy":
            exported = dir if module in ("dspy", *DOCUMENTED) else lambda one: getattr(one, "__all__", ())
            names = exported(importlib.import_module(module))
            yield from (f"{module}.{one.name}" for one in node.names if one.name not in names or one.name[0] == "_")
        elif isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name.startswith("dspy."))
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("dspy.") and node.attr[0] == "_":
            if not node.attr.startswith("__"):
                yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and node.value in ("_input_keys", "_compiled", "_engine_spec", "_demos"):
            yield str(node.value)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_usage_of_a_paid_call_is_reported_just_before_its_history_entry_or_budgets_count_nothing(
    asynchronous: bool,
) -> None:
    lm = ScriptedLM("one two", cache=True)
    (first, usage), (second, entry) = reported(lm, asynchronous=asynchronous)
    assert (first, second) == ("usage", "entry")
    assert usage["completion_tokens"] == 2
    assert {"cost", "model", "response", "usage", "outputs", "messages"} <= entry.keys()
    again = reported(lm, asynchronous=asynchronous)
    assert [kind for kind, _ in again] == ["entry"]  # from the cache, unpaid


def test_usage_of_a_cached_call_is_read_from_its_responses_or_saved_tokens_are_guesses() -> None:
    lm = ScriptedLM("one two")
    ((_, _), (_, entry)) = reported(lm, asynchronous=False)
    response = entry["response"]
    assert isinstance(response, Response)
    assert _dspy.usage_dict(response, "scripted")["completion_tokens"] == 2


def test_retries_are_read_from_the_lm_or_runs_would_count_one_call_for_several() -> None:
    assert set(_dspy.ENGINE_STATE) <= vars(dspy.LM("openai/gpt-4.1")).keys()


def test_an_lm_without_an_async_side_is_recognised_or_it_would_block_the_loop() -> None:
    class Engine:
        def complete(self, request: Any) -> Any: ...

    class Own(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any: ...

    assert _dspy.needs_thread(dspy.LM("own/model", engine=Engine()))
    assert _dspy.needs_thread(Own("own/model"))
    assert not _dspy.needs_thread(ScriptedLM("x"))
    assert not _dspy.needs_thread(dspy.LM("openai/gpt-4.1"))


def test_a_reply_is_sent_while_it_is_written_or_nothing_is_streamed() -> None:
    class Own(ScriptedLM):
        async def aforward(self, *args: Any, **kwargs: Any) -> Any:
            return await super().aforward(*args, **kwargs)

    class Stream:
        def __init__(self) -> None:
            self.texts: list[str] = []

        async def send(self, chunk: Any) -> None:
            self.texts.append(chunk.choices[0].delta.content or "")

    lm, stream = ScriptedLM("a reply of several words"), Stream()
    assert _dspy.can_stream(lm)
    assert _dspy.can_stream(dspy.LM("openai/x"))
    assert not _dspy.can_stream(Own("x"))
    with dspy.context(send_stream=stream):
        assert asyncio.run(lm.acall("?")) == ["a reply of several words"]
    assert "".join(stream.texts) == "a reply of several words"
    assert len(stream.texts) > 3


def test_an_adapter_prepares_and_finishes_calls_or_plans_and_plain_text_fail() -> None:
    signature: Any = task("question -> answer")
    adapter, lm = dspy.ChatAdapter(), ScriptedLM("x")
    assert _dspy.preprocess(adapter, lm, {}, signature, {"question": "?"}).output_fields.keys() == {"answer"}
    assert _dspy.postprocess(adapter, signature, signature, [CHAT], lm, {}) == [{"answer": "42"}]


def test_an_adapter_makes_outputs_by_another_function_or_one_unreadable_proposal_ends_an_optimizer() -> None:
    signature: Any = task("question -> answer")
    changed = _dspy.with_postprocess(dspy.ChatAdapter(), lambda *_: [{"answer": "changed"}])
    assert changed(ScriptedLM(CHAT), {}, signature, [], {"question": "?"}) == [{"answer": "changed"}]


def test_the_prefix_of_the_last_field_is_known_or_copro_cannot_keep_it() -> None:
    program = dspy.Predict(task("question -> answer").with_instructions("Do it."))
    assert _dspy.last_prefix(program, "Do it.") == "Answer:"
    assert _dspy.last_prefix(program, "Do not.") is None


def test_mipro_proposes_in_a_method_or_it_tries_equal_instructions_twice() -> None:
    optimizer: Any = dspy.MIPROv2(
        metric=lambda *_: 1.0, prompt_model=ScriptedLM("x"), task_model=ScriptedLM("x"), auto=None, num_candidates=3
    )
    assert callable(optimizer._propose_instructions)
    optimizer._propose_instructions = lambda: {0: ["a", "b", "a"]}
    assert _dspy.with_distinct_instructions(optimizer)._propose_instructions() == {0: ["a", "b"]}


def test_field_markers_are_found_or_long_replies_are_repaired_for_minutes() -> None:
    match = _dspy.field_header_pattern.match("[[ ## answer ## ]]")
    assert match is not None
    assert match.group(1) == "answer"


def test_evidence_of_graded_decisions_is_collected_or_stop_rules_cannot_be_fitted() -> None:
    log: list[Any] = []
    with _dspy.decision_evidence() as outer:
        with _dspy.decision_evidence() as inner:
            recorder = dspy.settings.get("_decision_evidence")
            assert recorder is not None
            recorder[0].append(("predictor", "improved", {"noul": 0.7}))
        log.extend(inner)
    assert log == list(outer) == [("predictor", "improved", {"noul": 0.7})]


def test_dspy_prices_a_call_or_budgets_in_dollars_are_refused() -> None:
    price = _dspy.price_call(dspy.LM("openai/gpt-4.1"), 1_000_000, 0)
    assert price is not None
    assert 0.1 < price < 100
    assert _dspy.price_call(dspy.LM("openai/nobody-knows-it"), 1000, 0) is None


def test_a_model_string_is_routed_or_unknown_providers_are_noticed_too_late() -> None:
    assert _dspy.resolve(dspy.LM("openai/gpt-4.1")).provider.startswith("openai")


def test_the_native_route_and_its_key_are_known_or_missing_keys_are_noticed_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    provider, has_key = _dspy.native_route(dspy.LM("openai/gpt-4.1"))
    assert provider is not None
    assert not has_key
    assert _dspy.missing_native_keys(provider, _KEY_POLICIES) == ("OPENAI_API_KEY",)
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    assert _dspy.missing_native_keys(provider, _KEY_POLICIES) == ()


def test_the_folder_of_the_response_cache_is_known_or_a_full_disk_is_not_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DSPY_CACHEDIR", str(tmp_path / "cache"))
    assert _dspy.cache_folder() == str(tmp_path / "cache")
    monkeypatch.delitem(dspy.__dict__, "cache")
    assert dspy.cache.disk_cache.directory == str(tmp_path / "cache")


def test_litellm_is_loaded_like_dspy_loads_it() -> None:
    assert hasattr(_dspy.get_litellm(), "get_llm_provider")


@pytest.mark.parametrize(
    ("status", "kind"), [(401, LMAuthError), (402, LMBillingError), (429, LMRateLimitError), (503, LMServerError)]
)
def test_errors_of_litellm_become_those_of_dspy_or_embeddings_are_not_repeated(status: int, kind: type) -> None:
    class RefusedError(Exception):
        status_code = status

    with pytest.raises(kind, match="no") as caught, _dspy.lm_errors("openai/e"):
        raise RefusedError("no")
    assert caught.value.status == status
    with pytest.raises(LMUnexpectedError), _dspy.lm_errors("openai/e"):
        raise ValueError("no status")


def test_litellm_reads_contents_in_one_place_or_lists_of_parts_cost_answers() -> None:
    from moa_dspy.runtime import reading  # noqa: F401 (installs the repair)

    _dspy.get_litellm()
    from litellm.litellm_core_utils.llm_response_utils import convert_dict_to_response
    from litellm.litellm_core_utils.streaming_handler import CustomStreamWrapper

    extract: Any = convert_dict_to_response.extract_reasoning_content
    assert extract({"content": [{"type": "text", "text": "Paris"}]}) == (None, "Paris")
    assert hasattr(CustomStreamWrapper.chunk_creator, "__wrapped__")


def test_types_of_fields_are_named_and_shown_as_in_prompts_or_prompts_change() -> None:
    assert _dspy.annotation_allows_none(Optional[int])  # noqa: UP045 (as users write it)
    assert not _dspy.annotation_allows_none(int)
    assert _dspy.get_annotation_name(list[int]) == "list[int]"
    field = task("question: list[str] -> answer").input_fields["question"]
    assert "a" in str(_dspy.format_field_value(field, ["a", "b"]))


def test_values_of_fields_are_read_as_dspy_reads_them_or_typed_outputs_differ() -> None:
    assert _dspy.parse_dspy_value("[1, 2]", list[int]) == [1, 2]
    with pytest.raises((ValueError, TypeError)):
        _dspy.parse_dspy_value("many", int)


def test_missing_optional_outputs_have_their_default_or_replies_without_them_fail() -> None:
    class Task(dspy.Signature):
        question: str = dspy.InputField()
        note: str | None = dspy.OutputField(default=None)
        answer: str = dspy.OutputField()

    assert _dspy.apply_output_field_defaults(Task, {"answer": "42"}) == {"answer": "42", "note": None}


def test_an_engine_may_say_that_it_enforces_schemas() -> None:
    class Engine:
        supports_response_schema = True

        def complete(self, request: Request) -> Response:
            raise NotImplementedError

    assert not _dspy.enforces_schema(dspy.LM("openai/gpt-4.1"))
    assert _dspy.enforces_schema(dspy.LM("own/model", engine=Engine()))


def test_a_signatures_default_instructions_are_known_or_every_task_shows_them() -> None:
    signature: Any = task("question -> answer")
    assert _dspy.default_instructions(signature) == signature.instructions


def test_a_field_says_whether_it_is_an_input_or_program_files_cannot_be_written() -> None:
    fields = task("question -> answer").fields
    kinds = {name: field.json_schema_extra[_dspy.FIELD_KIND] for name, field in fields.items()}  # type: ignore[index]
    assert kinds == {"question": "input", "answer": "output"}


def test_input_keys_of_examples_can_be_read_and_set_or_data_without_inputs_is_not_refused() -> None:
    example = dspy.Example(question="q", answer="a")
    assert not _dspy.has_input_keys(example)
    assert _dspy.has_input_keys(example.with_inputs("question"))
    marked = copy.copy(example)
    _dspy.set_input_keys(marked, ["question"])
    assert marked.inputs().toDict() == {"question": "q"}


def test_a_program_can_be_marked_as_uncompiled_or_optimizers_refuse_it() -> None:
    module = dspy.Predict("question -> answer")
    module._compiled = True
    _dspy.mark_uncompiled(module)
    assert module._compiled is False


def test_versions_are_known_or_program_files_do_not_say_them() -> None:
    assert "dspy" in _dspy.get_dependency_versions()


def test_sizes_of_optimizers_are_known_or_their_cost_cannot_be_estimated() -> None:
    assert set(_dspy.gepa_sizes()) == {"light", "medium", "heavy"}
    assert _dspy.reanchor_candidates() > 1


def test_a_declared_provider_is_at_its_declared_address() -> None:
    access = AccessPolicy(
        provider="moa-test-server",
        supports=EndpointSupport(complete=True, stream=True),
        auth_modes=("bearer",),
        base_url="http://h:7/v1",
    )
    definition = ProviderDefinition.chat(access, compat=OpenAIChatCompat.preset("vllm"))
    register_provider(definition)
    try:
        assert _dspy.declared_address(dspy.LM("moa-test-server/model")) == "http://h:7/v1"
        assert _dspy.declared_address(dspy.LM("openai/model")) is None
    finally:
        unregister_provider("moa-test-server")


def test_bodies_are_decoded_in_one_place_or_bookkeeping_costs_answers() -> None:
    from moa_dspy.runtime import reading  # noqa: F401 (installs the repair)

    token = {"token": "A", "logprob": None, "top_logprobs": [{"token": "B", "logprob": None}]}
    choice = {"message": {"content": "Paris"}, "logprobs": {"content": [token]}}
    body = {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 1.5, "completion_tokens": "2"}}
    with Loopback(lambda _: Http(200, body)) as server:
        lm = server.lm()
        request = Request(model=lm.model, messages=(Message.user("?"),))
        response: Any = lm(request)
    assert (response.text, response.usage.input_tokens, response.usage.output_tokens) == ("Paris", 2, 2)
    assert response.logprobs[0].logprob == response.logprobs[0].top[0].logprob == -9999.0


def test_a_price_is_looked_up_once_or_each_call_of_an_unknown_model_searches_the_whole_list() -> None:
    from dspy.clients import costs

    from moa_dspy.cost import prices  # noqa: F401 (remembers prices)

    lookup: Any = costs.model_info
    with Loopback() as server:
        lm = server.lm("a-model-without-a-price")
        request = Request(model=lm.model, messages=(Message.user("?"),))
        lm(request)
        once = lookup.cache_info()
        lm(request)
    again = lookup.cache_info()
    assert again.misses == once.misses
    assert again.hits > once.hits
    assert _dspy.price_call(dspy.LM("openai/gpt-4.1"), 1000, 0) == pytest.approx(0.002)


def test_engines_have_as_many_connections_as_we_say_or_calls_wait_where_it_counts_as_latency() -> None:
    from moa_dspy.runtime import concurrency  # noqa: F401 (sets the number)

    with Loopback() as server:
        lm, copied = server.lm(), server.lm().copy(rollout_id=1)
        asyncio.run(lm.acall(Request(model=lm.model, messages=(Message.user("?"),))))
        engines: list[Any] = list(lm._engine_store.values())
    assert [engine.config.max_connections for engine in engines] == [1_000_000]
    assert _dspy.pool_of(lm) is _dspy.pool_of(lm.copy(temperature=0.5)) is not None
    assert _dspy.pool_of(lm) is not _dspy.pool_of(copied)
    assert _dspy.pool_of(ScriptedLM("x")) is None
    calling: Any = type("Calling", (dspy.LM,), {"acall": lambda self: None})  # it may call a program meanwhile
    assert _dspy.pool_of(calling("openai/x")) is None


def test_callbacks_see_every_acall_once_or_budgets_would_miss_calls_or_count_them_twice() -> None:
    class Silent(dspy.BaseLM):
        async def acall(self, *args: Any, **kwargs: Any) -> list[str]:
            return ["42"]

    class Passing(ScriptedLM):
        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            return await super().acall(*args, **kwargs)

    class Seen(BaseCallback):
        calls = 0

        def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            self.calls += 1

    for lm in (Silent("own/silent"), Passing("42")):
        seen = Seen()
        with dspy.context(callbacks=[seen]):
            asyncio.run(_dspy.watched(type(lm).acall)(lm, "?"))
        assert seen.calls == 1
    assert _dspy.watched(dspy.LM.acall) is dspy.LM.acall


def test_requests_of_all_providers_leave_by_one_door_or_batches_would_get_none() -> None:
    from moa_dspy.batches import batcher

    seen: list[str] = []

    class Watching(batcher.Batcher):
        async def send(self, request: Any, send: Any) -> Any:
            assert isinstance(request, _dspy.HttpRequest)
            seen.append(request.url.rpartition("/")[2])
            reply = await send(request)
            return _dspy.HttpReply(status=reply.status, reason="", headers=[], body=reply.body)  # as of a batch

    async def ask() -> list[str]:
        lms = [server.lm(provider, "model") for provider in ("openai", "anthropic", "gemini")]
        return [(await lm.acall(Request(model=lm.model, messages=(Message.user("?"),)))).text for lm in lms]

    with BatchServer() as server, Watching(batcher.Batches()):
        assert asyncio.run(ask()) == ["a reply"] * 3
    assert seen == ["completions", "messages", "model:generateContent"]


def test_the_cache_in_memory_can_be_small_or_a_run_holds_a_million_replies() -> None:
    cache: Any = dspy.cache
    before = cache.memory_cache
    with _dspy.few_replies_in_memory(2):
        for number in range(4):
            cache.put({"request": number}, "reply", [])
        assert len(cache.memory_cache) == min(2, cache.memory_cache.maxsize)
    assert cache.memory_cache is before


def test_the_history_of_all_calls_can_be_short_or_a_server_holds_ten_thousand_prompts() -> None:
    history, lm = base_lm.GLOBAL_HISTORY, ScriptedLM("x")
    for number in range(5):
        lm(str(number))
    with _dspy.few_replies_in_memory(30):
        assert len(history) <= 3
        for number in range(5):
            lm(str(number))
        assert len(history) == 3
    assert base_lm.MAX_HISTORY_SIZE == 10_000
    lm("6")
    assert len(history) == 4
