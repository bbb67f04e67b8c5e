"""From a program to a better one: architecture, then prompts for the winner, then when to stop, and proof.

::

    result = optimize(moa, trainset=trainset, metric=metric, budget=Budget(usd=5))
    print(result)                          # whether the candidate is shown to be better, on examples it has not seen
    result.program.save("program.json")    # the candidate, or the program as it was
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import dspy
from optuna.storages import BaseStorage
from pydantic_core import to_jsonable_python

from moa_dspy.cost.budget import Budget
from moa_dspy.cost.meter import metered
from moa_dspy.cost.usage import Usage
from moa_dspy.data.splitting import split
from moa_dspy.errors import ConfigurationError, DeclinedError
from moa_dspy.evaluation.fingerprint import content_of, digest
from moa_dspy.evaluation.statistics import Score, check_alpha
from moa_dspy.files.program_file import digest_of
from moa_dspy.optimizers.analysis.contributions import Contributions
from moa_dspy.optimizers.analysis.profile import Profile
from moa_dspy.optimizers.comparison.acceptance import Acceptance
from moa_dspy.optimizers.comparison.matching import check_budget
from moa_dspy.optimizers.estimating import Work, estimate
from moa_dspy.optimizers.leakage import asked, distinct, refuse_overlap, shown_by
from moa_dspy.optimizers.measuring import Metric, check_concurrency, check_metric, metric_name, models_of
from moa_dspy.optimizers.optimize_run import EndedBy, OptimizeProgress, Undertaking, bind_space
from moa_dspy.optimizers.prompts.compile import CompileResult
from moa_dspy.optimizers.prompts.method import Effort, check_effort
from moa_dspy.optimizers.prompts.methods import MethodName, check_method, resolve_method
from moa_dspy.optimizers.prompts.student import instructions_of
from moa_dspy.optimizers.provenance import provenance_of, stamp
from moa_dspy.optimizers.search.objective import Objective, Unit, Wanted, check_unit
from moa_dspy.optimizers.search.search import Searched, check_trials
from moa_dspy.optimizers.search.space import SearchSpace
from moa_dspy.optimizers.search.storage import check_storage, open_storage
from moa_dspy.optimizers.stopping.fit import StopFit
from moa_dspy.planning import WorkEstimate
from moa_dspy.program import AttentionMoA

__all__ = ["OptimizeProgress", "OptimizeResult", "Part", "forecast", "optimize"]

Part: TypeAlias = Literal["architecture", "prompts", "stop"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


@dataclass(frozen=True)
class OptimizeResult:
    """What an optimization has come to; ``str`` gives the verdict.

    Attributes:
        program: the one to use: the candidate where it is shown to be better, else the program as it was given. It
            carries its provenance.
        candidate: what was found, whether accepted or not.
        acceptance: the test on held-out examples; None where there was no candidate, or no budget left for the test.
        score: of ``program`` on the held-out examples; None where these were not run.
        cost: of everything.
        searched: the searches, one for each round.
        compiled: the tunings of prompts, one for each round.
        stop: the fits of the stop rule, one for each round.
        profile: which stage of ``program`` gains and which loses on the held-out examples.
        contributions: what each of its agents adds on these.
        report: everything as JSON values; ``moa-dspy report`` makes a page of it.
        ended_by: ``budget`` where some part was left out or cut short for want of it.
    """

    program: AttentionMoA
    candidate: AttentionMoA
    acceptance: Acceptance | None
    score: Score | None
    cost: Usage
    searched: tuple[Searched, ...]
    compiled: tuple[CompileResult, ...]
    stop: tuple[StopFit, ...]
    profile: Profile | None
    contributions: Contributions | None
    report: dict[str, Any]
    ended_by: EndedBy

    @property
    def accepted(self) -> bool:
        """Return whether the candidate is shown to be better than the program as it was given."""
        return self.acceptance is not None and self.acceptance.accepted

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
    space: SearchSpace | None = None,
    n_trials: int = 40,
    objective: Wanted = "score",
    price: float | None = None,
    unit: Unit = "usd",
    storage: str | Path | BaseStorage | None = None,
    study_name: str = "moa-dspy",
    method: MethodName = "gepa",
    effort: Effort = "light",
    prompt_lm: dspy.BaseLM | None = None,
    budget: Budget | None = None,
    alpha: float = 0.05,
    explain: bool = True,
    seed: int = 0,
    concurrency: int = 8,
    progress: Callable[[OptimizeProgress], None] | None = None,
    before: Callable[[WorkEstimate], bool] | None = None,
    data_names: Mapping[str, str] | None = None,
    **options: Any,
) -> OptimizeResult:
    """Tune a program for a task, a metric and a price, and keep the result only if it is shown to be better.

    Args:
        program: its agents are what the search chooses from; it is not changed.
        trainset: examples to tune on, with their inputs set; of those that ask the same, the first alone counts.
        valset: held-out examples that decide if the candidate replaces the program; default: a third of ``trainset``,
            chosen by content, which is then not tuned on, and of which the program shows none as a demo.
        metric: ``metric(example, prediction, trace=None)``.
        parts: which of ``architecture`` (Optuna), ``prompts`` (DSPy) and ``stop`` (the depth and stop rule, fitted on
            recorded decisions) are tuned; they are done in this order.
        rounds: how often; a further round searches the architecture anew with the prompts found.
        space: what the search and the stop rule may choose; where it does not say, prompts are shared or not as the
            program's are. Without one, the stop rule is free.
        n_trials: of each search.
        objective: of the search, see ``search``.
        price: see ``search``.
        unit: of price and cost.
        storage: where studies are kept; with it, and with DSPy's disk cache, a killed run goes on where it was.
        study_name: rounds after the first have their number added, and a digest of the program that they start from.
        method: that tunes prompts.
        effort: of that method.
        prompt_lm: that writes prompts; default: the aggregator's model.
        budget: of everything. At its end what has been found so far goes to the test on held-out examples, for which a
            share is kept; where that cannot be paid any more, the program stays as it was.
        alpha: chance of accepting a candidate that is no better.
        explain: also tell what each stage and each agent of the result is worth, on the held-out examples.
        seed: of everything that is drawn.
        concurrency: examples under way at once.
        progress: told where it is, from any thread.
        before: told what it takes, once everything is checked and before anything is paid; says whether to go on.
        data_names: what the ``tuning`` and the ``held-out`` examples are called in the program's provenance.
        **options: of the method that tunes prompts; see the classes in ``moa_dspy.optimizers.prompts.methods``.

    Raises:
        ConfigurationError: an argument does not fit; nothing was paid for.
        AllRunsFailedError: the program, or its provider, fails on every example. With ``storage`` and the response
            cache the same call goes on from there.
    """
    _check(program, metric, parts, rounds, alpha, concurrency, effort)
    tune, held, notes = _parted(program, trainset, valset, seed)
    chosen = resolve_method(method, options)
    if "prompts" in parts:
        check_method(chosen, program, final="architecture" not in parts)
    lms = [*models_of(program), program.get_lm(), *([] if prompt_lm is None else [prompt_lm])]
    check_budget(budget, lms)
    check_storage(storage)
    check_unit(Objective(objective, price, unit), lms)
    bound = _bound(program, space, n_trials) if "architecture" in parts else None
    if before is not None:
        work = Work(parts, rounds, n_trials, bound or space or SearchSpace(), method, effort, options, explain, budget)
        if not before(estimate(program, tune, held, metric, work)):
            raise DeclinedError("not confirmed; nothing was paid")
    opened = open_storage(storage)
    with metered(lms) as meter:
        run = Undertaking(
            program,
            tune,
            held,
            metric,
            budget=budget,
            meter=meter,
            plan=_plan(parts, rounds, explain=explain),
            space=space,
            concurrency=concurrency,
            seed=seed,
            tell=progress,
        )
        run.notes += notes
        searching = {"space": bound, "n_trials": n_trials, "objective": objective, "price": price, "unit": unit}
        compiling = {"method": method, "effort": effort, "prompt_lm": prompt_lm, **options}
        for number in range(1, rounds + 1):
            name = study_name if number == 1 else f"{study_name}-{number}-{digest_of(run.candidate)[:8]}"
            run.round(parts, {**searching, "storage": opened, "study_name": name}, compiling)
        run.test(alpha)
        if explain:
            run.explain()
        settings: dict[str, Any] = {"parts": list(parts), "rounds": rounds, "alpha": alpha, "budget": _limits(budget)}
        if "architecture" in parts:
            settings |= {"trials": n_trials, "objective": Objective(objective, price, unit).to_dict()}
        if "prompts" in parts:
            writer = prompt_lm or program.get_lm()
            settings |= {"effort": effort, "prompt model": writer.model, method: options}
        return _optimized(run, method, settings, data_names or {})


def forecast(*arguments: Any, **options: Any) -> WorkEstimate:
    """Return what ``optimize`` would take with the same arguments: at most, and about. No model is asked.

    Raises:
        ConfigurationError: ``optimize`` would refuse them.
    """
    found: list[WorkEstimate] = []

    def told(estimated: WorkEstimate) -> bool:
        found.append(estimated)
        return False

    with contextlib.suppress(DeclinedError):
        optimize(*arguments, **options, before=told)
    return found[0]


def _optimized(
    run: Undertaking, method: str, settings: Mapping[str, Any], data_names: Mapping[str, str]
) -> OptimizeResult:
    """Write everything down, also in the provenance of the program to use."""
    outcome, cost, chosen, score = run.acceptance, run.cost, run.chosen, run.score
    how = "+".join(dict.fromkeys(method if part == "prompts" else part for part in run.plan if part in PARTS))
    found = "+".join(dict.fromkeys(run.adopted)) or "nothing"
    record = provenance_of(
        chosen,
        f"optimize: {found}" if chosen is not run.program else f"kept, against optimize: {found}",
        metric=run.metric,
        data={"tuning": run.tune, "held-out": run.held},
        seeds={"optimize": run.seed},
        settings=settings,
        scores=None if outcome is not None or score is None else {"the program, held-out": score},
        outcome=outcome,
        cost=cost,
        names=data_names,
    )
    report = {
        "kind": "optimize",
        "task": run.program.task.signature,
        "metric": metric_name(run.metric),
        "method": how,
        "settings": to_jsonable_python(settings, fallback=str),
        "seed": run.seed,
        "verdict": run.verdict,
        "score": None if score is None else score.model_dump(),
        "data": {use: _described(examples) for use, examples in (("tuning", run.tune), ("held-out", run.held))},
        "rounds": run.rounds,
        "acceptance": None if outcome is None else outcome.report,
        "profile": None if run.profile is None else run.profile.report,
        "contributions": None if run.contributions is None else run.contributions.report,
        "baseline": _shown(run.program),
        "candidate": _shown(run.candidate),
        "cost": cost.model_dump(),
        "spent": [{"stage": part, "cost": spent.model_dump()} for part, spent in run.spent],
        "ended_by": run.ended_by,
        "notes": run.notes,
    }
    return OptimizeResult(
        program=stamp(chosen, record),
        candidate=run.candidate,
        acceptance=outcome,
        score=score,
        cost=cost,
        searched=tuple(run.searched),
        compiled=tuple(run.compiled),
        stop=tuple(run.stops),
        profile=run.profile,
        contributions=run.contributions,
        report=report,
        ended_by=run.ended_by,
    )


def _check(
    program: AttentionMoA,
    metric: Metric,
    parts: Sequence[Part],
    rounds: int,
    alpha: float,
    concurrency: int,
    effort: Effort,
) -> None:
    if not isinstance(program, AttentionMoA):
        raise ConfigurationError(f"program is an AttentionMoA, not {type(program).__name__}")
    check_metric(metric)
    unknown = [part for part in parts if part not in PARTS]
    if isinstance(parts, str) or unknown or not parts:
        raise ConfigurationError(f"parts={parts!r} must be some of {', '.join(PARTS)}")
    if rounds < 1:
        raise ConfigurationError(f"rounds={rounds!r} must be at least 1")
    check_concurrency(concurrency)
    check_alpha(alpha)
    check_effort(effort)


def _bound(program: AttentionMoA, space: SearchSpace | None, n_trials: int) -> SearchSpace:
    """The space of the search, in which prompts are shared or not as the program's are unless it says otherwise."""
    check_trials(n_trials)
    space = space or SearchSpace()
    if space.shared_prompts is None:
        space = replace(space, shared_prompts=(program.architecture.shared_prompts,))
    bind_space(program, space)
    return space


def _parted(
    program: AttentionMoA, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example] | None, seed: int
) -> tuple[list[dspy.Example], list[dspy.Example], list[str]]:
    """The examples to tune on, those that decide, and what a reader should know of both."""
    known, shown, notes = [asked(example) for example in trainset], shown_by(program), []
    if valset is not None:
        refuse_overlap(valset, known, "held-out", "that are tuned on")
        refuse_overlap(valset, shown, "held-out", "that the program shows its models as demos")
        tune, held = distinct(trainset), distinct(valset)
    else:
        drawn = split(trainset, train=2 / 3, val=0, test=1 / 3, seed=seed).test
        held = [example for example in distinct(drawn) if asked(example) not in shown]
        out = set(map(asked, held))
        tune = distinct(example for example, what in zip(trainset, known, strict=True) if what not in out)
        if program.provenance is not None:
            notes.append(
                "the program was made from examples before (see its provenance); if these are the same, some that are "
                "held out now may have been tuned on then: give examples that it never saw as valset="
            )
    repeated = len(trainset) + len(valset or ()) - len(tune) - len(held)
    if repeated:
        notes.append(f"{repeated} examples ask what another one asks, and are left out")
    if len(tune) < 3 or len(held) < 2:
        raise ConfigurationError(
            f"{len(tune)} examples to tune on and {len(held)} held-out ones are too few; give more, at least 3 and 2"
        )
    return tune, held, notes


def _limits(budget: Budget | None) -> dict[str, Any]:
    """What a budget limits."""
    return {} if budget is None else {name: value for name, value in asdict(budget).items() if value is not None}


def _plan(parts: Sequence[Part], rounds: int, *, explain: bool) -> list[str]:
    tuned = [part for part in PARTS if part in parts] * rounds
    return [*tuned, "acceptance", *(["explanation"] if explain else [])]


def _described(examples: Sequence[dspy.Example]) -> dict[str, Any]:
    return {"examples": len(examples), "digest": digest(list(map(content_of, examples)))}


def _shown(program: AttentionMoA) -> dict[str, Any]:
    return {"architecture": program.architecture.model_dump(mode="json"), "prompts": instructions_of(program)}
