"""Random runs, streamed and not: a shape, replies and faults that depend on the request alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.lm15 import InvalidRequestError, Request
from support.runs import in_format

from moa_dspy import AttentionMoA, Budget, RunError
from moa_dspy.runtime.answer_stream import AnswerStream, answer_streams
from moa_dspy.testing import ScriptedLM, prompt_of

SHAPES: dict[str, list[Any]] = {
    "layers": [1, 2, 3],
    "attention": ["full", "none", 1],
    "residual": ["synthesis", "none"],
    "early_stop": [True, False],
    "aggregation": ["synthesis", "synthesis", "vote", 2],
    "gate": ["off", "unanimous"],
}
FAULTS = ["", "", "", "", "fails", "empty", "reasons"]


@dataclass(frozen=True)
class Streamed:
    """What two equal runs gave, of which the first was streamed."""

    early: str  # what was sent before the run ended
    streamed: Any  # a prediction, or an error
    whole: Any

    @property
    def is_same(self) -> bool:
        if not isinstance(self.whole, dspy.Prediction):
            return type(self.streamed) is type(self.whole) and not self.early
        one, other = self.streamed.trace, self.whole.trace
        return (
            self.streamed.answer == self.whole.answer
            and self.whole.answer.startswith(self.early)
            and [step.calls for step in one.steps] == [step.calls for step in other.steps]
            and (one.tokens, one.stopped_by) == (other.tokens, other.stopped_by)
        )


def drawn(seed: int) -> tuple[dict[str, Any], list[str], int | None]:
    """A shape, the faults of its models, and a budget of calls."""
    draw = random.Random(seed)
    shape = {name: draw.choice(values) for name, values in SHAPES.items()}
    return shape, draw.choices(FAULTS, k=8), draw.choice([None, draw.randint(1, 30)])


async def both_ways(shape: dict[str, Any], faults: Sequence[str], seed: int, calls: int | None) -> Streamed:
    """Run a program twice, streamed and not."""

    def reply(request: Request) -> str:
        digest = hashlib.blake2b(repr((seed, request.model, prompt_of(request))).encode()).digest()
        text, improved = f"text {digest[2] % 3} of [one](x)", digest[3] > 99
        match faults[digest[0] % len(faults)]:
            case "fails":
                raise InvalidRequestError("no")
            case "empty":
                return " "
            case "reasons":
                return f"<think>hm {digest[1]}</think>\n{in_format(request, text, improved)}"
        return in_format(request, text, improved)

    agents = [ScriptedLM(reply, f"scripted/{name}") for name in "abc"]
    moa = AttentionMoA("question -> answer", agents, **shape, budget=Budget(calls=calls) if calls else None)
    parts: list[str] = []
    with answer_streams(AnswerStream(parts.append)):
        streamed = await _outcome(moa)
    return Streamed("".join(parts), streamed, await _outcome(moa))


async def _outcome(moa: AttentionMoA) -> Any:
    try:
        return await moa.acall(question="q")
    except RunError as error:
        return error
