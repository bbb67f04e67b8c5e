"""Literals and templates of other people, read without ever running them."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["fill", "fill_known", "parse_dict", "structured"]

_LITERAL_MAX = 4000
_DEPTH_MAX = 20
_SHOWN = 60
_RUN_TOGETHER = re.compile(r"""^\s*\[\s*(?:'[^']*'|"[^"]*")\s+['"]""")
"""How numpy prints a list of texts; Python would read it as one text."""
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


def structured(value: object) -> Any:
    """A list or an object of a data set's row, which a CSV file holds as text: JSON, or a literal of Python.

    Args:
        value: the value, or its text; it is read and never evaluated.

    Raises:
        ValueError: the text is neither.
    """
    if not isinstance(value, str):
        return value
    found: Any = None
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            found = read(value.strip())
            break
    if not isinstance(found, list | tuple | dict) or _RUN_TOGETHER.search(value):
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
        raise ValueError(f"expected a list or an object, as JSON or as a literal of Python, got {shown!r}")
    return found


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
