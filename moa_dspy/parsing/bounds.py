"""Whether a number in a text is only a bound, or a part of an expression."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_bound"]

# What makes a number a bound or a part of an expression: `> 5`, `±5`, `√5`, `less than 5`, `5+`, `5π`, `2M`, `5‰`.
_BOUND_BEFORE: Final = re.compile(
    r"(?:[<>≤≥±≠√∛]|[<>!]=|\\(?:leq?|geq?|pm|neq?)\b|\+/[-−]|\\sqrt\s?\{?|\b(?:less|more|fewer|greater) than)\s?\Z",
    re.IGNORECASE,
)
_NO_BOUND: Final = re.compile(r"(?:<[^<>\n]{1,40}|[-=~>]|^[ \t]*(?=>\s))>\s?\Z")  # a tag, an arrow, a quotation
_BOUND_AFTER: Final = re.compile(
    r"\+(?![\s\w(.])|\+\.?\s*\Z|\s?(?:π|√|\\pi\b|\\sqrt)|‰|(?-i:[MBT])(?!\w)|\s[<>]=?\s|\s?(?:[≤≥≠]|\\(?:leq?|geq?|neq?)\b)"
)


def is_bound(text: str, start: int, end: int) -> bool:
    """Return whether a number is a bound, or part of an expression: `> 5`, `√5`, `5+`, `5π`."""
    line = text[max(0, start - 80) : start].rpartition("\n")[2].rstrip("$€£")
    return _BOUND_AFTER.match(text, end) is not None or (
        _BOUND_BEFORE.search(line) is not None and not _NO_BOUND.search(line)
    )
