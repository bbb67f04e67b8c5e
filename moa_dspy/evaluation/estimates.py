"""What an evaluation will take, before anything is paid: the program's plan for a few items, times all items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dspy

from moa_dspy.data.judges import JudgeMetric
from moa_dspy.data.metrics.metric import Metric
from moa_dspy.evaluation.evaluate import turns_of
from moa_dspy.planning import Lengths
from moa_dspy.presets import single_model
from moa_dspy.program import AttentionMoA

__all__ = ["Cost", "estimate_cost"]

_PLANNED: Final = 5
"""So many items are planned; the rest are taken to be like them."""

_REPLY: Final = 300
"""Tokens of the reply of a judge that does not say how long it is."""


@dataclass(frozen=True)
class Cost:
    """Calls, tokens and dollars.

    Attributes:
        calls: exact for the program, if nothing stops early, fails or is tried again.
        tokens: estimated.
        usd: estimated dollars of the models whose price is known.
        priced: whether every price is known.
    """

    calls: int = 0
    tokens: int = 0
    usd: float = 0.0
    priced: bool = True

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd, self.priced and other.priced
        )

    def scaled(self, share: float) -> Cost:
        """Return ``share`` times as much."""
        return Cost(round(self.calls * share), round(self.tokens * share), self.usd * share, self.priced)

    @property
    def dollars(self) -> str:
        """Return the dollars in words."""
        if self.priced:
            return f"${self.usd:,.2f}"
        return f"at least ${self.usd:,.2f}" if self.usd else "price unknown"


def estimate_cost(
    program: AttentionMoA,
    examples: Sequence[dspy.Example],
    metric: Metric,
    judge: dspy.BaseLM | None,
) -> tuple[Cost, Cost]:
    """Estimate what program and judge will take.

    Args:
        program: what is evaluated.
        examples: all of them.
        metric: what scores.
        judge: the judge's model, None where nothing is judged.

    Returns:
        Of the program, and of the judge.
    """
    chosen = list(examples[:: max(1, len(examples) // _PLANNED)])[:_PLANNED]
    share = len(examples) / len(chosen)
    asked = sum((_of_item(program, example) for example in chosen), start=Cost())
    if judge is None:
        return asked.scaled(share), Cost()
    judged = sum((_of_verdict(judge, example, metric) for example in chosen), start=Cost())
    return asked.scaled(share), judged.scaled(share)


def _of_item(program: AttentionMoA, example: dspy.Example) -> Cost:
    """All turns; those after the first also read what was said before."""
    turns = [example, *_later_turns(example)]
    return sum((_planned(program.plan(turn)) for turn in turns), start=Cost())


def _later_turns(example: dspy.Example) -> Iterator[dict[str, Any]]:
    if "turns" not in example:
        return
    said: list[dict[str, str]] = []
    for before, question in zip(example["turns"], example["turns"][1:], strict=False):
        said.append({"question": before, "answer": "word " * 450})
        yield {"history": dspy.History(messages=list(said)), "question": question}


def _of_verdict(judge: dspy.BaseLM, example: dspy.Example, metric: Metric) -> Cost:
    """A judge reads what the example holds and an answer, once for each turn or order, and replies."""
    calls, reply = (metric.calls, metric.reply_tokens) if isinstance(metric, JudgeMetric) else (1, _REPLY)
    reader = single_model("material -> verdict", judge, reasoning=False)
    material = " ".join(str(value) for value in example.toDict().values()) + " word" * 900
    plan = reader.plan(material=material, lengths=Lengths(answer=reply))
    return _planned(plan).scaled(turns_of([example]) * calls)


def _planned(plan: Any) -> Cost:
    full = plan.full
    return Cost(full.calls, full.prompt_tokens + full.completion_tokens, full.usd_at_least, full.usd is not None)
