"""``search`` and ``optimize`` as optimizers in DSPy's form, which DSPy's callbacks and trackers see.

::

    better = MoAOptimizer(metric=metric, budget=Budget(usd=5)).compile(moa, trainset=trainset)
    better.save("program.json")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.cost.budget import Budget
from moa_dspy.errors import ConfigurationError
from moa_dspy.optimizers.measuring import Metric, check_program
from moa_dspy.optimizers.optimize import OptimizeResult, optimize
from moa_dspy.optimizers.optimize_plan import like, search_arguments
from moa_dspy.optimizers.search.search import SearchResult, search
from moa_dspy.optimizers.search.space import SearchSpace
from moa_dspy.program import AttentionMoA

__all__ = ["ArchitectureSearch", "MoAOptimizer"]


Result = TypeVar("Result", SearchResult, OptimizeResult)


class _Optimizer(Teleprompter, Generic[Result]):
    """A function of this package as a teleprompter."""

    result: Result | None

    def __init__(
        self, metric: Metric, *, budget: Budget | None = None, seed: int = 0, concurrency: int = 8, **options: Any
    ) -> None:
        super().__init__()
        self.metric, self.budget, self.seed, self.concurrency = metric, budget, seed, concurrency
        self.options = options
        self.result = None

    def compile(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
        **kwargs: Any,
    ) -> AttentionMoA:
        """Return the program to use.

        Args:
            student: an ``AttentionMoA``; it is not changed.
            trainset: examples to tune on, with their inputs set.
            teacher: must be None.
            valset: ``MoAOptimizer``: held-out examples that decide; default: a third of ``trainset``, which is then not
                tuned on. ``ArchitectureSearch``: must be None, because every trial runs ``trainset``.
            **kwargs: further arguments of ``optimize`` or ``search``, for this call.

        Raises:
            ConfigurationError: if an argument does not fit. Nothing was paid for.
            RunError: if every trial or run fails.
        """
        program = check_program(student, "student")
        if teacher is not None:
            raise ConfigurationError(f"teacher={type(teacher).__name__} is not used; leave teacher= out")
        settings = {name: getattr(self, name) for name in ("metric", "budget", "seed", "concurrency")}
        arguments = {"trainset": trainset, "valset": valset, **settings, **self.options, **kwargs}
        self.result = self._run(program, arguments)
        return self.result.program

    def _run(self, program: AttentionMoA, arguments: dict[str, Any]) -> Result:
        raise NotImplementedError

    def get_params(self) -> dict[str, Any]:
        """Return the settings, without the result."""
        return {name: value for name, value in vars(self).items() if name != "result"}


class ArchitectureSearch(_Optimizer[SearchResult]):
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
        super().__init__(metric, budget=budget, seed=seed, concurrency=concurrency, **options)
        self.space = space

    def _run(self, program: AttentionMoA, arguments: dict[str, Any]) -> SearchResult:
        if arguments.pop("valset") is not None:
            raise ConfigurationError("ArchitectureSearch takes no valset: give all examples as trainset")
        found = search(**{**search_arguments(program, self.space), "prompts": program, **arguments})
        return replace(found, program=like(program, found.program))


class MoAOptimizer(_Optimizer[OptimizeResult]):
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

    def _run(self, program: AttentionMoA, arguments: dict[str, Any]) -> OptimizeResult:
        return optimize(program, **arguments)
