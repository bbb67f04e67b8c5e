"""Metrics: one object serves ``dspy.Evaluate``, Optuna and GEPA.

``metric(example, prediction, trace=None)`` returns a plain bool or float from 0 to 1. Called with the name of a
predictor, as GEPA does when it wants to know what went wrong, it returns the same score with feedback in words.
The score never depends on ``trace``: GEPA also scores with one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import dspy

from moa_dspy.data.metrics.answers import ballot, choice_letter, comparable, f1
from moa_dspy.data.metrics.mathematics import answer_of, equivalent
from moa_dspy.data.metrics.numeric import parse_number
from moa_dspy.errors import ConfigurationError

__all__ = [
    "F1",
    "Checked",
    "ChoiceLetter",
    "Contains",
    "ExactMatch",
    "MathEquivalence",
    "Metric",
    "NormalizedMatch",
    "Numeric",
    "TextMetric",
    "Verdict",
    "Vote",
    "VoteMatch",
    "vote",
]


class Verdict(NamedTuple):
    """A score and its reason.

    Attributes:
        score: True or False, or from 0 to 1.
        feedback: one or two sentences for a reader who wants to do better, human or GEPA.
        details: what else is worth keeping of one item, JSON-serialisable: a judge's scores and how they were obtained.
    """

    score: bool | float
    feedback: str
    details: Mapping[str, Any] = MappingProxyType({})


class Metric(ABC):
    """What scores one prediction; subclasses write ``assess``."""

    @abstractmethod
    def assess(self, example: dspy.Example, prediction: Any) -> Verdict:
        """Score a prediction and say why."""

    def remarks(self, examples: Sequence[dspy.Example]) -> list[str]:  # noqa: ARG002 - for subclasses
        """Look at all examples before the first of them is paid for.

        Returns:
            What the user should know of how they will be scored; one sentence each.

        Raises:
            ConfigurationError: an example cannot be scored.
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
        """The score; with ``pred_name`` a ``dspy.Prediction(score=, feedback=)``."""
        verdict = self.assess(example, prediction)
        if pred_name is None:
            return verdict.score
        return dspy.Prediction(score=float(verdict.score), feedback=verdict.feedback)


def field_of(holder: Any, name: str, what: str) -> Any:
    """A field of an example or a prediction.

    Raises:
        ConfigurationError: it has no such field; the message names those it has.
    """
    try:
        return holder[name] if isinstance(holder, Mapping) or hasattr(holder, "keys") else getattr(holder, name)
    except (KeyError, AttributeError):
        have = ", ".join(map(str, holder.keys())) if hasattr(holder, "keys") else type(holder).__name__
        raise ConfigurationError(f"the {what} has no field {name!r}; it has: {have or 'none'}") from None


@dataclass(frozen=True)
class TextMetric(Metric):
    """Compares one output field with one field of the example, which may hold several accepted answers.

    Attributes:
        field: the output field of the prediction. A prediction that is a plain string is the output itself.
        target: the field of the example with the answer; a list means that each of its entries is right.
        explanation: a field of the example with a worked solution, quoted in the feedback where it is there.
    """

    field: str = "answer"
    target: str = "answer"
    explanation: str = "solution"

    @abstractmethod
    def compare(self, given: str, accepted: str, example: dspy.Example) -> bool | float:
        """Score one output against one accepted answer."""

    def read(self, given: str, example: dspy.Example) -> str:  # noqa: ARG002 - for subclasses
        """What this metric takes as the answer of an output; shown in the feedback."""
        return given

    def key(self, given: str, example: dspy.Example) -> str:
        """Outputs with the same key are the same answer in a vote; one with an empty key is none."""
        return ballot(self.read(given, example))

    def remarks(self, examples: Sequence[dspy.Example]) -> list[str]:
        """Refuse examples without an answer to compare with."""
        without = [n for n, example in enumerate(examples, 1) if example.get(self.target) in (None, "", [])]
        if without:
            have = ", ".join(map(str, examples[without[0] - 1].toDict()))
            raise ConfigurationError(
                f"{len(without)} of {len(examples)} examples have no {self.target!r} to compare with; the first is "
                f"number {without[0]} of those chosen, with the fields {have}: mend them, or map a column with fields= "
                "(--fields)"
            )
        return []

    def assess(self, example: dspy.Example, prediction: Any) -> Verdict:
        """Best score over the accepted answers."""
        given = prediction if isinstance(prediction, str) else field_of(prediction, self.field, "prediction")
        text = "" if given is None else str(given)
        accepted = _accepted(field_of(example, self.target, "example"))
        score = max((self.compare(text, answer, example) for answer in accepted), default=False)
        return Verdict(score, self._feedback(score, text, accepted, example))

    def _feedback(self, score: bool | float, given: str, accepted: Sequence[str], example: dspy.Example) -> str:
        expected = " or ".join(_shorten(answer) for answer in accepted)
        if score == 1:
            return f"Right: {expected}."
        read = self.read(given, example)
        said = f"the answer was read as {_shorten(read)}" if read else "no answer could be read from the output"
        degree = "Wrong" if not score else f"Partly right ({float(score):.2f})"
        worked = example.get(self.explanation) if self.explanation in example else None
        return f"{degree}: {said}; expected was {expected}." + (f" Worked solution: {worked}" if worked else "")


def _accepted(target: Any) -> list[str]:
    if isinstance(target, list | tuple | set):
        return [str(answer) for answer in target]
    return [str(target)]


def _shorten(text: str, limit: int = 200) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= limit else f"{text[:limit]}...")


class ExactMatch(TextMetric):
    """The same text, but for white space around it."""

    def compare(self, given: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Equality of the stripped texts."""
        return given.strip() == accepted.strip()

    def key(self, given: str, example: dspy.Example) -> str:  # noqa: ARG002
        """The stripped text."""
        return given.strip()


class NormalizedMatch(TextMetric):
    """The same text after normalisation: case, punctuation, articles and spaces do not count (SQuAD's EM)."""

    def compare(self, given: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Equality of the normalised texts; nothing matches nothing."""
        return bool(comparable(given)) and comparable(given) == comparable(accepted)

    def key(self, given: str, example: dspy.Example) -> str:  # noqa: ARG002
        """The normalised text."""
        return comparable(given)


class F1(TextMetric):
    """Token overlap of the normalised texts, from 0 to 1 (HotPotQA's F1)."""

    def compare(self, given: str, accepted: str, example: dspy.Example) -> float:  # noqa: ARG002
        """F1 of two texts."""
        return f1(given, accepted)


class Contains(TextMetric):
    """The normalised answer occurs in the normalised output, as whole words."""

    def compare(self, given: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Whether the answer's words stand in the output, in order and together."""
        wanted = comparable(accepted)
        return bool(wanted) and f" {wanted} " in f" {comparable(given)} "


@dataclass(frozen=True)
class Numeric(TextMetric):
    """The last number of the output equals the answer (rules in ``moa_dspy.data.metrics.numeric``).

    Attributes:
        tolerance: largest allowed difference; 0 is exact equality of the written numbers.
    """

    tolerance: float = 0.0

    def compare(self, given: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Equality of two numbers."""
        value, expected = parse_number(given), parse_number(accepted)
        return value is not None and expected is not None and abs(value - expected) <= self.tolerance

    def read(self, given: str, example: dspy.Example) -> str:  # noqa: ARG002
        """The number that was found."""
        value = parse_number(given)
        return "" if value is None else str(value)


@dataclass(frozen=True)
class ChoiceLetter(TextMetric):
    """The letter that the output chooses is the answer's.

    Attributes:
        choices: field of the example with the texts of the choices; letters beyond them do not count.
    """

    choices: str = "choices"

    def compare(self, given: str, accepted: str, example: dspy.Example) -> bool:
        """Equality of two letters."""
        return self.read(given, example) == accepted.strip().strip("()").upper()

    def read(self, given: str, example: dspy.Example) -> str:
        """The letter that was chosen."""
        choices = example.get(self.choices) if self.choices in example else None
        return choice_letter(given, 26 if choices is None else list(choices)) or ""


@dataclass(frozen=True)
class MathEquivalence(TextMetric):
    r"""The last ``\boxed{}`` of the output is the same mathematics as the answer (math-verify, extra ``eval``).

    Attributes:
        seconds: after this time a comparison is ended and counts as wrong.
    """

    seconds: float = 10.0

    def compare(self, given: str, accepted: str, example: dspy.Example) -> bool:  # noqa: ARG002
        """Equivalence of two expressions."""
        return equivalent(answer_of(accepted), answer_of(given), seconds=self.seconds)

    def read(self, given: str, example: dspy.Example) -> str:  # noqa: ARG002
        """The expression that was found."""
        return answer_of(given)


@dataclass(frozen=True, kw_only=True)
class Checked(TextMetric):
    """A function of two texts as a metric, such as ``gsm8k.is_correct``.

    Attributes:
        check: called with the output and an accepted answer.
        reading: what is taken of an output as its answer, for feedback and votes; None is all of it.
    """

    check: Callable[[str, str], bool | float]
    reading: Callable[[str], Any] | None = None

    def compare(self, given: str, accepted: str, example: dspy.Example) -> bool | float:  # noqa: ARG002
        """What the function says."""
        return self.check(given, accepted)

    def read(self, given: str, example: dspy.Example) -> str:  # noqa: ARG002
        """What ``reading`` finds."""
        found = given if self.reading is None else self.reading(given)
        return "" if found is None else str(found)


@dataclass(frozen=True)
class Vote:
    """The outcome of a vote.

    Attributes:
        answer: the answer with the most votes, in the spelling that came first; None without any.
        votes: how many gave it.
        total: how many answers were counted; empty ones are not.
    """

    answer: str | None
    votes: int
    total: int

    @property
    def share(self) -> float:
        """Votes of the winner over all votes."""
        return self.votes / self.total if self.total else 0.0


def vote(answers: Iterable[str | None], key: Callable[[str], Any] = ballot) -> Vote:
    """The most frequent answer; among equals the one that was given first.

    Args:
        answers: in order; None and those whose key is empty are not counted.
        key: answers with the same key are the same answer. The default leaves out case, articles and punctuation around
            words, and keeps signs and decimals.
    """
    spelled: dict[Any, str] = {}
    counts: Counter[Any] = Counter()
    for answer in answers:
        if answer is None or (same := key(answer)) in (None, ""):
            continue
        spelled.setdefault(same, answer)
        counts[same] += 1
    if not counts:
        return Vote(None, 0, 0)
    winner, votes = counts.most_common(1)[0]
    return Vote(spelled[winner], votes, counts.total())


@dataclass(frozen=True)
class VoteMatch(Metric):
    """Scores the majority of several answers, as in self-consistency.

    Attributes:
        metric: what scores the winner.
        field: the output field with a list of answers; where it is one text, the completions of the prediction are the
            list.
        key: answers with the same key are the same answer; None takes the metric's own, so that for ``Numeric`` 8 and
            8.0 are one answer.
    """

    metric: TextMetric
    field: str = "answer"
    key: Callable[[str], Any] | None = None

    def assess(self, example: dspy.Example, prediction: Any) -> Verdict:
        """Score the winner; the feedback says how clear the vote was."""
        outcome = vote(self._answers(prediction), self.key or (lambda given: self.metric.key(given, example)))
        verdict = self.metric.assess(example, outcome.answer or "")
        details = {"votes": outcome.votes, "total": outcome.total}
        return Verdict(verdict.score, f"{verdict.feedback} ({outcome.votes} of {outcome.total} votes.)", details)

    def _answers(self, prediction: Any) -> list[str]:
        given = field_of(prediction, self.field, "prediction")
        if isinstance(given, list | tuple):
            return [str(answer) for answer in given]
        completions = getattr(prediction, "completions", None)
        several = getattr(completions, self.field, None) if completions is not None else None
        return [str(answer) for answer in several or [given]]
