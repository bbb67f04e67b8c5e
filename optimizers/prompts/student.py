"""The copy of a program that an optimizer tunes, and the transfer of its prompts to the result.

DSPy's optimizers attach attributes to programs, add any demo to any predictor, and resample through the ambient LM.
The student is a copy that allows this. The result is another copy of the original program, with the student's prompts.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dspy
from pydantic_core import PydanticUndefined

from moa_dspy._dspy import annotation_allows_none, mark_uncompiled
from moa_dspy.agents import AgentSlot
from moa_dspy.errors import ConfigurationError
from moa_dspy.program import AttentionMoA
from moa_dspy.runtime.knn_demos import Nearest
from moa_dspy.runtime.parts import ROLES

__all__ = ["ambient_lm", "fits", "instructions_of", "learned", "student_of"]


def ambient_lm(program: AttentionMoA) -> dspy.BaseLM:
    """Return the LM for DSPy's settings while an optimizer runs: the configured one, or the program's.

    It has no rollout id, so that nothing changes for the agents until an optimizer resamples.
    """
    configured = dspy.settings.lm
    return configured if isinstance(configured, dspy.BaseLM) else program.get_lm().copy(rollout_id=None)


def student_of(program: AttentionMoA) -> AttentionMoA:
    """Return a copy for an optimizer.

    Its predictors drop demos that do not fit their role. No two predictors have equal signatures. Its agents draw new
    samples when the optimizer resamples, even at temperature 0.
    """
    student: AttentionMoA = program.deepcopy()
    mark_uncompiled(student)
    for role in ROLES:
        predictors = vars(student).get(role)
        if isinstance(predictors, list):
            setattr(student, role, [_role_predictor(predictor, agent) for agent, predictor in enumerate(predictors)])
        elif predictors is not None:
            setattr(student, role, _role_predictor(predictors))
    at_rest = ambient_lm(program).kwargs.get("rollout_id")
    *slots, student._aggregator = (
        _Resampling(v.name, v.agent, v.sample, at_rest) for v in (*student._slots, student._aggregator)
    )
    student._slots = tuple(slots)
    return student


def learned(student: dspy.Module, program: AttentionMoA) -> AttentionMoA:
    """Return a copy of ``program`` with the prompts, demos and decision thresholds of ``student``, and nothing else.

    Raise ConfigurationError if their predictors differ.
    """
    result: AttentionMoA = program.deepcopy()
    tuned, own = dict(student.named_predictors()), dict(result.named_predictors())
    if tuned.keys() != own.keys():
        raise ConfigurationError(f"the optimizer returned predictors {', '.join(tuned)}, not {', '.join(own)}")
    for name, predictor in own.items():
        _take_over(tuned[name], predictor)
    return result


def fits(signature: Any, demo: Mapping[str, Any]) -> bool:
    """Return whether ``demo`` has all fields of ``signature``, except the optional inputs.

    Without this check, an example of the task would be an incomplete demo of a critique. And one without the reasoning
    that a prompt asks for would teach the model to answer without thinking: docs/benchmarks.md, "Real models".
    """
    needed = [name for name, field in signature.input_fields.items() if not _optional(field)]
    needed += signature.output_fields
    return all(name in demo and demo[name] is not None for name in needed)


def instructions_of(program: dspy.Module) -> dict[str, str]:
    """Return each predictor's instructions, by name."""
    return {name: _signature(predictor).instructions for name, predictor in program.named_predictors()}


class _RolePredictor(dspy.Predict):
    """A predictor that drops demos that do not fit its role."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "demos":
            value = [demo for demo in value if fits(self.signature, demo)]
        super().__setattr__(name, value)


def _role_predictor(original: dspy.Predict, agent: int | None = None) -> _RolePredictor:
    signature = _signature(original)
    if agent is not None:
        # GEPA finds a predictor's calls by comparing signatures. Those of agents with separate prompts start equal.
        signature = signature.with_updated_fields(next(iter(signature.input_fields)), moa_agent=agent)
    predictor = _RolePredictor(signature)
    predictor.fields, predictor.lm, predictor.demos = original.fields, original.lm, original.demos
    return predictor


@dataclass(frozen=True)
class _Resampling(AgentSlot):
    """An agent that also resamples at temperature 0 when an optimizer asks for new samples.

    The optimizer then sets an ambient LM with a ``rollout_id`` other than ``at_rest`` and a temperature above 0.
    """

    at_rest: int | None = None

    def config(
        self, lm: dspy.BaseLM, ambient: dspy.BaseLM | None, target: str | None = None, server: str | None = None
    ) -> dict[str, Any]:
        """Return the options of one of this agent's calls; see ``AgentSlot``."""
        config = super().config(lm, ambient, target, server)
        wanted: dict[str, Any] = getattr(ambient, "kwargs", {})
        if wanted.get("rollout_id") in (None, self.at_rest) or not wanted.get("temperature"):
            return config
        if config.get("temperature", lm.kwargs.get("temperature")) != 0:
            return config
        warmer = replace(self.agent, temperature=wanted["temperature"])
        return AgentSlot(self.name, warmer, self.sample).config(lm, ambient, target, server)


def _take_over(tuned: dspy.Predict, own: dspy.Predict) -> None:
    """Set the instructions, field texts, demos and decisions of ``tuned`` on ``own``."""
    signature, new = _signature(own), _signature(tuned)
    signature = signature.with_instructions(new.instructions)
    for name, field in new.fields.items():
        extra = field.json_schema_extra
        if any(signature.fields[name].json_schema_extra[key] != extra[key] for key in ("prefix", "desc")):
            signature = signature.with_updated_fields(name, prefix=extra["prefix"], desc=extra["desc"])
    own.signature = signature
    shown = (*signature.fields, "augmented")  # no prompt shows other fields
    own.demos = [dspy.Example(**{name: value for name, value in demo.items() if name in shown}) for demo in tuned.demos]
    own.fields = copy.deepcopy(tuned.fields)
    Nearest.set_on(own, Nearest.of(tuned))


def _optional(field: Any) -> bool:
    annotation = field.annotation
    return (
        field.default is not PydanticUndefined or annotation is dspy.History or bool(annotation_allows_none(annotation))
    )


def _signature(predictor: dspy.Predict) -> Any:
    return predictor.signature  # declared as an instance, used as the class it is
