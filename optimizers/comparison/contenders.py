"""The runs of a comparison, and what they will cost: matches the sizes of baselines, collects scores and prices."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Final

import dspy

from moa_dspy.cost.budget import Budget, BudgetGuard
from moa_dspy.cost.meter import UsageMeter
from moa_dspy.errors import AllRunsFailedError, ConfigurationError
from moa_dspy.evaluation.progress import cost_so_far
from moa_dspy.optimizers.comparison.baselines import SMALLEST, BaselineName, Ensemble, Single, singles_of
from moa_dspy.optimizers.comparison.verdict import PROGRAM
from moa_dspy.optimizers.measuring import Measurement, Metric, Run, Unit, failures_of, run_examples
from moa_dspy.optimizers.optimize_budget import CACHED_NOTE, budget_notes, mean_cost
from moa_dspy.planning import CostEstimate, PartEstimate, WorkEstimate, evenly_spaced, total
from moa_dspy.program import AttentionMoA

__all__ = ["LARGEST", "PROBE", "UNKNOWN_PRICE", "ComparisonRun", "Entry", "estimate", "nearest_size"]

LARGEST: Final = 64
"""Maximum number of samples or layers of a baseline."""

UNKNOWN_PRICE: Final = "dollars cannot be matched: {why}; use match='tokens' or match='calls'"

_SECONDS_BETWEEN_LINES: Final = 15.0

PROBE: Final = 8
"""Number of test examples that measure the cost of a size. Their runs are not scored, and are reused."""

_PLANNED: Final = 3  # examples


@dataclass
class Entry:
    """A contender that has run on the test examples; ``size`` if its number of samples or layers was chosen."""

    what: str
    program: AttentionMoA
    measured: Measurement
    size: int | None = None


@dataclass
class ComparisonRun:
    """The state of a comparison; see the arguments of ``compare``.

    Attributes:
        own: the caller's own programs by name.
        names: the baselines to build.
        singles: the single models of which one is chosen; empty if no baseline needs the best of them.
        test: the examples that are scored.
        pilot: other examples, which choose the single model.
        notes: remarks for the reader.
        entries: the contenders that have run, by name.
        meter: the usage so far. It and the guard are set when the runs begin.
    """

    program: AttentionMoA
    own: Mapping[str, AttentionMoA]
    names: Sequence[BaselineName]
    singles: Sequence[Single]
    test: Sequence[dspy.Example]
    pilot: Sequence[dspy.Example]
    metric: Metric
    unit: Unit
    tolerance: float
    concurrency: int
    progress: Callable[[str], None] | None
    notes: list[str]
    entries: dict[str, Entry] = field(default_factory=dict)
    meter: UsageMeter = field(init=False)
    guard: BudgetGuard = field(init=False)

    @property
    def target(self) -> float:
        """Return the program's spend per example."""
        return self.spend(self.entries[PROGRAM].measured)

    def spend(self, measured: Measurement) -> float:
        """Return the mean spend on an example. Raise ConfigurationError if it is in dollars and a price is unknown."""
        value = getattr(measured.known_price, self.unit)
        if value is None:
            raise ConfigurationError(UNKNOWN_PRICE.format(why="the price of a model is not known"))
        return float(value)

    def run(
        self, what: str, program: AttentionMoA, examples: Sequence[dspy.Example], metric: Metric | None
    ) -> Measurement:
        """Run a program on examples. If every run fails, the message names the program."""
        on_run = self._counter(what, len(examples))
        judged = bool(self.entries)  # the metric has judged the program, which runs first
        with failures_of(what):
            return run_examples(
                program,
                examples,
                metric,
                guard=self.guard,
                concurrency=self.concurrency,
                on_run=on_run,
                keep_traces=not judged,  # of the program: they show what its agents can reach
                metric_may_fail=judged,
            )

    def _counter(self, what: str, examples: int) -> Callable[[Run], None] | None:
        """Report a run of a program, with the cost of the comparison so far, now and every 15 seconds."""
        report = self.progress
        if report is None:
            return None
        done, last = 0, time.monotonic()

        def say(progress: str) -> None:
            report(f"{what}: {progress}; so far {cost_so_far(self.meter.usage)}")

        def count(run: Run) -> None:
            nonlocal done, last
            del run
            done += 1
            if done < examples and time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                say(f"{done} of {examples} examples")

        say(f"{examples} examples")
        return count

    def enter(self, name: str, what: str, program: AttentionMoA, size: int | None = None) -> None:
        """Run a contender on the test examples."""
        self.entries[name] = Entry(what, program, self.run(what, program, self.test, self.metric), size)

    def enter_all(self) -> None:
        """Run the program, then the other contenders."""
        self.enter(PROGRAM, "the program", self.program)
        for name, other in self.own.items():
            self.enter(name, name, other)
        best = self._best_single() if self.singles else singles_of(self.program)[0]
        for baseline in self.names:
            if baseline == "single":
                self.enter(baseline, f"the single model {best.name}", best.program)
            else:
                self._enter_matched(Ensemble(baseline, self.program, best))

    def _best_single(self) -> Single:
        """Return the single model with the highest score on the pilot examples, and the cheapest on a tie."""
        if len(self.singles) == 1:
            return self.singles[0]
        ranks: list[tuple[float, float, int]] = []
        for number, single in enumerate(self.singles):
            try:
                measured = self.run(f"pilot of {single.name} alone", single.program, self.pilot, self.metric)
            except AllRunsFailedError as error:
                self.notes.append(f"it takes no part: {error}")
                continue
            ranks.append((-measured.score().value, self.spend(measured), number))
        if not ranks:
            raise AllRunsFailedError("none of the single models answers a pilot example")
        chosen = self.singles[min(ranks)[-1]]
        self.notes.append(
            f"the single model was chosen from {', '.join(single.name for single in self.singles)} on "
            f"{len(self.pilot)} pilot examples, none of which is a test example"
        )
        return chosen

    def _enter_matched(self, ensemble: Ensemble) -> None:
        """Run a baseline at the size whose spend is nearest to the program's. Scores do not influence the size."""
        title, target = ensemble.title, self.target
        size = nearest_size(lambda size: self._spend(ensemble, size), target, self.tolerance, SMALLEST)
        while size is not None:
            self.enter(ensemble.name, f"{title} ({ensemble.describe(size)})", ensemble.build(size), size)
            spent = self.spend(self.entries[ensemble.name].measured)
            if spent <= target * (1 + self.tolerance) + 1e-9:
                if spent < target * (1 - self.tolerance):
                    why = f"{LARGEST} is the largest size tried" if size == LARGEST else "no size comes nearer"
                    self.notes.append(f"{title} spends x{spent / target:.2f} of what the program does; {why}")
                return
            size = size - 1 if size > SMALLEST else None
        self.entries.pop(ensemble.name, None)
        self.notes.append(f"{title} is left out: its smallest size exceeds the program's {self.unit} for an example")

    def _spend(self, ensemble: Ensemble, size: int) -> float:
        """Return the spend of a size per example. Tokens and dollars are measured on a few examples."""
        made = ensemble.build(size)
        if self.unit == "calls":
            return made.architecture.max_calls
        what = f"size of {ensemble.title} ({ensemble.describe(size)})"
        return self.spend(self.run(what, made, evenly_spaced(self.test, PROBE), None))


def nearest_size(price: Callable[[int], float], target: float, tolerance: float, smallest: int) -> int | None:
    """Return the size whose price is nearest to a target, without exceeding it by more than a share of it.

    Prices grow approximately linearly with the size, and asking for one may cost something. So each next size comes
    from a line through two known prices. None is returned if the smallest size already exceeds the target.
    """
    limit = target * (1 + tolerance) + 1e-9
    known = {smallest: price(smallest)}
    if known[smallest] > limit:
        return None
    known[smallest + 1] = price(smallest + 1)
    while True:
        near = min((size for size in known if known[size] <= limit), key=lambda size: abs(known[size] - target))
        over = min((size for size in known if known[size] > limit), default=LARGEST + 1)
        other = min((size for size in known if size != near), key=lambda size: abs(size - near))
        slope = (known[other] - known[near]) / (other - near)
        guess = near + round((target - known[near]) / slope) if slope > 0 else near
        guess = max(smallest, min(guess, over - 1))
        if guess in known:
            return near
        known[guess] = price(guess)


def estimate(run: ComparisonRun, budget: Budget | None) -> WorkEstimate:
    """Return the estimated cost of ``compare``, by contender. No LM is called.

    A few examples are planned, and their cost is scaled to all examples. Its calls are a bound if no baseline can run
    twice: matched calls are known for each size, unless a reply that cannot be read is asked for again. What a size
    takes of tokens or dollars is known when it has run.
    """
    match, singles, test = run.unit, run.singles, run.test
    price = partial(mean_cost, sample=evenly_spaced(test, _PLANNED))

    def part(
        name: str, prices: Sequence[CostEstimate], count: float, largest: Sequence[CostEstimate] = ()
    ) -> PartEstimate:
        """Return the part of runs of one of several programs, of which any may be chosen; ``largest`` if they grow."""
        most = reduce(CostEstimate.largest, [*prices, *largest], CostEstimate()).at_most.times(count)
        return PartEstimate(part=name, most=most, expected=total(prices).times(count / max(1, len(prices))))

    own, bounded = price(run.program), True
    parts = [part(name, [price(one)], len(test)) for name, one in {PROGRAM: run.program, **run.own}.items()]
    if run.pilot:
        parts.append(part("pilot", [total(price(single.program) for single in singles)], len(run.pilot)))
    for name in run.names:
        best = singles or singles_of(run.program)[:1]
        if name == "single":
            parts.append(part(name, [price(single.program) for single in best], len(test)))
            continue
        ensembles = [Ensemble(name, run.program, single) for single in best]
        sized = [_sized(run, ensemble, price, own) for ensemble in ensembles]
        largest = [_largest(run, ensemble, price, own) for ensemble in ensembles] if match == "calls" else []
        bounded = bounded and match == "calls" and all(one.most_calls <= one.calls for one in largest)
        parts.append(part(name, sized, len(test) + (0 if match == "calls" else 2 * min(PROBE, len(test))), largest))
    notes = [CACHED_NOTE]
    if not bounded:
        notes.append(
            f"sizes follow from the measured {match}, and one that spends too much runs again, smaller; only a budget "
            "is a bound"
        )
    return WorkEstimate(parts=tuple(parts), notes=(*notes, *budget_notes(budget)), bounded=bounded)


def _sized(
    run: ComparisonRun, ensemble: Ensemble, price: Callable[[AttentionMoA], CostEstimate], own: CostEstimate
) -> CostEstimate:
    """Return the planned price of a baseline at the size that matches the program's; nothing if none does."""

    def spend(cost: CostEstimate) -> float:
        return float(cost.usd_at_least if run.unit == "usd" else getattr(cost, run.unit))

    size = nearest_size(lambda size: spend(price(ensemble.build(size))), spend(own), run.tolerance, SMALLEST)
    return CostEstimate() if size is None else price(ensemble.build(size))


def _largest(
    run: ComparisonRun, ensemble: Ensemble, price: Callable[[AttentionMoA], CostEstimate], own: CostEstimate
) -> CostEstimate:
    """Return the planned price of a baseline at the largest size whose calls can match the program's."""
    limit = own.at_most.calls * (1 + run.tolerance)
    size = nearest_size(lambda size: ensemble.build(size).architecture.max_calls, limit, 0.0, SMALLEST)
    return CostEstimate() if size is None else price(ensemble.build(size))
