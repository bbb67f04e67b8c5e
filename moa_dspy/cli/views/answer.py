"""The answer of a run, as text and as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from moa_dspy.json_safe import json_safe

if TYPE_CHECKING:
    from moa_dspy.program import AttentionMoA, Prediction
    from moa_dspy.trace import Trace

__all__ = ["answer_json", "answer_text", "run_figures"]

_NESTED: Final = "outputs"


def answer_text(program: AttentionMoA, prediction: Prediction) -> str:
    """Return a single text output unchanged, and other outputs as ``name: value`` lines."""
    outputs = _outputs(program, prediction)
    if len(outputs) == 1:
        (value,) = outputs.values()
        if isinstance(value, str) and _is_text(program):
            return value
    return "\n".join(f"{name}: {_one_line(value)}" for name, value in outputs.items())


def answer_json(program: AttentionMoA, prediction: Prediction) -> str:
    """Return the task's outputs and the run's figures as one JSON object.

    The outputs are at the top level. If one has the name of a figure, all outputs are under ``outputs``.
    """
    outputs, figures = _outputs(program, prediction), run_figures(prediction.trace)
    if outputs.keys() & {*figures, _NESTED}:
        outputs = {_NESTED: outputs}
    return json.dumps(json_safe({**outputs, **figures}), ensure_ascii=False, indent=2)


def run_figures(trace: Trace) -> dict[str, Any]:
    """Return the figures of a run: layers, calls, tokens, dollars, seconds."""
    tokens = trace.tokens
    return {
        "layers": trace.layers,
        "stopped_by": trace.stopped_by,
        "calls": trace.calls,
        "cached_calls": trace.cached_calls,
        "tokens": {**tokens.model_dump(), "total": tokens.total},
        "cost_usd": trace.cost_usd,
        "cost_is_lower_bound": trace.cost_is_lower_bound,
        "seconds": round(trace.seconds, 3),
    }


def _outputs(program: AttentionMoA, prediction: Prediction) -> dict[str, Any]:
    """Return the task's outputs as JSON values, without an added reasoning field."""
    values = program.roles.jsonable(dict(prediction.items()))
    return {name: values[name] for name in program.task.output_fields}


def _is_text(program: AttentionMoA) -> bool:
    return all(field.annotation is str for field in program.task.output_fields.values())


def _one_line(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
