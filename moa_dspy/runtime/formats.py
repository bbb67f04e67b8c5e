"""Which adapters a role's replies are asked for and read with, in which order."""

from __future__ import annotations

import functools
from typing import Any, Final

import dspy

from moa_dspy._dspy import enforces_schema
from moa_dspy.architecture import Architecture
from moa_dspy.runtime.adapters import PlainTextAdapter, lenient
from moa_dspy.runtime.answer_line import AnswerLineAdapter, has_answer_line
from moa_dspy.signatures import Roles, TaskSignature, is_free_text

__all__ = ["adapters_for", "default_adapters", "most_calls", "most_requests"]

_PLAIN: Final = PlainTextAdapter()
_LINE: Final = AnswerLineAdapter()
# The JSON fallback inside ChatAdapter is off, so that calls can be counted.
_CHAT: Final = lenient(dspy.ChatAdapter(use_json_adapter_fallback=False), inputs_first=True)
_JSON: Final = lenient(dspy.JSONAdapter(), inputs_first=True)


def adapters_for(
    signature: TaskSignature, lm: dspy.BaseLM, configured: dspy.Adapter | None
) -> tuple[dspy.Adapter, ...]:
    """Return the adapters to try for ``signature`` on ``lm``, in order, until a completion can be parsed.

    An adapter that the user configured is the only one. Of the defaults, each attempt is one LM call, except the answer
    line, which may ask a second time.
    """
    hashable: Any = signature
    return default_adapters(hashable, enforces_schema(lm)) if configured is None else (configured,)


@functools.lru_cache(maxsize=256)
def default_adapters(signature: Any, json_first: bool) -> tuple[dspy.Adapter, ...]:
    """Return the adapters to try for ``signature`` in order; JSON first if the server enforces a schema."""
    if is_free_text(signature):
        return (_PLAIN,)
    if has_answer_line(signature):
        return (_LINE, _JSON)
    return (_JSON, _CHAT) if json_first else (_CHAT, _JSON)


def most_requests(signature: TaskSignature, configured: dspy.Adapter | None = None) -> int:
    """Return how often a step asks its model if no reply can be read: in another format, or for the value alone.

    Requests that are repeated after an error of the provider, or because the response cache holds an unusable reply,
    are not counted.
    """
    if configured is None:
        return 1 if is_free_text(signature) else 2
    if isinstance(configured, dspy.ChatAdapter) and not isinstance(configured, dspy.JSONAdapter):
        return 2 if getattr(configured, "use_json_adapter_fallback", False) else 1
    return 2 if isinstance(configured, dspy.TwoStepAdapter) else 1


def most_calls(architecture: Architecture, roles: Roles, configured: dspy.Adapter | None = None) -> int:
    """Return the largest number of calls of a run in which no reply can be read at once, and no step fails."""
    calls = architecture.calls_per_role
    calls["critique"] += architecture.spare_critiques
    return sum(count * most_requests(getattr(roles, role), configured) for role, count in calls.items())
