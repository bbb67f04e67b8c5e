"""Making a plan: the rehearsals that it takes, put together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dspy

from moa_dspy.cost.budget import Budget
from moa_dspy.cost.prices import offline_prices
from moa_dspy.errors import ConfigurationError
from moa_dspy.planning.demos import choice_notes
from moa_dspy.planning.figures import course_of, difference, notes_on
from moa_dspy.planning.inputs import assumed_inputs, given_inputs
from moa_dspy.planning.lengths import Lengths, check_whole
from moa_dspy.planning.plan import Plan
from moa_dspy.planning.rehearsal import Rehearsal

if TYPE_CHECKING:
    from moa_dspy.program import AttentionMoA

__all__ = ["make_plan"]


def make_plan(
    program: AttentionMoA,
    example: Mapping[str, Any] | dspy.Example | None,
    inputs: Mapping[str, Any],
    *,
    budget: Budget | None = None,
    lengths: Lengths | None = None,
    times: int = 1,
    seconds_per_call: float | None = None,
) -> Plan:
    """Return what ``program`` would do and cost; ``AttentionMoA.plan`` in other words.

    Raises:
        InputError: an input is missing, unknown or given twice.
        ConfigurationError: an agent has no model, a prompt cannot be written, or an option is out of range.
    """
    check_whole("times", times, least=1)
    if seconds_per_call is not None and not 0 < seconds_per_call < math.inf:
        raise ConfigurationError(f"seconds_per_call={seconds_per_call!r} is no latency; it must be above 0")
    lengths = lengths or Lengths()
    given = given_inputs(example, inputs)
    assumed = not given
    values = program._checked(given or assumed_inputs(program.signature, lengths))
    limits = program.budget.within(budget)
    with offline_prices():
        rehearsal = Rehearsal(program, values, lengths, assumed=assumed)
        full = course_of(rehearsal.run(limits), rehearsal, seconds_per_call)
        shape = program.architecture
        stops = shape.early_stop and shape.synthesizes
        minimum = course_of(rehearsal.run(limits, improving=False), rehearsal, seconds_per_call) if stops else full
        cut = full.stopped_by == "budget"
        unlimited = course_of(rehearsal.run(Budget()), rehearsal, None) if cut else full
    return Plan(
        full=full,
        minimum=minimum,
        times=times,
        lengths=lengths,
        budget=limits,
        left_out=tuple(difference(unlimited, full)),
        notes=(
            *notes_on(full, limits, rehearsal),
            *choice_notes(program.predictors(), assumed=assumed),
        ),
    )
