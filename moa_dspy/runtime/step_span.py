"""The span of a step in tracing tools: a DSPy module around the step, named after it.

MLflow and OpenInference name a span after the class of the module. Without this, a run would be 33 times ``Predict``.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import dspy

from moa_dspy.runtime.session import StepId
from moa_dspy.trace import Stage

__all__ = ["StepSpan", "in_span"]


class StepSpan(dspy.Module):
    """A step, as DSPy's callbacks see it. The name of its class is the name of the step.

    Attributes:
        layer: from 1.
        stage: the kind of step.
        agent: the agent that acts.
        target: the agent whose answer is criticised or refined; None for other stages.
    """

    def __init__(self, step_id: StepId, run: Callable[[], Awaitable[None]], outcome: Callable[[], Any]) -> None:
        super().__init__()
        self.layer: int = step_id.layer
        self.stage: Stage = step_id.stage
        self.agent, self.target = step_id.agent_name, step_id.target_name
        self._run, self._outcome = run, outcome

    async def aforward(self, **about: Any) -> Any:
        """Do the step, and return its outcome."""
        del about  # what the tracing tool shows as inputs
        await self._run()
        return self._outcome()


async def in_span(step_id: StepId, run: Callable[[], Awaitable[None]], outcome: Callable[[], Any]) -> None:
    """Do a step in a span of its own. Its output is the outcome: the step's outputs, or its failure."""
    span = _kind(_name_of(step_id))(step_id, run, outcome)
    about = {"layer": span.layer, "stage": span.stage, "agent": span.agent, "target": span.target}
    await span.acall(**{name: value for name, value in about.items() if value is not None})


def _name_of(step_id: StepId) -> str:
    """Return the name of a step: ``critique critic -> writer, layer 1``."""
    agent, target = step_id.agent_name, step_id.target_name
    who = agent if target in (None, agent) else f"{agent} -> {target}"
    return f"{step_id.stage} {who}, layer {step_id.layer}"


@functools.lru_cache(maxsize=512)
def _kind(name: str) -> type[StepSpan]:
    return type(name, (StepSpan,), {"__module__": __name__})
