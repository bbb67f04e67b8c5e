"""Earlier turns of a conversation, and demos, as messages.

Providers refuse empty messages, and many servers of open models refuse two messages of one role in a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, TypeAlias

import dspy
import pydantic

from moa_dspy.errors import InputError
from moa_dspy.runtime.outputs import is_added
from moa_dspy.signatures import TaskSignature

__all__ = ["Message", "alternating", "check_history", "has_tool_calls", "history_messages", "without_history"]

Message: TypeAlias = dict[str, Any]

_ROLES: Final = frozenset({"user", "assistant", "system", "developer"})
_SYSTEM: Final = frozenset({"system", "developer"})


def check_history(name: str, value: object, signature: TaskSignature) -> dspy.History:
    """Return the input ``name`` of the task as a conversation whose turns can be sent; None is an empty one.

    Raises:
        InputError: if it is no conversation, or a turn has neither a role and a content nor fields of the task.
    """
    try:
        history = dspy.History(messages=[]) if value is None else dspy.History.model_validate(value)
    except pydantic.ValidationError:
        raise InputError(
            f"input {name} is no conversation but {value!r:.80}; give dspy.History(messages=[...]), a dictionary a turn"
        ) from None
    fields = [field for field in signature.fields if field != name]
    for number, turn in enumerate(history.messages, 1):
        problem = ""
        if _is_message(turn, fields):
            problem = _problem_with_message(turn)
        elif not turn.keys() & set(fields):
            problem = f"has the keys {', '.join(map(str, turn)) or '(none)'}"
        if problem:
            raise InputError(
                f"input {name}, turn {number} {problem}; give a role (user, assistant or system) and a content, or the "
                f"task's fields: {', '.join(fields)}"
            )
    return history


def _is_message(turn: Mapping[str, Any], fields: Collection[str]) -> bool:
    """Return whether a turn is a role and a content, and not fields of the task that have these names."""
    return "role" in turn and not ({"role", "content"} & set(fields))


def _problem_with_message(turn: Mapping[str, Any]) -> str:
    others = [str(key) for key in turn if key not in ("role", "content", "name")]
    if others or "role" not in turn or "content" not in turn:
        return f"has the keys {', '.join(map(str, turn))}"
    if str(turn["role"]).lower() not in _ROLES:
        return f"has the role {turn['role']!r:.40}"
    if not (turn["content"] is None or isinstance(turn["content"], (str, list))):
        return f"has a content of type {type(turn['content']).__name__}"
    return ""


@functools.lru_cache(maxsize=256)
def without_history(signature: Any) -> Any:
    """Return a signature without its conversation. A demo shows one question and its answer."""
    for name, field in signature.input_fields.items():
        if field.annotation is dspy.History:
            return signature.delete(name)
    return signature


def has_tool_calls(turns: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a turn calls tools. DSPy formats such conversations."""
    values = (value for turn in turns for value in turn.values())
    return any(
        isinstance(value, dspy.ToolCalls) or (isinstance(value, dict) and "tool_calls" in value) for value in values
    )


def history_messages(
    signature: TaskSignature,
    turns: Iterable[Mapping[str, Any]],
    user: Callable[[TaskSignature, dict[str, Any]], str],
    assistant: Callable[[TaskSignature, dict[str, Any]], str],
) -> list[Message]:
    """Return the messages of earlier turns: what they contain, without empty and added fields.

    A turn has a role and a content, or fields of the task. ``user`` formats its inputs, and ``assistant`` its outputs.
    """
    messages: list[Message] = []
    for turn in turns:
        if _is_message(turn, signature.fields):
            messages.append({"role": str(turn["role"]).lower(), "content": turn.get("content")})
            continue
        given = {name: value for name, value in turn.items() if value is not None and str(value).strip()}
        inputs = {name: given[name] for name in signature.input_fields if name in given}
        outputs = {
            name: given[name]
            for name, field in signature.output_fields.items()
            if name in given and not is_added(field)
        }
        if inputs:
            messages.append({"role": "user", "content": user(signature, inputs)})
        if outputs:
            answered = signature
            for name in signature.output_fields:
                answered = answered if name in outputs else answered.delete(name)
            messages.append({"role": "assistant", "content": assistant(answered, outputs)})
    return messages


def alternating(messages: Iterable[Message]) -> list[Message]:
    """Return messages of which none is empty, no two in a row have one role, and only the first is of the system."""
    kept: list[Message] = []
    for message in messages:
        content = message["content"]
        if not content or (isinstance(content, str) and not content.strip()):
            continue
        role = "system" if message["role"] in _SYSTEM else message["role"]
        if role == "system" and kept and kept[0]["role"] == "system":
            kept[0] = {**kept[0], "content": _joined(kept[0]["content"], content)}
        elif kept and kept[-1]["role"] == role:
            kept[-1] = {**kept[-1], "content": _joined(kept[-1]["content"], content)}
        else:
            kept.append({**message, "role": role})
    return kept


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_content_parts(first), *_content_parts(second)]


def _content_parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
