"""``moa-dspy compare``: a program against simpler ones, for the same spend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from moa_dspy.cli.console import is_quiet, note, printable, write_result
from moa_dspy.cli.options import (
    BudgetOptions,
    DataOptions,
    Force,
    Json,
    ProgramArgument,
    ProgramOptions,
    RunOptions,
    command,
)
from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from moa_dspy.cli.examples import Job
    from moa_dspy.optimizers.comparison.compare import Comparison

__all__ = ["compare_command"]


@command
def compare_command(
    program: ProgramArgument = None,
    *,
    shape: ProgramOptions,
    data: DataOptions,
    match: Annotated[str, typer.Option(metavar="UNIT", help="What is matched: calls, tokens or usd.")] = "calls",
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            "-b",
            metavar="NAME",
            help="single, self-consistency, self-moa, moa. Repeatable.  [default: all]",
        ),
    ] = None,
    tolerance: Annotated[float, typer.Option(metavar="SHARE", help="Share by which a baseline may spend more.")] = 0.1,
    margin: Annotated[
        float, typer.Option(metavar="SCORE", help="Score that a lower price is worth, if no test decides.")
    ] = 0.05,
    alpha: Annotated[float, typer.Option(metavar="LEVEL", help="Significance level of the tests.")] = 0.05,
    run: RunOptions,
    limits: BudgetOptions,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="Save the winner, whichever it is, as a program.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compare a program with its best single model, self-consistency, Self-MoA and MoA at matched spend.

    The verdict may be to use the single model.
    """
    from moa_dspy.cli.examples import tuning_job
    from moa_dspy.cli.files import check_new_files
    from moa_dspy.optimizers.comparison.compare import compare

    check_new_files({"--out": out}, force=force)
    if match not in ("calls", "tokens", "usd"):
        raise ConfigurationError(f"--match {match!r} is not calls, tokens or usd")
    budget = limits.budget()
    job = tuning_job(program, shape, data)
    result = compare(
        job.program,
        devset=job.examples,
        metric=job.metric,
        baselines=baseline or None,  # type: ignore[arg-type]  # checked there
        match=match,  # type: ignore[arg-type]  # checked above
        tolerance=tolerance,
        margin=margin,
        alpha=alpha,
        seed=data.seed,
        concurrency=run.concurrency,
        progress=None if is_quiet() else note,
        budget=budget,
    )
    # The result first: writing a file may fail.
    write_result(result.to_json(indent=2) if as_json else printable(result.to_table()))
    if out is not None:
        _save(result, job, data.source, out)
        note(f"saved in {out}: {result.contender(result.use).what}")


def _save(result: Comparison, job: Job, data: str | None, path: str) -> None:
    from moa_dspy.cli.examples import data_name
    from moa_dspy.optimizers.provenance import provenance_of, stamp

    record = provenance_of(
        result.winner,
        "compare",
        metric=job.metric,
        data={"comparison": job.examples},
        names={"comparison": data_name(data)},
        seeds={"comparison": result.seed},
        settings={"match": result.match, "tolerance": result.tolerance, "margin": result.margin, "alpha": result.alpha},
        outcome=result,
    )
    stamp(result.winner, record).save(path)
