"""Attention-MoA as a DSPy-optimizable program.

Several language models answer the same task, criticise each other's answers and their own, revise, and are synthesised,
layer after layer, with an early stop when a layer brings nothing new (arXiv 2601.16596).

Names are loaded on first use, so ``import moa_dspy`` alone costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from moa_dspy.agents import Agent
    from moa_dspy.architecture import AgentSpec, Architecture
    from moa_dspy.concurrency import limit_concurrency
    from moa_dspy.errors import (
        AllProposalsFailedError,
        ConfigurationError,
        InputError,
        LocalModelError,
        MoAError,
        ProgramFileError,
        RunError,
        StepFailedError,
    )
    from moa_dspy.evaluation import evaluate
    from moa_dspy.events import StepStarted, watch
    from moa_dspy.limits import Budget, Tolerance
    from moa_dspy.planning import Lengths, Plan
    from moa_dspy.presets import attention_moa, mixture_of_agents, self_consistency, self_moa, single_model
    from moa_dspy.program import AttentionMoA, Prediction
    from moa_dspy.program_file import load
    from moa_dspy.trace import Step, Tokens, Trace

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AgentSpec",
    "AllProposalsFailedError",
    "Architecture",
    "AttentionMoA",
    "Budget",
    "ConfigurationError",
    "InputError",
    "Lengths",
    "LocalModelError",
    "MoAError",
    "Plan",
    "Prediction",
    "ProgramFileError",
    "RunError",
    "Step",
    "StepFailedError",
    "StepStarted",
    "Tokens",
    "Tolerance",
    "Trace",
    "attention_moa",
    "evaluate",
    "limit_concurrency",
    "load",
    "mixture_of_agents",
    "self_consistency",
    "self_moa",
    "single_model",
    "watch",
]

_HOMES: Final = {
    "agents": ("Agent",),
    "architecture": ("AgentSpec", "Architecture"),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "concurrency": ("limit_concurrency",),
    "evaluation": ("evaluate",),
    "events": ("StepStarted", "watch"),
    "limits": ("Budget", "Tolerance"),
    "planning": ("Lengths", "Plan"),
    "presets": ("attention_moa", "mixture_of_agents", "self_consistency", "self_moa", "single_model"),
    "program": ("AttentionMoA", "Prediction"),
    "program_file": ("load",),
    "trace": ("Step", "Tokens", "Trace"),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'moa_dspy' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"moa_dspy.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
