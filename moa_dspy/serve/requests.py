"""A request for a chat completion: the inputs of the task, the limits and the options of the answer."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import dspy
import pydantic

from moa_dspy.cost.budget import Budget
from moa_dspy.errors import ConfigurationError, InputError
from moa_dspy.program import AttentionMoA
from moa_dspy.serve.inputs import named_input, outputs_schema, picture
from moa_dspy.serve.problems import Problem, validation_problem
from moa_dspy.signatures import TaskSignature, field_of_question, is_free_text, read_input

__all__ = ["ChatRequest", "MoaOptions", "check_format", "inputs_of"]


# Each value of JSON needs much more memory and time than its text, so a body has a limit of values, too.
_MOST_TOKENS: Final = 300_000
_TOKEN: Final = re.compile(rb'[,\[{]|"(?:[^"\\]|\\.)*+"?', re.DOTALL)


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, frozen=True)


class _ImageUrl(_Model):
    url: str


class _Part(_Model):
    type: str
    text: str | None = None
    image_url: _ImageUrl | None = None


class _Message(_Model):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | tuple[_Part, ...] | None = None


class _BudgetOptions(_Model):
    model_config = pydantic.ConfigDict(extra="forbid")

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None


class MoaOptions(_Model):
    """The options that OpenAI's format does not have, in the object ``moa`` of a request.

    Attributes:
        inputs: inputs of the task, by name. The last user message is the one that is not among them.
        stream: what a stream shows of the steps: ``none``, ``steps`` (a line for each) or ``text`` (also their texts).
        budget: limits of this request; they can only lower the server's and the program's.
        trace: whether the reply has the record of every step.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    inputs: dict[str, pydantic.JsonValue] = pydantic.Field(default_factory=dict)
    stream: Literal["none", "steps", "text"] = "steps"
    budget: _BudgetOptions = _BudgetOptions()
    trace: bool = False


class _StreamOptions(_Model):
    include_usage: bool | None = None


class _JsonSchema(_Model):
    schema_: dict[str, pydantic.JsonValue] | None = pydantic.Field(default=None, alias="schema")


class _Format(_Model):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class ChatRequest(_Model):
    """The parts of a request that are read. Sampling options of the client are not: the agents have their own."""

    model: str
    messages: tuple[_Message, ...] = pydantic.Field(fail_fast=True)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    response_format: _Format | None = None
    n: int | None = None
    tool_choice: pydantic.JsonValue = None
    function_call: pydantic.JsonValue = None
    logprobs: bool | None = None
    moa: MoaOptions = MoaOptions()

    @classmethod
    def read(cls, body: bytes) -> ChatRequest:
        """Read a body.

        Raises:
            Problem: if it is not JSON, not such a request, or asks for something that programs do not support.
        """
        if _has_too_many_values(body):
            raise Problem("the body has too many values", 413, code="body_too_large")
        try:
            request = cls.model_validate_json(body)
        except pydantic.ValidationError as error:
            raise validation_problem(error) from None
        if request.n not in (None, 1):
            raise Problem("a program gives one answer; leave n out", param="n", code="unsupported")
        if request.logprobs:
            raise Problem("programs do not support logprobs; leave it out", param="logprobs", code="unsupported")
        for name in ("tool_choice", "function_call"):  # a model may always answer without the tools that it is offered
            if getattr(request, name) not in (None, "auto", "none"):
                raise Problem(f"programs call no tools; leave {name} out", param=name, code="unsupported")
        return request

    @property
    def budget(self) -> Budget:
        """Return the limits of the request.

        Raises:
            Problem: if one is too small.
        """
        try:
            return Budget(**self.moa.budget.model_dump())
        except ConfigurationError as error:
            raise Problem(str(error), param="moa.budget", code="budget_too_small") from None


def _has_too_many_values(body: bytes) -> bool:
    if sum(map(body.count, (b",", b"[", b"{", b'"'))) <= _MOST_TOKENS:
        return False
    return next(itertools.islice(_TOKEN.finditer(body), _MOST_TOKENS, None), None) is not None


def check_format(request: ChatRequest, task: TaskSignature) -> None:
    """Raise Problem unless the requested format is that of the task's answers."""
    wished = request.response_format
    if wished is None or wished.type == "text":
        return
    schema, problem = None if wished.json_schema is None else wished.json_schema.schema_, None
    if is_free_text(task):
        problem = "this program answers in plain text; leave response_format out"
    elif schema is not None and not _fits(schema, outputs_schema(task)):
        problem = f"the schema does not fit this program's answers, whose fields are: {', '.join(task.output_fields)}"
    if problem is not None:
        raise Problem(problem, param="response_format", code="format_mismatch")


def _fits(wished: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Return whether a schema has the same properties, of the same types as far as it names them."""
    properties = wished.get("properties")
    if not isinstance(properties, Mapping) or properties.keys() != own["properties"].keys():
        return False
    return all(
        not isinstance(value, Mapping) or value.get(name, part.get(name)) == part.get(name)
        for key, part in own["properties"].items()
        for value in (properties[key],)
        for name in ("type", "enum")
    )


Values: TypeAlias = dict[str, Any]


def inputs_of(request: ChatRequest, program: AttentionMoA) -> Values:
    """Return the task's inputs: the last user message, earlier turns, images, and the named inputs.

    Raises:
        Problem: if a part of the conversation has no place in the task.
        InputError: if an input is missing or does not fit.
    """
    task, history = program.task, program.roles.history
    values = {name: named_input(task, name, value) for name, value in request.moa.inputs.items()}
    earlier, last = request.messages[:-1], request.messages[-1] if request.messages else None
    if last is not None and last.role != "user":
        raise Problem("the last message must be the user's question", param="messages")
    if earlier:
        if history is None or history in values:
            raise Problem(
                "this program's task has no input for earlier turns or system messages; send one user message",
                param="messages",
                code="no_history",
            )
        if any(map(_images, earlier)):
            raise Problem("an image of an earlier turn cannot be read; send it with the question", param="messages")
        values[history] = {"messages": [{"role": one.role, "content": _text(one)} for one in earlier]}
    text, images = ("", []) if last is None else (_text(last), _images(last))
    values |= _pictures(task, images, values)
    question = field_of_question(task, values) if text.strip() else None
    if text.strip() and question is None:
        raise InputError(
            f"the task has the inputs {', '.join(task.input_fields)}; give all but one of them in moa.inputs"
        )
    if question is not None:
        values[question] = read_input(question, text, task.input_fields[question])
    return values


def _text(message: _Message) -> str:
    content = message.content
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in ("text", "image_url"):
            raise Problem(f"messages may contain text and images, not {part.type[:40]!r}", param="messages")
        if getattr(part, part.type) is None:
            raise Problem(f"a part of type {part.type} has no {part.type}", param="messages")
    return "\n".join(part.text or "" for part in content if part.type == "text")


def _images(message: _Message) -> list[str]:
    parts = () if message.content is None or isinstance(message.content, str) else message.content
    return [part.image_url.url for part in parts if part.type == "image_url" and part.image_url is not None]


def _pictures(task: TaskSignature, urls: Sequence[str], values: Mapping[str, Any]) -> Values:
    """Return the images of a message as inputs of the task, in their order."""
    free = {name: field.annotation for name, field in task.input_fields.items() if name not in values}
    singles = [name for name, kind in free.items() if kind is dspy.Image]
    several = next((name for name, kind in free.items() if kind == list[dspy.Image]), None)
    if not urls:
        return {}
    if several is not None and not singles:
        return {several: [picture(url) for url in urls]}
    if len(urls) > len(singles):
        raise Problem(
            f"the task takes {len(singles) or 'no'} images, but the message has {len(urls)}", param="messages"
        )
    return {name: picture(url) for name, url in zip(singles, urls, strict=False)}
