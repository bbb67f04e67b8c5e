"""A program in another shape, with the prompts that it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from moa_dspy.agents import Agent
from moa_dspy.architecture import Architecture
from moa_dspy.program import AttentionMoA

__all__ = ["named_agents", "rebuilt", "take_prompts"]


def rebuilt(program: AttentionMoA, places: Sequence[int] | None = None, **changes: Any) -> AttentionMoA:
    """Return a program that differs in the given arguments of ``AttentionMoA``; the given one is not changed.

    Args:
        program: agents, architecture, budget, tolerance and prompts are taken from it.
        places: the numbers of those of its agents that stay, from 0; None keeps all.
        **changes: such as ``layers`` and ``early_stop``.
    """
    agents, shape = named_agents(program), program.architecture
    kept = list(range(len(agents)) if places is None else places)
    given = {name: getattr(shape, name) for name in Architecture.model_fields if name not in ("agents", "aggregator")}
    given |= {"aggregator": program.aggregator, "budget": program.budget, "tolerance": program.tolerance}
    made = AttentionMoA(program.task, [agents[number] for number in kept], **{**given, **changes})
    take_prompts(made, program, kept)
    return made


def named_agents(program: AttentionMoA) -> list[Agent]:
    """Return the program's agents under the names that they have in it."""
    specs = program.architecture.agents
    return [replace(agent, name=spec.name) for agent, spec in zip(program.agents, specs, strict=True)]


def take_prompts(made: AttentionMoA, program: AttentionMoA, places: Sequence[int | None]) -> None:
    """Give a program the prompts and demos of another, for the roles that both play.

    Args:
        made: is changed.
        program: whose prompts are copied.
        places: for each agent of ``made`` its number among those of ``program``; None where it is none of them: it then
            takes a prompt that all share, and none that is another agent's.
    """
    first = next((place for place in places if place is not None), 0)
    ours = vars(program)
    for role, predictors in _roles(made):
        theirs = ours.get(role)
        if theirs is None:
            continue
        if isinstance(predictors, list):
            value: Any = [
                _of_place(theirs, place, own).deepcopy() for place, own in zip(places, predictors, strict=True)
            ]
        else:
            value = _of_place(theirs, first, predictors).deepcopy()
        setattr(made, role, value)


def _of_place(theirs: Any, place: int | None, own: Any) -> Any:
    if not isinstance(theirs, list):
        return theirs
    return own if place is None else theirs[place]


def _roles(program: AttentionMoA) -> Iterator[tuple[str, Any]]:
    names = dict.fromkeys(name.partition("[")[0] for name, _ in program.named_predictors())
    return ((name, getattr(program, name)) for name in names)
