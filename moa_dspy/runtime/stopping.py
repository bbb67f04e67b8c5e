"""The built-in stop conditions: when a run ends before its last layer."""

from __future__ import annotations

from collections.abc import Sequence

from moa_dspy.protocols import Answer, StopCondition

__all__ = ["condition_of"]


class _WhenNotImproved:
    def stops(self, accepted: Sequence[Answer], newest: Answer, improved: bool | None) -> bool:  # noqa: ARG002
        return improved is not None and not improved


class _Never:
    def stops(self, accepted: Sequence[Answer], newest: Answer, improved: bool | None) -> bool:  # noqa: ARG002
        return False


def condition_of(early_stop: bool | StopCondition) -> StopCondition:
    """Return the condition for ``early_stop``, which is a boolean or a condition."""
    if isinstance(early_stop, bool):
        return _WhenNotImproved() if early_stop else _Never()
    return early_stop
