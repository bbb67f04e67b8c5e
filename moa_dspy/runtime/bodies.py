"""Repair the bookkeeping in a provider's reply before DSPy reads it, so that it never costs the text.

DSPy raises on a fractional token count or on a log-probability of null, and the answer in the same body is lost. Counts
become whole numbers. Counts that cannot be meant are removed, so that the usage is estimated from the texts. Either
way ``MARKER`` in the body says so. An error in place of an answer becomes one choice with that error, whatever the
body calls it, so that it is handled by its code and its words.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from moa_dspy.json_safe import json_safe
from moa_dspy.runtime.contents import flat_content

__all__ = ["MARKER", "counts_are_doubtful", "repair_body", "repair_chunk", "repair_error"]

MARKER: Final = "_moa_dspy_usage"
"""The key in a body whose usage was repaired."""

IMPOSSIBLE: Final = -9999.0
"""The log-probability by which OpenAI says that a token is impossible."""

_USAGES: Final = ("usage", "usageMetadata", "usage_metadata")
_COUNT: Final = re.compile(r"tokens?\Z|count\Z", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\s*\+?\d[\d,_]{0,14}(?:\.\d{0,9})?\s*\Z")
_MOST: Final = 10**10  # tokens
_CODE_NAMES: Final = {
    "401": "invalid_api_key",
    "402": "insufficient_quota",
    "429": "rate_limit_exceeded",
    **dict.fromkeys(("500", "502", "503", "504", "None"), "server_error"),
}
# Where bodies have an error's words and code, if not in "error".
_WORDS: Final = ("message", "msg", "detail", "error_msg", "status_msg", "errors")
_CODES: Final = ("code", "error_code", "status_code", "status")
_ERRORS: Final = (*_WORDS, *_CODES, "error", "base_resp", "success", "timestamp", "path", "id", "request_id")


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
    error = _error_in(body)
    if error is not None and body.get("type") != "error":  # Anthropic's errors have this type, and are read by DSPy
        failed = {"index": 0, "finish_reason": "error", "message": {"content": ""}, "error": error}
        return {**{key: part for key, part in body.items() if key != "error"}, "choices": [failed]}
    if isinstance(body.get("choices"), list):
        _repair_choices(body)
    return body


def repair_error(text: str) -> str:
    """Return the text of a response that is an error, with the error in the place where OpenAI has it."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text
    body = body[0] if isinstance(body, list) and body else body
    if not isinstance(body, dict) or (isinstance(body.get("error"), (str, dict)) and body["error"]):
        return json.dumps(body) if isinstance(body, dict) else text
    error = _error_in(body)
    return text if error is None else json.dumps({"error": error})


def repair_chunk(text: str) -> str:
    """Return a part of a streamed completion with readable bookkeeping. Its errors have OpenAI's names for codes."""
    try:
        chunk = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(chunk, dict):
        return text
    if chunk.get("usage") is not None:
        chunk["usage"] = _repaired_usage(chunk, chunk["usage"]) or None
    error = chunk.get("error")
    if error and isinstance(error, (str, dict)):
        error = {"message": error} if isinstance(error, str) else error
        return json.dumps({"error": {**error, "code": _CODE_NAMES.get(str(error.get("code")), error.get("code"))}})
    for choice in chunk.get("choices") or () if isinstance(chunk.get("choices"), list) else ():
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if not isinstance(delta, dict):
            continue
        content, calls = delta.get("content"), delta.get("tool_calls")
        if isinstance(content, (list, dict)):
            delta["content"], reasoning = flat_content(content)
            if reasoning:
                delta["reasoning_content"] = reasoning
        if isinstance(calls, list):
            delta["tool_calls"] = [call for call in calls if _is_call(call) or _arguments(call)]
    return json.dumps(chunk)


def _error_in(body: dict[str, Any]) -> Any:
    """Return the error that a body contains in place of an answer; None if there is none."""
    if body.get("choices") or body.keys() & {"output", "candidates", "data"}:  # Responses, Gemini and embeddings
        return None
    error = body.get("error")
    if isinstance(error, (str, dict)) and error:
        return error
    if any(part and isinstance(part, (dict, list)) for key, part in body.items() if key not in _ERRORS):
        return None
    base = body["base_resp"] if isinstance(body.get("base_resp"), dict) else body
    words = next((base[name] for name in _WORDS if base.get(name)), None)
    if words is None or (isinstance(words, dict) and "content" in words):
        return None
    code = next((base[name] for name in _CODES if base.get(name)), None)
    said = words if isinstance(words, str) else json.dumps(words, ensure_ascii=False)[:1000]
    return {"message": said, "code": None if code is None else str(code)}


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


def _repair_choices(body: dict[str, Any]) -> None:
    """Leave the choices that are some, without errors that say nothing."""
    choices = [choice for choice in body["choices"] if isinstance(choice, dict)]
    for choice in choices:
        _repair_choice(choice)
    # No request asks for more than one. DSPy refuses a body with several, and the answer in it would be lost.
    body["choices"] = [next(filter(_says_something, choices), choices[0])] if choices else choices
    for holder in (body, *choices):
        error = holder.get("error")
        if isinstance(error, dict) and not any(error.values()):
            del holder["error"]


def _repair_choice(choice: dict[str, Any]) -> None:
    if not isinstance(choice.get("message"), dict) and isinstance(choice.get("delta"), dict):
        choice["message"] = choice["delta"]
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, dict):
        for token in logprobs.get("content") or () if isinstance(logprobs.get("content"), list) else ():
            if isinstance(token, dict):
                _repair_token(token)
    message = choice.get("message")
    if not isinstance(message, dict):
        return
    content = message.get("content")
    if type(content) in (int, float) or (isinstance(content, dict) and not content.keys() & {"type", "text", "parts"}):
        message["content"] = json.dumps(content, ensure_ascii=False)
    if message.get("tool_calls") and content:
        calls = message["tool_calls"] if isinstance(message["tool_calls"], list) else []
        message["tool_calls"] = [call for call in calls if _is_call(call)]


def _says_something(choice: dict[str, Any]) -> bool:
    message = choice.get("message")
    said = message.get("content") if isinstance(message, dict) else choice.get("text")
    return bool(flat_content(said)[0].strip())


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


def _arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    return function.get("arguments") if isinstance(function, dict) else None


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    return isinstance(function, dict) and bool(function.get("name"))
