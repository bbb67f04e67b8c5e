"""The tables of models and prices that LiteLLM and DSPy carry, which they would rather fetch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

__all__ = ["carried_tables"]

_SETTING: Final = "LITELLM_LOCAL_MODEL_COST_MAP"


@contextlib.contextmanager
def carried_tables(*, unless_set: bool = False) -> Iterator[None]:
    """Let LiteLLM and DSPy load the tables that they carry.

    They would fetch newer ones, and without a network try that for ten seconds: too much for a name or an estimate.

    Args:
        unless_set: leave it to the user's environment, where that says anything.
    """
    before = os.environ.get(_SETTING)
    if before is None or not unless_set:
        os.environ[_SETTING] = "True"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_SETTING, None)
        else:
            os.environ[_SETTING] = before
