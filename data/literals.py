"""Safe parsing of Python literals, JSON and templates from external data."""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["fill", "fill_known", "parse_dict", "parse_structure"]

_LITERAL_MAX = 4000
_DEPTH_MAX = 20
_QUOTED_MAX = 60
_RUN_TOGETHER = re.compile(r"""^\s*\[\s*(?:'[^']*'|"[^"]*")\s+['"]""")
"""A list of texts as numpy prints it. Python would join it into one text."""
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(\w+)\}")


def parse_dict(text: str) -> dict[object, object] | None:
    """Return a Python dict literal as a dict, or None for anything else.

    Args:
        text: the literal. More than 4000 characters or 20 opening brackets are not parsed, because they could exhaust
            the parser's stack or memory.
    """
    if len(text) > _LITERAL_MAX or sum(text.count(bracket) for bracket in "([{") > _DEPTH_MAX:
        return None
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def parse_structure(value: object) -> Any:
    """Return a list or an object of a data row. In CSV files it is a text: JSON or a Python literal.

    Args:
        value: the list or object, or its text. Text is parsed and never evaluated.

    Raises:
        ValueError: if the text is neither JSON nor a Python literal of a list or object.
    """
    if not isinstance(value, str):
        return value
    parsed: Any = None
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            parsed = parse(value.strip())
            break
    if not isinstance(parsed, list | tuple | dict) or _RUN_TOGETHER.search(value):
        quoted = value if len(value) <= _QUOTED_MAX else f"{value[:_QUOTED_MAX]}..."
        raise ValueError(f"expected a list or an object, as JSON or as a Python literal, got {quoted!r}")
    return parsed


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return a template with its `{name}` placeholders replaced. Braces inside a value are not replaced again.

    Unlike `str.format`, it cannot access attributes and items.

    Args:
        template: text with `{name}`; `{{` and `}}` are literal braces.
        values: the text for each name.

    Raises:
        KeyError: if a name of the template has no value.
    """

    def replace(match: re.Match[str]) -> str:
        return values[match[1]] if match[1] else match[0][0]

    return _PLACEHOLDER.sub(replace, template)


def fill_known(template: str, values: Mapping[str, str]) -> str:
    """Return a template with known placeholders replaced. All other braces, including doubled ones, are unchanged."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
