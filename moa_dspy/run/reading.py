"""Check replies of models before DSPy parses them.

DSPy repairs broken JSON with json_repair, whose time grows at least with the square of the text. 25,000 opening braces
take seconds and block the event loop, with all runs and deadlines. So a reply is parsed only if it needs no repair, or
if any repair of it is short.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import dspy
from dspy.lm15 import Request, Response
from dspy.utils.exceptions import AdapterParseError

from moa_dspy._dspy import field_header_pattern
from moa_dspy.signatures import TaskSignature

__all__ = ["Text", "any_visible", "prompt_in", "refuse_endless_repair", "texts_in", "unusable"]

Text: TypeAlias = str | Sequence[Mapping[str, Any]]

# Measured with thousands of patterns: within these limits the slowest repair took half a second.
_LONGEST: Final = 20_000  # characters
_EFFORT: Final = 500_000  # characters times characters that json_repair searches for
_LOOKED_FOR: Final = re.compile(r"[\[\]{}()\"'`\\\u2018\u2019\u201c\u201d]")
# Letters and symbols in Unicode that are invisible: Hangul fillers, and Braille without dots.
_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")
_FENCE: Final = re.compile(r"\A\s*```(?:json)?\s*?\n(.*)\n\s*```\s*\Z", re.DOTALL)


def texts_in(reply: Any) -> list[str]:
    """Return the texts in an LM's return value."""
    if isinstance(reply, Response):
        return [reply.text or ""]
    outputs = reply if isinstance(reply, Sequence) else ()
    return [str((output.get("text") if isinstance(output, Mapping) else output) or "") for output in outputs]


def prompt_in(arguments: Sequence[Any], options: Mapping[str, Any]) -> Text:
    """Return the prompt in an LM's arguments: a text, or messages, which may contain images."""
    asked = arguments[0] if arguments else options.get("messages")
    if isinstance(asked, Request):
        return "\n\n".join([str(asked.system or ""), *(message.text or "" for message in asked.messages)])
    return asked or ""


def any_visible(outputs: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Return whether a named output contains something visible. A value that is not text always does."""
    values = (outputs[name] for name in names if name in outputs)
    return any(not isinstance(value, str) or is_visible(value) for value in values)


def is_visible(text: str) -> bool:
    """Return whether ``text`` contains a visible character."""
    return any(unicodedata.category(letter)[0] not in "CMZ" and letter not in _BLANK for letter in text)


def unusable(adapter: dspy.Adapter, signature: TaskSignature, text: str, why: str) -> AdapterParseError:
    """Return the error for a reply that cannot be parsed into outputs."""
    declared: Any = signature  # declared as an instance, but it is a class
    return AdapterParseError(type(adapter).__name__, declared, text, why)


def refuse_endless_repair(adapter: dspy.Adapter, signature: TaskSignature, text: str, *, first: bool) -> None:
    """Check that a reply needs no long repair.

    Args:
        adapter: the adapter that will parse it.
        signature: the signature of the outputs.
        text: the reply.
        first: whether it answers the adapter's first request; after that DSPy's ChatAdapter asks for JSON.

    Raises:
        AdapterParseError: if it is broken JSON and too long or too nested to repair.
    """
    for part in _to_repair(adapter, signature, text, first):
        if not (_is_short(part) or _is_json(part)):
            raise unusable(
                adapter, signature, text[:_LONGEST], f"broken JSON of {len(part)} characters, too much to repair"
            )


def _to_repair(adapter: dspy.Adapter, signature: TaskSignature, text: str, first: bool) -> Iterator[str]:
    """Yield the parts of ``text`` that DSPy's adapters would repair: all of JSON, else the values of typed fields."""
    if isinstance(adapter, dspy.TwoStepAdapter) and first:
        return  # prose; the next request extracts the fields
    typed = {name for name, field in signature.output_fields.items() if field.annotation is not str}
    if isinstance(adapter, dspy.JSONAdapter) or (isinstance(adapter, dspy.ChatAdapter) and not first):
        yield text
    elif typed:
        sections = list(_sections(text))
        yield from (value for name, value in sections if name in typed) if sections else (text,)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield the fields in ``text``, as DSPy's ChatAdapter finds them."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        header = field_header_pattern.match(line.strip())
        if header is None:
            lines.append(line)
            continue
        if name:
            yield name, "\n".join(lines)
        name, lines = header.group(1), [line[header.end() :]]
    if name:
        yield name, "\n".join(lines)


def _is_short(text: str) -> bool:
    return len(text) <= _LONGEST and len(text) * len(_LOOKED_FOR.findall(text)) <= _EFFORT


def _is_json(text: str) -> bool:
    fenced = _FENCE.match(text)
    try:
        json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True
