"""The interface of prompt methods, and their input."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar, get_args, runtime_checkable

import dspy

from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.scoring import Judgement, Metric, judge_in_context
from moa_dspy.optimizers.prompts.demos import is_accepted, keep_right_steps
from moa_dspy.optimizers.prompts.writing import PromptModelAdapter
from moa_dspy.program import AttentionMoA

__all__ = ["BuiltInMethod", "Effort", "PromptJob", "PromptMethod", "check_effort", "check_prompt_lm"]

Effort: TypeAlias = Literal["light", "medium", "heavy"]
T = TypeVar("T")


@dataclass(frozen=True, repr=False)  # DSPy logs the metric, which is a method of this class, with every error
class PromptJob:
    """The input of a prompt method.

    Attributes:
        student: a copy of the program. The method may change it.
        trainset: the examples to learn from.
        valset: the examples to choose candidates by.
        metric: the caller's metric.
        seed: seed of everything random.
        effort: sets the options of the method that are None.
        prompt_lm: the model that writes prompts.
        ambient: the LM in DSPy's settings while the method runs. Its copies with other rollout ids make all agents
            resample.
        concurrency: maximum number of concurrent examples.
        unscored: the reason for each answer that the metric did not score.
        unwritten: the reason for each reply of ``prompt_lm`` that could not be used.
    """

    student: AttentionMoA
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example]
    metric: Metric
    seed: int
    effort: Effort
    prompt_lm: dspy.BaseLM
    ambient: dspy.BaseLM
    concurrency: int
    unscored: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    budget_ends: Callable[[], bool] = lambda: False

    def score(self, example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        """Return the metric's score as a number; 0 if it raises or returns no score, which ``unscored`` notes.

        DSPy's optimizers differ in what they do with such a metric. Some end, and lose all scores so far.
        """
        judgement = judge_in_context(self.metric, example, prediction, trace)
        self.note(judgement)
        return judgement.score or 0.0

    def demo_score(self, threshold: float | None = None) -> Metric:
        """Return ``score`` for optimizers that make demos of accepted runs: it leaves out the steps that are wrong.

        Args:
            threshold: the least score of an accepted answer; None: any above 0.
        """

        def scored(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
            score = self.score(example, prediction, trace)
            if isinstance(trace, list) and is_accepted(score, threshold):
                self.unscored.extend(keep_right_steps(trace, prediction, example, self.metric, self.student, threshold))
            return score

        return scored

    def note(self, judgement: Judgement) -> None:
        """Add the reason to ``unscored`` if there is no score."""
        if judgement.failure is not None:
            self.unscored.append(judgement.failure.message)

    def adapter(self, inner: dspy.Adapter | None = None) -> dspy.Adapter:
        """Return the adapter for calls of ``prompt_lm``: one that leaves out replies that cannot be read.

        Args:
            inner: writes prompts and parses replies; default: the configured adapter, or ``dspy.ChatAdapter``.
        """
        configured = dspy.settings.adapter
        configured = getattr(configured, "of_programs", configured)
        return PromptModelAdapter(
            inner or configured or dspy.ChatAdapter(), self.student, self.unwritten, of_programs=configured
        )

    def shuffled(self) -> list[dspy.Example]:
        """Return the training examples in a random order, for DSPy optimizers that take no seed."""
        examples = list(self.trainset)
        random.Random(self.seed).shuffle(examples)  # noqa: S311 (not for secrets)
        return examples

    def by_effort(self, value: T | None, light: T, medium: T, heavy: T) -> T:
        """Return an option of the method: ``value``, or the value for the effort if it is None."""
        return {"light": light, "medium": medium, "heavy": heavy}[self.effort] if value is None else value


@runtime_checkable
class PromptMethod(Protocol):
    """A method that tunes prompts. Any object with ``tune`` can be the ``method`` of ``compile`` and ``optimize``.

    Example::

        class Shorter:
            def tune(self, job: PromptJob) -> dspy.Module:
                return MyTeleprompter(metric=job.score).compile(job.student, trainset=list(job.trainset))
    """

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the tuned student, or another program with the same predictors."""
        ...


class BuiltInMethod:
    """Base of the built-in methods: frozen dataclasses whose fields are their options.

    Attributes:
        efforts: the values of options that are None, for light, medium and heavy effort.
        least: the lowest allowed values of options, which must be whole numbers.
    """

    efforts: ClassVar[Mapping[str, tuple[int, int, int]]] = {}
    least: ClassVar[Mapping[str, int]] = {}

    def __post_init__(self) -> None:
        for option, least in self.least.items():
            value = getattr(self, option)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigurationError(f"{option}={value!r} must be a whole number")
            if value < least:
                raise ConfigurationError(f"{option}={value!r} is too small; it must be at least {least}")

    def check(self, program: AttentionMoA, examples: Sequence[dspy.Example], *, final: bool = True) -> None:
        """Raise ConfigurationError if the program lacks what the method tunes, or the examples what it needs.

        ``final`` says whether the program already has the architecture in which it will be tuned.
        """

    def tune(self, job: PromptJob) -> dspy.Module:
        """Return the tuned student; see ``PromptMethod``."""
        raise NotImplementedError

    def most_runs(self, job: PromptJob) -> int:  # noqa: ARG002
        """Return an upper bound of the number of answers that the method scores."""
        return 0

    def number(self, option: str, job: PromptJob) -> int:
        """Return the value of an option, which depends on the effort if it is None."""
        return job.by_effort(getattr(self, option), *self.efforts[option])


def check_effort(effort: str) -> None:
    """Raise ConfigurationError unless ``effort`` is 'light', 'medium' or 'heavy'."""
    if effort not in get_args(Effort):
        raise ConfigurationError(f"effort={effort!r} is unknown; use 'light', 'medium' or 'heavy'")


def check_prompt_lm(prompt_lm: Any) -> None:
    """Raise ConfigurationError unless the model that writes prompts is a model or None."""
    if prompt_lm is not None and not isinstance(prompt_lm, dspy.BaseLM):
        raise ConfigurationError(f"prompt_lm={prompt_lm!r} must be a model, such as dspy.LM({str(prompt_lm)!r})")
