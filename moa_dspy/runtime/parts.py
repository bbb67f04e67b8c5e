"""The parts of a program that a run uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import dspy

from moa_dspy.agents import AgentSlot
from moa_dspy.architecture import Architecture
from moa_dspy.protocols import Answer
from moa_dspy.signatures import Roles

__all__ = ["ROLES", "Predictors", "RunParts"]


@dataclass(frozen=True)
class Predictors:
    """The role predictors of a program: one per role if agents share it, else one per agent.

    Roles that the architecture does not use are None.
    """

    propose: dspy.Predict | list[dspy.Predict]
    improve: dspy.Predict | list[dspy.Predict] | None = None
    critique: dspy.Predict | list[dspy.Predict] | None = None
    self_critique: dspy.Predict | list[dspy.Predict] | None = None
    joint_critique: dspy.Predict | list[dspy.Predict] | None = None
    refine: dspy.Predict | list[dspy.Predict] | None = None
    aggregate: dspy.Predict | None = None
    synthesize: dspy.Predict | None = None
    agree: dspy.Predict | None = None
    dissent: dspy.Predict | None = None

    def by_agent(self, agents: int) -> dict[str, list[dspy.Predict]]:
        """Return the predictor of each of ``agents`` agents in each role that the architecture uses."""
        used = {role: part for role in ROLES if (part := getattr(self, role)) is not None}
        return {role: part if isinstance(part, list) else [part] * agents for role, part in used.items()}


ROLES: Final = tuple(Predictors.__dataclass_fields__)
"""The names of the predictors, in canonical order."""


@dataclass(frozen=True)
class RunParts:
    """The parts of a program that a run uses.

    Attributes:
        architecture: the program's architecture.
        roles: the signature of each role.
        predictors: the prompts.
        agents: the agents that propose, criticise and refine.
        aggregator: the agent that aggregates and synthesizes.
        key_of: returns a key of an agent's answer, equal for equal answers; None uses the vote's.
    """

    architecture: Architecture
    roles: Roles
    predictors: Predictors
    agents: tuple[AgentSlot, ...]
    aggregator: AgentSlot
    key_of: Callable[[int, Answer], str] | None = None
