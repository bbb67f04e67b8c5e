"""The adapter for one short typed output: the model thinks in plain text and ends with a line that has the value.

Small models often fail at output formats, and plain text needs none. Figures: docs/benchmarks.md, "Typed answers".
"""

from __future__ import annotations

import contextlib
import enum
import re
import typing
from collections.abc import Mapping
from typing import Any, Final

import dspy
from dspy.utils.exceptions import AdapterParseError
from pydantic import TypeAdapter

from moa_dspy._dspy import enforces_schema
from moa_dspy.parsing import UnreadableError, is_closed, parse_value, split_reasoning
from moa_dspy.runtime.adapters import PlainTextAdapter
from moa_dspy.runtime.outputs import is_added, read_outputs, value_type
from moa_dspy.signatures import TaskSignature

__all__ = ["AnswerLineAdapter", "NoValueError", "has_answer_line"]

_MARK: Final = "####"
# Fields in some notation, and lines that mark an answer.
_FORMAT: Final = re.compile(r"\[\[|^[^\S\n]*+\{", re.MULTILINE)
_LINE: Final = re.compile(r"####|^[^\w\n]*+answer[^\w\n]{0,20}[:=]", re.IGNORECASE | re.MULTILINE)
_KINDS: Final[Mapping[Any, str]] = {bool: "true or false", int: "a whole number", float: "a number", type(None): "none"}


def has_answer_line(signature: TaskSignature) -> bool:
    """Return whether the outputs are one number, boolean or member of a closed set, and at most reasoning before it."""
    *lead, last = signature.output_fields.values()
    return len(lead) < 2 and all(map(is_added, lead)) and is_closed(last.annotation)


class NoValueError(AdapterParseError):
    """A whole reply states no value, or not clearly which one.

    Attributes:
        second: the adapter that asks for the value alone, in the same conversation.
    """

    second: dspy.Adapter | None = None


class AnswerLineAdapter(PlainTextAdapter):
    """Ask for plain text that ends with a line ``#### <value>``. A demo is its reasoning and its answer line.

    If no value can be read, the error has the adapter of a second question. A reply that ended in its reasoning is no
    reason for it.
    """

    async def acall(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: TaskSignature,
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        """Call ``lm``.

        Raises:
            NoValueError: if no value can be read from the reply.
        """
        try:
            return await super().acall(lm, lm_kwargs, signature, demos, dict(inputs))
        except NoValueError as error:
            text = split_reasoning(error.lm_response or "").text
            error.second = _ValueAdapter(self.format(signature, demos, dict(inputs)), text) if text else None
            raise

    def format_system_message(self, signature: TaskSignature) -> str:
        """Return the instructions, and the descriptions of fields except the reasoning."""
        lead, _ = _names(signature)
        return super().format_system_message(signature if lead is None else signature.delete(lead))

    def format_user_message_content(
        self,
        signature: TaskSignature,
        inputs: Mapping[str, Any],
        prefix: str = "",
        suffix: str = "",
        main_request: bool = False,
    ) -> str:
        """Return the inputs. The request ends with how to reply: small models follow it there, and not at the start."""
        ending = _ending(signature) if main_request else ""
        blocks = (super().format_user_message_content(signature, inputs, prefix, suffix), ending)
        return "\n\n".join(block for block in blocks if block)

    def format_assistant_message_content(
        self,
        signature: TaskSignature,
        outputs: Mapping[str, Any],
        missing_field_message: str | None = None,
    ) -> str:
        """Return the reasoning and the answer line."""
        lead, name = _names(signature)
        if outputs.get(name) is None:
            return missing_field_message or ""
        reasoning = "" if lead is None else str(outputs.get(lead) or "")
        return f"{reasoning}\n\n{_MARK} {_written(outputs[name])}".strip()

    def parse(self, signature: TaskSignature, completion: str) -> dict[str, Any]:
        """Return the value that the text states, and the text before its line as reasoning.

        Raises:
            AdapterParseError: if the text states no value of the type, or not clearly which one.
        """
        lead, name = _names(signature)
        outputs: dict[str, Any] = {}
        with contextlib.suppress(AdapterParseError):
            outputs = read_outputs("AnswerLineAdapter", signature, completion)
        value = outputs[name] if outputs else _last_number(signature, name, completion)
        if lead is None:
            return {name: value}
        text = split_reasoning(completion).text.rstrip()
        if outputs.get(lead) or _FORMAT.search(text):
            return {lead: outputs.get(lead, ""), name: value}
        before, _, last = text.rpartition("\n")
        return {lead: before.rstrip() if _LINE.search(last) else text, name: value}


class _ValueAdapter(PlainTextAdapter):
    """Ask for the value alone, after a reply that does not state it. Use a JSON schema if the server enforces one."""

    def __init__(self, turns: list[dict[str, Any]], reply: str) -> None:
        super().__init__()
        self._turns, self._reply = turns, reply

    async def acall(
        self,
        lm: dspy.BaseLM,
        lm_kwargs: dict[str, Any],
        signature: TaskSignature,
        demos: list[dict[str, Any]],
        inputs: dict[str, Any],
    ) -> list[dict[str, Any]]:
        """Call ``lm``."""
        if enforces_schema(lm):
            _, name = _names(signature)
            kind: Any = signature.output_fields[name].annotation
            value = TypeAdapter(kind).json_schema()
            schema = {
                "type": "object",
                "$defs": value.pop("$defs", {}),
                "properties": {name: value},
                "required": [name],
            }
            lm_kwargs["response_format"] = {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
        return await super().acall(lm, lm_kwargs, signature, demos, inputs)

    def format(self, signature: Any, demos: list[dict[str, Any]], inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the first conversation and the second question."""
        del demos, inputs
        _, name = _names(signature)
        asked = f"Write only the {name.replace('_', ' ')}, {_kind(signature.output_fields[name].annotation)}."
        turns = [{"role": "assistant", "content": self._reply}, {"role": "user", "content": asked}]
        return [*self._turns, *turns]

    def parse(self, signature: TaskSignature, completion: str) -> dict[str, Any]:
        """Return the value of the reply, and the first reply as reasoning."""
        lead, name = _names(signature)
        return {**({lead: self._reply} if lead else {}), name: AnswerLineAdapter().parse(signature, completion)[name]}


def _ending(signature: TaskSignature) -> str:
    lead, name = _names(signature)
    value = f"the {name.replace('_', ' ')}, {_kind(signature.output_fields[name].annotation)}"
    if lead is None:
        return f"Write only {value}."
    return f"Explain the solution step by step. Then write {value}, on the last line after {_MARK}."


def _names(signature: TaskSignature) -> tuple[str | None, str]:
    """Return the names of the reasoning, if there is one, and of the value."""
    *lead, name = signature.output_fields
    return lead[0] if lead else None, name


def _last_number(signature: TaskSignature, name: str, completion: str) -> Any:
    """Return the number in the last line of a plain text that does not mark its answer.

    Raises:
        NoValueError: if the output is not a number, or the line has none, or not clearly which one.
    """
    text, annotation = split_reasoning(completion).text.rstrip(), value_type(signature.output_fields[name])
    if _is_number(annotation) and not (_FORMAT.search(text) or _LINE.search(text)):
        with contextlib.suppress(UnreadableError):
            return parse_value(text.rpartition("\n")[2], annotation)
    declared: Any = signature  # declared as an instance, but it is a class
    raise NoValueError("AnswerLineAdapter", declared, completion, f"the reply does not say clearly what the {name} is")


def _is_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(part in (int, float) for part in typing.get_args(annotation))


def _kind(annotation: Any) -> str:
    """Return a closed type in words."""
    if annotation in _KINDS:
        return _KINDS[annotation]
    if isinstance(annotation, enum.EnumMeta):
        members: list[Any] = list(annotation)
        return f"one of: {', '.join(map(_written, members))}"
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return f"one of: {', '.join(map(_written, args))}"
    if origin is typing.Annotated:
        return _kind(args[0])
    return " or ".join(map(_kind, args))


def _written(value: Any) -> str:
    value = value.value if isinstance(value, enum.Enum) else value
    return str(value).lower() if isinstance(value, bool) else str(value)
