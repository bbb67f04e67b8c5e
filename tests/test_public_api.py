"""What users can import: every type in a public signature, and budgets wherever models are called."""

from __future__ import annotations

import ast
import collections.abc
import functools
import importlib
import inspect
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moa_dspy import MoAError, errors

PACKAGES = (
    *("moa_dspy", "moa_dspy.optimizers", "moa_dspy.data", "moa_dspy.evaluation", "moa_dspy.rows", "moa_dspy.batches"),
    *("moa_dspy.planning", "moa_dspy.testing", "moa_dspy.errors", "moa_dspy.run_view", "moa_dspy.local"),
)
CALL_MODELS = (
    *("evaluate", "run", "optimize", "search", "compile", "compare", "measure", "profile", "contributions", "ceiling"),
    *("accept", "fit_stop_rule", "forecast"),
)


@functools.cache
def exported() -> dict[str, Any]:
    modules = [importlib.import_module(name) for name in PACKAGES]
    return {f"{module.__name__}.{name}": getattr(module, name) for module in modules for name in module.__all__}


def parts(kind: Any) -> Iterator[type]:
    if typing.get_origin(kind) is typing.Literal:
        return
    if isinstance(kind, type):
        yield kind
    for argument in (*typing.get_args(kind), typing.get_origin(kind) or ()):
        for one in argument if isinstance(argument, (list, tuple)) else [argument]:
            yield from parts(one)


def annotated(value: Any) -> Iterator[Any]:
    """The functions of a public name, and the class with its fields."""
    if inspect.isfunction(value):
        yield value
    elif isinstance(value, type) and value.__module__.startswith("moa_dspy"):
        yield value
        for name, member in list(vars(value).items()):
            function = getattr(member, "__func__", getattr(member, "fget", getattr(member, "func", member)))
            own = name == "__init__" and not is_dataclass(value)  # of a dataclass, the fields say the same
            if inspect.isfunction(function) and (own or not name.startswith("_")):
                yield function


def hints(value: Any) -> dict[str, Any]:
    """Its annotations. Names that a module imports for type checkers alone are those of the exported names."""
    try:
        return typing.get_type_hints(value)
    except NameError:
        known = {name.rpartition(".")[2]: one for name, one in exported().items()}
        return typing.get_type_hints(value, localns={**vars(collections.abc), "np": np, **known})


@pytest.mark.slow
def test_types_in_public_signatures_are_public() -> None:
    public = {id(value) for value in exported().values()}
    hidden = {
        f"{kind.__module__}.{kind.__qualname__} in {name}"
        for name, value in exported().items()
        for function in annotated(value)
        for annotation in hints(function).values()
        for kind in parts(annotation)
        if kind.__module__.startswith("moa_dspy") and id(kind) not in public
    }
    assert not hidden


@pytest.mark.parametrize("name", CALL_MODELS)
def test_what_calls_models_takes_a_budget(name: str) -> None:
    functions = [value for place, value in exported().items() if place.rpartition(".")[2] == name]
    assert functions
    for function in functions:
        assert inspect.signature(function).parameters["budget"].annotation == "Budget | None"


@pytest.mark.parametrize("name", [name for name in PACKAGES if hasattr(importlib.import_module(name), "__path__")])
def test_errors_can_be_imported_from_the_package_that_raises_them(name: str) -> None:
    package: Any = importlib.import_module(name)
    users = {one for one in errors.__all__ if issubclass(getattr(errors, one), MoAError)} - {"CommandError"}
    raised = {
        used.id
        for path in Path(package.__path__[0]).rglob("*.py")
        if path.parent.name not in ("cli", "commands", "views", "optimizers") or name != "moa_dspy"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and node.exc is not None
        for used in ast.walk(node.exc)
        if isinstance(used, ast.Name) and used.id in users
    }
    assert raised <= set(package.__all__)


def test_a_class_name_has_one_meaning() -> None:
    root = Path(errors.__file__).parents[1]
    places: dict[str, list[str]] = {}
    for folder in ("moa_dspy", "signatures", "optimizers", "data"):
        for path in (root / folder).rglob("*.py"):
            if path.name == "options.py":  # commands are called as what they make
                continue
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(str(path.relative_to(root)))
    assert len(places) > 250
    assert not {name: files for name, files in places.items() if len(files) > 1}
