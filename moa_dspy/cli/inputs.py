"""The inputs of a question, from the argument and the ``--input`` options."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moa_dspy.errors import InputError
from moa_dspy.signatures import field_of_question, free_inputs, needed_inputs, read_input

if TYPE_CHECKING:
    from moa_dspy.cli.options import QuestionOptions
    from moa_dspy.signatures import TaskSignature

__all__ = ["gather_inputs"]


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
    return {name: read_input(name, text, task.input_fields[name]) for name, text in texts.items()}


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
    field, free = field_of_question(task, texts), free_inputs(task, texts)
    if field is not None:
        return field
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
