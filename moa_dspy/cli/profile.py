"""``moa-dspy profile``: which stage gains and which loses, and what each agent adds."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from moa_dspy.cli.console import note, printable, quiet_libraries
from moa_dspy.cli.judged import judged
from moa_dspy.cli.options import (
    AsJson,
    Concurrency,
    ConfigFile,
    Fields,
    JudgeModel,
    Limit,
    MetricName,
    Own,
    Quiet,
    Seed,
    Split,
)
from moa_dspy.cli.options import ProgramArgument as ProgramFile

__all__ = ["profile_command"]


def profile_command(
    program: ProgramFile = None,
    config: ConfigFile = None,
    data: Own = None,
    metric: MetricName = None,
    agents: Annotated[
        bool, typer.Option("--agents", help="Also leave out each agent in turn: what it adds, at which price.")
    ] = False,
    fields: Fields = None,
    judge: JudgeModel = None,
    split: Split = None,
    limit: Limit = None,
    seed: Seed = 0,
    concurrency: Concurrency = 8,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score every stage of a program's runs: proposals, refinements, aggregates, syntheses."""
    with quiet_libraries():
        from moa_dspy.optimizers.contributing import contributions
        from moa_dspy.optimizers.profiling import profile

        job = judged(program, config, data, fields, metric, judge, split, limit, seed)
        if agents and len(job.program.agents) > 1 and not quiet:
            note(f"{len(job.examples)} examples, {len(job.program.agents) + 1} programs")
        stages = profile(job.program, job.examples, job.metric, concurrency=concurrency, seed=seed)
        parts = None
        if agents:
            parts = contributions(job.program, job.examples, job.metric, concurrency=concurrency, seed=seed)
        if as_json:
            whole = {"stages": stages.report, "agents": None if parts is None else parts.report}
            typer.echo(json.dumps(whole, ensure_ascii=False, indent=2))
        else:
            typer.echo(printable("\n\n".join(str(part) for part in (stages, parts) if part is not None)))
