"""Which calls designs share, and so what a further one would have to pay for.

A request is known by who is asked and by what it reads, down to the first proposals. Two designs make the same request
where these are the same: the response cache answers the second one. (Texts that happen to be equal are shared as well;
that cannot be known beforehand.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from moa_dspy.attention import critics_of
from moa_dspy.optimizers.search.space import Design

__all__ = ["Request", "requests_of", "unpaid"]

Request: TypeAlias = int
"""A hash that is the same for the same request, within one process."""


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
    """Return how many of a run's requests are not answered yet.

    Args:
        requests: of one run.
        paid: for requests that were made, the share of the examples on which they were.
    """
    return sum(1 - paid.get(request, 0.0) for request in requests)


def _layer(design: Design, layer: int, previous: Request, made: set[Request]) -> Request:
    voices = _voices(design)
    proposals = [_asked(made, "propose", voice, previous) for voice in voices]
    answers: list[Request] = []
    for j, own in enumerate(proposals):
        critiques = [
            _asked(made, "critique", voices[i], proposals[i], own)
            for i in critics_of(j, design.attention, len(voices), layer)
        ]
        answers.append(_asked(made, "refine", voices[j], own, *critiques) if critiques else own)
    if design.aggregation == "synthesis":
        return _asked(made, "aggregate", design.aggregator, *answers)
    return hash((design.aggregation, *answers))


def _voices(design: Design) -> Sequence[tuple[int, int, float | None]]:
    """Agent, number of its sample, and temperature, of every member of the ensemble."""
    counted = enumerate(zip(design.samples, design.temperatures, strict=True))
    return [(agent, sample, warmth) for agent, (count, warmth) in counted for sample in range(count)]


def _asked(made: set[Request], role: str, voice: object, *read: Request) -> Request:
    request = hash((role, voice, *read))
    made.add(request)
    return request
