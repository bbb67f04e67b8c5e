"""JSON and Python values in a model's text."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import re
import tokenize
from collections.abc import Iterator
from typing import Any, Final

import json_repair

from moa_dspy.parsing.marks import fences

__all__ = ["NOTHING", "decode", "read_objects", "read_structure", "read_structures"]

NOTHING: Final = object()
"""What is returned if a text contains no structure. None is a value in JSON."""

_LITERAL_MAX: Final = 4000  # characters of a Python literal; more may exhaust the parser
# What Python's parser warns of: letters after digits, unknown escapes.
_WARNED_OF: Final = re.compile(r"\d\.?[A-Za-z_]|\\[^\\'\"nrtabfvxuUN0-7\n]")
# A text between quotes, or an item of a list such as 1,000, which would be a 1 and a 0.
_GROUPED: Final = re.compile(
    r"\"(?:[^\"\\]|\\.)*+(?:\"|\Z)|'(?:[^'\\\n]|\\.)*+'(?=\s{0,9}[,:\]}])"
    r"|:\s*+\d[\d,.]*+|[\[(,]\s*+(?P<number>\d{1,3}(?:,\d{3}){0,4},0\d{2})(?=\s*+[\]),])",
    re.DOTALL,
)
_QUOTED: Final = re.compile(
    r"""(?P<double>"(?:[^"\\]|\\.)*+(?:"|\Z))"""
    # Apostrophes stay inside: between letters, or before a word, and no quote beside a mark of the structure.
    r"""|(?<![^\s\[{,:(])'(?P<single>(?:[^'{}\[\]\\]|\\[nrt'"\\/]|(?<=\w)'(?=[ ]?\w))*+)'(?=\s*+(?:[,:}\]]|\Z))""",
    re.DOTALL,
)
_REPAIR_MAX: Final = 6000  # characters of broken JSON
_REPAIR_EFFORT: Final = 120_000  # characters times characters that json_repair looks for
_DEPTH_MAX: Final = 40
_STARTS: Final = 8  # places at which JSON is looked for in a text
_LOOKED_FOR: Final = re.compile(r"[\[\]{}()\"'`\\‘’“”]")
_FENCE_LINE: Final = re.compile(r"[ \t]{0,8}(?:```+|~~~+)[^\n]*(?:\n|\Z)")
# Texts and brackets. A text without an end goes on to the end, so that none is read twice.
_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def read_structure(text: str, kind: type) -> Any:
    """Return the object or list in a text; ``NOTHING`` if there is none, or if there are several different ones.

    Args:
        text: JSON or a Python literal, bare, in a code block or between sentences. Small faults are repaired.
        kind: ``dict`` or ``list``.
    """
    found = read_structures(text, kind)
    return found[0] if len(found) == 1 else NOTHING


def read_structures(text: str, kind: type) -> list[Any]:
    """Return the different objects or lists in a text, in order: a few at most."""
    text = text.strip()
    opening = "{" if kind is dict else "["
    if opening not in text or _is_too_deep(text):
        return []
    found: list[Any] = []
    for part in _parts(text, opening):
        value = decode(part, kind)
        if value is NOTHING:
            continue
        if part == text:
            return [value]
        if value not in found:
            found.append(value)
    if found:
        return found
    value = _repaired(text, kind)
    return [] if value is NOTHING else [value]


def read_objects(text: str) -> Any:
    """Return the one object in a text, or those of its lines, or the items of a set in Python."""
    lines = [line.strip().rstrip(",") for line in text.splitlines() if line.strip() and not line.startswith("```")]
    if len(lines) > 1 and all(line.startswith("{") for line in lines):
        objects = [decode(line, dict) for line in lines]
        if NOTHING not in objects:
            return objects
    text = text.strip()
    is_set = text.startswith("{") and text.endswith("}") and ":" not in text
    return decode(f"[{text[1:-1]}]", list) if is_set else read_structure(text, dict)


def _is_too_deep(text: str) -> bool:
    """Return whether brackets outside of texts are nested deeper than any answer is."""
    depth = 0
    for match in _PIECE.finditer(text):
        if match[0] in "[{":
            depth += 1
            if depth > _DEPTH_MAX:
                return True
        elif match[0] in "]}":
            depth = max(depth - 1, 0)
    return False


def _parts(text: str, opening: str) -> Iterator[str]:
    """Yield what may be a structure: the whole text, blocks of code, and what begins with a bracket."""
    if text.startswith(opening):
        yield text
    blocks = [_inside(text[start:end]) for start, end in fences(text)][:_STARTS]
    yield from blocks
    if blocks:
        return
    position, starts = 0, 0
    while starts < _STARTS and (at := text.find(opening, position)) >= 0:
        end = _end_of(text, at)
        yield text[at:end]
        position, starts = max(end, at + 1), starts + 1


def _inside(block: str) -> str:
    """Return a block of code without its first and last line."""
    head = _FENCE_LINE.match(block)
    return block[0 if head is None else head.end() : block.rstrip().rfind("\n")].strip()


def _end_of(text: str, start: int) -> int:
    """Return the index after the structure that begins at ``start``; that of the text's end if it is not closed."""
    depth = 0
    for match in _PIECE.finditer(text, start):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] in "]}":
            return match.end()
    return len(text)


def decode(text: str, kind: type) -> Any:
    """Return a text that is JSON or a Python literal as object or list; ``NOTHING`` if it is neither."""
    if not text.startswith("{" if kind is dict else "["):
        return NOTHING
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text, strict=False, parse_constant=_no_constant)
        return value if isinstance(value, kind) else NOTHING
    if len(text) <= _LITERAL_MAX and not _is_grouped(text) and not _WARNED_OF.search(text) and not _lacks_a_comma(text):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = ast.literal_eval(text)
            return value if isinstance(value, kind) else NOTHING
    return NOTHING


def _is_grouped(text: str) -> bool:
    """Return whether a list contains a number such as 1,000 outside of its texts."""
    return any(match["number"] for match in _GROUPED.finditer(text))


def _lacks_a_comma(text: str) -> bool:
    """Return whether two texts stand beside each other, which Python would join."""
    with contextlib.suppress(tokenize.TokenError, SyntaxError):
        kinds = [
            token.type for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type != tokenize.NL
        ]
        return any(pair == (tokenize.STRING, tokenize.STRING) for pair in itertools.pairwise(kinds))
    return False


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "r": "\r", "t": "\t"}.get(match[1], match[1]), text)


def _with_double_quotes(text: str) -> str | None:
    """Return a structure with double quotes around its texts; None if it is not clear where one of them ends."""
    single = _QUOTED.sub(lambda match: '""' if match["single"] is None else match[0], text)
    if not re.search(r"\w'[ ]?\w", single):
        return text
    quoted = _QUOTED.sub(
        lambda match: match["double"] or json.dumps(_unescaped(match["single"]), ensure_ascii=False), text
    )
    rest = _QUOTED.sub('""', quoted[: max(quoted.rfind("}"), quoted.rfind("]")) + 1] or quoted)
    if not re.search(r"""[\[{,:]\s*+'|\w'\w|:\s*+""\s*+:""", rest):
        return quoted
    is_torn = re.search(r"\w'\w", single) and re.search(r"[\[{,:]\s*+'", single)
    return None if is_torn else text


def _repaired(text: str, kind: type) -> Any:
    """Return what json_repair makes of a short text. Its time grows with the square of the length."""
    at = text.find("{" if kind is dict else "[")
    part = text[at:]
    if len(part) > _REPAIR_MAX or len(part) * len(_LOOKED_FOR.findall(part)) > _REPAIR_EFFORT:
        return NOTHING
    if _is_grouped(part):
        return NOTHING
    if "'" in part:
        quoted = _with_double_quotes(part)
        if quoted is None:
            return NOTHING
        if quoted != part and (value := decode(quoted.strip(), kind)) is not NOTHING:
            return value
        part = quoted
    with contextlib.suppress(Exception):
        value = json_repair.loads(part)
        if isinstance(value, kind) and value:
            return value
    return NOTHING
