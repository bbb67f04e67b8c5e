"""The parts of a program that a run uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import dspy

from moa_dspy.agents import AgentSlot
from moa_dspy.architecture import Architecture
from moa_dspy.protocols import Answer
from moa_dspy.signatures import Roles

__all__ = ["ROLES", "RunParts"]

ROLES: Final = (
    *("propose", "improve", "critique", "self_critique", "joint_critique", "refine"),
    *("aggregate", "synthesize", "agree", "dissent"),
)
"""The names of the predictors, in canonical order."""


@dataclass(frozen=True)
class RunParts:
    """The parts of a program that a run uses.

    Attributes:
        architecture: the program's architecture.
        roles: the signature of each role.
        predictors: the predictors of the agents, by role. Roles that the architecture does not use are missing.
        agents: the agents that propose, criticise and refine.
        aggregator: the agent that aggregates and synthesizes.
        key_of: returns a key of an agent's answer, equal for equal answers; None uses the vote's.
    """

    architecture: Architecture
    roles: Roles
    predictors: Mapping[str, Sequence[dspy.Predict]]
    agents: tuple[AgentSlot, ...]
    aggregator: AgentSlot
    key_of: Callable[[int, Answer], str] | None = None
