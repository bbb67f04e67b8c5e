"""Adapt requests to what a model accepts: known limits, and what its server has rejected.

A server that rejects the system role gets the instructions in the first user message. A rejected sampling option is
left out. A rejected name of ``max_tokens`` is replaced by the other name. What was learned holds as long as the LM
lives.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from weakref import WeakKeyDictionary

import dspy
from dspy.lm15 import Message, Request, TextPart
from dspy.utils.exceptions import LMError

from moa_dspy.agents import SAMPLING_OPTIONS
from moa_dspy.model_limits import takes_system
from moa_dspy.runtime.failures import OVERFLOW, REFUSED, failure_of

__all__ = ["STREAM", "learn", "rejected_by", "without"]

Call = tuple[tuple[Any, ...], dict[str, Any]]

SYSTEM: Final = "system"
STREAM: Final = "stream"
"""Stands in what a model rejects for replies in parts."""
# Options without which a request still asks the same.
_OPTIONAL: Final = SAMPLING_OPTIONS - {"stop"} | {"temperature"}
_LIMITS: Final = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_SPELT: Final = {name: re.compile(rf"\b{name.replace('_', '_?')}\b", re.IGNORECASE) for name in (*_OPTIONAL, *_LIMITS)}
_REFUSING: Final = re.compile(
    r"(?:not|n't|cannot|can't|no longer) (?:both )?(?:be )?"
    r"(?:support|permit|allow|accept|enable|implement|specif|use|recogni[sz]|available|a valid)"
    r"|unsupported|unrecogni[sz]ed|unknown|unexpected|deprecated|forbidden|extra (?:inputs|fields)|extra_forbidden"
    r"|incompatible|disabled|\bis fixed|only (?:the )?(?:default|1\b|user and assistant)|only [\d.]+ is allowed"
    r"|(?:must|should|may only|can only) be (?:set to )?(?:1\b|1\.0|the default|unset|omitted|[\d.]+ (?:for|on) this)"
    r"|only supports? [`'\"]?(?:temperature|top_p)\b|invalid role|role must be one of",
    re.IGNORECASE,
)
_SYSTEM_ROLE: Final = re.compile(
    r"\b(?:system|developer)['\"`]?[ -](?:role|message|prompt|instruction)"
    r"|\broles?\b[^\n]{0,60}\bsystem\b|messages?\[0\]\.role"
    r"|roles must alternate|only user and assistant roles",
    re.IGNORECASE,
)
_ALTERNATE: Final = re.compile(r"roles must alternate", re.IGNORECASE)
_NOT_ABOUT_OPTIONS: Final = REFUSED | {OVERFLOW, "rate_limit", "timeout", "transport", "lock_timeout"}

_rejected: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def rejected_by(lm: Any) -> set[str]:
    """Return what ``lm`` is known to reject: names of options, or ``system`` for the role. ``learn`` adds to it."""
    is_routed = isinstance(lm, dspy.LM) and isinstance(lm.engine, str)  # else its name may be no provider's
    known = {SYSTEM} if is_routed and not takes_system(lm.model) else set[str]()
    try:
        return _rejected.setdefault(lm, known)
    except TypeError:  # an LM that cannot be a key keeps it for one run
        return known


def learn(lm: Any, rejected: set[str], error: Exception, args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    """Add to ``rejected`` what the server rejected of a sent call. Return whether it may succeed without that."""
    found = {name for name in rejected_in(error) if _contains(name, lm, args, options)}
    rejected |= found
    return bool(found)


def rejected_in(error: Exception) -> list[str]:
    """Return what a provider's error says it rejects: names of options, or ``system`` for the role."""
    if not isinstance(error, LMError) or failure_of(error).kind in _NOT_ABOUT_OPTIONS:
        return []
    text = str(error)
    if _ALTERNATE.search(text) or (_SYSTEM_ROLE.search(text) and _REFUSING.search(text)):
        return [SYSTEM]
    if not _REFUSING.search(text):
        return []
    named = [(match.start(), name) for name, spelt in _SPELT.items() if (match := spelt.search(text))]
    first = [name for _, name in sorted(named) if name in _LIMITS][:1]  # the other name is the advice
    return [name for _, name in sorted(named) if name in _OPTIONAL] + first


def without(lm: Any, names: set[str], args: tuple[Any, ...], options: Mapping[str, Any]) -> Call:
    """Return the arguments of a call without the system role and the options of these names."""
    if args and isinstance(args[0], Request):
        return (_request_without(args[0], names), *args[1:]), dict(options)
    changed = dict(options)
    messages = changed.get("messages")
    if SYSTEM in names and isinstance(messages, list):
        # In place: DSPy knows the list that its adapter made for this call by its identity.
        messages[:] = _folded(messages)
    changed |= {name: None for name in names if name in _OPTIONAL}
    limit = next((name for name in names if name in _LIMITS), None)
    tokens = _limit_in(lm, options)
    if limit is not None and tokens is not None:
        # DSPy's own engine renames the limit, so it goes into the body as it is.
        body = {**(changed.get("extra_body") or {}), _LIMITS[limit]: tokens}
        changed |= {**dict.fromkeys(_LIMITS), "extra_body": body}
    return args, changed


def _contains(name: str, lm: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    request = args[0] if args and isinstance(args[0], Request) else None
    if name == SYSTEM:
        if request is not None:
            return bool(request.system)
        return any(message.get("role") in ("system", "developer") for message in options.get("messages") or ())
    if request is not None:
        if name in _LIMITS:
            return request.config.max_tokens is not None
        if name == "reasoning_effort":
            return request.config.reasoning is not None
        extensions = request.config.extensions or {}
        return getattr(request.config, name, None) is not None or extensions.get(name) is not None
    given = {**getattr(lm, "kwargs", {}), **options}
    if name in _LIMITS:
        return _limit_in(lm, options) is not None and name not in (given.get("extra_body") or {})
    return given.get(name) is not None


def _limit_in(lm: Any, options: Mapping[str, Any]) -> int | None:
    given = {**getattr(lm, "kwargs", {}), **options}
    return next((given[name] for name in _LIMITS if given.get(name) is not None), None)


def _request_without(request: Request, names: set[str]) -> Request:
    config = request.config
    fields: dict[str, Any] = {name: None for name in names if name in _OPTIONAL and hasattr(config, name)}
    if "reasoning_effort" in names:
        fields["reasoning"] = None
    extensions = {name: value for name, value in (config.extensions or {}).items() if name not in names}
    limit = next((name for name in names if name in _LIMITS), None)
    if limit is not None and config.max_tokens is not None:
        fields["max_tokens"] = None
        extensions[_LIMITS[limit]] = config.max_tokens
    changed = replace(request, config=replace(config, **fields, extensions=extensions or None))
    if SYSTEM not in names or not changed.system:
        return changed
    system = changed.system if isinstance(changed.system, str) else "".join(
        getattr(part, "text", "") for part in changed.system
    )  # fmt: skip
    first, *rest = changed.messages
    if first.role == "user":
        text = first.text if all(isinstance(part, TextPart) for part in first.parts) else None
        whole = Message.user(f"{system}\n\n{text}")
        start = whole if text is not None else replace(first, parts=(TextPart(f"{system}\n\n"), *first.parts))
        return replace(changed, system=None, messages=(start, *rest))
    return replace(changed, system=None, messages=(Message.user(system), first, *rest))


def _folded(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages in OpenAI's format with the instructions at the start of the first user message."""
    instructions = [_text(one["content"]) for one in messages if one.get("role") in ("system", "developer")]
    turns = [dict(one) for one in messages if one.get("role") not in ("system", "developer")]
    system = "\n\n".join(text for text in instructions if text)
    if not system:
        return turns
    if not turns or turns[0].get("role") != "user":
        return [{"role": "user", "content": system}, *turns]
    content = turns[0]["content"]
    if isinstance(content, str):
        turns[0]["content"] = f"{system}\n\n{content}"
    else:
        turns[0]["content"] = [{"type": "text", "text": f"{system}\n\n"}, *content]
    return turns


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or () if isinstance(part, Mapping))
