"""What a plan assumes of texts that nobody has written yet, and what an earlier run tells of them."""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from moa_dspy.cost.tokens import TokenCounter
from moa_dspy.errors import ConfigurationError
from moa_dspy.trace import Step, Trace

__all__ = ["Lengths", "check_whole"]

# What the provider's count of a text may differ from ours without any hidden thinking.
_TOKENIZER_DIFFERENCE: Final = 0.25


@dataclass(frozen=True)
class Lengths:
    """What a plan assumes of texts that nobody has written yet, in tokens; docs/plan.md says where defaults come from.

    An agent's ``max_tokens`` shortens what it writes.

    Args:
        answer: of each output field of the task that is text or structured; numbers, booleans and choices count as
            what they are.
        critique: of a critique.
        reasoning: of a reasoning field.
        thinking: billed as completion in every call and seen by nobody: the hidden reasoning of reasoning models.
        input: of each input field, where a plan is made without inputs.

    Raises:
        ConfigurationError: a length is no whole number from 1 (``thinking``: from 0).
    """

    answer: int = 450
    critique: int = 200
    reasoning: int = 150
    thinking: int = 0
    input: int = 100

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_whole(f"length {field.name}", getattr(self, field.name), least=int(field.name != "thinking"))

    @classmethod
    def from_trace(cls, trace: Trace) -> Self:
        """Return the mean lengths of an earlier run; what it did not write keeps its default.

        Visible text is counted as for a plan. What the provider billed for a single text beyond that is taken as
        hidden thinking, where it is more than tokenizers differ (a quarter).

        Raises:
            ConfigurationError: the run wrote nothing.
        """
        written = [step for step in trace.steps if step.status == "ok" and step.model is not None]
        if not written:
            raise ConfigurationError("the trace holds no text of a model, so it has no lengths; give those instead")
        measured = _measured(written, TokenCounter())
        means = {name: max(1, round(statistics.mean(counts))) for name, counts in measured.items() if counts}
        thinking = _hidden(measured["billed"], measured["visible"])
        return cls(
            **{name: means[name] for name in ("answer", "critique", "reasoning") if name in means}, thinking=thinking
        )


def check_whole(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number from ``least``.

    Raises:
        ConfigurationError: it names the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name}={value!r} is out of range; it must be a whole number from {least}")


def _measured(steps: Iterable[Step], counter: TokenCounter) -> dict[str, list[int]]:
    """Return the lengths of what was written, by kind, and of texts that stand alone as billed and as visible."""
    lengths: dict[str, list[int]] = {name: [] for name in ("answer", "critique", "reasoning", "billed", "visible")}
    for step in steps:
        count = functools.partial(counter.count, step.model or "")
        texts = {name: _text(value) for name, value in step.outputs.items() if isinstance(value, (str, list, dict))}
        for name, text in texts.items():
            answer = "reasoning" if name == "reasoning" else "answer"
            lengths["critique" if step.stage == "critique" else answer].append(count(text))
        if len(step.outputs) == len(texts) == 1 and step.calls == 1 and not step.cached:
            lengths["billed"].append(step.tokens.completion)
            lengths["visible"].append(count(step.text))
    return lengths


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _hidden(billed: Sequence[int], visible: Sequence[int]) -> int:
    hidden = sum(billed) - sum(visible)
    return round(hidden / len(billed)) if hidden > _TOKENIZER_DIFFERENCE * sum(visible) else 0
