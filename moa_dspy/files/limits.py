"""Limits of a program file, checked on its JSON values before anything is built from them.

Types are built by code whose time grows faster than their size: a literal of 200,000 values took 14 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from moa_dspy.errors import ConfigurationError

__all__ = ["check_size"]

_TASK_VALUES: Final = 20_000  # JSON values in all fields of the task together
_DEPTH: Final = 100  # JSON values around one another in the task
_AGENTS: Final = 1_000
_LAYERS: Final = 1_000
_CALLS: Final = 1_000_000


def check_size(content: Mapping[str, Any]) -> None:
    """Check that the task and the architecture of a program file are of a size that a program can have.

    Values of a wrong type are left to other checks.

    Raises:
        ConfigurationError: if a limit is exceeded.
    """
    _check_task(content.get("task"))
    shape = content.get("architecture")
    if not isinstance(shape, Mapping):
        return
    agents, layers = shape.get("agents"), shape.get("layers", 2)
    count = len(agents) if isinstance(agents, list | tuple) else 0
    if count > _AGENTS:
        raise ConfigurationError(f"it has {count:,} agents; a program file may have {_AGENTS:,}")
    if not isinstance(layers, int):
        return
    if layers > _LAYERS:
        raise ConfigurationError(f"it has {_shown(layers)} layers; a program file may have {_LAYERS:,}")
    critics = count if shape.get("attention", "full") != "none" else 1
    if count * critics * layers > _CALLS:
        raise ConfigurationError(f"its runs have more than {_CALLS:,} calls; use fewer agents or layers")


def _shown(number: int) -> str:
    return f"{number:,}" if number.bit_length() < 64 else "more than 10**18"


def _check_task(task: Any) -> None:
    level, count, depth = [task], 0, 0
    while level:
        count, depth = count + len(level), depth + 1
        if count > _TASK_VALUES:
            raise ConfigurationError(
                f"the types of its fields have more than {_TASK_VALUES:,} parts; use a plain str for so many choices"
            )
        if depth > _DEPTH:
            raise ConfigurationError(f"the types of its fields are nested more than {_DEPTH} levels deep")
        level = [part for value in level for part in _parts(value)]


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []
