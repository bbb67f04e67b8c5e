"""Values of a task's inputs from JSON, and the JSON schemas of inputs and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import dspy
import pydantic
import pydantic_core

from moa_dspy.errors import InputError
from moa_dspy.signatures import TaskSignature, needed_inputs

__all__ = ["inputs_schema", "named_input", "outputs_schema", "picture"]

_URLS: Final = ("data:image/", "https://", "http://")


def outputs_schema(task: TaskSignature) -> dict[str, Any]:
    """Return the JSON schema of a task's answers."""
    return _schema({name: (field.annotation, ...) for name, field in task.output_fields.items()})


def inputs_schema(task: TaskSignature) -> dict[str, Any]:
    """Return the JSON schema of a task's inputs. An image is its address, or a data URL."""
    kinds = {
        name: str if field.annotation is dspy.Image else field.annotation for name, field in task.input_fields.items()
    }
    needed = needed_inputs(task)
    return _schema({name: (kind, ... if name in needed else None) for name, kind in kinds.items()})


def _schema(fields: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = dict(fields)
    return pydantic.create_model("Fields", **values).model_json_schema()


def named_input(task: TaskSignature, name: str, value: Any) -> Any:
    """Return an input of the field's type.

    Raises:
        InputError: if the task has no such field, or the value does not fit. Nothing is paid then.
    """
    field = task.input_fields.get(name)
    if field is None:
        raise InputError(f"{name!r:.60} is not an input of the task; its inputs are: {', '.join(task.input_fields)}")
    if field.annotation is dspy.Image and isinstance(value, str):
        return picture(value)
    try:
        kind: Any = field.annotation
        return pydantic.TypeAdapter(kind).validate_json(pydantic_core.to_json(value))
    except (pydantic.ValidationError, ValueError):
        raise InputError(f"input {name} does not fit its type") from None


def picture(url: str) -> dspy.Image:
    """Return an image from a data URL or an http(s) address. Files of this machine are refused.

    Raises:
        InputError: if it is another address, or not an image.
    """
    if not url.startswith(_URLS):
        raise InputError("an image must be a data URL (data:image/...;base64,...) or an http(s) address")
    try:
        return dspy.Image(url)
    except ValueError:
        raise InputError("an image cannot be read; send a valid data URL or an http(s) address") from None
