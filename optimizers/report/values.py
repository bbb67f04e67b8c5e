"""What stands in a record, for readers: numbers with their intervals, costs, architectures; each in one way.

Records come from files. Whatever is missing or of another form is None here, and said on the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import pydantic

from moa_dspy.architecture import AgentSpec, Architecture
from moa_dspy.evaluation.statistics import Gain, Score
from moa_dspy.optimizers.results import Cost
from moa_dspy.optimizers.stopping.depth import Price

__all__ = [
    "UNKNOWN",
    "Model",
    "Record",
    "architecture_of",
    "architecture_rows",
    "architecture_text",
    "cost_text",
    "given",
    "inner",
    "listed",
    "number_text",
    "p_text",
    "price_cells",
    "price_in",
    "reading",
    "with_interval",
]

Record: TypeAlias = Mapping[str, Any]
Model = TypeVar("Model", bound=pydantic.BaseModel)

UNKNOWN: Final = "not on record"
_USUAL_LEVEL: Final = 0.95


def inner(record: Any, *names: str) -> Record:
    """Return the mapping that is found by going from name to name; an empty one where there is none."""
    for name in names:
        record = record.get(name) if isinstance(record, Mapping) else None
    return record if isinstance(record, Mapping) else {}


def listed(record: Record, name: str) -> list[Record]:
    """Return the mappings of a list in a record; none where there is no list."""
    values = record.get(name)
    return [value for value in values if isinstance(value, Mapping)] if isinstance(values, Sequence) else []


def reading(model: type[Model], value: Any) -> Model | None:
    """Return a value as a model, without fields that it does not know; None where it is none."""
    if not isinstance(value, Mapping):
        return None
    try:
        return model.model_validate({name: value[name] for name in model.model_fields if name in value})
    except pydantic.ValidationError:
        return None


def given(value: Any) -> str:
    """Return a plain value in words."""
    if value is None or value == "":
        return UNKNOWN
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def with_interval(value: Score | Gain | None) -> str:
    """Return an estimate with its interval, and the coverage of that where it is not the usual 95 %."""
    if value is None:
        return UNKNOWN
    return str(value) if value.level == _USUAL_LEVEL else f"{value} ({value.level:.0%})"


def p_text(value: Any) -> str:
    """Return a p value with three digits."""
    return number_text(value, ".3g")


def number_text(value: Any, form: str) -> str:
    """Return a number in the given format."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return format(value, form) if is_number else UNKNOWN


def cost_text(cost: Cost | None) -> str:
    """Return what was paid."""
    if cost is None:
        return UNKNOWN
    calls, tokens, usd = price_cells(Price(calls=cost.calls, tokens=cost.tokens, usd=cost.usd), "")
    dollars = "dollars unknown" if cost.usd is None else usd
    return f"{calls.removesuffix('.0')} calls, {tokens} tokens, {dollars}, {cost.seconds:.1f} s"


def price_cells(price: Price | None, sign: str = "") -> tuple[str, str, str]:
    """Return calls, tokens and dollars.

    Args:
        price: of an example, or in all.
        sign: ``+`` where it is a difference.
    """
    if price is None:
        return UNKNOWN, UNKNOWN, UNKNOWN
    usd = "unknown" if price.usd is None else f"{price.usd:{sign},.6f}"
    return f"{price.calls:{sign},.1f}", f"{price.tokens:{sign},.0f}", usd if usd == "unknown" else f"${usd}"


def price_in(price: Price | None, unit: str) -> float | None:
    """Return a price in ``usd``, ``tokens`` or ``calls``, if it is known."""
    return None if price is None else getattr(price, unit, None)


def architecture_of(value: Any) -> Architecture | None:
    """Return the architecture that a record holds."""
    return reading(Architecture, value)


def architecture_text(shape: Architecture | None) -> str:
    """Return an architecture in a line."""
    return UNKNOWN if shape is None else "; ".join(f"{name} {value}" for name, value in _brief(shape))


def architecture_rows(shape: Architecture | None) -> list[tuple[str, str]]:
    """Return an architecture as names and values."""
    if shape is None:
        return []
    return [
        ("agents", ", ".join(map(_agent, shape.agents))),
        (
            "models",
            ", ".join(dict.fromkeys(spec.model or "the model DSPy is configured with" for spec in shape.agents)),
        ),
        ("layers", str(shape.layers)),
        ("attention", str(shape.attention)),
        ("residual", shape.residual),
        ("aggregation", shape.aggregation),
        ("aggregator", _aggregator(shape)),
        ("early stop", _yes(shape.early_stop and shape.synthesizes)),
        ("shared prompts", _yes(shape.shared_prompts)),
        ("reasoning", _yes(shape.reasoning)),
        ("calls", f"at most {shape.max_calls}, of which {shape.depth} follow one another"),
    ]


def _brief(shape: Architecture) -> Iterator[tuple[str, str]]:
    yield "agents", ", ".join(map(_agent, shape.agents))
    yield "attention", str(shape.attention)
    yield "layers", f"{shape.layers}{', early stop' if shape.early_stop and shape.synthesizes else ''}"
    if shape.layers > 1:
        yield "residual", shape.residual
    yield "aggregation", shape.aggregation if shape.aggregation != "synthesis" else f"by {_aggregator(shape)}"


def _agent(spec: AgentSpec) -> str:
    return f"{spec.name}{_temperature(spec)}"


def _aggregator(shape: Architecture) -> str:
    if shape.aggregation != "synthesis":
        return "none"
    if shape.aggregator is None:
        return f"the model of {shape.agents[0].name}"
    return f"{shape.aggregator.model or shape.aggregator.name}{_temperature(shape.aggregator)}"


def _temperature(spec: AgentSpec) -> str:
    return "" if spec.temperature is None else f" (T={spec.temperature:g})"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
