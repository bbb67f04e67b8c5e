"""``moa-dspy eval``: a score for a program on a benchmark, with what it cost and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli.console import note, quiet_libraries, warning, write_result
from moa_dspy.cli.options import (
    Agents,
    Aggregator,
    AsJson,
    AttentionPattern,
    Concurrency,
    ConfigFile,
    Fields,
    JudgeModel,
    Layers,
    Limit,
    MetricName,
    ProgramFile,
    Quiet,
    Seed,
    Split,
)
from moa_dspy.errors import ConfigurationError, RunError

if TYPE_CHECKING:
    from moa_dspy.evaluation import Evaluation

__all__ = ["EvalOptions", "evaluate_command"]


@dataclass(frozen=True)
class EvalOptions:
    """What the user wrote after ``eval``."""

    benchmark: str | None = None
    agents: tuple[str, ...] = ()
    config: str | None = None
    program: str | None = None
    layers: int | None = None
    attention: str | None = None
    aggregator: str | None = None
    signature: str | None = None
    preset: str | None = None
    samples: int | None = None
    split: str | None = None
    limit: int | None = None
    seed: int = 0
    data: str | None = None
    fields: str | None = None
    metric: str | None = None
    judge: str | None = None
    judge_prompts: str | None = None
    out: str | None = None
    against: str | None = None
    outputs: str | None = None
    name: str | None = None
    concurrency: int = 8
    max_calls: int | None = None
    max_usd: float | None = None
    recipe: str | None = None
    yes: bool = False
    as_json: bool = False
    quiet: bool = False


def evaluate_command(
    benchmark: Annotated[
        str | None, typer.Argument(metavar="BENCHMARK", help="A benchmark, or a file, folder or hub id of your own.")
    ] = None,
    agent: Agents = None,
    config: ConfigFile = None,
    program: ProgramFile = None,
    layers: Layers = None,
    attention: AttentionPattern = None,
    aggregator: Aggregator = None,
    signature: Annotated[str | None, typer.Option(metavar="TEXT", help="The task's fields, for your own data.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="single, self-consistency, self-moa, moa or attention-moa, of the same agents.",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Of self-consistency and self-moa.  [default: 5]")
    ] = None,
    split: Split = None,
    limit: Limit = None,
    seed: Seed = 0,
    data: Annotated[str | None, typer.Option(metavar="FOLDER", help="The benchmark's files.")] = None,
    fields: Fields = None,
    metric: MetricName = None,
    judge: JudgeModel = None,
    judge_prompts: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The official judge prompts.  [default: our own]")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="Records, a line an item; go on if it is there.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="FILE", help="Records of another run, to be compared item by item.")
    ] = None,
    outputs: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the answers in the benchmark's official format.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="What the program is called in these.")] = None,
    concurrency: Concurrency = 8,
    max_calls: Annotated[int | None, typer.Option(min=1, metavar="N", help="End before more calls than that.")] = None,
    max_usd: Annotated[float | None, typer.Option(metavar="DOLLARS", help="End before more dollars than that.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="One of the paper's experiments.")] = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the recipes and exit.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a recipe is run.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score a program on a benchmark, item by item; an interrupted run with --out goes on where it stopped.

    Without --agent, --config, --program or --recipe three agents run on the model that is embedded in moa-dspy.
    """
    options = EvalOptions(
        benchmark=benchmark,
        agents=tuple(agent or ()),
        config=config,
        program=program,
        layers=layers,
        attention=attention,
        aggregator=aggregator,
        signature=signature,
        preset=preset,
        samples=samples,
        split=split,
        limit=limit,
        seed=seed,
        data=data,
        fields=fields,
        metric=metric,
        judge=judge,
        judge_prompts=judge_prompts,
        out=out,
        against=against,
        outputs=outputs,
        name=name,
        concurrency=concurrency,
        max_calls=max_calls,
        max_usd=max_usd,
        recipe=recipe,
        yes=yes,
        as_json=as_json,
        quiet=quiet,
    )
    with quiet_libraries():
        if recipes:
            _list_recipes(as_json=as_json)
        else:
            _evaluate(options)


def _list_recipes(*, as_json: bool) -> None:
    from moa_dspy.cli.views.evaluation import recipes_as_json, recipes_as_text

    write_result(recipes_as_json() if as_json else recipes_as_text())


def _evaluate(options: EvalOptions) -> None:
    from moa_dspy.cli.eval_setup import announce, check_reach, confirm, prepare
    from moa_dspy.cli.views.evaluation import as_text

    job = prepare(options)
    announce(job, quiet=options.quiet)
    check_reach(job)
    if job.recipe is not None:
        confirm(job, yes=options.yes)
    try:
        result = job.run(options)
    except KeyboardInterrupt:
        if job.out is not None:
            note(f"the same command goes on from here: what is finished is in {job.out}")
        raise
    _conclude(result, options, [remark for remark in result.remarks if remark not in job.remarks])
    published: dict[str, Any] = {} if job.recipe is None else dict(job.recipe.published)
    write_result(result.to_json() if options.as_json else as_text(result, published))
    if not result.scored:
        first = next((record.error for record in result.records if record.error is not None), None)
        raise RunError(f"no item has a score{'' if first is None else f': {first.message}'}")


def _conclude(result: Evaluation, options: EvalOptions, remarks: Sequence[str]) -> None:
    if options.quiet:
        return
    for remark in remarks:
        warning(remark)
    if result.errors:
        how = "the same command tries them again" if result.path else "with --out they could be tried again"
        warning(f"{result.errors} of {result.items} items failed and are in no score; {how}")
    if result.unparsed:
        warning(f"{result.unparsed} verdicts of the judge could not be read; these items are in no score")
    if result.pending:
        how = "the same command with a larger budget goes on" if result.path else "with --out it could go on"
        warning(f"the budget ended it: {result.pending} of {result.items} items were not run; {how}")
    if options.out is not None or options.recipe is not None:
        note(f"records: {result.path}")


def checked_file(path: str | None, option: str) -> None:
    """Refuse a file that cannot be written, before anything is paid.

    Raises:
        ConfigurationError: names the option.
    """
    if path is not None and (Path(path).is_dir() or not Path(path).resolve().parent.is_dir()):
        raise ConfigurationError(f"{option} {path}: it is a folder, or its folder is not there")
