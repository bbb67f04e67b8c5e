"""The inputs that a plan is made for, and placeholders for those that nobody has given."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import dspy
from dspy.adapters.utils import annotation_allows_none

from moa_dspy.cost.tokens import WORD
from moa_dspy.errors import InputError
from moa_dspy.planning.lengths import Lengths
from moa_dspy.signatures import needed_inputs

if TYPE_CHECKING:
    from moa_dspy.signatures import TaskSignature

__all__ = ["assumed_inputs", "given_inputs", "placeholder", "words"]


def given_inputs(example: Mapping[str, Any] | dspy.Example | None, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all inputs that are given, in an example or by name.

    Raises:
        InputError: one is given twice, or the example is none.
    """
    values = _input_fields(example)
    twice = sorted(values.keys() & inputs.keys())
    if twice:
        raise InputError(f"input {', '.join(twice)} is given twice: in the example and by name")
    return {**values, **inputs}


def _input_fields(example: Mapping[str, Any] | dspy.Example | None) -> dict[str, Any]:
    if example is None:
        return {}
    if isinstance(example, dspy.Example):
        marked = getattr(example, "_input_keys", None) is not None
        return dict((example.inputs() if marked else example).items())
    if isinstance(example, Mapping):
        return dict(example)
    raise InputError(f"a plan is made for a dspy.Example or a mapping of inputs, not {type(example).__name__}")


def assumed_inputs(task: TaskSignature, lengths: Lengths) -> dict[str, Any]:
    """Return a placeholder for every input that a call would have to give."""
    text = words(lengths.input)
    return {name: placeholder(task.input_fields[name].annotation, text) for name in needed_inputs(task)}


def placeholder(annotation: Any, text: str) -> Any:
    """Return a value for a field of this type: a small one where it can only be small, else ``text``."""
    if annotation is bool:
        return True
    if annotation in (int, float):
        return 0
    if get_origin(annotation) is Literal:
        return max(get_args(annotation), key=lambda choice: len(str(choice)))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return max(annotation, key=lambda choice: len(str(choice.value))).value
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    if annotation_allows_none(annotation) and len(kinds) == 1:
        return placeholder(kinds[0], text)
    return text


def words(tokens: int) -> str:
    """Return a text of so many tokens, whoever counts them."""
    return " ".join([WORD] * tokens)
