"""The base classes of all metrics, and votes over several answers.

`metric(example, prediction, trace=None)` returns a bool or a float from 0 to 1. Called with the name of a predictor, as
by GEPA, it returns the same score with feedback. The score never depends on `trace`, because GEPA also passes one.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

import dspy

from moa_dspy.errors import ConfigurationError

__all__ = ["UNREAD", "Checked", "Metric", "TextMetric", "Verdict", "Vote", "VoteMatch", "field_of", "vote", "vote_key"]

UNREAD = "unread"
"""The name in the details of a verdict that tells that no answer could be read from the output."""

ANSWER: Final = "answer"
"""The usual name of an output, and of its reference in an example."""

_REASONING: Final = "reasoning"  # the output that DSPy adds; it is never compared unless it is named
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION_AROUND = "\"'`*_.,;:!?()[]{}\u2018\u2019\u201c\u201d"


class Verdict(NamedTuple):
    """A score (bool, or number from 0 to 1), feedback on how to improve the answer, and JSON-serialisable details."""

    score: bool | float
    feedback: str
    details: Mapping[str, Any] = MappingProxyType({})


class Metric(ABC):
    """Scores one prediction. Subclasses implement `assess`."""

    @abstractmethod
    def assess(self, example: dspy.Example, prediction: Any) -> Verdict:
        """Return the score of a prediction with its reason."""

    def for_task(self, outputs: Collection[str], examples: Sequence[dspy.Example]) -> Metric:  # noqa: ARG002
        """Return the metric for a task with these output fields and examples, before the first paid call.

        Raises:
            ConfigurationError: if the metric cannot tell which of them it compares.
        """
        return self

    def check_examples(self, examples: Sequence[dspy.Example]) -> list[str]:  # noqa: ARG002 - for subclasses
        """Return remarks on how the examples will be scored, before the first paid call.

        Raises:
            ConfigurationError: if an example cannot be scored.
        """
        return []

    def __call__(
        self,
        example: dspy.Example,
        prediction: Any,
        trace: Any = None,  # noqa: ARG002 - the five arguments are DSPy's
        pred_name: str | None = None,
        pred_trace: Any = None,  # noqa: ARG002
    ) -> Any:
        """Return the score. With `pred_name`, return a `dspy.Prediction(score=, feedback=)`."""
        verdict = self.assess(example, prediction)
        if pred_name is None:
            return verdict.score
        return dspy.Prediction(score=float(verdict.score), feedback=verdict.feedback)


def field_of(holder: Any, name: str, what: str) -> Any:
    """Return a field of an example or a prediction. `what` is the holder's word in the error message.

    Raises:
        ConfigurationError: if there is no such field.
    """
    try:
        return holder[name] if hasattr(holder, "keys") else getattr(holder, name)
    except (KeyError, AttributeError):
        have = ", ".join(map(str, holder.keys())) if hasattr(holder, "keys") else type(holder).__name__
        raise ConfigurationError(f"the {what} has no field {name!r}; it has: {have or 'none'}") from None


def output_of(prediction: Any, field: str) -> str:
    """Return an output field as text. A plain string as prediction is the output itself."""
    output = prediction if isinstance(prediction, str) else field_of(prediction, field, "prediction")
    return "" if output is None else str(output)


def compared_field(metric: Metric, field: str | None, outputs: Collection[str]) -> str:
    """Return the output that a metric compares: `field`; else `answer`; else the only one besides the reasoning.

    Raises:
        ConfigurationError: if there is no such output, or there are several.
    """
    usable = [name for name in outputs if name != _REASONING] or list(outputs)
    chosen = field or (ANSWER if ANSWER in usable else usable[0] if len(usable) == 1 else None)
    if chosen is None:
        raise ConfigurationError(
            f"the outputs are {', '.join(usable) or 'none'}, and one of them is compared; say which one, such as "
            f"metric={type(metric).__name__}(field={(usable or [ANSWER])[0]!r})"
        )
    if chosen not in outputs:
        raise ConfigurationError(f"there is no output {chosen!r} to compare; the outputs are {', '.join(usable)}")
    return chosen


@dataclass(frozen=True)
class TextMetric(Metric):
    """Compares one output field with the accepted answers of the example. Subclasses implement `compare`.

    Attributes:
        field: the output field. Default: `answer`, or the only output besides the reasoning. A plain string as
            prediction is the output itself.
        target: the field of the example with the answer, or with a list of accepted answers. Default: the field with
            the name of the output, or else `answer`.
        explanation: the field of the example with a worked solution, for the feedback. It may be missing.
    """

    field: str | None = None
    target: str | None = None
    explanation: str = "solution"

    @abstractmethod
    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool | float:
        """Return the score of an output for one accepted answer."""

    def read(self, output: str, example: dspy.Example) -> str:  # noqa: ARG002 - for subclasses
        """Return the part of an output that is compared. The feedback quotes it."""
        return output

    def key(self, output: str, example: dspy.Example) -> str:
        """Return the key of an output in a vote. Outputs with equal keys are one answer; empty keys are not counted."""
        return vote_key(self.read(output, example))

    def for_task(self, outputs: Collection[str], examples: Sequence[dspy.Example]) -> Self:
        """Return the metric with the fields that it compares."""
        field = compared_field(self, self.field, outputs)
        target = self._target(field, *examples)
        known = any(target in example for example in examples)
        return replace(self, field=field, target=target if known else self.target)

    def check_examples(self, examples: Sequence[dspy.Example]) -> list[str]:
        """Raise ConfigurationError if an example has no answer to compare with."""
        target = self._target(self.field, *examples)
        is_open = self.target is None and self.field is None  # any label may be the one to compare with
        without = [
            number
            for number, example in enumerate(examples, 1)
            if all(value in (None, "", []) for value in (example.get(target), *(_labels(example) if is_open else ())))
        ]
        if without:
            have = ", ".join(examples[without[0] - 1].toDict())
            wanted = self.target or self.field or ANSWER
            raise ConfigurationError(
                f"{len(without)} of {len(examples)} examples have no {wanted!r} to compare with; the first is "
                f"number {without[0]} of those chosen, with the fields {have}: correct them, or map a column with "
                f"fields={{{wanted!r}: 'COLUMN'}}"
            )
        return []

    def _target(self, field: str | None, *examples: dspy.Example) -> str:
        """Return the field of the examples with the answer to an output field."""
        named = field is not None and any(field in example for example in examples)
        return self.target or (field if field and named else ANSWER)

    def assess(self, example: dspy.Example, prediction: Any) -> Verdict:
        """Return the best score over the accepted answers.

        An output without a readable answer scores 0, as in the published protocols. The details mark it as unread.
        """
        field = self.field
        if field is None and isinstance(prediction, dspy.Prediction):
            field = compared_field(self, None, prediction.keys())
        output = output_of(prediction, field or ANSWER)
        target = field_of(example, self._target(field, example), "example")
        accepted = [str(answer) for answer in (target if isinstance(target, list | tuple | set) else [target])]
        score = max((self.compare(output, answer, example) for answer in accepted), default=False)
        unread = not score and not self.read(output, example).strip()
        return Verdict(score, self._feedback(score, output, accepted, example), {UNREAD: True} if unread else {})

    def _feedback(self, score: bool | float, output: str, accepted: Sequence[str], example: dspy.Example) -> str:
        expected = " or ".join(_shorten(answer) for answer in accepted)
        if score == 1:
            return f"Right: {expected}."
        answer = self.read(output, example)
        reading = f"the answer was read as {_shorten(answer)}" if answer else "no answer could be read from the output"
        degree = f"Partly right ({float(score):.2f})" if score else "Wrong"
        worked = example.get(self.explanation)
        return f"{degree}: {reading}; expected was {expected}." + (f" Worked solution: {worked}" if worked else "")


def _labels(example: dspy.Example) -> list[Any]:
    """Return the values that are no inputs; empty if the inputs are not set."""
    with suppress(ValueError):
        return list(example.labels().toDict().values())
    return []


def _shorten(text: str, limit: int = 200) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= limit else f"{text[:limit]}...")


@dataclass(frozen=True, kw_only=True)
class Checked(TextMetric):
    """Makes a metric from a function of two texts, such as `gsm8k.is_correct`.

    Attributes:
        check: called with the output and an accepted answer; returns the score.
        reading: returns the answer inside an output, for feedback and votes. None means the whole output.
    """

    check: Callable[[str, str], bool | float]
    reading: Callable[[str], Any] | None = None

    def compare(self, output: str, accepted: str, example: dspy.Example) -> bool | float:  # noqa: ARG002
        """Return the result of `check`."""
        return self.check(output, accepted)

    def read(self, output: str, example: dspy.Example) -> str:  # noqa: ARG002
        """Return the result of `reading`."""
        answer = output if self.reading is None else self.reading(output)
        return "" if answer is None else str(answer)


@dataclass(frozen=True)
class Vote:
    """The result of a vote.

    Attributes:
        answer: the winner, spelled as in its first occurrence; None if no answer is counted.
        votes: number of votes for it.
        total: number of counted answers.
    """

    answer: str | None
    votes: int
    total: int

    @property
    def share(self) -> float:
        """Return the winner's share of all votes."""
        return self.votes / self.total if self.total else 0.0


def vote_key(text: str) -> str:
    """Return the key under which `vote` counts a text.

    Case, articles, and punctuation around words are ignored. Signs, decimals and symbols are kept: `-5`, `3.5`, `50%`
    and `C++` are different from `5`, `35`, `50` and `C`.
    """
    words = [word.strip(_PUNCTUATION_AROUND) or word for word in unicodedata.normalize("NFC", text).casefold().split()]
    return " ".join(word for word in words if not _ARTICLES.fullmatch(word)) or " ".join(words)


def vote(answers: Iterable[str | None], *, key: Callable[[str], Any] = vote_key) -> Vote:
    """Return the most frequent answer; on a tie, the one that occurs first.

    Args:
        answers: the answers in order. None and answers with an empty key are not counted.
        key: answers with equal keys are the same answer.
    """
    spelling: dict[Any, str] = {}
    counts: Counter[Any] = Counter()
    for answer in answers:
        if answer is not None and (same := key(answer)) not in (None, ""):
            spelling.setdefault(same, answer)
            counts[same] += 1
    winner, votes = max(counts.items(), key=lambda item: item[1], default=(None, 0))
    return Vote(spelling.get(winner), votes, counts.total())


@dataclass(frozen=True)
class VoteMatch(Metric):
    """Scores the majority of several answers, as in self-consistency.

    Attributes:
        metric: scores the winner.
        field: the output field with a list of answers. If it is one text, the prediction's completions are the list.
            Default: the metric's field, see `TextMetric`.
        key: answers with equal keys are the same answer. None means the metric's own key: for `Numeric`, 8 equals 8.0.
    """

    metric: TextMetric
    field: str | None = None
    key: Callable[[str], Any] | None = None

    def assess(self, example: dspy.Example, prediction: Any) -> Verdict:
        """Score the winner. The feedback includes the share of votes."""
        outputs = prediction.keys() if isinstance(prediction, dspy.Prediction) else [self.field or ANSWER]
        bound = self.for_task(outputs, [example])
        answers, metric = bound._answers(prediction), bound.metric
        result = vote(answers, key=self.key or (lambda output: metric.key(output, example)))
        verdict = metric.assess(example, result.answer or "")
        details = {**verdict.details, "votes": result.votes, "total": result.total}
        return Verdict(verdict.score, f"{verdict.feedback} ({result.votes} of {result.total} votes.)", details)

    def for_task(self, outputs: Collection[str], examples: Sequence[dspy.Example]) -> Self:
        """Return the vote, and its metric, with the fields that they compare."""
        field = compared_field(self, self.field or self.metric.field, outputs)
        return replace(self, field=field, metric=self.metric.for_task([self.metric.field or field], examples))

    def check_examples(self, examples: Sequence[dspy.Example]) -> list[str]:
        """Return the remarks of the metric."""
        return self.metric.check_examples(examples)

    def _answers(self, prediction: Any) -> list[str]:
        field = self.field or ANSWER
        output = field_of(prediction, field, "prediction")
        if not isinstance(output, list | tuple):
            output = getattr(getattr(prediction, "completions", None), field, None) or [output]
        return [str(answer) for answer in output]
