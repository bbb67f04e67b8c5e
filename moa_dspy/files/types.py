"""Types of signature fields as JSON, and back, without code.

A program file rebuilds ``list[Invoice]`` in a process that does not have the class: with the same name, fields,
descriptions and limits, so that prompts are byte-identical. Validators are code, so they are not saved.
"""

from __future__ import annotations

import copy
import enum
import functools
import inspect
import json
import re
import types
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from uuid import UUID

import annotated_types
import dspy
import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from moa_dspy.errors import ConfigurationError, ProgramFileError

__all__ = ["decode_type", "encode_type"]

_SIMPLE: Final[dict[str, Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "none": type(None),
    "any": Any,
    "date": date,
    "datetime": datetime,
    "time": time,
    "timedelta": timedelta,
    "decimal": Decimal,
    "uuid": UUID,
    "url": pydantic.HttpUrl,
    "History": dspy.History,
    "Image": dspy.Image,
    "Audio": dspy.Audio,
    "File": dspy.File,
    "Code": dspy.Code,
    "Reasoning": dspy.Reasoning,
    "Tool": dspy.Tool,
    "ToolCalls": dspy.ToolCalls,
}
_GENERIC: Final[dict[str, Any]] = {"list": list, "dict": dict, "tuple": tuple, "set": set, "frozenset": frozenset}
_CODE_MODULE: Final = dspy.Code["python"].__module__  # module of the classes that dspy.Code[...] creates
_LIMITS: Final[dict[str, type[Any]]] = {
    "gt": annotated_types.Gt,
    "ge": annotated_types.Ge,
    "lt": annotated_types.Lt,
    "le": annotated_types.Le,
    "min_length": annotated_types.MinLen,
    "max_length": annotated_types.MaxLen,
    "multiple_of": annotated_types.MultipleOf,
}
# Other settings of a pydantic field or model that change its JSON schema, and so prompts, or the values it accepts.
_FIELD_SETTINGS: Final = (
    *("description", "title", "alias", "validation_alias", "serialization_alias"),
    *("examples", "json_schema_extra", "deprecated", "discriminator"),
)
_MODEL_SETTINGS: Final = (
    *("extra", "title", "json_schema_extra", "strict", "frozen", "use_enum_values", "str_strip_whitespace"),
    *("populate_by_name", "validate_by_name", "validate_by_alias", "serialize_by_alias"),
)
_ENUM_BASES: Final[dict[str, Any]] = {"StrEnum": enum.StrEnum, "IntEnum": enum.IntEnum}
_ENUM_MIXINS: Final[dict[str, Any]] = {"str": str, "int": int, "float": float}


def encode_type(annotation: Any) -> dict[str, Any]:
    """Return ``annotation`` as JSON values.

    Raises:
        ConfigurationError: if the type cannot be rebuilt from data alone.
    """
    return _encode(annotation, ())


def _encode(annotation: Any, open_models: tuple[type[Any], ...]) -> dict[str, Any]:
    if annotation is None:
        annotation = type(None)
    for name, known in _SIMPLE.items():
        if annotation is known:
            return {"type": name}
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _encode_annotated(arguments[0], arguments[1:], open_models)
    if origin is Literal:
        return {"type": "literal", "values": _json_values(annotation, list(arguments))}
    if origin in (Union, types.UnionType):
        return {"type": "union", "of": [_encode(argument, open_models) for argument in arguments]}
    for name, generic in _GENERIC.items():
        if generic in (annotation, origin):
            of = ["..." if argument is Ellipsis else _encode(argument, open_models) for argument in arguments]
            return {"type": name, "of": of}
    if getattr(annotation, "__bases__", None) == (dspy.Code,) and annotation.__module__ == _CODE_MODULE:
        return {"type": "code", "language": annotation.language}
    if inspect.isclass(annotation):
        if issubclass(annotation, enum.Enum) and not issubclass(annotation, enum.Flag):
            return _encode_enum(annotation)
        # Root models and DSPy's own types have more than their fields.
        if issubclass(annotation, pydantic.BaseModel) and not issubclass(annotation, (pydantic.RootModel, dspy.Type)):
            return _encode_model(annotation, open_models)
    raise _unwritable(annotation, "use plain types or pydantic models")


def _encode_annotated(bare: Any, metadata: Iterable[Any], open_models: tuple[type[Any], ...]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for item in metadata:
        if isinstance(item, FieldInfo):
            limits |= _encode_settings(item)
        limits |= _encode_limits(item.metadata if isinstance(item, FieldInfo) else [item])
    encoded = _encode(bare, open_models)
    return {"type": "limited", "is": encoded, "limits": limits} if limits else encoded


def _encode_enum(kind: type[enum.Enum]) -> dict[str, Any]:
    bases = (name for name, base in {**_ENUM_BASES, **_ENUM_MIXINS}.items() if issubclass(kind, base))
    return {
        "type": "enum",
        "name": kind.__name__,
        "base": next(bases, None),
        "doc": kind.__doc__,
        "members": _json_values(kind, {name: member.value for name, member in kind.__members__.items()}),
    }


def _encode_model(model: type[pydantic.BaseModel], open_models: tuple[type[Any], ...]) -> dict[str, Any]:
    if model in open_models:
        raise _unwritable(model, "it refers to itself")
    inner = (*open_models, model)
    documented = model.__doc__ and model.__doc__ != pydantic.BaseModel.__doc__
    config = {key: model.model_config.get(key) for key in _MODEL_SETTINGS if model.model_config.get(key) is not None}
    return {
        "type": "model",
        "name": model.__name__,
        "doc": inspect.cleandoc(model.__doc__ or "") if documented else None,
        "config": _json_values(model, config),
        "fields": {name: _encode_field(field, inner) for name, field in model.model_fields.items()},
    }


def _encode_field(field: FieldInfo, open_models: tuple[type[Any], ...]) -> dict[str, Any]:
    entry: dict[str, Any] = {"is": _encode(field.annotation, open_models), **_encode_settings(field)}
    if limits := _encode_limits(field.metadata):
        entry["limits"] = limits
    if not field.is_required():
        key = "default" if field.default_factory is None else "fresh_default"  # a factory does not show in a schema
        entry[key] = to_jsonable_python(field.get_default(call_default_factory=True, validated_data={}))
    return entry


def _encode_settings(field: FieldInfo) -> dict[str, Any]:
    settings = {key: getattr(field, key) for key in _FIELD_SETTINGS if getattr(field, key) is not None}
    return _json_values(field, settings)


def _encode_limits(metadata: Iterable[Any]) -> dict[str, Any]:
    """Return the limits in ``metadata``. Pydantic keeps a pattern in its own object, and some limits come in groups."""
    limits: dict[str, Any] = {}
    for item in metadata:
        if isinstance(item, annotated_types.GroupedMetadata):
            limits |= _encode_limits(item)
        limits |= {name: getattr(item, name) for name, kind in _LIMITS.items() if isinstance(item, kind)}
        pattern = getattr(item, "pattern", None)
        if pattern is not None:
            limits["pattern"] = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    return _json_values(metadata, limits)


def _json_values(owner: Any, values: Any) -> Any:
    """Return ``values`` if JSON preserves them, else raise an error about their owner."""
    try:
        same = json.loads(json.dumps(values)) == values
    except (TypeError, ValueError):
        same = False
    if not same:
        raise _unwritable(owner, f"it holds values that JSON does not have: {values!r}")
    return values


def _unwritable(annotation: Any, why: str) -> ConfigurationError:
    return ConfigurationError(f"type {annotation!r} cannot be written to a program file; {why}")


def decode_type(data: Any) -> Any:
    """Return the type that ``encode_type`` wrote.

    Raises:
        ProgramFileError: if ``data`` is not such a type.
    """
    try:
        decoded = _decode(data)
        pydantic.TypeAdapter(decoded)  # its parts fit together
    except Exception:  # noqa: BLE001 (invalid data fails in many ways)
        raise ProgramFileError(f"{data!r:.200} is not a type of a field as program.save(...) writes them") from None
    return decoded


def _decode(data: Mapping[str, Any]) -> Any:
    name = data["type"]
    _refuse_references(data)
    if name in _SIMPLE:
        return _SIMPLE[name]
    if name in _GENERIC:
        of = tuple(Ellipsis if part == "..." else _decode(part) for part in data["of"])
        return _GENERIC[name][of] if of else _GENERIC[name]
    if name == "literal":
        values = tuple(data["values"])
        if not values or not all(value is None or isinstance(value, (str, int, float)) for value in values):
            raise TypeError("the choices of a literal must be texts or numbers")
        return Literal[values]
    if name == "union":
        return Union[tuple(_decode(part) for part in data["of"])]  # noqa: UP007 (built from a tuple)
    if name == "limited":
        known = (*_LIMITS, "pattern", *_FIELD_SETTINGS)
        return Annotated[_decode(data["is"]), pydantic.Field(**_only(known, data["limits"]))]
    return _decode_class(json.dumps(data))


@functools.lru_cache(maxsize=1024)
def _decode_class(text: str) -> Any:
    """Return the class for a definition. Equal definitions give one class, as in the original program."""
    data = json.loads(text)
    if data["type"] == "code":
        return dspy.Code[_text(data["language"])]
    return {"enum": _decode_enum, "model": _decode_model}[data["type"]](data)


def _decode_enum(data: Mapping[str, Any]) -> Any:
    base = data["base"]
    functional: Any = enum.Enum if base is None or base in _ENUM_MIXINS else _ENUM_BASES[base]
    made = functional(data["name"], data["members"], **({"type": _ENUM_MIXINS[base]} if base in _ENUM_MIXINS else {}))
    made.__doc__ = _doc(data)
    return made


def _decode_model(data: Mapping[str, Any]) -> Any:
    fields: dict[str, Any] = {}
    for name, entry in data["fields"].items():
        kind = _decode(entry["is"])
        settings = _only(_FIELD_SETTINGS, entry) | _only((*_LIMITS, "pattern"), entry.get("limits", {}))
        fields[name] = (kind, pydantic.Field(**_decode_default(kind, entry), **settings))
    config: Any = _only(_MODEL_SETTINGS, data["config"])
    return pydantic.create_model(data["name"], __config__=config, __doc__=_doc(data), **fields)


def _decode_default(kind: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    key = next((key for key in ("default", "fresh_default") if key in entry), None)
    if key is None:
        return {}
    value = entry[key] if entry[key] is None else pydantic.TypeAdapter(kind).validate_python(entry[key])
    return {"default": value} if key == "default" else {"default_factory": lambda: copy.deepcopy(value)}


def _refuse_references(data: Mapping[str, Any]) -> None:
    """Refuse an address as the name of a type, and references of a JSON schema to anything outside it."""
    if "://" in str(data.get("name", "")):
        raise TypeError("the name of a type is no address")
    settings = [data.get("limits"), data.get("config"), *_values(data.get("fields"))]
    level: list[Any] = [part["json_schema_extra"] for part in settings if part and "json_schema_extra" in part]
    while level:
        value = level.pop()
        if isinstance(value, Mapping):
            if any(str(key).startswith("$") and not str(part).startswith("#") for key, part in value.items()):
                raise TypeError("a schema refers to nothing outside it")
            level += value.values()
        elif isinstance(value, list):
            level += value


def _values(fields: Any) -> list[Any]:
    return list(fields.values()) if isinstance(fields, Mapping) else []


def _only(names: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _doc(data: Mapping[str, Any]) -> str | None:
    return None if data["doc"] is None else _text(data["doc"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} must be a text")
    return value
