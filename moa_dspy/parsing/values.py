"""Values of fields in a model's text: lenient about form, strict about meaning.

A value is read if it is clear what is meant: case, markup, quotes, punctuation, currency, separators, units, a label
and surrounding words do not matter. If two values are possible, the text is unreadable. Outputs of programs, judges
and metrics are read by these rules.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import functools
import inspect
import json
import re
import types
import typing
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, Literal, Union

import pydantic

from moa_dspy.errors import ConfigurationError
from moa_dspy.parsing.choices import read_bool, read_choice
from moa_dspy.parsing.dates import iso_date
from moa_dspy.parsing.fields import find_fields, names_any, plain_name
from moa_dspy.parsing.numbers import read_number
from moa_dspy.parsing.phrases import undecorated, unlabelled
from moa_dspy.parsing.reasoning import split_reasoning
from moa_dspy.parsing.structures import NOTHING, decode, read_objects, read_structure

__all__ = ["UnreadableError", "is_closed", "parse_value"]

_NULLS: Final = frozenset({"null", "none", "nil", "n/a", "na", "not applicable", "undefined", ""})
_SHOWN: Final = 80
_PLAIN_NUMBER: Final = re.compile(r"[+-]?\d[\d.]{0,400}(?:[eE][+-]?\d{1,3})?")
_DIGITS: Final = re.compile(r"\s*[+-]?[0-9]{1,15}\s*")
_MEMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,8})")
_LONG: Final = 2000  # characters, more than any sentence that names a member
_BULLET: Final = r"(?:[-*•+–]|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)])[ \t]"
_ITEM: Final = re.compile(rf"^[ \t]*{_BULLET}+(\S.*)$", re.MULTILINE)
_SEMICOLONS: Final = re.compile(r"\[([^\[\]\"';]*(?:;[^\[\]\"';]*)+)\]")  # [0,5; 1,5]
_LONG_ITEM: Final = re.compile(rf"{_ITEM.pattern[:-2]}(?:\n[ \t]{{2,}}(?!{_BULLET})\S.*)*)$", re.MULTILINE)
"""An item with the indented lines that go on with it."""
_LISTS: Final = (list, set, frozenset, tuple)
# What stands for no value, if texts are none. A text field may mean these words.
_ABSENT: Final = re.compile(
    r"[-–—]|(?:none|null|n/a|unknown|unspecified|missing|(?:it is |is )?not (?:applicable|available|specified|stated|"
    r"mentioned|provided|given|found|known|disclosed|reported))(?:\s*\([^()\n]{0,80}\))?",
    re.IGNORECASE,
)
_INVISIBLE: Final = re.compile("[\u00ad\u200b\u200c\u200d\u2060\ufeff]")
_QUOTED: Final = re.compile(r"""["“][^"“”\n]*["”](?:\s*,\s*["“][^"“”\n]*["”])+""")
_ENTRY: Final = re.compile(
    r"[ \t]*(?:[-*•+]\s+)?[*_`\"']{0,3}(?P<key>[^:\n]{1,80}?)[*_`\"']{0,3}:[*_`]{0,3}[ \t]+(?P<value>\S.*)"
)


_TIME_OF_DAY: Final = re.compile(r"(?<=\d)[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?\s?(?:Z|UTC|[+-]\d{2}:?\d{2})?\Z")
_DATES: Final = (datetime.date, datetime.datetime)


class UnreadableError(ValueError):
    """A text is no value of the type, or it is not clear which one."""


def parse_value(value: Any, annotation: Any, *, prose: bool = True) -> Any:
    """Return the value of type ``annotation`` that a model wrote.

    Args:
        value: a text, or a value that was decoded from JSON.
        annotation: any type that pydantic knows.
        prose: whether a sentence may state the value. If not, the text must be the value, or say that it is the answer.

    Raises:
        UnreadableError: if it is no such value, or if it is not clear which one.
        ConfigurationError: if pydantic does not know the type, such as ``typing.TypedDict`` before Python 3.12.
    """
    try:
        return _parse(value, annotation, prose)
    except (UnreadableError, ConfigurationError):
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise _unreadable(value, annotation) from error


def is_closed(annotation: Any) -> bool:
    """Return whether a type is short: a number, a boolean, or a member of a closed set, or None."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return is_closed(args[0])
    if origin in (Union, types.UnionType):
        return all(arg is type(None) or is_closed(arg) for arg in args)
    return annotation in (int, float, bool) or origin is Literal or isinstance(annotation, enum.EnumMeta)


def _parse(value: Any, annotation: Any, prose: bool) -> Any:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _limited(_parse(value, args[0], prose), annotation)
    if origin in (Union, types.UnionType):
        return _member_of_union(value, args, prose)
    if annotation is str:
        return _text(value)
    if is_closed(annotation):
        value = _only(value)
    if origin is Literal:
        return _literal(value, args, annotation, prose)
    if isinstance(annotation, enum.EnumMeta):
        return _enum_member(value, annotation, prose)
    if annotation is bool:
        return _bool(value, annotation, prose)
    if annotation in (int, float):
        return _number(value, annotation, prose)
    if annotation in _LISTS or origin in _LISTS or origin in (Sequence, Iterable):
        return _list(value, annotation, args, prose)
    if annotation is type(None):
        if value is None or (isinstance(value, str) and _is_null(value)):
            return None
        raise _unreadable(value, annotation)
    if annotation is dict or origin in (dict, Mapping) or _fields_of(annotation) is not None:
        return _object(value, annotation)
    return _other(value, annotation)


def _unreadable(value: Any, annotation: Any) -> UnreadableError:
    name = getattr(annotation, "__name__", None) if typing.get_origin(annotation) is None else None
    shown = value[:_SHOWN] if isinstance(value, str) else value
    return UnreadableError(f"{shown!r:.{_SHOWN}} is no {name or annotation}, or it is not clear which one")


def _text(value: Any) -> str:
    if value is None:
        raise UnreadableError("null is no text")
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value if isinstance(value, str) else str(value)


def _answer(text: str) -> str:
    """Return a field's text without reasoning before it."""
    split = split_reasoning(text)
    if not split.ended:
        raise UnreadableError("the text ended in its reasoning")
    return split.text


def _limited(value: Any, annotation: Any) -> Any:
    """Return a value that is within the limits that its type declares."""
    try:
        return _adapter(annotation).validate_python(value)
    except pydantic.ValidationError as error:
        raise UnreadableError(f"{value!r:.{_SHOWN}}: {error.errors(include_url=False)[0]['msg']}") from error


def _only(value: Any) -> Any:
    """Return the value in a list or object of one value."""
    while isinstance(value, (list, tuple, Mapping)) and len(value) == 1:
        value = next(iter(value.values() if isinstance(value, Mapping) else value))
    return value


def _word(text: str) -> str:
    """Return the answer in the text of a short value, composed and without invisible characters."""
    text = _answer(text)
    return text if text.isascii() else unicodedata.normalize("NFC", _INVISIBLE.sub("", text))


def _literal(value: Any, members: tuple[Any, ...], annotation: Any, prose: bool) -> Any:
    for member in members:
        if type(value) is type(member) and value == member:
            return member
    if not isinstance(value, str):
        same = [member for member in members if not isinstance(value, bool) and member == value and value is not None]
        texts = [member for member in members if isinstance(member, str) and str(value).casefold() == member.casefold()]
        if len(same or texts) != 1:
            raise _unreadable(value, annotation)
        return (same or texts)[0]
    if None in members and _is_null(value):
        return None
    number = _number_of_set(value, members, prose)
    if number is not None:
        return next(member for member in members if member in (number, str(number)))
    by_label = {_label(member): member for member in members if member is not None}
    found = read_choice(_word(value), tuple(by_label), prose=prose)
    if found is not None:
        return by_label[found]
    if {type(member) for member in members} == {bool}:
        return _bool(value, annotation, prose)
    raise _unreadable(value, annotation)


def _label(member: Any) -> str:
    label = str(member.value) if isinstance(member, enum.Enum) else str(member)
    return label if label.isascii() else unicodedata.normalize("NFC", label)


def _number_of_set(value: Any, members: Iterable[Any], prose: bool) -> Any:
    """Return the number that is a member, in a set of numbers; None if there is none. Texts may be whole numbers."""
    members = [int(one) if isinstance(one, str) and _MEMBER.fullmatch(one) else one for one in members]
    kinds = {type(member) for member in members}
    if not kinds or not kinds <= {int, float} or isinstance(value, bool):
        return None
    number = read_number(_answer(value), prose=prose, integer=kinds == {int}) if isinstance(value, str) else value
    return number if number in members else None


def _enum_member(value: Any, annotation: Any, prose: bool) -> Any:
    for member in annotation:
        if value is member or (type(member.value) is type(value) and member.value == value):
            return member
    number = _number_of_set(value, [member.value for member in annotation], prose)
    if number is not None:
        return next(member for member in annotation if member.value == number)
    by_value = {_label(member): member for member in annotation}
    by_name = {name: member for name, member in annotation.__members__.items() if name not in by_value}
    if value is None or isinstance(value, (dict, list)):
        raise _unreadable(value, annotation)
    text = _word(value) if isinstance(value, str) else str(value)
    both = {**by_name, **by_value}
    for labels, sentence in ((by_value, False), (by_name, False), (both, False), (both, prose), (by_value, prose)):
        if sentence and labels is both and len({label.casefold() for label in labels}) < len(labels):
            continue
        found = read_choice(text, tuple(labels), prose=sentence)
        if found is not None:
            return labels[found]
        if len(text) > _LONG:
            break
    raise _unreadable(value, annotation)


def _bool(value: Any, annotation: Any, prose: bool) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    found = read_bool(_word(value), prose=prose) if isinstance(value, str) else None
    if found is None:
        raise _unreadable(value, annotation)
    return found


def _number(value: Any, annotation: Any, prose: bool) -> int | float:
    number: Any = None
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return annotation(value)
    if isinstance(value, str):
        number = read_number(_answer(value), prose=prose, integer=annotation is int)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = value
    if number is None:
        raise _unreadable(value, annotation)
    if annotation is float:
        return float(number)
    if isinstance(number, float) and not number.is_integer():  # also NaN and infinities
        raise _unreadable(value, annotation)
    if isinstance(number, Fraction) and number.denominator != 1:
        raise _unreadable(value, annotation)
    return int(number)


def _is_null(text: str) -> bool:
    return undecorated(text).casefold() in _NULLS


def _is_absent(text: str, others: Sequence[Any]) -> bool:
    """Return whether a text stands for no value in a union of these types and None."""
    if any(typing.get_origin(kind) is Literal or isinstance(kind, enum.EnumMeta) for kind in others):
        for kind in others:
            with contextlib.suppress(ValueError, TypeError):
                return _parse(text, kind, False) is None  # "none" may be a member
    empty = {"[]": (*_LISTS, Sequence, Iterable), "{}": (dict, Mapping)}.get(text.strip(), ())
    if any(_origin(kind) in empty for kind in others):
        return False
    return _is_null(text) or (str not in others and _ABSENT.fullmatch(undecorated(text) or text.strip()) is not None)


def _member_of_union(value: Any, args: tuple[Any, ...], prose: bool) -> Any:
    """Return the value of the first type that it fits. The text itself is the last choice."""
    optional = type(None) in args
    others = [arg for arg in args if arg is not type(None)]
    if optional and (value is None or (isinstance(value, str) and _is_absent(value, others))):
        return None
    if not isinstance(value, str):
        exact = [arg for arg in others if inspect.isclass(arg) and type(value) is arg]
        others = exact + [arg for arg in others if arg not in exact]
    else:
        others = [arg for arg in others if arg is not str] + [arg for arg in others if arg is str]
    alone = len(others) == 1
    if isinstance(value, str) and str in others and not _PLAIN_NUMBER.fullmatch(value.strip()):
        others = [arg for arg in others if arg not in (int, float)]
    for arg in others:
        try:
            return _parse(value, arg, prose and alone)
        except ConfigurationError:
            raise
        except (ValueError, TypeError):
            continue
    raise _unreadable(value, Union[tuple(args)])  # noqa: UP007 (made of a tuple)


def _list(value: Any, annotation: Any, args: tuple[Any, ...], prose: bool) -> Any:
    items = _items(value, args, prose) if isinstance(value, str) else value
    if isinstance(items, Mapping) and len(items) == 1 and isinstance(next(iter(items.values())), list):
        items = next(iter(items.values()))
    if isinstance(items, (int, float)) or (isinstance(items, Mapping) and args and _is_object(args[0])):
        items = [items]
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise _unreadable(value, annotation)
    kinds = [arg for arg in args if arg is not Ellipsis]
    if typing.get_origin(annotation) is tuple and Ellipsis not in args and kinds:
        if len(items) != len(kinds):
            raise _unreadable(value, annotation)
        items = [_parse(item, kind, False) for item, kind in zip(items, kinds, strict=True)]
    elif kinds:
        items = [_parse(item, kinds[0], False) for item in items]
    return _adapter(annotation).validate_python(list(items))


def _items(text: str, args: tuple[Any, ...], prose: bool) -> Any:
    """Return the items of a list in a text: JSON, lines with bullets or numbers, or short values with commas."""
    text = _answer(text)
    if semicolons := _SEMICOLONS.fullmatch(text.strip()):
        text = semicolons[1]
    lines = [match[1].strip() for match in _ITEM.finditer(text)]
    if lines and args and args[0] is str:
        lines = [re.sub(r"\n[ \t]+", "\n", match[1].strip()) for match in _LONG_ITEM.finditer(text)]
    if len(lines) > 1 and "[" in text and "[" not in _ITEM.sub("", text) and "```" not in text:
        return lines  # brackets inside of items are none of the list
    found = read_structure(text, list)
    if found is NOTHING and (text.lstrip().startswith(("{", "[")) or (args and _is_object(args[0]))):
        found = read_objects(text)
    if found is not NOTHING or text.lstrip().startswith(("{", "[")):
        return found
    if _QUOTED.fullmatch(text.strip()):
        return decode(f"[{re.sub('[“”]', chr(34), text.strip())}]", list)
    if len(lines) > 1 or (len(lines) == 1 and _ITEM.fullmatch(text.strip())):
        return lines
    kind = args[0] if args else str
    if text.rstrip("]) ").endswith(("...", "…")):
        return None  # there are more
    text = undecorated(unlabelled(text))
    if not is_closed(kind) or re.search(r"\d,\d{3}(?!\d)", text):
        return None
    between = next((mark for mark in "\n;" if mark in text), ",")
    parts = _parts(text, between)
    if between != ",":
        # A comma may belong to the items: 0,5; 1,5. If not, marks may be mixed.
        decimal = float in (kind, *typing.get_args(kind)) and not re.search(r"\d,\d+,\d", text)
        mixed = _parts(text, r"(?:,[ \t]*)?[\n;]|" + (r"(?<!\d),|,(?!\d)" if decimal else ","))
        parts = mixed if all(_fits(part, kind) for part in mixed) else parts
    return parts if all(parts) and (len(parts) > 1 or prose) else None


def _parts(text: str, marks: str) -> list[str]:
    parts = re.split(rf"(?:{marks})(?:\s{{0,9}}and\s)?|\sand\s", text)
    return [part.strip().removesuffix(",").rstrip() for part in parts]


def _fits(text: str, kind: Any) -> bool:
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        _parse(text, kind, False)
        return True
    return False


def _origin(annotation: Any) -> Any:
    """Return a type without its arguments."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    return _origin(args[0]) if origin is typing.Annotated else origin or annotation


def _is_object(annotation: Any) -> bool:
    return annotation is dict or typing.get_origin(annotation) is dict or _fields_of(annotation) is not None


def _object(value: Any, annotation: Any) -> Any:
    fields, args = _fields_of(annotation), typing.get_args(annotation)
    if isinstance(value, str):
        value = _object_in(_answer(value), fields, args, _required(annotation))
    if isinstance(value, list) and fields is not None and len(fields) == 1:
        value = {next(iter(fields)): value}  # a list alone is the only field
    if isinstance(value, Mapping) and fields is not None:
        value = _unwrapped(value, fields)
    adapter = _adapter(annotation)
    try:
        return adapter.validate_python(value)
    except pydantic.ValidationError:
        if not isinstance(value, Mapping):
            raise _unreadable(value if value is not NOTHING else "", annotation) from None
    if fields is None:
        if len(args) != 2:
            raise _unreadable(value, annotation)
        fitted = {_parse(key, args[0], False): _parse(part, args[1], False) for key, part in value.items()}
    else:
        own = getattr(annotation, "model_fields", {})
        names = {plain_name(name): (field.alias or name, field.annotation) for name, field in own.items()}
        names |= {plain_name(alias): (alias, kind) for alias, kind in fields.items()}
        fitted = {}
        for key, part in value.items():
            alias, kind = names.get(plain_name(str(key)), (key, None))
            fitted[alias] = part if kind is None else _parse(part, kind, False)
    return adapter.validate_python(fitted)


def _object_in(text: str, fields: Mapping[str, Any] | None, args: tuple[Any, ...], required: Sequence[str] = ()) -> Any:
    """Return the object in a text: JSON, or lines with names and values."""
    alone = fields is not None and len(fields) == 1 and text.lstrip().startswith("[")
    value = read_structure(text, list if alone else dict)
    if value is not NOTHING or "{" in text:
        return value
    if fields:
        names = tuple(fields)
        found = find_fields(text, names, names) or find_fields(text, names, required or names)
        values = {name: found[name][0] for name in names if len(found.get(name, ())) == 1}
        return values if values and not names_any(text, [name for name in names if name not in values]) else NOTHING
    entries = [_ENTRY.fullmatch(line) for line in text.splitlines() if line.strip()]
    if len(args) == 2 and is_closed(args[1]) and all(entries):
        return {entry["key"].strip(): entry["value"] for entry in entries if entry}
    return NOTHING


def _unwrapped(value: Mapping[Any, Any], fields: Mapping[str, Any]) -> Mapping[Any, Any]:
    """Return the object with the fields, if it is the only object inside of one without them."""
    names = {plain_name(name) for name in fields}
    inner = [part for part in value.values() if isinstance(part, Mapping)]
    is_outer = len(inner) == 1 and not any(plain_name(str(key)) in names for key in value)
    return inner[0] if is_outer else value


def _fields_of(annotation: Any) -> dict[str, Any] | None:
    """Return the types of a class's fields by the names that JSON has for them; None for other types."""
    if not inspect.isclass(annotation):
        return None
    if issubclass(annotation, pydantic.BaseModel) and not annotation.__module__.startswith("dspy."):
        return {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}
    if dataclasses.is_dataclass(annotation) or hasattr(annotation, "__required_keys__"):  # a TypedDict of any module
        return dict(typing.get_type_hints(annotation))
    return None


def _required(annotation: Any) -> list[str]:
    """Return the names that JSON has for the fields of a pydantic model that have no default."""
    fields = getattr(annotation, "model_fields", {})
    return [field.alias or name for name, field in fields.items() if field.is_required()]


def _other(value: Any, annotation: Any) -> Any:
    """Return a value of a type without rules of its own: a date, a decimal number, or a custom type."""
    adapter = _adapter(annotation)
    if annotation in _DATES and isinstance(value, (int, float)):
        value = str(value)
    candidates: list[Callable[[], Any]] = [lambda: value]
    if isinstance(value, str):
        text = _answer(value)
        bare = undecorated(text)
        plain = undecorated(unlabelled(bare))
        if annotation is datetime.date:
            plain = _TIME_OF_DAY.sub("", plain)
        if annotation in _DATES:
            # pydantic reads a number as seconds since 1970, which no model means.
            plain = iso_date(plain) or ("" if _PLAIN_NUMBER.fullmatch(plain) else plain)
            text = bare = plain
        candidates = [lambda: read_structure(text, dict), lambda: read_structure(text, list)]
        candidates += [lambda: text, lambda: bare, lambda: plain, lambda: read_number(plain, prose=False)]
        if annotation is Any:
            return next((found for make in candidates[:2] if (found := make()) is not NOTHING), value)
    for make in candidates:
        candidate = make()
        if candidate is NOTHING or candidate is None:
            continue
        try:
            return adapter.validate_python(_decimal(candidate) if isinstance(candidate, Fraction) else candidate)
        except pydantic.ValidationError:
            continue
    raise _unreadable(value, annotation)


def _decimal(number: Fraction) -> str:
    """Return a number with decimals, or as fraction if it has no end."""
    written = Decimal(number.numerator) / Decimal(number.denominator)
    return format(written, "f") if Fraction(written) == number else str(number)


_adapter_of: Final[Callable[[Any], pydantic.TypeAdapter[Any]]] = functools.lru_cache(256)(pydantic.TypeAdapter)


def _adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    try:
        return _adapter_of(annotation)
    except pydantic.PydanticUserError as error:
        name = annotation.__qualname__ if isinstance(annotation, type) else annotation
        reason = str(error).partition("\n")[0].removesuffix(".")
        raise ConfigurationError(f"the type {name} cannot be read from text: {reason}") from None
    except TypeError:  # not hashable
        return pydantic.TypeAdapter(annotation)
