"""Named fields in a model's text, in any notation that models use for them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from moa_dspy.parsing.structures import decode, read_structures

__all__ = [
    "FieldValues",
    "field_start",
    "find_fields",
    "marked_text",
    "names_any",
    "partial_fields",
    "plain_name",
    "without_end",
]

FieldValues = dict[str, list[Any]]
"""The values of each field in the order of the text. Values of JSON are decoded, others are texts."""

_ANY_MARKER: Final = re.compile(
    r"[*_`>]{0,3}\\?\[\\?\[[ \t]{0,3}\\?#{1,3}[ \t]{0,3}\w{1,60}[ \t]{0,3}#{0,3}[ \t]{0,3}\\?\]"
)
_FENCED: Final = re.compile(r"(?P<fence>```+|~~~+)[\w+-]{0,20}[ \t]*\n(?P<inner>.*)\n[ \t]*(?P=fence)", re.DOTALL)
"""A reply that is one block of code."""
_COMPLETED: Final = "completed"
_OF_MARKERS: Final = "*_`:\\]#"  # what may still belong to a marker
_REPEATS: Final = 20  # values of one field
_LINE_MAX: Final = 300  # characters of a line with all fields


def find_fields(text: str, names: Sequence[str], required: Collection[str], *, json_first: bool = False) -> FieldValues:
    """Return the fields in a text by the first notation that has all required ones; empty if none has them.

    The notations are DSPy's markers at the start of lines, then anywhere; JSON; tags; lines such as ``Answer: 42``;
    headings; and one line such as ``a: 1, b: 2``.

    Args:
        text: the answer of a reply.
        names: all fields.
        required: the fields that must be there; at least one.
        json_first: whether JSON was asked for.
    """
    fenced = _FENCED.fullmatch(text.strip())
    if fenced and "\n" + fenced["fence"] not in fenced["inner"]:
        text = fenced["inner"]
    fields = tuple(names)
    notations: list[Callable[[], FieldValues]] = [
        lambda: _on_lines(text, fields),
        lambda: _sections(text, _marker(fields).finditer(text), fields),
        lambda: _json(text, fields, required),
        lambda: _tags(text, fields),
        lambda: _sections(text, _label(fields).finditer(text), fields),
        lambda: _sections(text, _heading(fields).finditer(text), fields),
        lambda: _entries(text, fields, required),
    ]
    if json_first:
        notations.insert(0, notations.pop(2))
    for notation in notations:
        found = notation()
        if found.keys() >= set(required):
            return found
    return {}


def marked_text(text: str, name: str) -> str:
    """Return the text of the one field ``name`` if the reply begins with markers of fields, else the whole text.

    A marker that ends the reply is removed.
    """
    if _ANY_MARKER.match(text):
        found = _sections(text, _marker((name,)).finditer(text), (name,))
        return found[name][0] if name in found else text
    return without_end(text)


def partial_fields(text: str, names: Sequence[str]) -> dict[str, str]:
    """Return the fields that have begun in a reply that is still being written, between markers at starts of lines."""
    return {name: values[0] for name, values in _on_lines(text, tuple(names)).items() if name}


def field_start(text: str, names: Sequence[str], name: str) -> int | None:
    """Return where the value of a field begins, as ``partial_fields`` reads it; None if that may still change."""
    wanted = plain_name(name)
    for match in _marker(tuple(names)).finditer(text):
        if plain_name(match["name"]) == wanted and _begins_line(text, match.start()):
            value = text[match.end() :].lstrip()
            return len(text) - len(value) if value and value[0] not in _OF_MARKERS else None
    return None


def plain_name(name: str) -> str:
    """Return a name without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def names_any(text: str, names: Sequence[str]) -> bool:
    """Return whether a text names one of these fields where a value may follow: `age: 5`, `Age is 5`, `(age 5)`."""
    if not names:
        return False
    spelt = "|".join("[ _-]?".join(map(re.escape, plain_name(name))) for name in names)
    pattern = (
        rf"(?:^|[,;|(<])\W{{0,6}}(?:{spelt})\b|\b(?:{spelt})[\"'*_`]{{0,3}}\s?[=:]"
        rf"|\b(?:{spelt})\s(?:is|was|are|\d)|^[^:=<\n]{{0,40}}\b(?:{spelt})\b[^:\n]{{0,40}}$"
    )
    return re.search(pattern, text, re.IGNORECASE | re.MULTILINE) is not None


def _spelt(names: tuple[str, ...]) -> str:
    """Return a pattern of the names, with spaces or hyphens in place of underscores."""
    ordered = sorted(names, key=len, reverse=True)
    return "|".join(
        r"[ _\\-]{1,2}".join(re.escape(part) for part in name.strip("_").split("_")) + "_{0,3}" for name in ordered
    )


@functools.lru_cache(maxsize=256)
def _marker(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(
        rf"[*_`>]{{0,3}}\\?\[\\?\[?[ \t]{{0,3}}\\?#{{1,3}}[ \t]{{0,3}}(?P<name>{_spelt((*names, _COMPLETED))})"
        rf"[ \t]{{0,3}}(?:\\?#){{0,3}}[ \t]{{0,3}}\\?\]?\\?\][*_`]{{0,3}}:?",
        re.IGNORECASE,
    )


def _on_lines(text: str, names: tuple[str, ...]) -> FieldValues:
    """Return the texts between markers at the start of lines."""
    found = (match for match in _marker(names).finditer(text) if _begins_line(text, match.start()))
    return _sections(text, found, names)


def _begins_line(text: str, at: int) -> bool:
    return not text[max(0, at - 40) : at].rpartition("\n")[2].strip(" \t#>-")


def _sections(text: str, matches: Iterable[re.Match[str]], names: tuple[str, ...]) -> FieldValues:
    """Return the texts between markers, up to the marker that ends the reply."""
    found = list(matches)
    by_name = {plain_name(name): name for name in names}
    values: FieldValues = {}
    if not found:
        return values
    for match, following in zip(found, [*found[1:], None], strict=True):
        name = by_name.get(plain_name(match["name"]))
        if name is None:
            if values:
                break
            continue
        end = len(text) if following is None else following.start()
        _add(values, name, without_end(text[match.end() : end]))
    if values:
        _add(values, "", text[: found[0].start()].strip())
    return values


_END: Final = re.compile(
    r"[*_`]{0,3}\\?\[\\?\[?[ \t]{0,3}#{1,3}[ \t]{0,3}(?:completed|end|done|stop)\b[^\n]{0,12}\Z", re.IGNORECASE
)


def without_end(text: str) -> str:
    """Return a text without the marker that ends a reply."""
    return _END.sub("", text.strip()).strip()


def _add(values: FieldValues, name: str, value: Any) -> None:
    kept = values.setdefault(name, [])
    if len(kept) < _REPEATS:
        kept.append(value)


def _json(text: str, names: tuple[str, ...], required: Collection[str]) -> FieldValues:
    by_name = {plain_name(name): name for name in names}
    objects = read_structures(text, dict)
    parts = [part for found in objects for part in found.values()]
    inner = [decode(part.strip(), dict) if isinstance(part, str) else part for part in parts]
    for candidates in (objects, [part for part in inner if isinstance(part, dict)]):
        values: FieldValues = {}
        for found in candidates:
            fields = {name: found[key] for key in found if (name := by_name.get(plain_name(str(key)))) is not None}
            if fields.keys() >= set(required):
                for name, value in fields.items():
                    _add(values, name, value)
        if values:
            return values
    return {}


def _tags(text: str, names: tuple[str, ...]) -> FieldValues:
    values: FieldValues = {}
    if "</" not in text:
        return values
    for name in names:
        opening, closing = f"<{name.lower()}>", f"</{name.lower()}>"
        lowered, position = text.lower(), 0
        while (start := lowered.find(opening, position)) >= 0 and len(values.get(name, ())) < _REPEATS:
            end = lowered.find(closing, start)
            if end < 0:
                break
            _add(values, name, text[start + len(opening) : end].strip())
            position = end
    return values


@functools.lru_cache(maxsize=256)
def _label(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(
        rf"^[ \t]*+(?:[-*•+][ \t]++|\d{{1,2}}[.)][ \t]++)?[#>*_`\-\"']{{0,6}}+[ \t]*+(?P<name>{_spelt(names)})"
        r"[*_`\"']{0,3}[ \t]{0,4}(?::|=(?!=))[*_`]{0,3}",
        re.IGNORECASE | re.MULTILINE,
    )


@functools.lru_cache(maxsize=256)
def _heading(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(
        rf"^[ \t]*+(?:#{{1,6}}|\*\*|\[{{1,2}})[ \t]*+[*_]{{0,2}}(?P<name>{_spelt(names)})[*_]{{0,2}}[ \t]*+"
        r"(?:#{1,6}|\]{1,2})?:?[ \t]*$",
        re.IGNORECASE | re.MULTILINE,
    )


@functools.lru_cache(maxsize=256)
def _entry(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?:\A|(?<=[,;|])[ \t]{{1,3}})(?P<name>{_spelt(names)})[ \t]?(?::|=(?!=))", re.IGNORECASE)


def _entries(text: str, names: tuple[str, ...], required: Collection[str]) -> FieldValues:
    """Return the fields in one short line, with commas or semicolons between them."""
    found = list(_entry(names).finditer(text)) if len(text) <= _LINE_MAX and "\n" not in text else []
    if {plain_name(match["name"]) for match in found} < {plain_name(name) for name in required} or len(found) < 2:
        return {}
    return {
        name: [value.rstrip(",;| ") if isinstance(value, str) else value for value in values]
        for name, values in _sections(text, found, names).items()
    }
