"""What a prompt optimizer works on, and the one method that each has."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, get_args

import dspy

from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.measuring import Metric, score_of
from moa_dspy.optimizers.purse import Purse
from moa_dspy.program import AttentionMoA

__all__ = ["AnyProgram", "Effort", "Job", "Method", "at_least", "called", "check_effort", "takes"]

Effort: TypeAlias = Literal["light", "medium", "heavy"]
T = TypeVar("T")


@dataclass(frozen=True, repr=False)  # DSPy logs the metric, a method of this, with every error
class Job:
    """One optimization.

    Attributes:
        student: the program to tune, a copy that is the optimizer's to change.
        trainset: what to learn from.
        valset: what candidates are chosen by, where a method chooses by examples that it does not learn from.
        metric: the caller's.
        seed: of everything that is drawn.
        effort: how much to try, where the method's own options do not say.
        prompt_lm: writes prompts.
        ambient: stands in DSPy's settings meanwhile; its copies with other rollouts make the agents resample.
        concurrency: examples under way at once.
        purse: what may be spent.
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
    purse: Purse

    def score(self, example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        """Return the metric's score as a number, which not every DSPy optimizer makes of it."""
        return score_of(called(self.metric, example, prediction, trace))

    def shuffled(self) -> list[dspy.Example]:
        """Return the training examples in an order drawn from the seed, for methods that take no seed themselves."""
        examples = list(self.trainset)
        random.Random(self.seed).shuffle(examples)  # noqa: S311 (not for secrets)
        return examples

    def by_effort(self, chosen: T | None, light: T, medium: T, heavy: T) -> T:
        """Return an option of the method: the one that was chosen, or else that of the effort."""
        return {"light": light, "medium": medium, "heavy": heavy}[self.effort] if chosen is None else chosen


class AnyProgram:
    """Tunes whatever program there is."""

    def check(self, program: AttentionMoA, *, final: bool = True) -> None:
        """Refuse nothing; see ``Method``."""


class Method(Protocol):
    """A prompt optimizer: a small frozen dataclass whose fields are its options."""

    def check(self, program: AttentionMoA, *, final: bool = True) -> None:
        """Refuse a program that it cannot tune, before anything is paid.

        Args:
            program: to be tuned.
            final: whether it has the architecture that it will be tuned in.

        Raises:
            ConfigurationError: says what it needs.
        """
        ...

    def run(self, job: Job) -> dspy.Module:
        """Return the tuned student, or another program with the same predictors."""
        ...

    def most_runs(self, job: Job) -> int:
        """Return how many answers it will have judged at most, whatever the scores, by its own limits."""
        ...


def at_least(option: str, value: int | None, least: int) -> None:
    """Refuse an option of a method that is too small; None leaves it to the effort.

    Raises:
        ConfigurationError: names the option.
    """
    if value is not None and value < least:
        raise ConfigurationError(f"{option}={value!r} is too small; it must be at least {least}")


def check_effort(effort: str) -> None:
    """Refuse what is no effort.

    Raises:
        ConfigurationError: says what there is.
    """
    if effort not in get_args(Effort):
        raise ConfigurationError(f"effort={effort!r} is not 'light', 'medium' or 'heavy'")


def called(metric: Metric, example: dspy.Example, prediction: Any, trace: Any) -> Any:
    """Return what the metric says; it gets the DSPy trace where there is one and it takes one."""
    if trace is None or not takes(metric, 3):
        return metric(example, prediction)
    return metric(example, prediction, trace)


def takes(function: Callable[..., Any], arguments: int) -> bool:
    """Return whether ``function`` can be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError:
        return False
    return True
