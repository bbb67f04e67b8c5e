"""Classify failures of models: the cause, whether a retry may help, and whether the model is unusable for the run."""

from __future__ import annotations

import math
import re
import sys
import traceback
from types import FrameType
from typing import Final

from dspy.utils.exceptions import (
    LMAuthError,
    LMBillingError,
    LMError,
    LMInvalidRequestError,
    LMProviderError,
    LMRateLimitError,
    LMServerError,
    LMStreamAssemblyError,
    LMTimeoutError,
    LMTransportError,
    is_retryable_lm_error,
)

from moa_dspy.errors import BudgetInterruptError
from moa_dspy.redaction import redacted
from moa_dspy.runtime.reading import Completion
from moa_dspy.trace import Failure

__all__ = [
    "OVERFLOW",
    "REFUSED",
    "TRANSIENT",
    "UNREADABLE",
    "failure_of",
    "is_transient",
    "is_unanswered",
    "programming_error",
    "unfinished",
]

# Kinds of failures that a retry may cure, as in DSPy's ``is_retryable_lm_error``.
TRANSIENT: Final = frozenset({"rate_limit", "timeout", "server", "transport", "lock_timeout"})
# Kinds of failures that last for the whole run: the provider rejected the key or the account.
REFUSED: Final = frozenset({"auth", "billing"})
# The prompt is longer than the model's context window.
OVERFLOW: Final = "context_window_exceeded"
UNREADABLE: Final = "adapter_parse_error"
# The provider's content filter stopped the prompt or the reply.
FILTERED: Final = "content_filter"

# DSPy recognizes only OpenAI's error code. vLLM, llama.cpp, OpenRouter, Anthropic and others report it in words.
_ASKED: Final = r"\b(?:inputs?|prompts?|messages?|requests?|totals?|sequences?)\b"
_TOO_LONG: Final = re.compile(
    r"(?:maximum|available|exceed\w*|too long|larger|longer)[^.\n]{0,80}\bcontext[ _-]?(?:length|size|window|limit)"
    r"|context[ _-]?(?:length|size|window)[^.\n]{0,80}(?:exceed|too (?:long|small)|larger)"
    rf"|exceed_context_size|{_ASKED}[^.\n]{{0,30}} too (?:long|large)|too many (?:input |prompt )?tokens"
    rf"|{_ASKED}[^.\n]{{0,60}}\b(?:tokens?|length)\b[^.\n]{{0,60}}(?:exceed|longer than|larger than|must be <)"
    rf"|\b(?:tokens?|length)\b[^.\n]{{0,30}}{_ASKED}[^.\n]{{0,20}}(?:exceed|too long)"
    rf"|exceed[^.\n]{{0,30}}\btoken[ _-]limit|(?:maximum|range of) {_ASKED}[ _-]length"
    rf"|reduce the length of[^.\n]{{0,30}}{_ASKED}|超长|超过[^。\n]{{0,12}}(?:长度|上下文)",
    re.IGNORECASE,
)
_PER_TIME: Final = re.compile(
    r"\bper[ _-]?(?:sec|min|hour|day)|\b[TR]P[SMHD]\b|\b(?:daily|monthly|quota)\b", re.IGNORECASE
)
# Providers report a filtered prompt as an error of status 400 or 403.
_FILTERED: Final = re.compile(
    r"content[ _-]?(?:filter|policy|management polic|moderation)|responsible ?ai|content exists risk"
    r"|data_?inspection|(?:inappropriate|prohibited|sensitive|unsafe|harmful) content"
    r"|flagged[^.\n]{0,30}(?:moderation|safety|policy)|safety (?:system|filter|polic)|敏感内容",
    re.IGNORECASE,
)
_PAYLOAD_TOO_LARGE: Final = 413
_NOT_IMPLEMENTED: Final = 501
# Statuses below 500 that DSPy takes for lasting errors, although the same request may succeed later: OpenAI's and
# Anthropic's clients retry a conflict (409), a server may ask to send early data again (425, RFC 8470), and Groq's
# flex tier is full (498).
_LATER: Final = {409: LMServerError, 425: LMServerError, 498: LMRateLimitError}
# Errors inside a successful response, by HTTP status or by the words of their code.
_BY_STATUS: Final = {
    400: LMInvalidRequestError,
    401: LMAuthError,
    402: LMBillingError,
    403: LMAuthError,
    404: LMInvalidRequestError,
    408: LMTimeoutError,
    422: LMInvalidRequestError,
    429: LMRateLimitError,
    **_LATER,
}
_BY_WORD: Final = (
    (re.compile(r"rate.?limit|too.?many|throttl", re.IGNORECASE), LMRateLimitError),
    (re.compile(r"quota|billing|credit|balance|payment", re.IGNORECASE), LMBillingError),
    (re.compile(r"api.?key|auth|permission|forbidden", re.IGNORECASE), LMAuthError),
    (re.compile(r"time.?out|timed.?out|deadline", re.IGNORECASE), LMTimeoutError),
    (
        re.compile(r"server|overload|unavailable|internal|upstream|gateway|network|abort|insufficient", re.IGNORECASE),
        LMServerError,
    ),
)
_SERVER_ERROR: Final = 500
_PROGRAMMING_ERRORS: Final = (TypeError, AttributeError, NameError, ImportError, NotImplementedError)
_LONGEST: Final = 500  # characters of a message
_READ: Final = 8 * _LONGEST  # before it is cut, so that no half of a key is left at its end


def failure_of(error: Exception) -> Failure:
    """Return the recorded form of ``error``."""
    if isinstance(error, TimeoutError):
        return Failure(kind="timeout", message="no reply in time")
    later = _kind_by_status(error)
    kind = str((later.default_code if later else getattr(error, "code", None)) or type(error).__name__)
    message = redacted(" ".join(str(error).split())[:_READ])[:_LONGEST]
    hint = getattr(error, "retry_after", None)
    return Failure(
        kind=OVERFLOW if _says_too_long(error, kind) else FILTERED if _says_filtered(error, kind) else kind,
        message=message,
        retry_after=float(hint) if hint is not None and math.isfinite(float(hint)) else None,
    )


def unfinished(completion: Completion, model: str) -> LMError | None:
    """Return the error for a reply that did not finish, with the provider's words; None if it has an answer.

    A reply that was cut off at ``max_tokens`` in its answer has one. It is marked, and not an error.
    """
    said = f": {completion.words}" if completion.words else ""
    match completion.end:
        case "refused":
            return LMProviderError(f"the model refused to answer{said}", code="refusal", model=model)
        case "filtered":
            return LMProviderError(f"the provider's content filter ended the reply{said}", code=FILTERED, model=model)
        case "failed":
            return _provider_error(completion, model)
        case "truncated" if not completion.answered:
            where = "while still reasoning" if completion.reasoning else "before there was any text"
            return LMProviderError(
                f"the reply was cut at max_tokens {where}; raise max_tokens", code="truncated", model=model
            )
    return None


def _provider_error(completion: Completion, model: str) -> LMError:
    """Return the error that a successful response contains, as if the provider had sent its code as HTTP status."""
    code, words = completion.code, completion.words or "the provider ended the reply with an error"
    status = int(code) if code.isascii() and code.isdigit() and len(code) <= 3 else None
    kind: type[LMError]
    if status is not None:
        kind = LMServerError if status >= _SERVER_ERROR else _BY_STATUS.get(status, LMProviderError)
    else:
        named = (kind for form, kind in _BY_WORD if form.search(f"{code} {words}"))
        kind = next(named, LMServerError if not code else LMProviderError)
    return kind(words, model=model, provider_code=code or None, status=status)


def is_transient(error: Exception) -> bool:
    """Return whether a retry may succeed."""
    if getattr(error, "status", None) == _NOT_IMPLEMENTED:
        return False
    return isinstance(error, TimeoutError) or is_retryable_lm_error(error) or _kind_by_status(error) is not None


def _kind_by_status(error: Exception) -> type[LMError] | None:
    """Return the class of error that a status means, if DSPy does not know it."""
    return _LATER.get(getattr(error, "status", None) or 0) if isinstance(error, LMError) else None


def programming_error(error: Exception) -> Exception | None:
    """Return the programming error in a user's LM that caused ``error``, or None if the model failed.

    Libraries raise the same types on malformed provider replies. The file of the raising code decides.
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
    """Return whether the model may have worked on a call that ended with ``error``."""
    if isinstance(error, BudgetInterruptError):
        return False  # raised instead of the call
    cut_short = (TimeoutError, LMTimeoutError, LMTransportError, LMStreamAssemblyError)
    return not isinstance(error, Exception) or isinstance(error, cut_short)


def _says_too_long(error: Exception, kind: str) -> bool:
    # Only provider messages count. The text of a parse error comes from a model.
    if not isinstance(error, LMError) or kind in TRANSIENT | REFUSED:
        return False
    if getattr(error, "status", None) == _PAYLOAD_TOO_LARGE:
        return True
    return _TOO_LONG.search(str(error)) is not None and not _PER_TIME.search(str(error))


def _says_filtered(error: Exception, kind: str) -> bool:
    # As an error of the key, it would take the model out of the run.
    return isinstance(error, LMError) and kind not in TRANSIENT and _FILTERED.search(str(error)) is not None
