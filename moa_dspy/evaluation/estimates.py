"""Cost estimates of an evaluation: a few examples are planned, and their cost is scaled to all examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import dspy

from moa_dspy.data.judges import JudgeMetric
from moa_dspy.evaluation.evaluate import turns_of
from moa_dspy.planning import CostEstimate, Lengths, evenly_spaced, total
from moa_dspy.presets import single_model
from moa_dspy.program import AttentionMoA

__all__ = ["estimate_cost"]

_PLANNED: Final = 5
"""Number of examples planned."""

_REPLY: Final = 300
"""Default number of tokens of a judge's reply."""


def estimate_cost(
    program: AttentionMoA,
    examples: Sequence[dspy.Example],
    metric: Callable[..., Any],
    judge: dspy.BaseLM | None,
) -> tuple[CostEstimate, CostEstimate]:
    """Return the estimated cost of the program's calls and of the judge's calls.

    Args:
        program: the program.
        examples: all examples.
        metric: scores the answers.
        judge: the judge's model, or None without a judge.
    """
    chosen = evenly_spaced(examples, _PLANNED)

    def scaled(cost_of: Callable[[dspy.Example], CostEstimate]) -> CostEstimate:
        return total(map(cost_of, chosen)).times(len(examples) / len(chosen))

    asked = scaled(lambda example: total(program.plan(turn).full for turn in (example, *_later_turns(example))))
    judged = CostEstimate() if judge is None else scaled(lambda example: _verdicts(judge, example, metric))
    return asked, judged


def _later_turns(example: dspy.Example) -> Iterator[dict[str, Any]]:
    """Yield the inputs of all turns after the first, with the conversation so far."""
    if "turns" not in example:
        return
    messages: list[dict[str, str]] = []
    for before, question in zip(example["turns"], example["turns"][1:], strict=False):
        messages.append({"question": before, "answer": "word " * 450})
        yield {"history": dspy.History(messages=list(messages)), "question": question}


def _verdicts(judge: dspy.BaseLM, example: dspy.Example, metric: Callable[..., Any]) -> CostEstimate:
    """Return the cost of judging one example. The judge reads the example and an answer in each of its calls."""
    calls, reply = (metric.calls, metric.reply_tokens) if isinstance(metric, JudgeMetric) else (1, _REPLY)
    reader = single_model("material -> verdict", judge, reasoning=False)
    material = " ".join(str(value) for value in example.toDict().values()) + " word" * 900
    return reader.plan(material=material, lengths=Lengths(answer=reply)).full.times(turns_of([example]) * calls)
