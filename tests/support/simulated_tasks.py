"""Simulated tasks for the tests of the optimizers."""

from __future__ import annotations

from typing import Any

import dspy

from moa_dspy.testing import SimulatedLM

__all__ = ["ANSWERS", "exact", "examples", "simulated"]

ANSWERS = {f"task {number:03d}": f"answer {number}" for number in range(60)}


def simulated(name: str, **skill: Any) -> SimulatedLM:
    """A simulated agent whose answered calls are cached."""
    return SimulatedLM(ANSWERS, model=f"simulated/{name}", **{"cache": True, **skill})


def examples(count: int) -> list[dspy.Example]:
    """The first tasks."""
    rows = list(ANSWERS.items())[:count]
    return [dspy.Example(question=question, answer=answer).with_inputs("question") for question, answer in rows]


def exact(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    """Whether the answer is right."""
    return example.answer == prediction.answer
