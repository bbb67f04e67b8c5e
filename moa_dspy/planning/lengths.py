"""Assumed lengths of texts that no model has written yet, and placeholder texts of these lengths."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final, Literal, Self, get_args, get_origin

from moa_dspy._dspy import annotation_allows_none
from moa_dspy.cost.tokens import WORD, TokenCounter
from moa_dspy.errors import ConfigurationError
from moa_dspy.runtime.forecast import ANSWER_TOKENS
from moa_dspy.signatures import TaskSignature, needed_inputs
from moa_dspy.trace import Step, Trace

__all__ = ["Lengths", "assumed_inputs", "check_whole", "placeholder", "words"]

# A provider's count may differ from ours by this share without hidden thinking.
_TOKENIZER_DIFFERENCE: Final = 0.25


@dataclass(frozen=True)
class Lengths:
    """The assumed lengths of texts, in tokens. docs/plan.md gives the sources of the defaults.

    An agent's ``max_tokens`` limits the length of its texts.

    Args:
        answer: each text or structured output of the task. Numbers, booleans and choices have their own length.
        critique: a critique.
        reasoning: a reasoning field.
        thinking: hidden reasoning of reasoning models. It is billed as completion in every call.
        input: each input field, if the plan is made without inputs.

    Raises:
        ConfigurationError: if a length is not a whole number from 1 (``thinking``: from 0).
    """

    answer: int = ANSWER_TOKENS
    critique: int = 200
    reasoning: int = 150
    thinking: int = 0
    input: int = 100

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_whole(f"length {field.name}", getattr(self, field.name), least=int(field.name != "thinking"))

    @classmethod
    def from_trace(cls, trace: Trace) -> Self:
        """Return the mean lengths of the texts in ``trace``. Kinds of text that it does not contain keep their default.

        Visible text is counted as in a plan. Calls with a single output show hidden thinking: if a provider billed over
        a quarter more than their visible text, the difference counts as thinking.

        Raises:
            ConfigurationError: if the trace contains no text of a model.
        """
        steps = [step for step in trace.steps if step.status == "ok" and step.model is not None]
        if not steps:
            raise ConfigurationError("the trace contains no text of a model, so it has no lengths; give those instead")
        measured = _measured(steps, TokenCounter())
        means = {name: max(1, round(statistics.mean(counts))) for name, counts in measured.items() if counts}
        billed, visible = sum(measured["billed"]), sum(measured["visible"])
        is_hidden = billed - visible > _TOKENIZER_DIFFERENCE * visible
        thinking = round((billed - visible) / len(measured["billed"])) if is_hidden else 0
        known = {name: means[name] for name in ("answer", "critique", "reasoning") if name in means}
        return cls(**known, thinking=thinking)


def check_whole(name: str, value: object, least: int) -> None:
    """Raise ConfigurationError unless ``value`` is a whole number from ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name}={value!r} is out of range; it must be a whole number from {least}")


def assumed_inputs(task: TaskSignature, lengths: Lengths) -> dict[str, Any]:
    """Return a placeholder for every input that a call of ``task`` needs."""
    text = words(lengths.input)
    return {name: placeholder(task.input_fields[name].annotation, text) for name in needed_inputs(task)}


def placeholder(annotation: Any, text: str) -> Any:
    """Return a placeholder for a field of type ``annotation``: the longest choice, a number, True, or else ``text``."""
    if annotation is bool:
        return True
    if annotation in (int, float):
        return 0
    if get_origin(annotation) is Literal:
        return max(get_args(annotation), key=lambda choice: len(str(choice)))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return max(annotation, key=lambda choice: len(str(choice.value))).value
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    if annotation_allows_none(annotation) and len(kinds) == 1:
        return placeholder(kinds[0], text)
    return text


def words(tokens: int) -> str:
    """Return a text of ``tokens`` tokens in every tokenizer."""
    return " ".join([WORD] * tokens)


def _measured(steps: Iterable[Step], counter: TokenCounter) -> dict[str, list[int]]:
    """Return the lengths of all texts by kind, and the billed and visible lengths of calls with a single output."""
    lengths: dict[str, list[int]] = {name: [] for name in ("answer", "critique", "reasoning", "billed", "visible")}
    for step in steps:
        count = functools.partial(counter.count, step.model or "")
        texts = {name: value for name, value in step.outputs.items() if isinstance(value, (str, list, dict))}
        for name, value in texts.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            answer = "reasoning" if name == "reasoning" else "answer"
            lengths["critique" if step.stage in ("critique", "dissent") else answer].append(count(text))
        if len(step.outputs) == len(texts) == 1 and step.calls == 1 and not step.cached:
            lengths["billed"].append(step.tokens.completion)
            lengths["visible"].append(count(step.text))
    return lengths
