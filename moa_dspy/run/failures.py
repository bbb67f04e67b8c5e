"""Failures of models, in words of our own: what went wrong, whether another try may help, whether any ever will."""

from __future__ import annotations

import math
import re
import sys
import traceback
from types import FrameType
from typing import Final

from dspy.utils.exceptions import LMError, LMTimeoutError, LMTransportError, is_retryable_lm_error

from moa_dspy.trace import Failure

__all__ = ["OVERFLOW", "REFUSED", "TRANSIENT", "failure_of", "is_transient", "is_unanswered", "programming_error"]

# Kinds of failures after which another try may succeed, as DSPy's ``is_retryable_lm_error`` has them.
TRANSIENT: Final = frozenset({"rate_limit", "timeout", "server", "transport", "lock_timeout"})
# Kinds that no try of this model will cure while a run lasts: the key, or the account.
REFUSED: Final = frozenset({"auth", "billing"})
# The prompt is longer than the model can read.
OVERFLOW: Final = "context_window_exceeded"

# DSPy knows OpenAI's code for it. vLLM, llama.cpp, OpenRouter, Anthropic's dialect and others say it in words.
_TOO_LONG: Final = re.compile(
    r"(?:maximum|available|exceed\w*|too long|larger)[^.\n]{0,80}\bcontext[ _-]?(?:length|size|window)"
    r"|context[ _-]?(?:length|size|window)[^.\n]{0,80}(?:exceed|too (?:long|small)|larger)"
    r"|exceed_context_size|(?:prompt|input|request)\b[^.\n]{0,30} too (?:long|large)"
    r"|too many (?:input |prompt )?tokens",
    re.IGNORECASE,
)
_PAYLOAD_TOO_LARGE: Final = 413
_PROGRAMMING_ERRORS: Final = (TypeError, AttributeError, NameError, ImportError, NotImplementedError)
_LONGEST: Final = 500  # characters of a message


def failure_of(error: Exception) -> Failure:
    """Return what ``error`` is, for the record."""
    if isinstance(error, TimeoutError):
        return Failure(kind="timeout", message="no reply in time")
    kind = str(getattr(error, "code", None) or type(error).__name__)
    message = " ".join(str(error).split())[:_LONGEST]
    hint = getattr(error, "retry_after", None)
    return Failure(
        kind=OVERFLOW if _says_too_long(error, kind) else kind,
        message=message,
        retry_after=float(hint) if hint is not None and math.isfinite(float(hint)) else None,
    )


def is_transient(error: Exception) -> bool:
    """Return whether another try may succeed."""
    return isinstance(error, TimeoutError) or is_retryable_lm_error(error)


def programming_error(error: Exception) -> Exception | None:
    """Return the programming error in a user's LM that ``error`` is, or was made of; None if it is a model's failure.

    Errors of the same types are raised inside libraries on odd replies of a provider. The code that raised tells them
    apart.
    """
    cause = error.__cause__ if isinstance(error, LMError) else error
    if not isinstance(cause, _PROGRAMMING_ERRORS):
        return None
    frames = [frame for frame, _ in traceback.walk_tb(cause.__traceback__)]
    raised_in = next((frame for frame in reversed(frames) if not _is_standard(frame)), None)
    return cause if raised_in is not None and "-packages" not in raised_in.f_code.co_filename else None


def _is_standard(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in sys.stdlib_module_names


def is_unanswered(error: BaseException) -> bool:
    """Return whether the model may have been at work when ``error`` came instead of a reply."""
    return not isinstance(error, Exception) or isinstance(error, (TimeoutError, LMTimeoutError, LMTransportError))


def _says_too_long(error: Exception, kind: str) -> bool:
    # Only what a provider says: the text of a reply that cannot be parsed is a model's.
    if not isinstance(error, LMError) or kind in TRANSIENT | REFUSED:
        return False
    return getattr(error, "status", None) == _PAYLOAD_TOO_LARGE or _TOO_LONG.search(str(error)) is not None
