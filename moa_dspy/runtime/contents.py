"""The content of a message in any provider's format: its text, its reasoning and its refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moa_dspy.parsing.marks import has_cognition

__all__ = ["Content", "flat_content", "member", "reasoning_fields", "split_content", "words_in"]


@dataclass
class Content:
    """The parts of a message's content, in order."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return the text. Providers cut it into parts anywhere, so nothing is put between them."""
        return "".join(self.texts)


def split_content(content: Any) -> Content:
    """Sort the parts of a message's content: a text, or parts with a type, nested or not."""
    parts = Content()
    _add(content, parts)
    return parts


def flat_content(content: Any) -> tuple[str, str]:
    """Return the text and the reasoning in the parts of a message's content. A refusal is part of the text."""
    parts = split_content(content)
    return parts.text or "\n".join(parts.refusals), "".join(parts.reasoning)


def _add(content: Any, parts: Content) -> None:
    if isinstance(content, str):
        parts.texts.append(content)
    elif isinstance(content, Sequence) and not isinstance(content, bytes):
        for part in content:
            _add(part, parts)
    elif content is not None:
        kind = str(member(content, "type") or "")
        if has_cognition(kind) or member(content, "thought") is True:
            parts.reasoning.append(words_in(content))
        elif "refus" in kind:
            parts.refusals.append(words_in(member(content, "refusal") or content))
        else:
            inner = member(content, "text")
            _add(inner if isinstance(inner, str) else member(content, "parts"), parts)


def reasoning_fields(message: Any) -> list[str]:
    """Return the contents of a message's fields whose names speak of reasoning."""
    fields = message if isinstance(message, Mapping) else getattr(message, "__dict__", None) or {}
    return [
        words_in(value) for name, value in fields.items() if isinstance(name, str) and value and has_cognition(name)
    ]


def words_in(value: Any) -> str:
    """Return the text in a value of unknown form: a text, a list, or an object with a message."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return "\n".join(part for part in map(words_in, value) if part)
    for name in ("message", "text", "thinking", "reasoning", "summary", "content", "refusal", "detail", "error"):
        found = member(value, name)
        if found:
            return words_in(found)
    return ""


def member(value: Any, name: str) -> Any:
    """Return an item of a mapping, or an attribute of an object; None if there is none."""
    if isinstance(value, Mapping):
        return value.get(name)
    return None if value is None or isinstance(value, (str, Sequence)) else getattr(value, name, None)
