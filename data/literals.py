"""Literals and templates of other people, read without ever running them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

__all__ = ["fill", "fill_known", "parse_dict"]

_LITERAL_MAX = 4000
_DEPTH_MAX = 20
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\w+)\}")


def parse_dict(text: str) -> dict[object, object] | None:
    """A Python dict literal as a dict; None for anything else.

    Args:
        text: the literal. More than 4000 characters or 20 open brackets are refused unread, so that neither the
            parser's stack nor its memory can be exhausted.

    Returns:
        The dict of constants; None when the text is longer, is code, or is another kind of literal.
    """
    if len(text) > _LITERAL_MAX or sum(text.count(bracket) for bracket in "([{") > _DEPTH_MAX:
        return None
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def fill(template: str, values: Mapping[str, str]) -> str:
    """A ``{name}`` template with its values put in, once: braces inside a value stay what they are.

    The result is that of ``str.format`` for plain names, without its reach into attributes and items.

    Args:
        template: text with ``{name}``; ``{{`` and ``}}`` are literal braces.
        values: one text for each name.

    Raises:
        KeyError: a name of the template has no value.
    """

    def replace(match: re.Match[str]) -> str:
        return values[match[1]] if match[1] else match[0][0]

    return _PLACEHOLDER.sub(replace, template)


def fill_known(template: str, values: Mapping[str, str]) -> str:
    """``fill`` for templates in which all other braces stand for themselves, doubled ones too."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
