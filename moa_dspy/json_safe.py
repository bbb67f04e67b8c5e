"""Text that JSON, files and terminals can hold: models and files can contain text and numbers that they cannot."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

__all__ = ["escaped_json", "json_safe", "json_text", "printable"]

_SURROGATES: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
# Controls of terminals (C0 but tab and newline, DEL, C1), the characters that reorder a line (bidirectional embeddings,
# overrides and isolates), line separators, invisible tags, and lone surrogates.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff\U000e0000\U000e0001]"
)


def json_safe(value: Any) -> Any:
    """Return ``value`` with lone surrogates replaced by ``?`` and NaN and infinities by their names.

    Two halves of a character, which a stream may send one by one, become the character.

    Args:
        value: strings, numbers, and lists and dictionaries of them.
    """
    if isinstance(value, str):
        return _joined(value).encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {json_safe(key): json_safe(part) for key, part in value.items()}
    return [json_safe(part) for part in value] if isinstance(value, (list, tuple)) else value


def _joined(text: str) -> str:
    """Return a text whose pairs of surrogates are the characters that they stand for."""
    if text.isascii() or not _SURROGATES.search(text):
        return text
    return _SURROGATES.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)


def printable(text: str) -> str:
    """Return ``text`` without characters that change how a terminal or a page shows other text; see ``json_safe``.

    These are control characters except newlines and tabs, and those that reorder a line.
    """
    return _UNPRINTABLE.sub("", json_safe(text))


def json_text(value: Any, indent: int | None = 2, encoding: str = "utf-8") -> str:
    """Return ``value`` as JSON that can be printed anywhere. What ``printable`` removes is escaped instead.

    If ``encoding`` lacks a character, all that are not ASCII are escaped, so that none is lost.
    """
    text = escaped_json(json.dumps(value, ensure_ascii=False, indent=indent))
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return escaped_json(json.dumps(value, indent=indent))
    return text


def escaped_json(text: str) -> str:
    """Return JSON without raw characters that ``printable`` removes. Some readers end a line at some of them."""
    return _UNPRINTABLE.sub(lambda match: _escaped(match[0]), text)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]  # one escape, or a pair of them beyond U+FFFF
