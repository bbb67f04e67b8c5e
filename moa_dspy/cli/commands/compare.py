"""``moa-dspy compare``: a program against simpler ones, for the same spend."""

from __future__ import annotations

from moa_dspy.cli.costs import approval
from moa_dspy.cli.examples import Job, data_name, tuning_job
from moa_dspy.cli.options import Compare
from moa_dspy.cli.output import check_files, note, settings, write_json, write_parts, write_program
from moa_dspy.cli.programs import budget_of
from moa_dspy.optimizers.comparison.compare import Comparison, compare
from moa_dspy.optimizers.provenance import provenance_of, stamp

__all__ = ["run"]


def run(options: Compare) -> None:
    """Compare the programs, write the verdict, and save the winner."""
    check_files({} if options.estimate else {"--out": options.out}, replace=options.force)
    budget = budget_of(options)
    job = tuning_job(options)
    result = compare(
        job.program,
        devset=job.examples,
        metric=job.metric,
        baselines=options.baseline or None,  # type: ignore[arg-type]  # checked there
        match=options.match,  # type: ignore[arg-type]  # checked there
        tolerance=options.tolerance,
        prefer=options.prefer,  # type: ignore[arg-type]  # checked there
        alpha=options.alpha,
        gain=options.gain,
        seed=options.seed,
        concurrency=options.concurrency,
        progress=None if settings.quiet else note,
        budget=budget,
        before=approval(options),
    )
    # The result first: writing a file may fail.
    write_json(result.report) if options.json else write_parts(result.to_table())
    if options.out is not None:
        _save(result, job, data_name(options.source), options.out)
        note(f"saved in {options.out}: {result.contender(result.use).what}")


def _save(result: Comparison, job: Job, data: str, path: str) -> None:
    record = provenance_of(
        result.winner,
        "compare",
        metric=job.metric,
        data={"comparison": job.examples},
        names={"comparison": data},
        seeds={"comparison": result.seed},
        settings={"match": result.match, "tolerance": result.tolerance, "prefer": result.prefer, "alpha": result.alpha},
        outcome=result,
    )
    write_program(path, stamp(result.winner, record))
