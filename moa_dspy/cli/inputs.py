"""The inputs of a question, from the argument and the ``--input`` options."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dspy
import pydantic
from pydantic_core import PydanticUndefined

from moa_dspy._dspy import get_annotation_name
from moa_dspy.errors import InputError
from moa_dspy.signatures import needed_inputs

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from moa_dspy.cli.options import QuestionOptions
    from moa_dspy.signatures import TaskSignature

__all__ = ["gather_inputs"]

_SHOWN: int = 60  # characters of a value in a message


def gather_inputs(task: TaskSignature, options: QuestionOptions) -> dict[str, Any]:
    """Return the values of the task's input fields.

    QUESTION is the value of the only field without ``--input``, or of ``question`` if there are several. ``-`` reads it
    from standard input.

    Raises:
        InputError: if a name is unknown or repeated, a value is missing or does not fit its field, or the question or
            its field is missing.
    """
    texts = _split(task, options.input or ())
    if options.question is not None:
        field = _field_of_question(task, texts)
        texts[field] = _read_stdin() if options.question == "-" else options.question
        if not texts[field].strip():
            raise InputError("the question is empty")
    elif not texts:
        raise InputError("there is no question; give it as an argument, or - to read it from standard input")
    missing = [name for name in needed_inputs(task) if name not in texts]
    if missing:
        how = " and ".join(f"--input {name}=VALUE" for name in missing)
        raise InputError(f"input {', '.join(missing)} is missing; give it with {how}")
    return {name: _parsed(name, text, task.input_fields[name]) for name, text in texts.items()}


def _split(task: TaskSignature, pairs: Sequence[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InputError(f"--input {pair!r} is not NAME=VALUE")
        if name not in task.input_fields:
            known = ", ".join(task.input_fields)
            raise InputError(f"--input {name} is not an input of this task; its inputs are: {known}")
        if name in texts:
            raise InputError(f"--input {name} is given twice")
        texts[name] = text
    return texts


def _field_of_question(task: TaskSignature, texts: Mapping[str, str]) -> str:
    fields = {name: field for name, field in task.input_fields.items() if field.annotation is not dspy.History}
    free = [name for name in fields if name not in texts]
    needed = [name for name in free if fields[name].default is PydanticUndefined]
    for candidates in (free, needed, [name for name in free if name == "question"]):
        if len(candidates) == 1:
            return candidates[0]
    if not free:
        raise InputError("every input is given with --input, which leaves no field for QUESTION; leave one out")
    raise InputError(f"the task has several inputs ({', '.join(free)}); give each with --input NAME=VALUE")


def _read_stdin() -> str:
    if sys.stdin is None:
        raise InputError("standard input is closed; give the question as an argument, or send it to standard input")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise InputError("standard input is not text in UTF-8") from None


def _parsed(name: str, text: str, field: FieldInfo) -> Any:
    """Return the value of JSON, or of plain text that fits the type, such as a date or a choice."""
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
