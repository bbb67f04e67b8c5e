"""``search`` and ``optimize`` as optimizers in DSPy's form, which DSPy's callbacks and trackers see.

::

    better = MoAOptimizer(metric=metric, budget=Budget(usd=5)).compile(moa, trainset=trainset)
    better.save("program.json")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.cost.budget import Budget
from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.measuring import Metric
from moa_dspy.optimizers.optimize import OptimizeResult, optimize
from moa_dspy.optimizers.optimize_plan import search_defaults, search_space
from moa_dspy.optimizers.search.search import SearchResult, search
from moa_dspy.optimizers.search.space import SearchSpace
from moa_dspy.program import AttentionMoA

__all__ = ["ArchitectureSearch", "MoAOptimizer"]


class ArchitectureSearch(Teleprompter):
    """Search for the best architecture of a program. Prompts stay as they are. Nothing is tested on held-out examples.

    Args:
        metric: ``metric(example, prediction, trace=None)``; see ``Metric``.
        space: what the search may choose.
        budget: of one call of ``compile``.
        seed: of everything that is random.
        concurrency: the most examples under way at once.
        **options: further arguments of ``search``, such as ``n_trials`` and ``storage``.

    Attributes:
        result: the result of the last call of ``compile``.
    """

    def __init__(
        self,
        metric: Metric,
        *,
        space: SearchSpace | None = None,
        budget: Budget | None = None,
        seed: int = 0,
        concurrency: int = 8,
        **options: Any,
    ) -> None:
        super().__init__()
        self.metric, self.space, self.budget, self.seed, self.concurrency = metric, space, budget, seed, concurrency
        self.options = options
        self.result: SearchResult | None = None

    def compile(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
        **kwargs: Any,
    ) -> AttentionMoA:
        """Return the best program found.

        Args:
            student: an ``AttentionMoA``; it is not changed. The search chooses from its agents.
            trainset: the examples of the trials, with their inputs set.
            teacher: must be None.
            valset: must be None: every trial runs ``trainset``.
            **kwargs: further arguments of ``search``, for this call.

        Raises:
            ConfigurationError: if an argument does not fit. Nothing was paid for.
            RunError: if every trial fails.
        """
        program = _student(student, teacher)
        if valset is not None:
            raise ConfigurationError("ArchitectureSearch takes no valset: give all examples as trainset")
        arguments: dict[str, Any] = {
            "space": search_space(program, self.space),
            "budget": self.budget,
            "seed": self.seed,
            "concurrency": self.concurrency,
            "prompts": program,
            **search_defaults(program),
            **self.options,
            **kwargs,
        }
        self.result = search(program.task, program.named_agents, trainset=trainset, metric=self.metric, **arguments)
        self.result.program.budget = program.budget
        return self.result.program

    def get_params(self) -> dict[str, Any]:
        """Return the settings, without the result."""
        return {name: value for name, value in vars(self).items() if name != "result"}


class MoAOptimizer(Teleprompter):
    """Tune architecture, prompts and stop rule; return the candidate only if it is better on held-out examples.

    Args:
        metric: ``metric(example, prediction, trace=None)``; see ``Metric``.
        budget: of one call of ``compile``.
        seed: of everything that is random.
        concurrency: the most examples under way at once.
        **options: further arguments of ``optimize``, such as ``parts``, ``method`` and ``n_trials``.

    Attributes:
        result: the result of the last call of ``compile``.
    """

    def __init__(
        self, metric: Metric, *, budget: Budget | None = None, seed: int = 0, concurrency: int = 8, **options: Any
    ) -> None:
        super().__init__()
        self.metric, self.budget, self.seed, self.concurrency = metric, budget, seed, concurrency
        self.options = options
        self.result: OptimizeResult | None = None

    def compile(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
        **kwargs: Any,
    ) -> AttentionMoA:
        """Return the program to use: the candidate, or a copy of the student.

        Args:
            student: an ``AttentionMoA``; it is not changed.
            trainset: examples to tune on, with their inputs set.
            teacher: must be None.
            valset: held-out examples that decide; default: a third of ``trainset``, which is then not tuned on.
            **kwargs: further arguments of ``optimize``, for this call.

        Raises:
            ConfigurationError: if an argument does not fit. Nothing was paid for.
            AllRunsFailedError: if every run fails.
        """
        arguments: dict[str, Any] = {
            "budget": self.budget,
            "seed": self.seed,
            "concurrency": self.concurrency,
            **self.options,
            **kwargs,
        }
        self.result = optimize(
            _student(student, teacher), trainset=trainset, valset=valset, metric=self.metric, **arguments
        )
        return self.result.program

    def get_params(self) -> dict[str, Any]:
        """Return the settings, without the result."""
        return {name: value for name, value in vars(self).items() if name != "result"}


def _student(student: dspy.Module, teacher: dspy.Module | None) -> AttentionMoA:
    if not isinstance(student, AttentionMoA):
        raise ConfigurationError(f"student is an AttentionMoA, not {type(student).__name__}")
    if teacher is not None:
        raise ConfigurationError("teacher= is not used; leave it out")
    return student
