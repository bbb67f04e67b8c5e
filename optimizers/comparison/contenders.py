"""Where the contenders of a comparison run: sizes are matched, scores and prices collected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import dspy

from moa_dspy.cost.budget import BudgetGuard
from moa_dspy.errors import AllRunsFailedError
from moa_dspy.optimizers.comparison.baselines import BaselineName, Ensemble, Single, ensemble_of, singles_of
from moa_dspy.optimizers.comparison.matching import LARGEST, Unit, amount, mean_price, nearest_size
from moa_dspy.optimizers.comparison.verdict import PROGRAM
from moa_dspy.optimizers.measuring import Measurement, Metric, run_examples
from moa_dspy.optimizers.stopping.depth import Price
from moa_dspy.program import AttentionMoA

__all__ = ["Arena", "Entry", "enter_baselines"]

_PROBE: Final = 8
"""So many test examples tell what a size costs. Their answers are not scored for it, and are used again."""

_TITLES: Final[Mapping[str, str]] = {"self-consistency": "self-consistency", "self-moa": "Self-MoA", "moa": "MoA"}


@dataclass
class Entry:
    """A contender that has run.

    Attributes:
        what: it is, in words.
        program: the program.
        measured: its runs on the test examples.
        price: of an example.
        size: samples or layers, where they were chosen.
    """

    what: str
    program: AttentionMoA
    measured: Measurement
    price: Price
    size: int | None = None


@dataclass
class Arena:
    """Where contenders run.

    Attributes:
        metric: the task's.
        unit: what is matched.
        tolerance: share by which the program's spend may be exceeded.
        concurrency: examples under way at once.
        tell: is told in a few words what is run next.
        guard: the budget.
        entries: what has run, by name.
        notes: what a reader should know.
    """

    metric: Metric
    unit: Unit
    tolerance: float
    concurrency: int
    tell: Callable[[str], None]
    guard: BudgetGuard
    entries: dict[str, Entry] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def target(self) -> float:
        """What the program spends on an example."""
        return amount(self.entries[PROGRAM].price, self.unit)

    def run(
        self, what: str, program: AttentionMoA, examples: Sequence[dspy.Example], metric: Metric | None
    ) -> Measurement:
        """Run a program.

        Raises:
            AllRunsFailedError: every run failed; says whose.
        """
        self.tell(f"{what}: {len(examples)} examples")
        try:
            return run_examples(
                program,
                examples,
                metric,
                guard=self.guard,
                concurrency=self.concurrency,
                metric_may_fail=bool(self.entries),  # it has judged the program, which goes first
            )
        except AllRunsFailedError as error:
            raise AllRunsFailedError(f"{what}: {error}") from None

    def enter(
        self, name: str, what: str, program: AttentionMoA, test: Sequence[dspy.Example], size: int | None = None
    ) -> None:
        """Let a contender run the test examples."""
        measured = self.run(what, program, test, self.metric)
        self.entries[name] = Entry(what, program, measured, mean_price(measured.runs), size)

    def best(self, singles: Sequence[Single], trial: Sequence[dspy.Example]) -> Single:
        """Return the single model with the highest pilot score, the cheaper of equals."""
        if len(singles) == 1:
            return singles[0]
        ranks: list[tuple[float, float, int]] = []
        for number, single in enumerate(singles):
            try:
                measured = self.run(f"pilot of {single.name} alone", single.program, trial, self.metric)
            except AllRunsFailedError as error:
                self.notes.append(f"it takes no part: {error}")
                continue
            ranks.append((-measured.score().value, amount(mean_price(measured.runs), self.unit), number))
        if not ranks:
            raise AllRunsFailedError("none of the single models answers a pilot example")
        chosen = singles[min(ranks)[-1]]
        self.notes.append(
            f"the single model was chosen from {', '.join(single.name for single in singles)} on {len(trial)} pilot "
            "examples, none of which is a test example"
        )
        return chosen

    def fit(self, ensemble: Ensemble, test: Sequence[dspy.Example]) -> None:
        """Enter a baseline at the size whose spend is nearest to the program's; scores have no part in the choice."""
        title = _TITLES[ensemble.name]
        target = self.target
        size = nearest_size(lambda size: self._spend(ensemble, size, test), target, self.tolerance, ensemble.smallest)
        while size is not None:
            words = f"{title} ({ensemble.describe(size)})"
            self.enter(ensemble.name, words, ensemble.build(size), test, size)
            spent = amount(self.entries[ensemble.name].price, self.unit)
            if spent <= target * (1 + self.tolerance) + 1e-9:
                if spent < target * (1 - self.tolerance):
                    why = f"{LARGEST} is the largest size tried" if size == LARGEST else "no size comes nearer"
                    self.notes.append(f"{title} spends x{spent / target:.2f} of what the program does; {why}")
                return
            size = size - 1 if size > ensemble.smallest else None
        self.entries.pop(ensemble.name, None)
        self.notes.append(f"{title} is left out: its smallest size exceeds the program's {self.unit} for an example")

    def _spend(self, ensemble: Ensemble, size: int, test: Sequence[dspy.Example]) -> float:
        """What a size spends on an example: its calls are known, the rest is tried."""
        made = ensemble.build(size)
        if self.unit == "calls":
            return made.architecture.max_calls
        what = f"size of {_TITLES[ensemble.name]} ({ensemble.describe(size)})"
        probe = test[:: max(1, len(test) // _PROBE)][:_PROBE]
        return amount(mean_price(self.run(what, made, probe, None).runs), self.unit)


def enter_baselines(
    arena: Arena,
    wanted: Sequence[BaselineName],
    program: AttentionMoA,
    singles: Sequence[Single],
    test: Sequence[dspy.Example],
    trial: Sequence[dspy.Example],
) -> None:
    """Let the baselines of a program run, which has run itself.

    Args:
        arena: where.
        wanted: the baselines' names.
        program: whose agents and prompts they take.
        singles: its agents, each alone; none where no baseline needs the best of them.
        test: the examples that judge.
        trial: the examples that choose among ``singles``.
    """
    best = arena.best(singles, trial) if singles else singles_of(program)[0]
    for name in wanted:
        if name == "single":
            arena.enter(name, f"the single model {best.name}", best.program, test)
        else:
            arena.fit(ensemble_of(name, program, best), test)
