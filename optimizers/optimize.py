"""``optimize``: prompts, then architecture, then the stop rule, a test on held-out examples, and the gate.

::

    result = optimize(moa, trainset=trainset, metric=metric, budget=Budget(usd=5))
    print(result)                          # whether the candidate is better on examples it has not seen
    result.program.save("program.json")    # the candidate, or the original program
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, Unpack

import dspy

from moa_dspy.cost.budget import Budget
from moa_dspy.cost.meter import metered
from moa_dspy.cost.usage import Usage
from moa_dspy.display import Displayed, Table, one_line
from moa_dspy.errors import DeclinedError
from moa_dspy.evaluation.statistics import Score
from moa_dspy.optimizers.analysis.ceiling import Ceiling
from moa_dspy.optimizers.analysis.contributions import Contributions
from moa_dspy.optimizers.analysis.profile import Profile
from moa_dspy.optimizers.analysis.quarantine import Quarantine
from moa_dspy.optimizers.comparison.acceptance import Acceptance
from moa_dspy.optimizers.measuring import Metric
from moa_dspy.optimizers.optimize_plan import PARTS, OptimizePlan, OptimizeProgress, Part, SearchOptions, estimate
from moa_dspy.optimizers.optimize_run import EndedBy, OptimizeRun
from moa_dspy.optimizers.prompts.compile import CompileResult
from moa_dspy.optimizers.prompts.method import Effort, PromptMethod
from moa_dspy.optimizers.prompts.methods import MethodName, method_name, resolve_method
from moa_dspy.optimizers.prompts.student import instructions_of
from moa_dspy.optimizers.provenance import Provenance, provenance_of, stamp
from moa_dspy.optimizers.search.search import SearchResult
from moa_dspy.optimizers.stop_fitting.fit import StopFit
from moa_dspy.optimizers.stop_fitting.gates import GateFit
from moa_dspy.planning import WorkEstimate
from moa_dspy.program import AttentionMoA

__all__ = ["OptimizeProgress", "OptimizeResult", "Part", "SearchOptions", "forecast", "optimize"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class OptimizeResult(Displayed):
    """The result of ``optimize``; ``str`` gives the verdict and the notes.

    Attributes:
        program: the program to use, with its provenance: the candidate if the test shows that it is better, else the
            original program. If a gate was certified, it has that gate.
        candidate: the best program found, whether accepted or not.
        acceptance: the test on held-out examples; None if there was no candidate, or no budget for the test.
        score: score of ``program`` without a fitted gate on the held-out examples; None if it was not run on them.
        cost: total amount paid.
        searched: the results of the searches, one per round.
        compiled: the results of the prompt tunings, one per round.
        stop: the fits of the stop rule, one per round.
        gate: the fit of the gate; None if there were no runs to fit it on.
        profile: gain of each stage of ``program`` on the held-out examples.
        contributions: gain of each agent of ``program`` on the held-out examples.
        quarantine: agents that were left out of the search; None without a search.
        ceiling: what the agents can reach on the examples to tune on. None without a search and ``least_gain``, and if
            the metric calls models.
        report: all results as JSON values; ``moa-dspy report`` renders them as a page.
        ended_by: ``budget`` if the budget skipped or shortened a part, else ``done``.
    """

    program: AttentionMoA
    candidate: AttentionMoA
    acceptance: Acceptance | None
    score: Score | None
    cost: Usage
    searched: tuple[SearchResult, ...]
    compiled: tuple[CompileResult, ...]
    stop: tuple[StopFit, ...]
    gate: GateFit | None
    profile: Profile | None
    contributions: Contributions | None
    quarantine: Quarantine | None
    ceiling: Ceiling | None
    report: dict[str, Any]
    ended_by: EndedBy

    @property
    def accepted(self) -> bool:
        """Return whether the test shows that the candidate is better than the original program."""
        return self.acceptance is not None and self.acceptance.accepted

    def _facts(self) -> Mapping[str, Any]:
        return {
            "accepted": self.accepted,
            "score": self.score,
            "program": one_line("AttentionMoA", self.program._facts()),
            "paid_calls": self.cost.paid_calls,
            "tokens": self.cost.tokens.total,
            "cost": "unknown" if self.cost.cost_usd is None else f"${self.cost.cost_usd:.6f}",
            "ended_by": self.ended_by,
            "verdict": self.report["verdict"],
        }

    def _tables(self) -> Sequence[Table]:
        return [Table("notes", ("note",), [(note,) for note in self.report["notes"]])]

    def __str__(self) -> str:
        return "\n".join([self.report["verdict"], *self.report["notes"]])


def optimize(
    program: AttentionMoA,
    *,
    trainset: Sequence[dspy.Example],
    metric: Metric,
    valset: Sequence[dspy.Example] | None = None,
    parts: Sequence[Part] = PARTS,
    rounds: int = 1,
    method: MethodName | PromptMethod = "gepa",
    effort: Effort = "light",
    prompt_lm: dspy.BaseLM | None = None,
    budget: Budget | None = None,
    alpha: float = 0.05,
    gain: float | None = None,
    explain: bool = True,
    seed: int = 0,
    concurrency: int = 8,
    least_gain: float | None = None,
    max_loss: float = 0.01,
    progress: Callable[[OptimizeProgress], None] | None = None,
    before: Callable[[WorkEstimate], bool] | None = None,
    data_names: Mapping[str, str] | None = None,
    **search: Unpack[SearchOptions],
) -> OptimizeResult:
    """Tune a program for a task and a metric. Keep the result only if a held-out test shows that it is better.

    Args:
        program: the program; it is not changed. The search chooses from its agents.
        trainset: examples to tune on, with their inputs set.
        metric: ``metric(example, prediction, trace=None)``; see ``Metric``.
        valset: held-out examples for the final test; default: a third of ``trainset``, which is then not tuned on.
        parts: the parts to tune: ``prompts`` and ``architecture`` in the order given, ``stop`` (depth and stop rule),
            ``gate`` (fitted last, on runs that were made anyway; it makes runs only if it is the only part).
        rounds: number of rounds. Each further round searches the architecture again with the prompts found.
        method: tunes the prompts: a name, or a method with its options, such as ``Gepa(runs=200)``; see ``compile``.
        effort: effort of the method.
        prompt_lm: the model that writes prompts; default: the aggregator's model.
        budget: limits of the whole call. Parts it cannot cover are skipped or shortened. A share is kept for the test.
        alpha: probability of accepting a candidate that is not better.
        gain: a gain that you want to detect. The notes say how many held-out examples that takes.
        explain: whether to analyse stages and agents of the result on the held-out examples.
        seed: seed of everything random.
        concurrency: maximum number of concurrent examples.
        least_gain: the smallest gain over the best single agent that is worth the rest. With it, the ``ceiling`` of the
            agents on ``trainset`` comes first. If it leaves less room, the program is kept and nothing more is paid.
        max_loss: the loss of the mean score that a gate may cause; see ``fit_gate``.
        progress: called with the progress, from any thread.
        before: called with the estimated cost before anything is paid. It returns whether to continue.
        data_names: names of the ``tuning`` and the ``held-out`` examples, for the provenance.
        **search: options of the search; see ``SearchOptions``.

    Raises:
        ConfigurationError: if an argument is invalid, or ``before`` returned False. Nothing was paid for.
        AllRunsFailedError: if every run fails. With ``storage`` and the response cache, the same call continues.
    """
    plan = OptimizePlan(
        program, trainset, valset, metric, parts, rounds, resolve_method(method), effort, prompt_lm, budget, alpha,
        gain, explain, seed, concurrency, least_gain, max_loss, search,
    )  # fmt: skip
    return _carried_out(plan, before, progress, data_names or {})


def _carried_out(
    plan: OptimizePlan,
    before: Callable[[WorkEstimate], bool] | None,
    progress: Callable[[OptimizeProgress], None] | None,
    data_names: Mapping[str, str],
) -> OptimizeResult:
    if before is not None and not before(estimate(plan)):
        raise DeclinedError("not confirmed; nothing was paid")
    with metered(plan.lms) as meter:
        run = OptimizeRun(plan, meter, progress)
        run.run()
        return _result(run, data_names)


def _with_arguments_of(function: Callable[P, Any]) -> Callable[[Callable[..., T]], Callable[P, T]]:
    """Give a function the arguments of another one, for type checkers and for ``inspect``."""

    def decorated(wrapper: Callable[..., T]) -> Callable[P, T]:
        signature = inspect.signature(function).replace(return_annotation=wrapper.__annotations__["return"])
        vars(wrapper)["__signature__"] = signature
        return wrapper

    return decorated


@_with_arguments_of(optimize)
def forecast(program: AttentionMoA, **arguments: Any) -> WorkEstimate:
    """Estimate the maximum and the expected cost of ``optimize`` with the same arguments. No model is called.

    Args:
        program: see ``optimize``.
        **arguments: the arguments of ``optimize``. ``before`` is not called.

    Raises:
        ConfigurationError: if ``optimize`` would reject the arguments.
    """
    estimates: list[WorkEstimate] = []

    def decline(cost: WorkEstimate) -> bool:
        estimates.append(cost)
        return False

    arguments["before"] = decline
    with contextlib.suppress(DeclinedError):
        optimize(program, **arguments)
    return estimates[0]


def _result(run: OptimizeRun, data_names: Mapping[str, str]) -> OptimizeResult:
    """Return the result. The program to use gets its provenance."""
    plan, chosen, score = run.plan, run.chosen, run.score
    used = [*(run.adopted if run.decided is not plan.program else []), *(["gate"] if run.gated is not None else [])]
    found = "+".join(dict.fromkeys(used or run.adopted))
    kept = f"kept, against optimize: {found}" if found else "kept: optimize changed nothing"
    record = provenance_of(
        chosen,
        f"optimize: {found}" if chosen is not plan.program else kept,
        metric=plan.metric,
        data={"tuning": plan.tune, "held-out": plan.held},
        seeds={"optimize": plan.seed},
        settings=plan.settings,
        scores=None if run.acceptance is not None or score is None else {"the program, held-out": score},
        outcome=run.acceptance,
        cost=run.cost,
        names=data_names,
    )
    return OptimizeResult(
        program=stamp(chosen, record),
        candidate=run.candidate,
        acceptance=run.acceptance,
        score=score,
        cost=run.cost,
        searched=tuple(run.searched),
        compiled=tuple(run.compiled),
        stop=tuple(run.stops),
        gate=run.gate,
        profile=run.profile,
        contributions=run.contributions,
        quarantine=run.quarantine,
        ceiling=run.ceiling,
        report=_report(run, record),
        ended_by=run.ended_by,
    )


def _report(run: OptimizeRun, record: Provenance) -> dict[str, Any]:
    """Return the record of an optimization, as JSON values."""
    plan, method = run.plan, method_name(run.plan.method)
    done = dict.fromkeys(method if part == "prompts" else part for part in plan.stages if part in PARTS)
    return {
        "kind": "optimize",
        "task": plan.program.task.signature,
        "metric": record.metric,
        "method": "+".join(done),
        "settings": record.settings,
        "seed": plan.seed,
        "verdict": run.verdict,
        "score": None if run.score is None else run.score.model_dump(),
        "data": {
            data.use: data.model_dump(include={"examples", "digest", "decisions"}, exclude_none=True)
            for data in record.data
        },
        "rounds": run.rounds,
        "acceptance": None if run.acceptance is None else run.acceptance.report,
        "gate": None if run.gate is None else run.gate.report,
        "profile": None if run.profile is None else run.profile.report,
        "contributions": None if run.contributions is None else run.contributions.report,
        "ceiling": None if run.ceiling is None else run.ceiling.report,
        "baseline": _program(plan.program),
        "candidate": _program(run.candidate),
        "cost": run.cost.model_dump(),
        "spent": [{"stage": part, "cost": spent.model_dump()} for part, spent in run.spent],
        "ended_by": run.ended_by,
        "notes": run.notes,
    }


def _program(program: AttentionMoA) -> dict[str, Any]:
    shape = program.architecture
    architecture = None if shape.custom_parts else shape.model_dump(mode="json")  # a record holds no custom objects
    return {"architecture": architecture, "prompts": instructions_of(program)}
