"""``moa-dspy profile``: which stage gains and which loses, and what each agent adds."""

from __future__ import annotations

from moa_dspy.cli.costs import require_approval
from moa_dspy.cli.examples import Job, tuning_job, work_of
from moa_dspy.cli.options import Profile
from moa_dspy.cli.output import note, settings, write_json, write_parts
from moa_dspy.cli.programs import budget_of
from moa_dspy.cli.views.progress import ExampleCounter
from moa_dspy.errors import BudgetExhaustedError, RunError
from moa_dspy.optimizers.analysis.contributions import contributions, without
from moa_dspy.optimizers.analysis.profile import profile
from moa_dspy.optimizers.measuring import guard_of, sharing
from moa_dspy.planning import WorkEstimate

__all__ = ["run"]


def run(options: Profile) -> None:
    """Profile the program, and write the table of its stages, and of its agents if wanted."""
    budget = budget_of(options)
    job = tuning_job(options)
    guard = guard_of(budget, job.program)
    require_approval(options, lambda: _cost(job, contributions=options.contributions))
    job_of, at_once = (job.program, job.examples, job.metric), options.concurrency
    counter = None if settings.quiet else ExampleCounter(len(job.examples))
    progress, agents = None if settings.quiet else note, None
    try:
        with sharing(guard):
            stages = profile(*job_of, progress=counter, concurrency=at_once)
            if options.contributions:
                agents = contributions(*job_of, progress=progress, concurrency=at_once)
    except BudgetExhaustedError:
        raise RunError(
            "the budget ended before all examples had run; with a larger one the same command continues, "
            "because answered calls are in the response cache"
        ) from None
    if options.json:
        write_json({"stages": stages.report, "contributions": None if agents is None else agents.report})
    else:
        write_parts("\n\n".join(str(part) for part in (stages, agents) if part is not None))


def _cost(job: Job, *, contributions: bool) -> WorkEstimate:
    specs = job.program.architecture.agents if contributions and len(job.program.agents) > 1 else ()
    parts = [(f"without {spec.name}", without(job.program, index)) for index, spec in enumerate(specs)]
    return work_of([("the whole program", job.program), *parts], job)
