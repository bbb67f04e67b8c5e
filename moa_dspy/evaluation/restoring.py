"""A prediction as it was, from the JSON values of its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dspy
import pydantic

__all__ = ["restored"]


def restored(program: dspy.Module, outputs: Mapping[str, Any]) -> dspy.Prediction | None:
    """Return the prediction that a program gave, its values of the types that the program's signature says.

    Args:
        program: whose prediction it is.
        outputs: its fields as JSON values.

    Returns:
        None where a type is not known: a value that is no text, number or list of these may have been an object.
    """
    types = _output_types(program)
    values: dict[str, Any] = {}
    for name, value in outputs.items():
        if name not in types and not _is_plain(value):
            return None
        try:
            values[name] = pydantic.TypeAdapter(types[name]).validate_python(value) if name in types else value
        except (pydantic.ValidationError, pydantic.errors.PydanticUserError):
            return None
    return dspy.Prediction(**values)


def _output_types(program: dspy.Module) -> dict[str, Any]:
    """Types by output field; those of a module with one predictor are the predictor's."""
    signature = getattr(program, "signature", None)
    predictors = program.predictors()
    if signature is None and len(predictors) == 1:
        signature = predictors[0].signature
    fields = getattr(signature, "output_fields", None) or {}
    return {name: field.annotation for name, field in fields.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float))
