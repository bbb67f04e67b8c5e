"""``moa-dspy profile``: which stage gains and which loses, and what each agent adds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli.console import is_quiet, note, printable, write_result
from moa_dspy.cli.options import (
    BudgetOptions,
    DataOptions,
    Json,
    ProgramArgument,
    ProgramOptions,
    RunOptions,
    command,
)
from moa_dspy.errors import BudgetExhaustedError, RunError

if TYPE_CHECKING:
    from moa_dspy.cli.examples import Job
    from moa_dspy.cost.budget import Budget
    from moa_dspy.optimizers.analysis.contributions import Contributions
    from moa_dspy.optimizers.analysis.profile import Profile

__all__ = ["profile_command"]


@command
def profile_command(
    program: ProgramArgument = None,
    *,
    shape: ProgramOptions,
    data: DataOptions,
    contributions: Annotated[
        bool, typer.Option("--contributions", help="Also run without each agent in turn: what it adds, at which price.")
    ] = False,
    run: RunOptions,
    limits: BudgetOptions,
    as_json: Json = False,
) -> None:
    """Score every stage of a program's runs: proposals, refinements, aggregates, syntheses."""
    from moa_dspy.cli.examples import tuning_job

    budget = limits.budget()
    job = tuning_job(program, shape, data)
    options: dict[str, Any] = {"concurrency": run.concurrency, "seed": data.seed}
    stages, parts = _profile(job, budget, options, contributions=contributions)
    if as_json:
        whole = {"stages": stages.report, "contributions": None if parts is None else parts.report}
        write_result(json.dumps(whole, ensure_ascii=False, indent=2))
    else:
        write_result(printable("\n\n".join(str(part) for part in (stages, parts) if part is not None)))


def _profile(
    job: Job, budget: Budget | None, options: dict[str, Any], *, contributions: bool
) -> tuple[Profile, Contributions | None]:
    from moa_dspy.cli.views.progress import ExampleCounter
    from moa_dspy.cost.budget import BudgetGuard
    from moa_dspy.optimizers.analysis.contributions import contributions as contributions_of
    from moa_dspy.optimizers.analysis.profile import profile
    from moa_dspy.optimizers.comparison.matching import check_budget
    from moa_dspy.optimizers.measuring import models_of

    lms = models_of(job.program)
    check_budget(budget, lms)
    options["budget"] = BudgetGuard(budget)
    counter = None if is_quiet() else ExampleCounter(len(job.examples))
    try:
        stages = profile(job.program, job.examples, job.metric, progress=counter, **options)
        if not contributions:
            return stages, None
        tell = None if is_quiet() else note
        return stages, contributions_of(job.program, job.examples, job.metric, progress=tell, **options)
    except BudgetExhaustedError:
        raise RunError(
            "the budget ended before all examples had run; with a larger one the same command goes on from here, "
            "since answered calls are in the response cache"
        ) from None
