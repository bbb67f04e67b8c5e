"""Digests that identify a run: its program, its models, data and metric.

A model is its name, its server and its settings. Servers have a digest of their own, because records of older versions
have none. Keys are not included, so that a run can continue with another key.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import types
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from typing import Any, Final

import dspy
import pydantic
from pydantic_core import to_jsonable_python

from moa_dspy.agents import Agent
from moa_dspy.identity import connection_of
from moa_dspy.program import AttentionMoA

__all__ = [
    "CONNECTION",
    "connection_digest",
    "content_of",
    "describe",
    "digest",
    "fingerprint",
    "identified",
    "ordered",
]

CONNECTION: Final = "connection"
"""The part of a fingerprint, and of what identifies a study, that older versions did not record."""

_BYTES: Final = 8
_COUNTERS = frozenset({"judged", "unparsed", "history", "callbacks"})
_CONSTANTS = (str, bytes, int, float, type, functools.partial)
_EMPTY_CELL = types.CellType()
_connections: ContextVar[list[Any] | None] = ContextVar("moa_dspy_connections", default=None)


def fingerprint(program: dspy.Module, benchmark: str, split: str, seed: int, metric: Any) -> dict[str, Any]:
    """Return the fingerprint of a run. A run is resumed only if all parts are equal.

    The examples are not included, because each record has the digest of its example. A run can therefore be extended to
    more examples.
    """
    lm, adapter = dspy.settings.lm, dspy.settings.adapter  # what programs take from DSPy
    ambient = [describe(lm), None if adapter is None else _name(adapter)]
    return {
        "program": {"name": label(program), "digest": digest([describe(program), ambient])},
        "benchmark": benchmark,
        "split": split,
        "seed": seed,
        "metric": {"name": _name(metric), "digest": digest(describe(metric))},
        CONNECTION: connection_digest(program, metric, lm),
    }


def connection_digest(*values: Any) -> str | None:
    """Return a digest of the servers and further settings of all models in the values; None if there are none."""
    found: list[Any] = []
    token = _connections.set(found)
    try:
        for value in values:
            describe(value)
    finally:
        _connections.reset(token)
    return digest(found) if any(found) else None


def label(program: dspy.Module) -> str:
    """Return a program's name in tables: its class, and for an ``AttentionMoA`` also its agents and layers."""
    if not isinstance(program, AttentionMoA):
        return type(program).__name__
    names = ", ".join(agent.name for agent in program.architecture.agents)
    layers = program.architecture.layers
    return f"{type(program).__name__}({names}; {layers} layer{'' if layers == 1 else 's'})"


def identified(examples: Sequence[dspy.Example]) -> dict[str, dspy.Example]:
    """Return examples by id: their field ``id``, or a digest of their content. Repeated ids are numbered."""
    named: dict[str, dspy.Example] = {}
    for example in examples:
        name = str(example["id"]) if "id" in example else content_of(example)
        unique, number = name, 1
        while unique in named:
            number += 1
            unique = f"{name}#{number}"
        named[unique] = example
    return named


def content_of(example: dspy.Example, size: int = _BYTES) -> str:
    """Return a digest of all fields of an example, of ``size`` bytes."""
    return digest(to_jsonable_python(ordered(example.toDict()), bytes_mode="base64", fallback=str), size)


def ordered(value: Any) -> Any:
    """Return a value with its sets as sorted lists, because the order of sets differs between processes.

    Keys become texts: those of several types cannot be sorted.
    """
    if isinstance(value, Mapping):
        return {str(key): ordered(part) for key, part in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return [ordered(part) for part in value] if isinstance(value, (list, tuple)) else value


def digest(value: Any, size: int = _BYTES) -> str:
    """Return a digest of a JSON value, of ``size`` bytes."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def describe(value: Any) -> Any:
    """Return the identity of a program, metric, judge or setting, as JSON values that are equal in every process."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dspy.BaseLM):
        _note_connection(value)
        return Agent(value).spec("-").model_dump(mode="json")
    if isinstance(value, dspy.Module):
        return _module(value)
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): describe(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if is_dataclass(value) and not isinstance(value, type):
        return {"is": _name(value), **{field.name: describe(getattr(value, field.name)) for field in fields(value)}}
    if isinstance(value, functools.partial):
        return {"is": _name(value), "of": [describe(part) for part in (value.func, value.args, value.keywords)]}
    if inspect.isroutine(value) or isinstance(value, type):
        return {"is": _name(value), "source": _source(value), **_bindings(value)}
    return {"is": _name(value), **_attributes(value)}


def _module(module: dspy.Module) -> dict[str, Any]:
    predictors = {name: _predictor(predictor) for name, predictor in module.named_predictors()}
    if isinstance(module, AttentionMoA):
        for agent in (*module.agents, module.aggregator):
            _note_connection(None if agent is None else agent.lm)
        shape = module.architecture
        own = {"architecture": describe(shape), "budget": describe(module.budget)}
        if custom := {name: _code(getattr(shape, name)) for name in shape.custom_parts}:
            own["custom"] = custom
    elif isinstance(module, dspy.Predict):
        own = {"config": describe(module.config)}
    else:
        own = _attributes(module, without=(dspy.Module,))
    return {"is": _name(module), "predictors": predictors, **own}


def _code(value: Any) -> dict[str, Any]:
    """Return the identity of an object that is used for what it does: its code and its settings, private ones too."""
    attributes = getattr(value, "__dict__", {})
    settings = {name: part for name, part in attributes.items() if isinstance(part, (bool, int, float, str, tuple))}
    return {"object": describe(value), "source": _source(type(value)), "settings": describe(settings)}


def _note_connection(lm: Any) -> None:
    found = _connections.get()
    if found is not None:
        found.append(connection_of(lm))


def _predictor(predictor: dspy.Predict) -> dict[str, Any]:
    state = predictor.dump_state()
    prompt = {key: to_jsonable_python(state.get(key), fallback=str) for key in ("demos", "signature", "fields")}
    return {**prompt, "lm": describe(predictor.lm)}


def _attributes(value: Any, without: tuple[type, ...] = ()) -> dict[str, Any]:
    return {
        name: describe(part)
        for name, part in sorted(getattr(value, "__dict__", {}).items())
        if not name.startswith("_") and name not in _COUNTERS and not isinstance(part, without)
    }


def _name(value: Any) -> str:
    kind = value if inspect.isroutine(value) or isinstance(value, type) else type(value)
    return str(getattr(kind, "__qualname__", kind))


def _bindings(function: Any) -> dict[str, Any]:
    """Return the constants and functions in a function's closure and defaults. Functions of one source differ in them.

    Functions are recorded by name only, because a function may contain itself. Mutable objects, such as lists, are left
    out.
    """
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if cell != _EMPTY_CELL]
    named = getattr(function, "__kwdefaults__", None) or {}
    parts = [*cells, *(getattr(function, "__defaults__", None) or ()), *named.values()]
    held = [
        [_name(part), _source(part)] if inspect.isroutine(part) else describe(part)
        for part in parts
        if isinstance(part, _CONSTANTS) or inspect.isroutine(part)
    ]
    return {"holds": held} if held else {}


def _source(value: Any) -> str | None:
    try:
        return digest(inspect.getsource(value))
    except (OSError, TypeError):
        return None
