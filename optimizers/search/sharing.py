"""Requests that several designs share. The response cache answers them, so each is paid for only once.

A request is identified by its agent and by the requests whose answers it reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from moa_dspy.attention import critics_of
from moa_dspy.optimizers.search.designs import Design

__all__ = ["Request", "requests_of", "unpaid"]

Request: TypeAlias = int
"""A hash; equal for equal requests within a process."""


def requests_of(design: Design, layers: int) -> frozenset[Request]:
    """Return the requests of one run of ``design`` at ``layers`` layers, without early stopping."""
    made: set[Request] = set()
    stack: list[Request] = []
    for layer in range(1, layers + 1):
        aggregate = _layer(design, layer, stack[-1] if stack else 0, made)
        if stack and design.residual == "synthesis":
            aggregate = _asked(made, "synthesize", design.aggregator, *stack, aggregate)
        stack.append(aggregate)
    return frozenset(made)


def unpaid(requests: frozenset[Request], paid: Mapping[Request, float]) -> float:
    """Return the number of requests that are not paid yet.

    Args:
        requests: the requests of one run.
        paid: for each request, the share of the examples on which it was made.
    """
    return sum(1 - paid.get(request, 0.0) for request in requests)


def _layer(design: Design, layer: int, previous: Request, made: set[Request]) -> Request:
    members = _members(design)
    proposals = [_asked(made, "propose", member, previous) for member in members]
    answers: list[Request] = []
    for j, own in enumerate(proposals):
        critiques = [
            _asked(made, "critique", members[i], proposals[i], own)
            for i in critics_of(j, design.attention, len(members), layer)
        ]
        answers.append(_asked(made, "refine", members[j], own, *critiques) if critiques else own)
    if design.aggregation == "synthesis":
        return _asked(made, "aggregate", design.aggregator, *answers)
    return hash((design.aggregation, *answers))


def _members(design: Design) -> Sequence[tuple[int, int, float | None]]:
    """Return agent, sample number and temperature of every member of the ensemble."""
    counted = enumerate(zip(design.samples, design.temperatures, strict=True))
    return [(agent, sample, temperature) for agent, (count, temperature) in counted for sample in range(count)]


def _asked(made: set[Request], role: str, member: object, *read: Request) -> Request:
    request = hash((role, member, *read))
    made.add(request)
    return request
