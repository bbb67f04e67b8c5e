"""Adapters: turn a role's signature into a prompt, and a completion into outputs.

A role with exactly one free-text output needs no format: the completion is the value. Small models can do this, and
large ones need no field markers. Every other role uses DSPy's own adapters. If the user configured an adapter, it is
used everywhere.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, cast

import dspy
from dspy.lm15 import LM15Error, Message, Request, request_from_openai_chat
from pydantic.fields import FieldInfo

from moa_dspy._dspy import field_header_pattern, format_field_value, postprocess
from moa_dspy.json_safe import json_safe
from moa_dspy.parsing import EDGES, PLAIN, marked_text, split_reasoning
from moa_dspy.runtime.conversation import alternating, has_tool_calls, history_messages, without_history
from moa_dspy.runtime.outputs import read_outputs, unusable
from moa_dspy.runtime.reading import VISIBLE, is_visible, text_in
from moa_dspy.runtime.shared_prefix import SHARED_FROM, inputs_first
from moa_dspy.signatures import TaskSignature

__all__ = [
    "LENIENT",
    "PlainTextAdapter",
    "fields_in_tags",
    "lenient",
    "refuse_endless_repair",
]

# Of a text to be repaired by json_repair. Measured with thousands of patterns: within these limits the slowest repair
# took half a second.
_LONGEST: Final = 20_000  # characters
_EFFORT: Final = 500_000  # characters times characters that json_repair searches for
_LOOKED_FOR: Final = re.compile(r"[\[\]{}()\"'`\\\u2018\u2019\u201c\u201d]")
_FENCE: Final = re.compile(r"\A\s*```(?:json)?\s*?\n(.*)\n\s*```\s*\Z", re.DOTALL)
# Matches a pair of prompt tags around the whole completion. Models may copy them from the prompt.
_COPIED_TAGS = re.compile(
    r'\A<(answer|critique)(?: (?:number|round)="\d+")?>((?:(?!</?\1\b).)*)</\1>\Z', re.DOTALL | re.IGNORECASE
)
# A line with nothing but an opening tag of ours, as no other text has it, and one with a closing tag of ours.
_ECHOED_TAG: Final = re.compile(r'^[ \t]*<(?:answer|critique) (?:number|round)="\d{1,4}">[ \t]*(?:\n|\Z)', re.MULTILINE)
_NUMBERED: Final = "critiques"  # in the name of the output whose parts a model may number with such tags
_ECHOED_END: Final = re.compile(r"^[ \t]*</(?:answer|critique)>[ \t]*(?:\n|\Z)", re.MULTILINE)
_OTHER_MARKUP: Final = re.compile(r"```|</?(?!(?:answer|critique)\b)[A-Za-z!?]")
# Options of a call that are not sent to the model.
_NOT_SENT = frozenset(
    {"api_key", "api_base", "base_url", "headers", "extra_headers", "timeout", "api_version", "organization", "project"}
    | {"azure_ad_token_provider", "extra_query", "custom_llm_provider"}
    | {"cache", "rollout_id", "n", "num_generations", "prompt_cache"}
)


class _Conversational:
    """Formats conversations and demos by the rules of ``runtime/conversation.py``. Other prompts are DSPy's.

    Attributes:
        inputs_first: whether long inputs stand before the instructions, see ``runtime/shared_prefix.py``.
    """

    inputs_first = False

    def format(
        self, signature: TaskSignature, demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the messages of a call."""
        adapter: Any = self
        messages = dspy.Adapter.format(adapter, signature, demos, inputs)
        if without_history(cast("Any", signature)) is not signature:
            messages = alternating(messages)
        if demos or not self.inputs_first or len(messages[-1]["content"]) < SHARED_FROM:
            return messages
        return inputs_first(adapter, signature, inputs, messages)

    def format_demos(self, signature: TaskSignature, demos: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the demos as turns, without conversations and lone surrogates, which no provider takes."""
        adapter: Any = self
        shown = [
            {name: json_safe(value) if isinstance(value, str) else value for name, value in demo.items()}
            for demo in demos
        ]
        return dspy.Adapter.format_demos(adapter, without_history(cast("Any", signature)), shown)

    def format_conversation_history(
        self, signature: TaskSignature, history_field_name: str, inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Return the earlier turns, and remove the conversation from ``inputs``."""
        adapter: Any = self
        history = inputs.get(history_field_name)
        if history is None or has_tool_calls(history.messages):
            return dspy.Adapter.format_conversation_history(adapter, signature, history_field_name, inputs)
        del inputs[history_field_name]
        return history_messages(
            signature,
            history.messages,
            lambda task, turn: adapter.format_user_message_content(task, turn, main_request=True),
            adapter.format_assistant_message_content,
        )


class _ChatAdapter(_Conversational, dspy.ChatAdapter):
    """DSPy's adapter, which reads replies leniently."""

    def parse(self, signature: TaskSignature, completion: str) -> dict[str, Any]:
        """Return the outputs in a completion."""
        return read_outputs("ChatAdapter", signature, completion)

    def _make_json_adapter_fallback(self) -> dspy.JSONAdapter:
        return lenient(super()._make_json_adapter_fallback())


class _JSONAdapter(_Conversational, dspy.JSONAdapter):
    """DSPy's adapter, which reads replies leniently."""

    def parse(self, signature: TaskSignature, completion: str) -> dict[str, Any]:
        """Return the outputs in a completion."""
        return read_outputs("JSONAdapter", signature, completion, json_first=True)


class PlainTextAdapter(_Conversational, dspy.Adapter):
    """Send instructions as system message, inputs as labelled user message; read the completion as the value.

    For signatures with one output of type ``str``. Demos become turns. Three things are removed from a completion:
    reasoning, which servers of open models often leave in; a leading DSPy field marker, which tuned models may write;
    and our own tags, around the whole or alone on a line.
    """

    inputs_first = True

    async def acall(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: TaskSignature,
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        """Call ``lm`` with a canonical request. Inputs that do not fit one are sent in DSPy's general way."""
        request = self._request(lm, lm_kwargs, signature, demos, inputs)
        if request is None:
            return await super().acall(lm, lm_kwargs, signature, demos, inputs)
        options = {**getattr(lm, "kwargs", {}), **lm_kwargs}
        controls = {name: options[name] for name in ("cache", "rollout_id") if options.get(name) is not None}
        response = await lm.acall(request, **controls)
        return postprocess(self, signature, signature, [text_in(response)], lm, lm_kwargs)

    def format_system_message(self, signature: TaskSignature) -> str:
        """Return the instructions, and the descriptions of fields that have one."""
        described = [
            f"- {name.replace('_', ' ')}: {_extra(field)['desc']}"
            for name, field in signature.fields.items()
            if _extra(field)["desc"] != f"${{{name}}}"
        ]
        return "\n\n".join([signature.instructions, *(["\n".join(described)] if described else [])])

    def format_user_message_content(
        self,
        signature: TaskSignature,
        inputs: Mapping[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,  # noqa: ARG002 (the base class's signature)
    ) -> str:
        """Return the inputs as labelled blocks, in the signature's order."""
        blocks = [
            _labelled(_extra(field)["prefix"], _shown(field, inputs[name]))
            for name, field in signature.input_fields.items()
            if inputs.get(name) is not None
        ]
        return "\n\n".join(block for block in (prefix, *blocks, suffix) if block)

    def format_assistant_message_content(
        self,
        signature: TaskSignature,
        outputs: Mapping[str, Any],
        missing_field_message: str | None = None,
    ) -> str:
        """Return the output value as text."""
        (name,) = signature.output_fields
        value = outputs.get(name)
        return str(value) if value is not None else missing_field_message or ""

    def parse(self, signature: TaskSignature, completion: str) -> dict[str, Any]:
        """Return the completion as the value of the one output.

        Raises:
            AdapterParseError: if no visible text remains.
        """
        (name,) = signature.output_fields
        text = completion.strip(EDGES)
        if not PLAIN.fullmatch(text):
            text = _COPIED_TAGS.sub(r"\2", marked_text(split_reasoning(text).text, name))
            text = text if _NUMBERED in name else _without_echoed_tags(text)
        text = text.strip()
        if not (VISIBLE.search(text) or is_visible(text)):
            raise unusable("PlainTextAdapter", signature, completion, "the completion is empty")
        return {name: text}

    def _request(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: Mapping[str, Any],
        signature: TaskSignature,
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> Request | None:
        options = {**getattr(lm, "kwargs", {}), **lm_kwargs}
        if (options.get("n") or 1) > 1 or options.get("prompt_cache") is not None or not _takes_requests(lm):
            return None
        body = {name: value for name, value in options.items() if name not in _NOT_SENT and value is not None}
        messages = self.format(signature, demos, inputs)
        try:
            return _as_request(lm.model, body, messages)
        except (LM15Error, TypeError, ValueError):
            return None


def fields_in_tags(adapter: dspy.Adapter, signature: TaskSignature) -> tuple[str, ...]:
    """Return the output fields that ``adapter`` may expect between tags of their names, as DSPy's XMLAdapter does."""
    return () if isinstance(adapter, (dspy.JSONAdapter, dspy.TwoStepAdapter)) else tuple(signature.output_fields)


def refuse_endless_repair(adapter: dspy.Adapter, signature: TaskSignature, text: str, *, first: bool) -> None:
    """Check that a reply needs no long repair by its adapter, which is not one of ``LENIENT``.

    After its ``first`` request, DSPy's ChatAdapter asks for JSON.

    Raises:
        AdapterParseError: if it is broken JSON and too long or too nested to repair.
    """
    for part in _to_repair(adapter, signature, text, first):
        is_short = len(part) <= _LONGEST and len(part) * len(_LOOKED_FOR.findall(part)) <= _EFFORT
        if not (is_short or _is_json(part)):
            raise unusable(
                type(adapter).__name__, signature, text, f"broken JSON of {len(part)} characters, too much to repair"
            )


def _to_repair(adapter: dspy.Adapter, signature: TaskSignature, text: str, first: bool) -> Iterator[str]:
    """Yield the parts of ``text`` that DSPy's adapters would repair: all of JSON, else the values of typed fields."""
    if isinstance(adapter, dspy.TwoStepAdapter) and first:
        return  # prose; the next request extracts the fields
    typed = {name for name, field in signature.output_fields.items() if field.annotation is not str}
    if isinstance(adapter, dspy.JSONAdapter) or (isinstance(adapter, dspy.ChatAdapter) and not first):
        yield text
    elif typed:
        sections = list(_sections(text))
        yield from (value for name, value in sections if name in typed) if sections else (text,)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield the fields in ``text``, as DSPy's ChatAdapter finds them."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        header = field_header_pattern.match(line.strip())
        if header is None:
            lines.append(line)
            continue
        if name:
            yield name, "\n".join(lines)
        name, lines = header.group(1), [line[header.end() :]]
    if name:
        yield name, "\n".join(lines)


def _without_echoed_tags(text: str) -> str:
    """Return a text without lines that only repeat a tag of our prompts. A small model may write them anywhere.

    Our tags have a number and stand alone on their lines. A text with other markup or code may be about tags, so it
    stays as it is, and so do tags without a number and tags in a line with other words.
    """
    if _ECHOED_TAG.search(text) is None or _OTHER_MARKUP.search(text) is not None:
        return text
    return _ECHOED_END.sub("", _ECHOED_TAG.sub("", text))


def _is_json(text: str) -> bool:
    fenced = _FENCE.match(text)
    try:
        json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


def lenient(adapter: Any, *, inputs_first: bool = False) -> Any:
    """Return an adapter that writes the same prompts and reads replies leniently, if it is one of DSPy's two.

    It shares the state of ``adapter``. Adapters with code of their own are returned as they are.

    Args:
        adapter: any adapter.
        inputs_first: whether long inputs stand before the instructions. Prompts of a user's adapter stay DSPy's.
    """
    kind = {dspy.ChatAdapter: _ChatAdapter, dspy.JSONAdapter: _JSONAdapter}.get(type(adapter))
    if kind is None:
        return adapter
    changed = object.__new__(kind)
    changed.__dict__ = adapter.__dict__
    if inputs_first:
        changed.inputs_first = True
    return changed


LENIENT: Final = (PlainTextAdapter, _ChatAdapter, _JSONAdapter)
"""Adapters that read replies by our own rules, which need no repair without limits."""


def _extra(field: FieldInfo) -> dict[str, Any]:
    return cast("dict[str, Any]", field.json_schema_extra)  # DSPy sets it on every field


def _labelled(label: str, value: str) -> str:
    return f"{label}\n{value}" if "\n" in value else f"{label} {value}"


def _shown(field: FieldInfo, value: Any) -> str:
    """Return ``value`` as DSPy's adapters format it. Text skips their formatting, a tenth of a call's time."""
    return value if type(value) is str else str(format_field_value(field, value))


def _as_request(model: str, options: Mapping[str, Any], messages: list[dict[str, Any]]) -> Request:
    """Return the result of ``request_from_openai_chat``, in a third of its time if all messages are plain text."""
    (first, *turns) = messages
    roles = {"user": Message.user, "assistant": Message.assistant}
    contents = [message["content"] for message in messages]
    if (
        first["role"] != "system"
        or not all(type(content) is str and content for content in contents)
        or not all(turn["role"] in roles and len(turn) == 2 for turn in turns)
    ):
        return request_from_openai_chat({**options, "model": model, "messages": messages})
    try:
        blank = _blank_request(model, tuple((name, type(value), value) for name, value in options.items()))
    except TypeError:  # an unhashable option, such as a response format
        blank = request_from_openai_chat({**options, "model": model, "messages": _BLANK})
    return replace(
        blank, system=first["content"], messages=tuple(roles[turn["role"]](turn["content"]) for turn in turns)
    )


@functools.lru_cache(maxsize=256)
def _blank_request(model: str, options: tuple[tuple[str, type, Any], ...]) -> Request:
    body = {name: value for name, _, value in options}
    return request_from_openai_chat({**body, "model": model, "messages": _BLANK})


_BLANK: Final = [{"role": "system", "content": "-"}, {"role": "user", "content": "-"}]


def _takes_requests(lm: dspy.BaseLM) -> bool:
    """Return whether DSPy's engine calls ``lm``. A custom ``forward`` may return any type."""
    kind, base = type(lm), dspy.LM
    return isinstance(lm, base) and kind.forward is base.forward and kind.aforward is base.aforward
