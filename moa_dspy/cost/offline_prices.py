"""The tables of models and prices that LiteLLM and DSPy carry, which they would rather fetch."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Final

__all__ = ["carried_tables"]

_SETTING: Final = "LITELLM_LOCAL_MODEL_COST_MAP"

_lock = threading.Lock()
_before: list[str | None] = []  # what the environment said, once for each use under way; the first is the user's


@contextlib.contextmanager
def carried_tables(*, unless_set: bool = False) -> Iterator[None]:
    """Let LiteLLM and DSPy load the tables that they carry.

    They would fetch newer ones, and without a network try that for ten seconds: too much for a name or an estimate.

    Args:
        unless_set: leave it to the user's environment, where that says anything.
    """
    with _lock:
        _before.append(os.environ.get(_SETTING))
        if _before[0] is None or not unless_set:
            os.environ[_SETTING] = "True"
    try:
        yield
    finally:
        with _lock:
            users = _before[0]
            _before.pop()  # whichever of them: all but the first only count
            if not _before and users is None:
                os.environ.pop(_SETTING, None)
            elif not _before and users is not None:
                os.environ[_SETTING] = users
