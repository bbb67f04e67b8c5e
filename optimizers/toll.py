"""The budget of a prompt optimizer of DSPy's: every call to a language model is let through, or refused, one by one."""

from __future__ import annotations

import threading
from typing import Any, Final

from dspy.utils.callback import BaseCallback

from moa_dspy.optimizers.purse import Purse, SpentError

__all__ = ["Toll"]

_SETTLED_WITHIN: Final = 30.0


class Toll(BaseCallback):
    """Lets a call begin where a purse covers it, whoever makes it: an agent, or the model that writes prompts.

    Args:
        purse: what may be spent.
    """

    def __init__(self, purse: Purse) -> None:
        super().__init__()
        self._purse = purse
        self._under_way: set[str] = set()
        self._changed = threading.Condition()

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Let a call begin (called by DSPy); one that asks for several completions may be as many requests.

        Raises:
            SpentError: the purse does not cover it.
        """
        asked = {**getattr(instance, "kwargs", {}), **inputs.get("kwargs", {})}
        with self._changed:
            if not self._purse.covers(asked.get("n") or 1):
                raise SpentError
            self._under_way.add(call_id)

    def on_lm_end(self, call_id: str, outputs: dict[str, Any] | None, exception: BaseException | None = None) -> None:
        """Note that a call has ended (called by DSPy)."""
        del outputs, exception
        with self._changed:
            self._under_way.discard(call_id)
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait for the calls that are under way, so that what they cost is counted: half a minute at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, _SETTLED_WITHIN)
