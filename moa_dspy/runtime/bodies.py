"""Repair the bookkeeping in a provider's reply before DSPy reads it, so that it never costs the text.

DSPy raises on a fractional token count or on a log-probability of null, and the answer in the same body is lost. Counts
become whole numbers. Counts that cannot be meant are removed, so that the usage is estimated from the texts. Either
way ``MARKER`` in the body says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from moa_dspy.json_safe import json_safe

__all__ = ["MARKER", "counts_are_doubtful", "repair_body"]

MARKER: Final = "_moa_dspy_usage"
"""The key in a body whose usage was repaired."""

IMPOSSIBLE: Final = -9999.0
"""The log-probability by which OpenAI says that a token is impossible."""

_USAGES: Final = ("usage", "usageMetadata", "usage_metadata")
_COUNT: Final = re.compile(r"tokens?\Z|count\Z", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\s*\+?\d[\d,_]{0,14}(?:\.\d{0,9})?\s*\Z")
_MOST: Final = 10**10  # tokens


def repair_body(body: Any, raw: bytes = b"") -> Any:
    """Return a decoded body with readable bookkeeping.

    Args:
        body: the JSON value that a provider sent.
        raw: its bytes. They show cheaply whether it contains lone surrogates or numbers that JSON does not have.
    """
    if not isinstance(body, dict):
        return body
    if re.search(rb"\\u[dD][89a-fA-F]|NaN|Infinity", raw):
        body = {key: _clean(part) for key, part in body.items()}
    for name in _USAGES:
        if body.get(name) is not None:
            body[name] = _repaired_usage(body, body[name])
    for choice in body.get("choices") or () if isinstance(body.get("choices"), list) else ():
        if isinstance(choice, dict):
            _repair_choice(choice)
    return body


def counts_are_doubtful(usage: Any) -> bool:
    """Return whether a usage report contains a count of tokens that is no whole number from 0."""
    if not isinstance(usage, Mapping):
        return usage is not None
    return any(
        value is not None and (type(value) is not int or value < 0 or value > _MOST)
        for name, value in usage.items()
        if name in ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens")
    )


def _clean(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {json_safe(key): _clean(part) for key, part in value.items()}
    return [_clean(part) for part in value] if isinstance(value, list) else json_safe(value)


def _repaired_usage(body: dict[str, Any], usage: Any) -> dict[str, Any]:
    if not isinstance(usage, dict):
        body[MARKER] = "removed"
        return {}
    counted: dict[str, Any] = {}
    for name, value in usage.items():
        if not isinstance(name, str):
            continue
        if _COUNT.search(name):
            count = _whole(value)
            if count is None and value is not None:
                body[MARKER] = "removed"
                return {
                    key: part for key, part in usage.items() if not _COUNT.search(str(key)) and _is_detail(key, part)
                }
            if type(value) is not int and value is not None:
                body[MARKER] = "repaired"
            counted[name] = count
        elif isinstance(value, dict):
            counted[name] = _repaired_details(value)
        elif _is_detail(name, value):
            counted[name] = value
    return counted


def _is_detail(name: str, value: Any) -> bool:
    """Return whether a part of a usage report has the type that DSPy expects of a part of this name."""
    return not name.endswith("_details") or value is None or isinstance(value, dict)


def _repaired_details(details: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _whole(value) if _COUNT.search(str(name)) and not isinstance(value, (dict, list)) else value
        for name, value in details.items()
    }


def _whole(value: Any) -> int | None:
    """Return a count as a whole number, rounded up; None if it cannot be one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and _NUMBER.match(value):
        value = float(value.replace(",", "").replace("_", ""))
    if isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= _MOST:
        return math.ceil(value)
    return None


def _repair_choice(choice: dict[str, Any]) -> None:
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, dict):
        for token in logprobs.get("content") or () if isinstance(logprobs.get("content"), list) else ():
            if isinstance(token, dict):
                _repair_token(token)
    message = choice.get("message")
    if isinstance(message, dict) and message.get("tool_calls") and message.get("content"):
        calls = message["tool_calls"] if isinstance(message["tool_calls"], list) else []
        message["tool_calls"] = [call for call in calls if _is_call(call)]


def _repair_token(token: dict[str, Any]) -> None:
    top = token.get("top_logprobs")
    token["top_logprobs"] = [one for one in top if isinstance(one, dict)] if isinstance(top, list) else []
    for one in (token, *token["top_logprobs"]):
        value: Any = one.get("logprob")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        one["logprob"] = float(value) if is_number else IMPOSSIBLE
        if one.get("token") is None:
            one["token"] = ""
        values = one.get("bytes")
        if not (isinstance(values, list) and all(type(byte) is int and byte >= 0 for byte in values)):
            one["bytes"] = None


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    return isinstance(function, dict) and bool(function.get("name"))
