"""``moa-dspy compare``: does the ensemble beat what is simpler, for the same money?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moa_dspy.cli.budgets import MaxCalls, MaxMinutes, MaxTokens, MaxUsd, budget_of
from moa_dspy.cli.console import note, printable, quiet_libraries, write_result
from moa_dspy.cli.judged import data_name, judged
from moa_dspy.cli.options import (
    AsJson,
    Concurrency,
    ConfigFile,
    Fields,
    JudgeModel,
    Limit,
    MetricName,
    Own,
    ProgramArgument as ProgramFile,
    Quiet,
    Seed,
    Split,
)
from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from moa_dspy.cli.eval_setup import Job
    from moa_dspy.optimizers.comparison.compare import Comparison
    from moa_dspy.optimizers.comparison.matching import Unit

__all__ = ["compare_command"]


def compare_command(
    program: ProgramFile = None,
    config: ConfigFile = None,
    data: Own = None,
    metric: MetricName = None,
    match: Annotated[str, typer.Option(metavar="UNIT", help="What is matched: calls, tokens or usd.")] = "calls",
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", "-b", metavar="NAME", help="single, self-consistency, self-moa, moa; repeat it."),
    ] = None,
    tolerance: Annotated[float, typer.Option(metavar="SHARE", help="So much more may a baseline spend.")] = 0.1,
    margin: Annotated[
        float, typer.Option(metavar="SCORE", help="So much of the score is a lower price worth, where no test decides.")
    ] = 0.05,
    alpha: Annotated[float, typer.Option(metavar="LEVEL", help="Chance of a difference where there is none.")] = 0.05,
    fields: Fields = None,
    judge: JudgeModel = None,
    split: Split = None,
    limit: Limit = None,
    seed: Seed = 0,
    concurrency: Concurrency = 8,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_usd: MaxUsd = None,
    max_minutes: MaxMinutes = None,
    keep_winner: Annotated[
        str | None, typer.Option(metavar="FILE", help="Save the winner, whatever it is, as a program.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare a program with its best single model, self-consistency, Self-MoA and MoA at matched spend.

    The verdict may be to use the single model.
    """
    with quiet_libraries():
        from moa_dspy.cli.commands.eval import checked_file
        from moa_dspy.optimizers.comparison.compare import compare

        checked_file(keep_winner, "--keep-winner")
        if keep_winner is not None and Path(keep_winner).exists() and not force:
            raise ConfigurationError(f"--keep-winner {keep_winner} is there already; name another file, or add --force")
        budget = budget_of(max_calls, max_tokens, max_usd, max_minutes)
        job = judged(program, config, data, fields, metric, judge, split, limit, seed)
        result = compare(
            job.program,
            baselines=baseline or None,  # type: ignore[arg-type]  # checked there
            devset=job.examples,
            metric=job.metric,
            match=_unit(match),
            tolerance=tolerance,
            margin=margin,
            alpha=alpha,
            seed=seed,
            concurrency=concurrency,
            on_stage=None if quiet else note,
            budget=budget,
        )
        # The result first: writing a file may fail.
        write_result(result.to_json(indent=2) if as_json else printable(result.to_table()))
        if keep_winner is not None:
            _keep(result, job, data or "", keep_winner)
            if not quiet:
                note(f"kept in {keep_winner}: {result.contender(result.use).what}")


def _unit(match: str) -> Unit:
    if match not in ("calls", "tokens", "usd"):
        raise ConfigurationError(f"--match {match!r} is not calls, tokens or usd")
    return match  # type: ignore[return-value, unused-ignore]


def _keep(result: Comparison, job: Job, data: str, path: str) -> None:
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
