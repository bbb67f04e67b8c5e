"""Inputs of a task from one text: which field it is for, and its value."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any, Final

import dspy
import pydantic
from pydantic_core import PydanticUndefined

from moa_dspy._dspy import get_annotation_name
from moa_dspy.errors import InputError
from moa_dspy.signatures.roles import TaskSignature

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = ["field_of_question", "free_inputs", "read_input"]

_SHOWN: Final = 60  # characters of a value in a message


def free_inputs(task: TaskSignature, others: Container[str]) -> list[str]:
    """Return the inputs that are not among ``others``. A conversation is none: it has turns and no text."""
    fields = task.input_fields.items()
    return [name for name, field in fields if field.annotation is not dspy.History and name not in others]


def field_of_question(task: TaskSignature, others: Container[str]) -> str | None:
    """Return the input that a question is for, if the inputs in ``others`` have their values; None if it is not clear.

    It is the only one left, or the only one without a default, or the one called ``question``.
    """
    free = free_inputs(task, others)
    needed = [name for name in free if task.input_fields[name].default is PydanticUndefined]
    for candidates in (free, needed, [name for name in free if name == "question"]):
        if len(candidates) == 1:
            return candidates[0]
    return None


def read_input(name: str, text: str, field: FieldInfo) -> Any:
    """Return the value of JSON, or of plain text that fits the type, such as a date or a choice.

    Raises:
        InputError: if the text does not fit.
    """
    kind: Any = field.annotation
    try:
        text.encode("utf-8")
        if kind is str:
            return text
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(kind)
        try:
            return adapter.validate_json(text)
        except pydantic.ValidationError:
            return adapter.validate_python(text)
    except UnicodeEncodeError:
        raise InputError(f"input {name} is not text in UTF-8") from None
    except (pydantic.ValidationError, pydantic.PydanticUserError):
        shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
        raise InputError(
            f"input {name} does not fit its type {get_annotation_name(kind)}: {shown!r}; write it as JSON"
        ) from None
