"""The output fields in a model's text: found in any notation, and read by the rules of ``moa_dspy.parsing``."""

from __future__ import annotations

import functools
import re
import typing
from collections.abc import Mapping
from typing import Any, Final

from dspy.utils.exceptions import AdapterParseError

from moa_dspy._dspy import apply_output_field_defaults, parse_dspy_value
from moa_dspy.parsing import UnreadableError, find_fields, is_closed, parse_value, split_reasoning, without_end
from moa_dspy.signatures import ADDED, TaskSignature

__all__ = ["is_added", "read_outputs", "unusable", "value_type"]

_SHOWN: Final = 20_000  # characters of a reply in an error
_MARKED: Final = re.compile(r"\[\[|[{<]")  # notations in which a field ends where the next one begins


def unusable(adapter: str, signature: TaskSignature, text: str, why: str) -> AdapterParseError:
    """Return the error for a reply that cannot be parsed into outputs."""
    declared: Any = signature  # declared as an instance, but it is a class
    return AdapterParseError(adapter, declared, text[:_SHOWN], why)


def is_added(field: Any) -> bool:
    """Return whether the program added an output field itself. A reply may lack it."""
    return bool((field.json_schema_extra or {}).get(ADDED))


def value_type(field: Any) -> Any:
    """Return the type of a field with the limits that it declares, such as ``ge=0``.

    A text that is longer than declared is still an answer. Models cannot count their words.
    """
    is_limited = field.metadata and field.annotation is not str and not _is_dspy(field.annotation)
    return typing.Annotated[(field.annotation, *field.metadata)] if is_limited else field.annotation


def read_outputs(
    adapter: str, signature: TaskSignature, completion: str, *, json_first: bool = False
) -> dict[str, Any]:
    """Return the outputs in a completion. If JSON was asked for, other notations are read, too.

    Raises:
        AdapterParseError: if an output is missing or unreadable.
    """
    fields = signature.output_fields
    split = split_reasoning(completion)
    added = [name for name, field in fields.items() if is_added(field)]
    optional: Mapping[str, Any] = {**dict.fromkeys(added, ""), **apply_output_field_defaults(signature, {})}
    required = [name for name in fields if name not in optional] or [name for name in fields if name not in added]
    found = find_fields(split.text, tuple(fields), required, json_first=json_first)
    preamble = found.pop("", [""])[0]
    prose, whole = True, without_end(split.text)
    if not found and len(required) == 1 and _may_be_whole(whole, value_type(fields[required[0]])):
        found, prose = {required[0]: [whole]}, False
    values: dict[str, Any] = {}
    for name, texts in found.items():
        try:
            values[name] = _value(texts, value_type(fields[name]), prose, whole if prose and [name] == required else "")
        except UnreadableError as error:
            if name in added:
                continue
            raise unusable(adapter, signature, completion, f"Failed to parse field {name}: {error}") from error
    if added and added[0] not in values and preamble:
        values[added[0]] = preamble
    values = {**optional, **values}
    if values.keys() != fields.keys():
        missing = ", ".join(name for name in fields if name not in values)
        raise unusable(adapter, signature, completion, f"The LM response has no field {missing}.")
    return {name: values[name] for name in fields}


def _may_be_whole(text: str, annotation: Any) -> bool:
    """Return whether a reply without fields may be the value of the only one: JSON, or a value without free text."""
    if is_closed(annotation):
        return True
    if annotation is str or _is_dspy(annotation):
        return False
    return text.startswith(("{", "[", "```")) or not _has_free_text(annotation)


@functools.lru_cache(maxsize=256)
def _has_free_text(annotation: Any) -> bool:
    """Return whether a type accepts any text, or contains such a type. Dates and decimal numbers do not."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _has_free_text(typing.get_args(annotation)[0])
    kinds = [kind for kind in typing.get_args(annotation) if kind not in (type(None), Ellipsis)]
    if kinds and not is_closed(annotation):
        return any(map(_has_free_text, kinds))
    if annotation in (list, tuple, set, frozenset):
        return True
    try:
        parse_value("a text of no form", annotation, prose=False)
    except UnreadableError:
        return False
    return True


def _value(texts: list[Any], annotation: Any, prose: bool, whole: str) -> Any:
    """Return the value of a field. If the reply has it several times, typed values must agree; text is the first.

    The field may go on with other lines, such as ``Confidence: 90%``. Then ``whole`` says which value is the answer.
    """
    if _is_dspy(annotation):
        try:
            return parse_dspy_value(texts[0], annotation)
        except (ValueError, MemoryError, RecursionError) as error:
            raise UnreadableError(str(error)[:200]) from error
    try:
        values = [_read(text, annotation, prose) for text in (texts[:1] if annotation is str else texts)]
    except UnreadableError:
        if not (whole and is_closed(annotation)) or _MARKED.search(whole):
            raise
        values = [_read(whole, annotation, True)]
    if any(value != values[0] for value in values[1:]):
        raise UnreadableError(f"the reply has different values: {values[:3]!r:.80}")
    return values[0]


def _read(text: Any, annotation: Any, prose: bool) -> Any:
    value = parse_value(text, annotation, prose=prose)
    if annotation is not str:
        return value
    split = split_reasoning(value)
    if not split.ended:
        raise UnreadableError("the field ended in its reasoning")
    return split.text


def _is_dspy(annotation: Any) -> bool:
    """Return whether a type is one of DSPy's, or contains one. They have parsers of their own."""
    if str(getattr(annotation, "__module__", "")).partition(".")[0] == "dspy":
        return True
    return any(_is_dspy(part) for part in typing.get_args(annotation))
