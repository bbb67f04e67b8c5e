"""Settings that a benchmark prescribes for an example, such as MT-Bench's temperatures, put on a program's agents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dspy

from moa_dspy.agents import Agent
from moa_dspy.program import AttentionMoA

__all__ = ["Tuned"]

_AGENT_FIELDS = frozenset({"temperature", "max_tokens"})


class Tuned:
    """A program under various settings: one copy for each, with the same prompts, demos and connections.

    Args:
        program: as it is.
    """

    def __init__(self, program: dspy.Module) -> None:
        self._copies: dict[str, dspy.Module] = {"{}": program}

    @contextmanager
    def under(self, settings: Mapping[str, Any]) -> Iterator[dspy.Module]:
        """Give the program whose LMs have these settings; the LM that DSPy is configured with has them too."""
        key = json.dumps(dict(settings), sort_keys=True)
        if key not in self._copies:
            self._copies[key] = _with(self._copies["{}"], settings)
        ambient = dspy.settings.lm
        if not settings or not isinstance(ambient, dspy.BaseLM):
            yield self._copies[key]
            return
        with dspy.context(lm=ambient.copy(**settings)):
            yield self._copies[key]


def _with(program: dspy.Module, settings: Mapping[str, Any]) -> dspy.Module:
    if isinstance(program, AttentionMoA):
        aggregator = program.aggregator
        return program.replace(
            agents=[_agent(agent, settings) for agent in program.agents],
            aggregator=None if aggregator is None else _agent(aggregator, settings),
        )
    copy: dspy.Module = program.deepcopy()
    for _, predictor in copy.named_predictors():
        if isinstance(predictor.lm, dspy.BaseLM):
            predictor.lm = predictor.lm.copy(**settings)
    return copy


def _agent(agent: Agent, settings: Mapping[str, Any]) -> Agent:
    own = {name: value for name, value in settings.items() if name in _AGENT_FIELDS}
    others = {name: value for name, value in settings.items() if name not in _AGENT_FIELDS}
    changed = replace(agent, **own)
    return replace(changed, lm=agent.lm.copy(**others)) if others and isinstance(agent.lm, dspy.BaseLM) else changed
