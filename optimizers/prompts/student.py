"""The program as an optimizer gets it, and what is taken over from the optimizer's result.

DSPy's optimizers glue attributes onto programs, put any demo on any predictor, and resample by the ambient LM. A
student is a copy that takes no harm from that; the result is a copy of the program as it was given, with the student's
prompts.
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
from moa_dspy.run.knn_demos import Nearest
from moa_dspy.run.layers import Predictors

__all__ = ["ambient_lm", "fits", "instructions_of", "learned", "student_of"]

_REASONING = "reasoning"


def ambient_lm(program: AttentionMoA) -> dspy.BaseLM:
    """Return the LM for optimizers that ask DSPy's settings for one: the configured one, or the program's.

    It has no rollout of its own, so that nothing changes for the agents until an optimizer resamples.
    """
    configured = dspy.settings.lm
    return configured if isinstance(configured, dspy.BaseLM) else program.get_lm().copy(rollout_id=None)


def student_of(program: AttentionMoA) -> AttentionMoA:
    """Return a copy for an optimizer.

    Its predictors refuse demos that their role cannot use, no two of them look the same to an optimizer, and its
    agents draw new samples when the optimizer asks for them, also those at temperature 0.
    """
    student: AttentionMoA = program.deepcopy()
    mark_uncompiled(student)
    for role in Predictors.__dataclass_fields__:
        given = vars(student).get(role)
        if isinstance(given, list):
            setattr(student, role, [_role_predictor(predictor, agent) for agent, predictor in enumerate(given)])
        elif given is not None:
            setattr(student, role, _role_predictor(given))
    at_rest = ambient_lm(program).kwargs.get("rollout_id")
    student._slots = tuple(_Resampling(v.name, v.agent, v.sample, at_rest) for v in student._slots)
    return student


def learned(student: dspy.Module, program: AttentionMoA) -> AttentionMoA:
    """Return a copy of ``program`` with the prompts, demos and decision thresholds of ``student``, and nothing else.

    Raises:
        ConfigurationError: the student has other predictors.
    """
    result: AttentionMoA = program.deepcopy()
    theirs, ours = dict(student.named_predictors()), dict(result.named_predictors())
    if theirs.keys() != ours.keys():
        raise ConfigurationError(f"the optimizer returned predictors {', '.join(theirs)}, not {', '.join(ours)}")
    for name, mine in ours.items():
        _take_over(theirs[name], mine)
    return result


def fits(signature: Any, demo: Mapping[str, Any]) -> bool:
    """Return whether a predictor of ``signature`` can use ``demo``: all inputs and outputs but the optional ones.

    Without this, an example of the task would stand among the demos of a critique, as half an example.
    """

    def has(name: str) -> bool:
        return name in demo and demo[name] is not None

    needed = [name for name, field in signature.input_fields.items() if not _optional(field)]
    return all(map(has, needed)) and all(has(name) for name in signature.output_fields if name != _REASONING)


def instructions_of(program: dspy.Module) -> dict[str, str]:
    """Return each predictor's instructions, by name."""
    return {name: _signature(predictor).instructions for name, predictor in program.named_predictors()}


class _RolePredictor(dspy.Predict):
    """A predictor that takes no demo which its role cannot use."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "demos":
            value = [demo for demo in value if fits(self.signature, demo)]
        super().__setattr__(name, value)


def _role_predictor(given: dspy.Predict, agent: int | None = None) -> _RolePredictor:
    signature = _signature(given)
    if agent is not None:
        # GEPA finds a predictor's calls by comparing signatures; those of agents with prompts of their own start equal.
        signature = signature.with_updated_fields(next(iter(signature.input_fields)), moa_agent=agent)
    made = _RolePredictor(signature)
    made.fields, made.lm, made.demos = given.fields, given.lm, given.demos
    return made


@dataclass(frozen=True)
class _Resampling(AgentSlot):
    """An agent that follows an optimizer's rollouts even at temperature 0.

    An optimizer that wants new samples hands in an LM with a new ``rollout_id`` and a temperature above 0. What that
    does to a program's only model, this does to each agent.
    """

    at_rest: int | None = None

    def config(self, lm: dspy.BaseLM, ambient: dspy.BaseLM | None, target: str | None = None) -> dict[str, Any]:
        """Return the options of one of this agent's calls; see ``AgentSlot``."""
        config = super().config(lm, ambient, target)
        asked: dict[str, Any] = getattr(ambient, "kwargs", {})
        if asked.get("rollout_id") in (None, self.at_rest) or not asked.get("temperature"):
            return config
        if config.get("temperature", lm.kwargs.get("temperature")) != 0:
            return config
        warmer = replace(self.agent, temperature=asked["temperature"])
        return AgentSlot(self.name, warmer, self.sample).config(lm, ambient, target)


def _take_over(theirs: dspy.Predict, mine: dspy.Predict) -> None:
    signature, told = _signature(mine), _signature(theirs)
    signature = signature.with_instructions(told.instructions)
    for name, field in told.fields.items():
        extra = field.json_schema_extra
        if any(signature.fields[name].json_schema_extra[key] != extra[key] for key in ("prefix", "desc")):
            signature = signature.with_updated_fields(name, prefix=extra["prefix"], desc=extra["desc"])
    mine.signature = signature
    mine.demos = [_trimmed(signature, demo) for demo in theirs.demos]
    mine.fields = copy.deepcopy(theirs.fields)
    Nearest.set_on(mine, Nearest.of(theirs))


def _trimmed(signature: Any, demo: Mapping[str, Any]) -> dspy.Example:
    """The demo without those fields of the data set that no prompt shows."""
    return dspy.Example(**{name: value for name, value in demo.items() if name in (*signature.fields, "augmented")})


def _optional(field: Any) -> bool:
    annotation = field.annotation
    return (
        field.default is not PydanticUndefined or annotation is dspy.History or bool(annotation_allows_none(annotation))
    )


def _signature(predictor: dspy.Predict) -> Any:
    return predictor.signature  # declared as an instance, used as the class it is
