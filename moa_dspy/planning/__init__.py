"""Estimate the cost of a run in advance: exact calls, estimated tokens and dollars.

A plan runs the real algorithm with its own layers, budget and prompts, but placeholders replace the replies of its
models. So no rule of the algorithm is implemented twice, and no LM is called.

::

    plan = moa.plan(question="...", budget=Budget(calls=40))
    plan.full.calls, plan.minimum.calls, plan.full.usd
    print(plan.to_table())
"""

from __future__ import annotations

from moa_dspy.cost.prices import ModelPrice
from moa_dspy.errors import ConfigurationError, InputError
from moa_dspy.planning.estimate import CostEstimate, PartEstimate, WorkEstimate, evenly_spaced, total
from moa_dspy.planning.lengths import Lengths, assumed_inputs
from moa_dspy.planning.plan import (
    ModelEstimate,
    Plan,
    RunEstimate,
    StageEstimate,
    model_rows,
    stage_rows,
    summary_lines,
)

__all__ = [
    "ConfigurationError",
    "CostEstimate",
    "InputError",
    "Lengths",
    "ModelEstimate",
    "ModelPrice",
    "PartEstimate",
    "Plan",
    "RunEstimate",
    "StageEstimate",
    "WorkEstimate",
    "assumed_inputs",
    "evenly_spaced",
    "model_rows",
    "stage_rows",
    "summary_lines",
    "total",
]
