"""One run of ``optimize``: the parts in order, each with its share of the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import dspy

from moa_dspy.cost.budget import BudgetGuard
from moa_dspy.cost.meter import UsageMeter
from moa_dspy.cost.usage import Price, Usage
from moa_dspy.data.splitting import sample
from moa_dspy.errors import AllRunsFailedError, BudgetExhaustedError, BudgetTooSmallError, MoAError
from moa_dspy.evaluation.statistics import Score
from moa_dspy.files.program_file import digest_of
from moa_dspy.optimizers.analysis.ceiling import Ceiling, ceiling, known_ceiling
from moa_dspy.optimizers.analysis.contributions import Contributions, contributions, without
from moa_dspy.optimizers.analysis.profile import Profile, profile
from moa_dspy.optimizers.analysis.quarantine import Quarantine, quarantine
from moa_dspy.optimizers.comparison.acceptance import Acceptance, Side, accept, looks
from moa_dspy.optimizers.leakage import demo_questions, question_of
from moa_dspy.optimizers.measuring import CachedRuns, Measurement, Run, measure, sharing
from moa_dspy.optimizers.optimize_budget import affordable, check_covers, fraction_of, is_limited, share_of
from moa_dspy.optimizers.optimize_plan import OptimizePlan, OptimizeProgress, like, search_arguments
from moa_dspy.optimizers.prompts.compile import CompileResult, compile, split_off  # noqa: A004 (DSPy's word)
from moa_dspy.optimizers.prompts.methods import method_name
from moa_dspy.optimizers.search.search import SearchProgress, SearchResult, search
from moa_dspy.optimizers.search.storage import open_storage
from moa_dspy.optimizers.stop_fitting.fit import StopFit, fit_stop_rule
from moa_dspy.optimizers.stop_fitting.gates import GATE_CONFIDENCE, GateFit, fit_gate
from moa_dspy.program import AttentionMoA

__all__ = ["EndedBy", "OptimizeRun"]

EndedBy: TypeAlias = Literal["done", "budget"]


class OptimizeRun:
    """The state of an optimization: results, tests and costs so far.

    Attributes:
        candidate: the best program so far; at first the original one.
        adopted: the parts whose result is in the candidate.
        rounds: a report of each part of each round.
        notes: further remarks for the reader.
        spent: the cost of each part.
        gated: the program to use with a certified gate; None without one.
        hopeless: whether the agents' ceiling leaves less room than the smallest gain that is worth it.
    """

    def __init__(
        self, plan: OptimizePlan, meter: UsageMeter, progress: Callable[[OptimizeProgress], None] | None
    ) -> None:
        self.plan, self.candidate, self.notes = plan, plan.program, list(plan.notes)
        self.searched: list[SearchResult] = []
        self.compiled: list[CompileResult] = []
        self.stops: list[StopFit] = []
        self.gate: GateFit | None = None
        self.quarantine: Quarantine | None = None
        self.gated: AttentionMoA | None = None
        self.adopted: list[str] = []
        self.rounds: list[dict[str, Any]] = []
        self.spent: list[tuple[str, Usage]] = []
        self.ended_by: EndedBy = "done"
        self._cut_parts: set[str] = set()
        self._prices: dict[str, Price] = {}  # of an example, as measured, by the program's digest
        self.acceptance: Acceptance | None = None
        self.profile: Profile | None = None
        self.contributions: Contributions | None = None
        self.ceiling: Ceiling | None = None
        self.hopeless = False
        self._guard, self._meter, self._progress = BudgetGuard(plan.budget, meter=meter), meter, progress
        self._storage = open_storage(plan.search["storage"])
        self._best: float | None = None
        self._tuned: AttentionMoA | None = None
        self._tuned_to_end = self._has_tuned_prompts = False
        # Prompts may hold demos. The examples that they were learnt from say nothing about later parts.
        self._unlearnt = plan.tune
        # Full runs with traces: of the original program on tuning examples, and of either program on held-out ones.
        self._own_runs: list[Run] = []
        self._held_runs: dict[str, list[Run]] = {"baseline": [], "candidate": []}

    @property
    def cost(self) -> Usage:
        """Return the cost so far."""
        return self._meter.usage

    @property
    def chosen(self) -> AttentionMoA:
        """Return the program to use."""
        return self.gated or self.decided

    @property
    def decided(self) -> AttentionMoA:
        """Return the program to use, without a fitted gate."""
        return self.plan.program if self.acceptance is None else self.acceptance.program

    @property
    def score(self) -> Score | None:
        """Return the score of the program to use on the held-out examples, if it was run on them."""
        if self.acceptance is not None:
            return self.acceptance.score
        return None if self.profile is None else self.profile.score

    @property
    def verdict(self) -> str:
        """Return the outcome in one sentence."""
        if self.acceptance is not None:
            return self.acceptance.reason
        cut, tuned = bool(self._cut_parts - {"explanation"}), self.searched or self.compiled or self.stops
        more = "with a larger one, the same call continues from the cache"
        if self._changed:
            why = "its candidate could not be tested on held-out examples"
            if cut:
                why = f"the budget ended before its candidate could be tested on held-out examples; {more}"
        elif tuned:
            end = " before the budget ended" if cut else ""
            why = f"nothing better was found on the training examples{end}"
        elif self.hopeless and self.ceiling is not None:
            room, wanted = self.ceiling.room, self.plan.least_gain
            why = f"its agents' ceiling leaves room for a gain of {room:.1%}, less than {wanted:.1%}; "
            why += self.ceiling.sentence
        else:
            why = f"the budget covers no part; {more}" if cut else "there was nothing to tune"
        if self.gated is not None:
            return f"The program is kept, with a gate: {why}."
        return f"The program is kept: {why}."

    def run(self) -> None:
        """Tune the program, test the candidate on the held-out examples, and explain the program to use."""
        if self.plan.least_gain is not None:
            self._do("ceiling", self._find_ceiling)
            if self.hopeless:
                return
        work = {
            "prompts": self._compile,
            "architecture": self._search,
            "prompts again": self._compile_again,
            "stop": self._fit_stop,
        }
        for number in range(self.plan.rounds):
            self.rounds.append(dict.fromkeys(("block", "search", "prompts", "stop")))
            for part in self.plan.order(first=not number):
                self._do(part, work[part])
        self._do("acceptance", self._accept)
        if "gate" in self.plan.parts:
            self._do("gate", self._fit_gate)
        if self.plan.explain:
            self._do("explanation", self._explain)
        limit = self._guard.budget.calls
        if self._cut_parts and limit is not None:
            self.notes.append(
                f"{self.cost.paid_calls:,} of {limit:,} calls were used; what was skipped or cut short did not fit "
                "into its share of the rest"
            )

    @property
    def _changed(self) -> bool:
        return digest_of(self.candidate) != digest_of(self.plan.program)

    def _find_ceiling(self, _: BudgetGuard | None) -> None:
        plan = self.plan
        self.ceiling = ceiling(
            plan.program,
            plan.tune,
            plan.metric,
            concurrency=plan.concurrency,
            progress=self._counter(len(plan.tune), "examples with every agent"),
        )
        small = plan.least_gain is not None and self.ceiling.room < plan.least_gain
        self.hopeless = small and not self.ceiling.partly  # graded scores may gain where no answer is right

    def _search(self, share: BudgetGuard | None) -> None:
        plan, program, number = self.plan, self.plan.program, len(self.rounds)

        def report(at: SearchProgress) -> None:
            where = f"trial {at.trials + 1} of {at.n_trials}, {at.examples} of {at.of} examples"
            self._say((at.trials + at.examples / at.of) / at.n_trials, where, at.best)

        name = plan.search["study_name"]
        if self._tuned is not None:
            name += f"-{digest_of(self._tuned)[:8]}"
        own = self._measure_own(share)
        rest, out = (program, ()) if self.quarantine is None else (self.quarantine.program, self.quarantine.agents)
        arguments: dict[str, Any] = {
            **plan.search,
            **search_arguments(rest, plan.space.without(out)),
            "storage": self._storage,
            "study_name": name if number == 1 else f"{name}-{number}-{digest_of(self.candidate)[:8]}",
            "prompts": [program] if self.candidate is program else [program, self.candidate],
            "tuned": self._tuned,
        }
        searched = search(
            trainset=self._searchable,
            metric=plan.metric,
            budget=None if share is None else share.share().budget,
            seed=plan.seed,
            concurrency=plan.concurrency,
            progress=report,
            **arguments,
        )
        self.searched.append(searched)
        self.rounds[-1]["search"] = searched.report
        if searched.report["ended_by"] == "budget":
            self._cut(f"architecture: the search ended with its share of the budget{_used(share)}")
        if searched.report["ended_by"] == "failures":
            failure = searched.report["failure"]
            self.notes.append(f"architecture: the search ended early ({failure}); the same call continues it")
        self._adopt(searched, own)

    @property
    def _searchable(self) -> list[dspy.Example]:
        """Return the examples for trials: those to tune on that no prompt shows as a demo."""
        shown = set(demo_questions(self.candidate, *([] if self._tuned is None else [self._tuned])))
        return [example for example in self.plan.tune if question_of(example) not in shown] if shown else self.plan.tune

    def _measure_own(self, share: BudgetGuard | None) -> Measurement:
        """Measure the score that the trials must exceed, before any trial is paid for.

        Agents that these runs show to be much worse than the others are left out of the search.
        """
        plan, program, examples, workers = self.plan, self.candidate, self._searchable, self.plan.concurrency
        if share is not None:  # a trial takes at least a call for each example
            check_covers(share, program, examples, "the runs of the program itself and of a trial", len(examples))
        count = self._counter(len(examples), "runs of the program itself")
        try:
            with sharing(share):
                own = measure(program, examples, plan.metric, concurrency=workers, progress=count, keep_traces=True)
        except BudgetExhaustedError:
            raise BudgetTooSmallError(
                f"skipped, because the budget ended while the program itself was run on the {len(examples)} examples "
                "to search with; raise it, or give fewer examples"
            ) from None
        if len(self.rounds) == 1:
            known = known_ceiling(program, own.runs, plan.metric, concurrency=workers)
            self.ceiling = known or self.ceiling
            if known is not None and any(run.trace is not None for run in own.runs):
                self.quarantine = quarantine(plan.program, own.runs, plan.metric, concurrency=workers)
                self.notes += [f"architecture: {self.quarantine}"] if self.quarantine.agents else []
            self._own_runs += own.runs if "gate" in plan.parts else ()
        return replace(own, runs=tuple(replace(run, trace=None) for run in own.runs))

    def _adopt(self, searched: SearchResult, own: Measurement) -> None:
        """Make the found program the candidate if it scores higher than the original on the same examples."""
        objective, report, own_price = self.plan.objective, searched.report, own.known_price
        self._prices.setdefault(digest_of(self.candidate), own_price)
        examples = sample(self._searchable, seed=report["seed"])[: searched.score.examples]
        scores = {id(run.example): run.score or 0.0 for run in own.runs}
        score = Score.of([scores[id(example)] for example in examples])
        self._best = max(score.value, searched.score.value)
        best = next(trial for trial in report["trials"] if trial["number"] == report["best"]["trial"])
        too_expensive = not objective.affords(own_price)
        if too_expensive:
            self.notes.append(
                f"architecture: the program itself costs {objective.cost(own_price):g} {objective.unit} "
                "an example, which is above the price; the test on held-out examples compares scores only"
            )
        if best["price"] and not objective.affords(Price(**best["price"])):  # no price if the budget ended the trial
            self.notes.append("architecture: nothing within the price was found; the nearest program is used")
        if searched.score.value > score.value or too_expensive:
            self._has_tuned_prompts = bool(best["params"].get("tuned"))
            self.candidate = like(self.plan.program, searched.program)
            if best["price"]:
                self._prices[digest_of(self.candidate)] = Price(**best["price"])
            self.adopted += [method_name(self.plan.method)] * self._has_tuned_prompts + ["architecture"]
        else:
            self.notes.append(f"architecture: no trial scores higher than the program itself ({score}), which is kept")

    def _compile(self, share: BudgetGuard | None) -> None:
        plan, method, architecture = self.plan, method_name(self.plan.method), self.candidate.architecture
        if method == "reanchor" and not (architecture.synthesizes and architecture.early_stop):
            self.notes.append("prompts: the architecture found has no stop decision for reanchor to fit")
            return
        first = "prompts again" in plan.stages and not self.searched
        learn, hold = split_off(plan.tune, plan.seed)
        start = plan.start_of(self.candidate, first=first)
        tuned = compile(
            start,
            trainset=learn,
            valset=hold,
            metric=plan.metric,
            method=plan.method,
            effort=plan.effort,
            prompt_lm=plan.prompt_lm,
            budget=None if share is None else share.budget,
            seed=plan.seed,
            concurrency=plan.concurrency,
            progress=lambda at: self._say(at.done, f"{method}: {at.cost.paid_calls} of at most {at.of} calls"),
        )
        self.compiled.append(tuned)
        self.rounds[-1]["block" if first else "prompts"] = tuned.report
        self._tuned_to_end = tuned.report["ended_by"] == "done"
        if tuned.report["ended_by"] == "budget":
            self._cut(f"prompts: {method} ended with its share of the budget{_used(share)}")
        if tuned.report["ended_by"] == "prompt_lm":
            model = tuned.report["prompt_lm"]
            self.notes.append(
                f"prompts: no proposal of {model} could be read, so they are unchanged; give another prompt_lm="
            )
        elif tuned.gain.value <= 0:
            self.notes.append(f"prompts: {method} found none that score higher, so they are unchanged")
        elif not plan.objective.affords(tuned.price):
            self.notes.append(f"prompts: with those of {method}, an example costs too much, so they are unchanged")
        else:
            self._tuned, self._unlearnt = tuned.program, hold
            if start is self.candidate:
                self.candidate = tuned.program
                self._prices[digest_of(self.candidate)] = tuned.price
                self.adopted.append(method)

    def _compile_again(self, share: BudgetGuard | None) -> None:
        """Tune the prompts of the architecture found, unless it has prompts that were tuned to the end."""
        if not (self._tuned_to_end and self._has_tuned_prompts):
            self._compile(share)

    def _fit_stop(self, share: BudgetGuard | None) -> None:
        plan, architecture = self.plan, self.candidate.architecture
        if len(architecture.output_layers) < 2:
            self.notes.append("stop: the candidate has an output in one layer only, so there is nothing to stop")
            return
        if not isinstance(architecture.early_stop, bool):
            self.notes.append("stop: the candidate has a custom stop condition, which is kept")
            return
        if share is not None:
            deep = self.candidate.replace(early_stop=False)
            check_covers(share, self.candidate, self._unlearnt, "the runs of the candidate", of=deep)
        runs = len(self._unlearnt) * (2 if architecture.synthesizes else 1)
        with sharing(share):
            fit = fit_stop_rule(
                self.candidate,
                trainset=self._unlearnt,
                metric=plan.metric,
                concurrency=plan.concurrency,
                affordable=plan.objective.affords,
                space=plan.search["space"],
                progress=self._counter(runs, "runs"),
            )
        self.stops.append(fit)
        self.rounds[-1]["stop"] = fit.report
        self._best = fit.chosen.score.value
        if digest_of(fit.program) != digest_of(self.candidate):
            self.candidate = fit.program
            self.adopted.append("stop")

    def _accept(self, _: BudgetGuard | None) -> None:
        if not self._changed:
            return
        plan, held = self.plan, self.plan.held
        if plan.budget is not None:
            both = plan.program, self.candidate
            held = affordable(held, {one: self._prices.get(digest_of(one)) for one in both}, self._guard.left)
        if len(held) < len(plan.held):
            self._cut(f"acceptance: on {len(held)} of {len(plan.held)} held-out examples, which the budget covers")
        count = self._counter(2 * len(held), "held-out runs")

        def keep(side: Side, run: Run) -> None:
            self._held_runs[side].append(run)
            count(run)

        self.acceptance = accept(
            plan.program,
            self.candidate,
            valset=held,
            metric=plan.metric,
            tuned_on=plan.tune,
            alpha=plan.alpha,
            concurrency=plan.concurrency,
            progress=keep,
            keep_traces="gate" in plan.parts,
        )
        if self.acceptance.cut:
            self._cut(f"acceptance: on {self.acceptance.gain.examples} of {len(held)} examples, then the budget ended")

    def _fit_gate(self, _: BudgetGuard | None) -> None:
        """Fit the gate on full runs on examples that the program to use was not tuned on."""
        plan, program = self.plan, self.decided
        if program.architecture.agreement_gate is not None:
            self.notes.append("gate: the program has one, which is kept; no bound on its loss was computed")
            return
        if len(program.agents) < 2:
            self.notes.append("gate: the program has one agent, so there is no agreement to measure")
            return
        runs = [run for run in self._recorded(program) if run.trace is not None]
        if not runs:
            self.notes.append(
                "gate: not fitted, because there are no runs on examples that the program was not tuned on"
            )
            return
        if any(run.metric_usage.calls for run in runs) and not plan.only_gate:
            self.notes.append("gate: not fitted, because the metric calls models; parts=['gate'] does it")
            return
        # The scores of the runs chose the program and which runs there are: the program's own on the tuning examples,
        # with or without those of the test, or the candidate's; and the test may have ended halfway. The bound holds
        # for any of these choices, because each has its share of the level.
        choices = 1 if plan.only_gate else 2 * len(looks(len(plan.held), plan.alpha, interim=True))
        choices += bool(self._own_runs)
        level = (1 - GATE_CONFIDENCE) / choices
        fit = fit_gate(runs, plan.metric, plan.max_loss, 1 - level, concurrency=plan.concurrency)
        self.gate = replace(fit, confidence=GATE_CONFIDENCE)
        self.notes.append(f"gate: {self.gate.verdict}")
        if self.gate.gate != "off":
            self.gated = program.replace(gate=self.gate.gate)

    def _recorded(self, program: AttentionMoA) -> Sequence[Run]:
        """Return full runs of the program. Those on tuning examples count only if nothing was tuned on them."""
        plan, original = self.plan, program is self.plan.program
        if plan.only_gate:
            examples = [*plan.tune, *plan.held]
            count = self._counter(len(examples), "runs of the program")
            return measure(
                program, examples, plan.metric, concurrency=plan.concurrency, progress=count, keep_traces=True
            ).runs
        return [*self._own_runs, *self._held_runs["baseline"]] if original else self._held_runs["candidate"]

    def _explain(self, _: BudgetGuard | None) -> None:
        plan, chosen, agents = self.plan, self.decided, len(self.decided.agents)
        options: dict[str, Any] = {"concurrency": plan.concurrency}
        self._say(0.0, "stages")
        if self.acceptance is None and not plan.only_gate:  # else the runs were made, and the cache has them
            check_covers(self._guard, chosen, plan.held, "the runs of the program")
        self.profile = profile(chosen, plan.held, plan.metric, **options)
        if agents > 1:
            parts = iter(range(1, agents + 2))
            options["progress"] = lambda what: self._say(next(parts) / (agents + 2), what)
            try:
                whole = 0 if all(getattr(lm, "cache", False) for lm in plan.lms) else 1  # it runs once more
                rest = [CachedRuns(without(chosen, index)).lacks(plan.held) for index in range(agents)]
                self._check_left(self.profile, whole + sum(map(len, rest)) / len(plan.held))
                self.contributions = contributions(chosen, plan.held, plan.metric, **options)
            except BudgetExhaustedError:
                self._cut(
                    "explanation: it shows the stages; what each agent adds is left out, because the budget does not "
                    "cover the runs without each agent"
                )

    def _check_left(self, one: Profile, programs: float) -> None:
        """Raise BudgetExhaustedError unless ``programs`` more runs over the held-out examples fit into the budget."""
        stages = [row for row in one.rows if row.agent is None]
        calls, tokens = sum(row.calls for row in stages), sum(row.tokens for row in stages)
        price = Price(calls=calls, tokens=tokens, usd=one.cost.cost_usd)
        if fraction_of(price, self._guard.share().left) * programs > 1:
            raise BudgetExhaustedError

    def _do(self, part: str, work: Callable[[BudgetGuard | None], None]) -> None:
        """Run a part with its share of the budget, or on the whole rest of it. Skip the part if that is too small.

        If a part fails, the results of earlier parts are kept. If there are none, or if every run failed, the error is
        raised.
        """
        before = self.cost
        limited, stages = self.plan.budget is not None and is_limited(part), self.plan.stages[len(self.spent) :]
        self._say(0.0, "")
        try:
            share = share_of(stages, self._guard.left, self.plan.test_cost) if limited else 1.0
            with sharing(None if is_limited(part) else self._guard):
                work(self._guard.share(share) if limited else None)
        except BudgetExhaustedError:
            paid = (self.cost - before).paid_calls
            how, rest = ("cut short", "the rest") if paid else ("skipped", "it")
            self._cut(f"{part}: {how}, because the budget does not cover {rest}")
        except BudgetTooSmallError as error:
            self._cut(f"{part}: {error}")
        except MoAError as error:
            nothing_found = not (self.searched or self.compiled or self.stops or self.gate)
            if part != "explanation" and (nothing_found or isinstance(error, AllRunsFailedError)):
                raise
            self.notes.append(f"{part}: failed, and what was found before stands: {error}")
        self.spent.append((part, self.cost - before))

    def _cut(self, why: str) -> None:
        self._cut_parts.add(self.plan.stages[len(self.spent)])
        self.ended_by = "budget"
        self.notes.append(why)

    def _counter(self, of: int, what: str) -> Callable[[Run], None]:
        runs: list[Run] = []

        def count(run: Run) -> None:
            runs.append(run)
            self._say(min(len(runs) / of, 1.0), f"{len(runs)} of {of} {what}")

        return count

    def _say(self, done: float, detail: str, best: float | None = None) -> None:
        if self._progress is None:
            return
        number, stages = len(self.spent), self.plan.stages
        best = self._best if best is None else best
        self._progress(OptimizeProgress(stages[number], number + 1, len(stages), done, detail, best, self.cost))


def _used(share: BudgetGuard | None) -> str:
    """Return how many of its calls a part has used, in words; empty if they are not limited."""
    if share is None or share.budget.calls is None:
        return ""
    return f", {share.spent.calls:,.0f} of {share.budget.calls:,} calls"
