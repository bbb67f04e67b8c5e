"""Optional packages: which are missing, and the one command that installs them. Code of users, by its place."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

__all__ = [
    "EVAL",
    "MCP",
    "SERVE",
    "imported",
    "install_command",
    "missing_packages",
    "require_eval",
    "why_missing",
]

EVAL: Final[Mapping[str, str]] = {"math_verify": "math-verify", "sklearn": "scikit-learn"}
"""The packages of the extra ``eval``, by module."""

SERVE: Final[Mapping[str, str]] = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "sse_starlette": "sse-starlette",
    "openai": "openai",
}
"""The packages of the extra ``serve``, by module."""

MCP: Final[Mapping[str, str]] = {"mcp": "mcp"}
"""The packages of the extra ``mcp``, by module."""


def missing_packages(packages: Mapping[str, str]) -> list[str]:
    """Return the packages, by module, that are not installed."""
    return [package for module, package in packages.items() if importlib.util.find_spec(module) is None]


def install_command(*packages: str, options: str = "") -> str:
    """Return the command that installs packages into this environment, which may have been made without pip."""
    pip = "pip" if importlib.util.find_spec("pip") is not None else "uv pip"
    return " ".join([pip, "install", *([options] if options else []), *packages])


def why_missing(packages: Mapping[str, str], what: str) -> str | None:
    """Return why a feature cannot be used, with a command that installs all that it lacks; None if it lacks nothing.

    Args:
        packages: what the feature needs, by module.
        what: the feature.
    """
    missing = missing_packages(packages)
    verb = "is" if len(missing) == 1 else "are"
    names = ", ".join(missing)
    return f"{what} needs {names}, which {verb} not installed: {install_command(*missing)}" if missing else None


def require_eval(module: str, what: str) -> str | None:
    """Return why a feature cannot be used, with a command that installs all that the extra ``eval`` lacks; else None.

    Args:
        module: the module that the feature needs.
        what: the feature.
    """
    missing = missing_packages(EVAL)
    if EVAL[module] not in missing:
        return None
    others = [package for package in missing if package != EVAL[module]]
    also = f" ({', '.join(others)} is missing, too)" if others else ""
    return f"{what} needs {EVAL[module]}, which is not installed{also}: {install_command(*missing)}"


def imported(place: str) -> Any:
    """Return the object at ``package.module:name``, or None if the module has no such name.

    The working directory is searched, too. An import can raise anything.
    """
    module, _, name = place.partition(":")
    folder = str(Path.cwd())
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        return getattr(importlib.import_module(module), name, None)
    finally:
        if added:
            sys.path.remove(folder)
