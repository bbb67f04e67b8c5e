"""An optimization under way: its parts one after the other, each with its share of the budget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import dspy

from moa_dspy.agents import Agent
from moa_dspy.cost.budget import Budget, BudgetGuard
from moa_dspy.cost.meter import UsageMeter
from moa_dspy.cost.usage import Usage
from moa_dspy.data.splitting import sample
from moa_dspy.errors import AllRunsFailedError, BudgetExhaustedError, BudgetTooSmallError, MoAError
from moa_dspy.evaluation.statistics import Score
from moa_dspy.files.program_file import digest_of
from moa_dspy.optimizers.analysis.contributions import Contributions, contributions
from moa_dspy.optimizers.analysis.profile import Profile, profile
from moa_dspy.optimizers.comparison.acceptance import Acceptance, accept
from moa_dspy.optimizers.comparison.matching import mean_price
from moa_dspy.optimizers.measuring import Measurement, Metric, Run, measure
from moa_dspy.optimizers.prompts.compile import CompileResult, compile, split_off  # noqa: A004 (DSPy's word)
from moa_dspy.optimizers.search.objective import Objective
from moa_dspy.optimizers.search.search import Searched, SearchProgress, search
from moa_dspy.optimizers.search.space import BoundSpace, SearchSpace
from moa_dspy.optimizers.stopping.depth import Price
from moa_dspy.optimizers.stopping.fit import StopFit, fit_stop_rule
from moa_dspy.program import AttentionMoA

__all__ = ["EndedBy", "OptimizeProgress", "Undertaking", "bind_space"]

EndedBy: TypeAlias = Literal["done", "budget"]

_WEIGHTS: Final[Mapping[str, float]] = {
    "architecture": 4.0,
    "prompts": 3.0,
    "stop": 1.0,
    "acceptance": 2.0,
    "explanation": 0.0,
}
"""How a budget is divided: a part gets its share of what is left, so what one does not use goes to those after it."""


@dataclass(frozen=True)
class OptimizeProgress:
    """Where an optimization is.

    Attributes:
        part: what is under way: ``architecture``, ``prompts``, ``stop``, ``acceptance`` or ``explanation``.
        number: of that part, from 1.
        of: how many parts there are.
        done: share of the part that is done.
        detail: where in it, in words.
        best: the best score on the training examples so far, where there is one.
        cost: what has been spent on all parts.
    """

    part: str
    number: int
    of: int
    done: float
    detail: str
    best: float | None
    cost: Usage


class Undertaking:
    """What has been found, tested and spent so far.

    Args:
        program: as it was given.
        tune: examples to tune on.
        held: examples that decide.
        metric: the task's.
        budget: of everything, if there is one.
        meter: counts what is paid.
        plan: the parts, in order.
        space: what depth and stop rule may be; None leaves both open.
        concurrency: runs under way at once.
        seed: of everything that is drawn.
        tell: told of progress.

    Attributes:
        candidate: the best program so far; the given one at first.
        adopted: the parts whose result the candidate has.
        rounds: a report of each part of each round.
        notes: what else a reader should know.
        spent: the cost of each part.
    """

    def __init__(
        self,
        program: AttentionMoA,
        tune: Sequence[dspy.Example],
        held: Sequence[dspy.Example],
        metric: Metric,
        *,
        budget: Budget | None,
        meter: UsageMeter,
        plan: Sequence[str],
        space: SearchSpace | None,
        concurrency: int,
        seed: int,
        tell: Callable[[OptimizeProgress], None] | None,
    ) -> None:
        self.program = self.candidate = program
        self.tune, self.held, self.metric, self.seed = list(tune), list(held), metric, seed
        self.plan, self._space = list(plan), space
        self.searched: list[Searched] = []
        self.compiled: list[CompileResult] = []
        self.stops: list[StopFit] = []
        self.adopted: list[str] = []
        self.rounds: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.spent: list[tuple[str, Usage]] = []
        self.ended_by: EndedBy = "done"
        self.acceptance: Acceptance | None = None
        self.profile: Profile | None = None
        self.contributions: Contributions | None = None
        self._guard = BudgetGuard(budget, meter=meter)
        self._limited, self._meter = budget is not None, meter
        self._concurrency, self._tell = concurrency, tell
        self._best: float | None = None
        # Once prompts hold demos, what they were learnt from tells nothing any more.
        self._unlearnt = self.tune

    @property
    def cost(self) -> Usage:
        """Return what has been spent."""
        return self._meter.usage

    @property
    def chosen(self) -> AttentionMoA:
        """Return the program to use."""
        return self.program if self.acceptance is None else self.acceptance.program

    @property
    def score(self) -> Score | None:
        """Return its score on the held-out examples, where it was run on them."""
        if self.acceptance is not None:
            return self.acceptance.score
        return None if self.profile is None else self.profile.score

    @property
    def verdict(self) -> str:
        """Return what became of the candidate, in one sentence."""
        if self.acceptance is not None:
            return self.acceptance.reason
        if not self._changed:
            if self.searched or self.compiled or self.stops:
                end = " before the budget ended" if self.ended_by == "budget" else ""
                return f"The program is kept: nothing better was found on the training examples{end}."
            more = "with a larger one, the same call goes on from here out of the cache"
            nothing = f"the budget covers no part; {more}" if self.ended_by == "budget" else "there was nothing to tune"
            return f"The program is kept: {nothing}."
        if self.ended_by == "budget":
            return (
                "The program is kept: the budget ended before its candidate could be tested on held-out examples; with "
                "a larger one, the same call goes on from here out of the cache."
            )
        return "The program is kept: its candidate could not be tested on held-out examples."

    def round(self, parts: Collection[str], searching: Mapping[str, Any], compiling: Mapping[str, Any]) -> None:
        """Tune once.

        Args:
            parts: which.
            searching: arguments of ``search``.
            compiling: arguments of ``compile``.
        """
        self.rounds.append(dict.fromkeys(("search", "prompts", "stop")))
        objective = Objective(searching["objective"], searching["price"], searching["unit"])
        if "architecture" in parts:
            self._do("architecture", lambda share: self._search(share, searching, objective))
        if "prompts" in parts:
            self._do("prompts", lambda share: self._compile(share, compiling, objective))
        if "stop" in parts:
            self._do("stop", lambda share: self._fit_stop(share, objective))

    def test(self, alpha: float) -> None:
        """Test the candidate against the program as it was given, on the held-out examples."""
        self._do("acceptance", lambda _: self._accept(alpha))

    def explain(self) -> None:
        """Tell what the stages and agents of the program to use are worth, on the held-out examples."""
        self._do("explanation", lambda _: self._explain())

    @property
    def _changed(self) -> bool:
        return digest_of(self.candidate) != digest_of(self.program)

    def _search(self, share: BudgetGuard | None, arguments: Mapping[str, Any], objective: Objective) -> None:
        given = self.program

        def told(at: SearchProgress) -> None:
            where = f"trial {at.trials + 1} of {at.n_trials}, {at.examples} of {at.of} examples"
            self._say((at.trials + at.examples / at.of) / at.n_trials, where, at.best)

        own = self._own(share)
        found = search(
            given.task,
            given.named_agents,
            trainset=self._unlearnt,
            metric=self.metric,
            budget=None if share is None else share.share().budget,
            seed=self.seed,
            concurrency=self._concurrency,
            progress=told,
            prompts=[given] if self.candidate is given else [given, self.candidate],
            **_choices_of(given),
            **arguments,
        )
        self.searched.append(found)
        self.rounds[-1]["search"] = found.report
        if found.report["ended_by"] == "budget":
            self._cut("architecture: the search ended with its share of the budget")
        if found.report["ended_by"] == "failures":
            self.notes.append(
                f"architecture: the search ended early ({found.report['failure']}); the same call goes on from there"
            )
        self._adopt(found, own, objective)

    def _own(self, share: BudgetGuard | None) -> Measurement:
        """Measure what trials have to beat, before any of them is paid for."""
        examples = self._unlearnt
        try:
            return measure(
                self.candidate,
                examples,
                self.metric,
                concurrency=self._concurrency,
                budget=share,
                progress=self._counter(len(examples), "runs of the program itself"),
            )
        except BudgetExhaustedError:
            raise BudgetTooSmallError(
                f"left out, since the budget ended while the program itself was run on the {len(examples)} examples to "
                "search with; raise it, or give fewer examples"
            ) from None

    def _adopt(self, found: Searched, own: Measurement, objective: Objective) -> None:
        """Go on with what a search has found, if it scores higher than the program on the same examples."""
        there = sample(self._unlearnt, seed=found.report["seed"])[: found.score.examples]
        runs = {id(run.example): run for run in own.runs}
        score, best = Score.of([runs[id(example)].score for example in there]), found.report["best"]["trial"]
        self._best = max(score.value, found.score.value)
        known = next(trial["price"] for trial in found.report["trials"] if trial["number"] == best)
        price = Price(**known) if known else None  # of a trial that the budget ended there is none
        spends = mean_price(own.runs)
        dear = not objective.affords(spends)
        if dear:
            self.notes.append(
                f"architecture: the program itself costs {objective.cost(spends):g} {objective.unit} "
                "an example, which is above the price; the test on held-out examples is of scores alone"
            )
        if price is not None and not objective.affords(price):
            self.notes.append("architecture: nothing within the price was found; what comes nearest goes on")
        if found.score.value > score.value or dear:
            self.candidate = found.program
            self.candidate.budget = self.program.budget
            self.adopted.append("architecture")
        else:
            self.notes.append(f"architecture: no trial scores higher than the program itself ({score}), which is kept")

    def _compile(self, share: BudgetGuard | None, arguments: Mapping[str, Any], objective: Objective) -> None:
        method, shape = arguments["method"], self.candidate.architecture
        if method == "reanchor" and not (shape.synthesizes and shape.early_stop):
            self.notes.append("prompts: the architecture found has no stop decision for reanchor to fit")
            return
        learn, hold = split_off(self.tune, self.seed)
        tuned = compile(
            self.candidate,
            trainset=learn,
            valset=hold,
            metric=self.metric,
            seed=self.seed,
            concurrency=self._concurrency,
            budget=None if share is None else share.budget,
            progress=lambda at: self._say(at.done, f"{method}: {at.cost.paid_calls} of at most {at.of} calls"),
            **arguments,
        )
        self.compiled.append(tuned)
        self.rounds[-1]["prompts"] = tuned.report
        if tuned.report["ended_by"] == "budget":
            self._cut(f"prompts: {method} ended with its share of the budget; they stay as they were")
        elif tuned.gain.value <= 0:
            self.notes.append(f"prompts: {method} found none that score higher; they stay as they were")
        elif not objective.affords(tuned.price):
            self.notes.append(f"prompts: with those that {method} found an example costs too much; they stay")
        else:
            self.candidate, self._unlearnt = tuned.program, hold
            self.adopted.append(method)

    def _fit_stop(self, share: BudgetGuard | None, objective: Objective) -> None:
        shape = self.candidate.architecture
        if shape.layers < 2:
            self.notes.append("stop: the candidate has one layer, and nothing to stop")
            return
        runs = len(self._unlearnt) * (2 if shape.synthesizes else 1)
        fit = fit_stop_rule(
            self.candidate,
            trainset=self._unlearnt,
            metric=self.metric,
            concurrency=self._concurrency,
            budget=share,
            affordable=objective.affords,
            space=self._space,
            progress=self._counter(runs, "runs"),
        )
        self.stops.append(fit)
        self.rounds[-1]["stop"] = fit.report
        self._best = fit.chosen.score.value
        if digest_of(fit.program) != digest_of(self.candidate):
            self.candidate = fit.program
            self.adopted.append("stop")

    def _accept(self, alpha: float) -> None:
        if not self._changed:
            return
        count = self._counter(2 * len(self.held), "held-out runs")
        self.acceptance = accept(
            self.program,
            self.candidate,
            valset=self.held,
            metric=self.metric,
            tuned_on=self.tune,
            alpha=alpha,
            seed=self.seed,
            concurrency=self._concurrency,
            budget=self._guard,
            on_run=lambda _, run: count(run),
        )

    def _explain(self) -> None:
        chosen, agents = self.chosen, len(self.chosen.agents)
        given: dict[str, Any] = {"concurrency": self._concurrency, "seed": self.seed, "budget": self._guard}
        self._say(0.0, "stages")
        self.profile = profile(chosen, self.held, self.metric, **given)
        if agents > 1:
            self._check_left(self.profile, agents)
            parts = iter(range(agents + 1))
            self.contributions = contributions(
                chosen,
                self.held,
                self.metric,
                progress=lambda what: self._say((1 + next(parts)) / (agents + 2), what),
                **given,
            )

    def _check_left(self, one: Profile, programs: int) -> None:
        """Refuse to begin what the budget cannot end.

        Raises:
            BudgetExhaustedError: about as much as ``programs`` runs over the held-out examples take is not left.
        """
        if not self._limited:
            return
        left, stages = self._guard.share().left, [row for row in one.rows if row.agent is None]
        takes = (
            (left.calls, sum(row.calls for row in stages)),
            (left.tokens, sum(row.tokens for row in stages)),
            (left.usd, one.cost.cost_usd or 0.0),
        )
        if any(needed * programs > available for available, needed in takes):
            raise BudgetExhaustedError

    def _do(self, part: str, work: Callable[[BudgetGuard | None], None]) -> None:
        """Do a part of the plan with its share of the budget; where that is not enough, the part is left out.

        A part that fails late throws nothing away that was paid for; but where no model answers any more, nothing that
        could be said of the program would be true.
        """
        before, number = self.cost, len(self.spent)
        weights = [_WEIGHTS[name] for name in self.plan[number:]]
        self._say(0.0, "")
        try:
            work(self._guard.share(weights[0] / sum(weights)) if self._limited and weights[0] else None)
        except BudgetExhaustedError:
            self._cut(f"{part}: left out, since the budget does not cover it")
        except BudgetTooSmallError as error:
            self._cut(f"{part}: {error}")
        except MoAError as error:
            nothing_found = not (self.searched or self.compiled or self.stops)
            if part != "explanation" and (nothing_found or isinstance(error, AllRunsFailedError)):
                raise
            self.notes.append(f"{part}: failed, and what was found before stands: {error}")
        self.spent.append((part, self.cost - before))

    def _cut(self, why: str) -> None:
        self.ended_by = "budget"
        self.notes.append(why)

    def _counter(self, of: int, what: str) -> Callable[[Run], None]:
        runs: list[Run] = []

        def count(run: Run) -> None:
            runs.append(run)
            self._say(min(len(runs) / of, 1.0), f"{len(runs)} of {of} {what}")

        return count

    def _say(self, done: float, detail: str, best: float | None = None) -> None:
        if self._tell is None:
            return
        number = len(self.spent)
        best = self._best if best is None else best
        self._tell(OptimizeProgress(self.plan[number], number + 1, len(self.plan), done, detail, best, self.cost))


def bind_space(program: AttentionMoA, space: SearchSpace) -> BoundSpace:
    """Return the space for the program's task, agents, prompts and demos.

    Raises:
        ConfigurationError: says what does not fit.
    """
    options = _choices_of(program)
    aggregators = options.pop("aggregators")
    return BoundSpace(space, program.task, program.named_agents, options, aggregators, [program])


def _choices_of(program: AttentionMoA) -> dict[str, Any]:
    """What a search takes over from the program, besides its task and its agents."""
    return {
        "aggregators": _further_aggregators(program),
        "reasoning": program.architecture.reasoning,
        "tolerance": program.tolerance,
    }


def _further_aggregators(program: AttentionMoA) -> tuple[Agent, ...]:
    """The program's aggregator, unless it is one of its agents, which may aggregate anyway."""
    aggregator, names = program.aggregator, [spec.name for spec in program.architecture.agents]
    if aggregator is None or any(_same(aggregator, agent) for agent in program.agents):
        return ()
    return (replace(aggregator, name="aggregator") if aggregator.name in names else aggregator,)


def _same(one: Agent, other: Agent) -> bool:
    """Whether two agents are one model at one address with the same settings, whatever they are called."""
    there = [getattr(agent.lm, "kwargs", {}).get("api_base") for agent in (one, other)]
    return one.spec("-") == other.spec("-") and there[0] == there[1]
