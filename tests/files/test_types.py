"""Field types as JSON: what comes back describes itself to a model, and reads its answers, as the original does."""

from __future__ import annotations

import dataclasses
import decimal
import enum
import json
import typing
import uuid
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Literal, Optional, Union

import annotated_types
import dspy
import pydantic
import pytest
from hypothesis import given, settings, strategies as st

from moa_dspy import ConfigurationError, ProgramFileError
from moa_dspy.files.types import decode_type, encode_type


class Colour(enum.Enum):
    """A colour of the shop."""

    RED = "red"
    BLUE = "blue"
    ALSO_RED = "red"  # noqa: PIE796 (an alias)


class Size(enum.StrEnum):
    SMALL = "s"
    LARGE = "l"


class Mark(str, enum.Enum):  # noqa: UP042 (the older spelling, which many use)
    GOOD = "good"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Item(pydantic.BaseModel):
    """One line of an order."""

    name: str = pydantic.Field(description="as printed", min_length=1, max_length=40, pattern="^[A-Z]")
    price: float = pydantic.Field(gt=0, le=1e6, title="Price in euro", examples=[9.99])
    colour: Colour = Colour.RED
    tags: list[Annotated[str, pydantic.Field(description="one word", min_length=2)]] = []
    step: int = pydantic.Field(default=2, multiple_of=2, json_schema_extra={"unit": "pieces"})


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", title="An order")

    first: Item
    second: Item | None = None
    size: Size = Size.LARGE
    made: date = pydantic.Field(alias="madeOn")
    notes: dict[str, list[tuple[int, str]]] = pydantic.Field(default_factory=dict)


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]


class Owner(pydantic.BaseModel):
    pet: Cat | Dog = pydantic.Field(discriminator="kind")


def round_trip(annotation: Any) -> Any:
    return decode_type(json.loads(json.dumps(encode_type(annotation))))


def schema_of(annotation: Any) -> Any:
    return pydantic.TypeAdapter(annotation).json_schema()


PLAIN: list[Any] = [
    str,
    int,
    float,
    bool,
    type(None),
    date,
    datetime,
    time,
    Any,
    timedelta,
    decimal.Decimal,
    uuid.UUID,
    pydantic.HttpUrl,
    Literal[0.5, 1.0],
]
CLASSES: list[Any] = [Colour, Size, Mark, Level, Item, Order, Owner]
LITERALS = st.lists(
    st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.none()), min_size=1, max_size=4
).map(lambda values: Literal[tuple(values)])


def compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from([str, int])
    return st.one_of(
        inner.map(lambda one: list[one]),
        inner.map(lambda one: tuple[one, ...]),
        st.tuples(inner, inner).map(lambda two: tuple[two]),
        st.tuples(keys, inner).map(lambda two: dict[two[0], two[1]]),
        inner.map(lambda one: Optional[one]),  # noqa: UP045
        st.lists(inner, min_size=2, max_size=3).map(lambda several: Union[tuple(several)]),  # noqa: UP007
        inner.map(lambda one: Annotated[one, pydantic.Field(description="described", title="Titled")]),
    )


TYPES = st.recursive(st.one_of(st.sampled_from(PLAIN + CLASSES), LITERALS), compound, max_leaves=6)


@settings(max_examples=300, deadline=None)
@given(TYPES)
def test_any_type_comes_back_with_the_same_schema(annotation: Any):
    restored = round_trip(annotation)
    assert schema_of(restored) == schema_of(annotation)
    assert encode_type(restored) == encode_type(annotation)


@settings(max_examples=100, deadline=None)
@given(st.recursive(st.sampled_from(PLAIN), compound, max_leaves=5))
def test_types_without_classes_of_the_user_come_back_equal(annotation: Any):
    assert encode_type(round_trip(annotation)) == encode_type(annotation)
    if "Field" not in repr(annotation):
        assert round_trip(annotation) == annotation


@pytest.mark.parametrize("annotation", [*PLAIN, list, dict, tuple, set[int], frozenset[str], typing.List, int | str])  # noqa: UP006
def test_plain_types_come_back_as_themselves(annotation: Any):
    assert round_trip(annotation) == annotation or round_trip(annotation) is typing.get_origin(annotation)


@pytest.mark.parametrize("name", ["History", "Image", "Audio", "Code", "Tool", "ToolCalls"])
def test_dspys_own_types_come_back_as_themselves(name: str):
    assert round_trip(getattr(dspy, name)) is getattr(dspy, name)
    assert round_trip(list[getattr(dspy, name)]) == list[getattr(dspy, name)]


@pytest.mark.parametrize("language", ["python", "c++"])
def test_code_in_a_language_comes_back_as_that(language: str):
    original: Any = dspy.Code[language]
    restored = round_trip(original)
    assert issubclass(restored, dspy.Code)
    assert (restored.__name__, restored.language) == (original.__name__, language)
    assert restored.description() == original.description()
    assert schema_of(restored) == schema_of(original)


@pytest.mark.parametrize("model", [Item, Order, Owner])
def test_a_model_prompts_as_the_original(model: type[pydantic.BaseModel]):
    """The text that DSPy's adapters show for a field of that type is the same to the byte."""

    def prompt(kind: Any) -> str:
        task: Any = dspy.Signature("text: str -> out: str, more: str")  # pyright: ignore[reportCallIssue]
        task = task.with_updated_fields("out", kind).with_updated_fields("more", list[kind])
        return dspy.ChatAdapter().format_system_message(task)

    assert prompt(round_trip(model)) == prompt(model)


def test_a_model_reads_and_refuses_what_the_original_does():
    restored = round_trip(Item)
    good = {"name": "Tea", "price": 3, "colour": "blue", "tags": ["hot"]}
    assert restored(**good).model_dump(mode="json") == Item(**typing.cast("Any", good)).model_dump(mode="json")
    for bad in ({"name": "tea"}, {"price": 0}, {"price": 2e6}, {"colour": "green"}, {"tags": ["x"]}, {"step": 3}):
        with pytest.raises(pydantic.ValidationError):
            restored(**{**good, **bad})
    with pytest.raises(pydantic.ValidationError):
        round_trip(Order)(first=good, madeOn="2025-01-01", surprise=1)


def test_enums_keep_what_they_compare_with():
    assert round_trip(Size).SMALL == "s"
    assert str(round_trip(Size).SMALL) == "s"
    assert round_trip(Mark).GOOD == "good"
    assert round_trip(Level).HIGH == 2
    assert round_trip(Colour).RED is round_trip(Colour).ALSO_RED
    assert round_trip(Colour).RED != "red"


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[int, pydantic.Field(ge=1, le=5)],
        Annotated[int, annotated_types.Interval(ge=1, le=5)],
        pydantic.conint(ge=1, le=5),
        Annotated[str, pydantic.StringConstraints(min_length=1, max_length=3, pattern="^a")],
        pydantic.constr(pattern="^a", max_length=4),
        Annotated[list[int], annotated_types.Len(1, 3)],
        list[Annotated[float, annotated_types.Gt(0)]],
    ],
)
def test_limits_come_back_however_they_were_written(annotation: Any):
    assert schema_of(round_trip(annotation)) == schema_of(annotation)


def test_one_class_comes_back_as_one_class():
    pair = round_trip(tuple[Item, Item])
    first, second = typing.get_args(pair)
    assert first is second


class Node(pydantic.BaseModel):
    children: list[Node] = []


class Names(pydantic.RootModel[list[str]]):
    pass


@dataclasses.dataclass
class Point:
    x: int


class Row(typing.TypedDict):
    x: int


class Odd(enum.Enum):
    PAIR = (1, 2)


class Computed(pydantic.BaseModel):
    x: int = pydantic.Field(json_schema_extra=lambda schema: None)


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        (complex, "complex"),
        (bytes, "bytes"),
        (object, "object"),
        (Point, "Point"),
        (list[Point], "Point"),
        (Row, "Row"),
        (Names, "Names"),
        (Node, "Node"),
        (Odd, "Odd"),
        (Computed, "lambda"),
        (Literal[b"x"], "Literal"),
        (Literal[Colour.RED], "Colour"),
        (typing.Callable[[int], int], "Callable"),
    ],
)
def test_what_data_cannot_rebuild_is_refused_by_name(annotation: Any, named: str):
    with pytest.raises(ConfigurationError, match=named) as caught:
        encode_type(annotation)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        None,
        "str",
        {},
        {"type": "complex"},
        {"type": ["str"]},
        {"type": "list"},
        {"type": "list", "of": [5]},
        {"type": "union", "of": []},
        {"type": "literal", "values": []},
        {"type": "literal", "values": [[1]]},
        {"type": "enum", "name": "E", "base": "os", "doc": None, "members": {}},
        {"type": "enum", "name": "E", "base": None, "doc": None, "members": {"mro": 1}},
        {"type": "model", "name": "M", "doc": None, "config": {"extra": "often"}, "fields": {}},
        {"type": "model", "name": "M", "doc": None, "config": {}, "fields": {"_x": {"is": {"type": "int"}}}},
        {
            "type": "model",
            "name": "M",
            "doc": None,
            "config": {},
            "fields": {"x": {"is": {"type": "int"}, "default": "y"}},
        },
        {"type": "limited", "is": {"type": "str"}, "limits": {"pattern": 3}},
        {"type": "limited", "is": {"type": "dict", "of": [{"type": "bad"}]}, "limits": {}},
    ],
)
def test_what_is_no_type_is_refused_in_one_line(data: Any):
    with pytest.raises(ProgramFileError) as caught:
        decode_type(data)
    assert "\n" not in str(caught.value)
