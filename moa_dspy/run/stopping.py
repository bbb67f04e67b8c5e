"""Stop conditions: end a run before its last layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from moa_dspy.run.aggregation import Answer

__all__ = ["StopCondition", "condition_of"]


@runtime_checkable
class StopCondition(Protocol):
    """Decide after each further layer whether the run ends. Any object with this method can be used as ``early_stop``.

    Example::

        class OnAgreement:
            def stops(self, accepted: Sequence[Answer], newest: Answer, improved: bool | None) -> bool:
                return newest.text == accepted[-1].text
    """

    def stops(self, accepted: Sequence[Answer], newest: Answer, improved: bool | None) -> bool:
        """Return whether the run ends, with the last accepted output as its answer.

        Args:
            accepted: the outputs of the earlier layers, oldest first.
            newest: the output of this layer. It is accepted if the run continues.
            improved: the decision of the residual synthesis; None without one.
        """
        ...


class _WhenNotImproved:
    def stops(self, accepted: Sequence[Answer], newest: Answer, improved: bool | None) -> bool:  # noqa: ARG002
        return improved is not None and not improved


class _Never:
    def stops(self, accepted: Sequence[Answer], newest: Answer, improved: bool | None) -> bool:  # noqa: ARG002
        return False


_WHEN_NOT_IMPROVED, _NEVER = _WhenNotImproved(), _Never()


def condition_of(early_stop: Any) -> StopCondition:
    """Return the condition for ``early_stop``, which is a boolean or a condition."""
    if isinstance(early_stop, bool):
        return _WHEN_NOT_IMPROVED if early_stop else _NEVER
    return early_stop
