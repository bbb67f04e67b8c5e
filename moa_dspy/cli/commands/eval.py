"""``moa-dspy eval``: a program's score on a benchmark, with its interval and its cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from moa_dspy.cli.console import confirmed, is_quiet, note, warning, write_result
from moa_dspy.cli.options import (
    BudgetOptions,
    DataOptions,
    Json,
    ProgramArgument,
    ProgramOptions,
    RunOptions,
    Yes,
    command,
)
from moa_dspy.errors import ConfigurationError, RunError

if TYPE_CHECKING:
    from moa_dspy.cli.examples import Job
    from moa_dspy.evaluation import EvaluateResult
    from moa_dspy.evaluation.recipes import Recipe

__all__ = ["evaluate_command"]

_SETTLED_BY_RECIPE: Final = (
    "agent", "config", "layers", "attention", "aggregator", "signature", "benchmark", "data", "split", "metric"
)  # fmt: skip


@dataclass(frozen=True)
class EvalOptions:
    """What only an evaluation has."""

    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The same agents as single, self-consistency, self-moa, moa or attention-moa.",
        ),
    ] = None
    samples: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Of self-consistency and self-moa.  [default: 5]")
    ] = None
    judge_prompts: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="The official judge prompts.  [default: our own]")
    ] = None
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="FILE", help="Records, a line for each item. Resumes if it exists."),
    ] = None
    against: Annotated[
        str | None, typer.Option(metavar="FILE", help="Records of another run, compared item by item.")
    ] = None
    outputs: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the answers in the benchmark's official format.")
    ] = None
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="The program's name in these files.")] = None
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="One of the paper's experiments.")] = None


@command
def evaluate_command(
    program: ProgramArgument = None,
    *,
    shape: ProgramOptions,
    data: DataOptions,
    more: EvalOptions,
    run: RunOptions,
    limits: BudgetOptions,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the recipes and exit.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Score a program on a benchmark or on your own examples, item by item.

    An interrupted run with --out resumes where it stopped. Without PROGRAM, --config, --agent or --recipe, three agents
    run on the embedded model.
    """
    from moa_dspy.cli.examples import check_reach
    from moa_dspy.cli.programs import note_default_agents
    from moa_dspy.cli.views.evaluation import recipes_as_json, recipes_as_text, result_text

    if recipes:
        write_result(recipes_as_json() if as_json else recipes_as_text())
        return
    budget = limits.budget()
    recipe = None if more.recipe is None else _recipe(more, program, shape, data)
    if recipe is not None:
        data, more = _settled(recipe, data, more)
    job = _prepare(program, shape, data, more, recipe)
    if recipe is None:
        note_default_agents(shape, program, "evaluating")
    waiting = _waiting(job, more.out)
    remarks = job.remarks if waiting else ()
    for remark in remarks:
        warning(remark)
    if recipe is not None and waiting:
        _announce(job, recipe, waiting)
    check_reach(job)
    if recipe is not None and waiting and not yes:
        _confirm()
    result = _evaluate(job, data, more, budget, run.concurrency, progress=not is_quiet())
    _warn_of_gaps(result, [remark for remark in result.remarks if remark not in remarks])
    if more.out is not None:
        note(f"records: {result.path}")
    write_result(result.to_json() if as_json else result_text(result, {} if recipe is None else recipe.published))
    if not result.scored:
        first = next((record.error for record in result.records if record.error is not None), None)
        raise RunError(f"no item has a score{'' if first is None else f': {first.message}'}")


def _prepare(
    saved: str | None, shape: ProgramOptions, data: DataOptions, more: EvalOptions, recipe: Recipe | None
) -> Job:
    """Return the checked job. Nothing has been called."""
    from moa_dspy.cli.examples import find_benchmark, find_judge, prepare, shaped
    from moa_dspy.cli.files import check_place
    from moa_dspy.cli.programs import build_program
    from moa_dspy.evaluation.outputs import check_outputs

    if more.preset is None and more.samples is not None:
        raise ConfigurationError("--samples is for --preset self-consistency and self-moa")
    if more.preset is not None and saved is not None:
        raise ConfigurationError("--preset cannot go with a saved PROGRAM, which settles the shape; leave one out")
    check_place(more.out, "--out")
    check_place(more.outputs, "--outputs")
    benchmark = find_benchmark(data)
    if more.outputs is not None:
        check_outputs(benchmark, more.outputs)
    judge = find_judge(data, benchmark)
    metric = _metric(data, more, benchmark, judge, official=recipe is not None)
    built = build_program(shape, saved) if recipe is None else recipe.config().program()
    if saved is None:
        built = shaped(built, benchmark, shape.signature, more.preset, more.samples)
    return prepare(built, benchmark, data, metric, judge)


def _metric(data: DataOptions, more: EvalOptions, benchmark: Any, judge: Any, *, official: bool) -> Any:
    """Return the named metric, or the benchmark's. ``official`` asks for the official prompts, if they are there."""
    from moa_dspy.evaluation.suite import named_metric

    if data.metric is not None:
        return named_metric(data.metric)
    if more.judge_prompts is not None:
        if judge is None:
            raise ConfigurationError("--judge-prompts: nothing is judged by a model here; leave it out")
        if not Path(more.judge_prompts).exists():
            raise ConfigurationError(f"--judge-prompts {more.judge_prompts}: there is no such folder")
        return benchmark.metric(judge, more.judge_prompts)
    if official:
        reason = "no folder was named"
        for folder in benchmark.folders(data.path):
            try:
                return benchmark.metric(judge, folder)
            except ConfigurationError as error:
                reason = str(error)
        warning(f"our own judge is used, not the official prompts: {reason}; --judge-prompts names their folder")
    return benchmark.metric(judge)


def _recipe(more: EvalOptions, saved: str | None, shape: ProgramOptions, data: DataOptions) -> Recipe:
    from moa_dspy.evaluation.recipes import recipe

    values = dataclasses.asdict(shape) | dataclasses.asdict(data)
    settled = [f"--{name}" for name in _SETTLED_BY_RECIPE if values[name] not in (None, [])]
    settled = (["PROGRAM"] if saved is not None else []) + settled
    if settled:
        raise ConfigurationError(
            f"{', '.join(settled)} cannot go with --recipe, which settles it; leave one of them out"
        )
    return recipe(more.recipe or "")


def _settled(recipe: Recipe, data: DataOptions, more: EvalOptions) -> tuple[DataOptions, EvalOptions]:
    """Return the options with what the recipe says."""
    out = more.out or "-".join(filter(None, (recipe.name, more.preset))) + ".jsonl"
    data = dataclasses.replace(data, benchmark=recipe.benchmark, split=recipe.split, judge=data.judge or recipe.judge)
    return data, dataclasses.replace(more, out=out)


def _waiting(job: Job, out: str | None) -> list[Any]:
    """Return the examples that have no record yet."""
    from moa_dspy.evaluation.fingerprint import identified
    from moa_dspy.evaluation.records import latest, read_records

    if out is None or not Path(out).is_file() or not Path(out).stat().st_size:
        return list(job.examples)
    done = {name for name, record in latest(read_records(out)[1]).items() if record.status != "error"}
    return [example for name, example in identified(job.examples).items() if name not in done]


def _announce(job: Job, recipe: Recipe, waiting: Sequence[Any]) -> None:
    """Write what a recipe will cost."""
    from moa_dspy.evaluation.estimates import estimate_cost

    asked, judged = estimate_cost(job.program, waiting, job.metric, job.judge)
    items = f"{len(waiting)} of {len(job.examples)} items"
    note(f"recipe {recipe.name} ({recipe.origin}): {items}; estimated, if nothing stops early:")
    for who, cost in (("program", asked), ("judge", judged), ("all", asked + judged)):
        note(f"  {who:<8}{cost.calls:>9,} calls  {cost.tokens:>13,} tokens  {cost.dollars:>18}")


def _confirm() -> None:
    answer = confirmed()
    if answer is None:
        raise ConfigurationError("nobody is there to confirm this; add --yes to run it")
    if not answer:
        raise ConfigurationError("not confirmed; nothing was run")


def _evaluate(
    job: Job, data: DataOptions, more: EvalOptions, budget: Any, concurrency: int, *, progress: bool
) -> EvaluateResult:
    from moa_dspy.evaluation import evaluate

    try:
        return evaluate(
            job.program,
            job.devset,
            job.metric,
            official=data.metric is None,
            out=more.out,
            against=more.against,
            outputs=more.outputs,
            concurrency=concurrency,
            budget=budget,
            progress=progress,
            name=more.name,
        )
    except KeyboardInterrupt:
        if more.out is not None:
            note(f"the same command goes on from here: what is finished is in {more.out}")
        raise


def _warn_of_gaps(result: EvaluateResult, remarks: Sequence[str]) -> None:
    """Warn of items that are in no score."""
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
