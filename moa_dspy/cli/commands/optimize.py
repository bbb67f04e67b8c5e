"""``moa-dspy optimize``: a better program for a task, a metric and a price, and proof of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from moa_dspy.cli.console import confirmed, is_quiet, note, printable, write_result
from moa_dspy.cli.options import (
    BudgetOptions,
    DataOptions,
    Force,
    Json,
    ProgramArgument,
    ProgramOptions,
    RunOptions,
    Yes,
    command,
)
from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from moa_dspy.cli.examples import Job
    from moa_dspy.optimizers.optimize import OptimizeResult
    from moa_dspy.planning import WorkEstimate

__all__ = ["optimize_command"]

_PARTS: Final = ("architecture", "prompts", "stop")


@dataclass(frozen=True)
class TuningOptions:
    """What is tuned, and how."""

    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="architecture, prompts or stop. Repeatable.  [default: all three]"),
    ] = None
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Number of rounds; each continues the last.")] = 1
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Of the prompts: gepa, mipro, simba, copro, bootstrap, bootstrap_random, labeled, knn, reanchor.",
        ),
    ] = "gepa"
    effort: Annotated[str, typer.Option(metavar="LEVEL", help="Of the method: light, medium or heavy.")] = "light"
    prompt_lm: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Writes instructions.  [default: the aggregator's model]")
    ] = None
    n_trials: Annotated[int, typer.Option(min=1, metavar="N", help="Architectures that a search tries.")] = 40
    objective: Annotated[
        str, typer.Option(metavar="NAME", help="Of a search: score, score_at_price, or score,cost for both.")
    ] = "score"
    price: Annotated[
        float | None, typer.Option(metavar="AMOUNT", help="For score_at_price: the most that an example may cost.")
    ] = None
    unit: Annotated[str, typer.Option(metavar="UNIT", help="Of prices: usd, tokens or calls.")] = "usd"
    storage: Annotated[
        str | None, typer.Option(metavar="PLACE", help="FILE.db or a database URL that keeps the study, to go on from.")
    ] = None
    study_name: Annotated[str, typer.Option(metavar="NAME", help="Of the study in the storage.")] = "moa-dspy"
    explain: Annotated[
        bool, typer.Option("--explain/--no-explain", help="Also tell what each stage and each agent adds.")
    ] = True

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of ``optimize``."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        objective = tuple(self.objective.split(","))
        values["objective"] = objective if len(objective) > 1 else self.objective
        values["parts"] = values.pop("only") or list(_PARTS)
        del values["prompt_lm"]
        return values


@dataclass(frozen=True)
class FileOptions:
    """The files of an optimization."""

    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The program to use, saved.")] = "program.json"
    candidate: Annotated[
        str | None, typer.Option(metavar="FILE", help="The tuned program, saved even if it was not accepted.")
    ] = None
    record: Annotated[str | None, typer.Option(metavar="FILE", help="All results, as JSON for moa-dspy report.")] = None
    report: Annotated[str | None, typer.Option(metavar="FILE", help="All results, as an HTML page.")] = None


@command
def optimize_command(
    program: ProgramArgument = None,
    *,
    shape: ProgramOptions,
    data: DataOptions,
    valset: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Examples that decide, not tuned on.  [default: a third of the examples]"),
    ] = None,
    tuning: TuningOptions,
    run: RunOptions,
    limits: BudgetOptions,
    files: FileOptions,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Show the expected and the highest cost, and exit.")
    ] = False,
    yes: Yes = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Tune architecture, prompts and stop rule. The result is kept only if it wins on examples it has not seen.

    The [space] table of --config holds what a search may choose. When a budget ends, the best so far is tested.
    """
    from moa_dspy.cli.examples import tuning_job
    from moa_dspy.optimizers.optimize import forecast

    if not estimate:
        _check_files(files, force=force)
    arguments = tuning.arguments() | {"budget": limits.budget(), "seed": data.seed, "prompt_lm": _prompt_lm(tuning)}
    job = tuning_job(program, shape, data)
    arguments |= {
        "program": job.program,
        "trainset": job.examples,
        "valset": None if valset is None else _valset(valset, job, data),
        "metric": job.metric,
        "space": _space(shape.config),
    }
    if estimate:
        cost = forecast(**arguments)
        text = json.dumps(cost.to_dict(), ensure_ascii=False, indent=2) if as_json else printable(str(cost))
        write_result(text)
        return
    arguments |= {"concurrency": run.concurrency, "data_names": _data_names(data, valset)}
    result = _optimize(arguments, yes=yes)
    _print_and_save(result, files, as_json=as_json)


def _optimize(arguments: dict[str, Any], *, yes: bool) -> OptimizeResult:
    from moa_dspy.cli.views.optimization import watching
    from moa_dspy.optimizers.optimize import optimize

    def confirm(cost: WorkEstimate) -> bool:
        for line in str(cost).splitlines():
            note(line)
        return yes or confirmed() is not False

    with watching(silent=is_quiet()) as progress, _hint_after_interrupt():
        return optimize(**arguments, progress=progress, before=None if is_quiet() else confirm)


def _print_and_save(result: OptimizeResult, files: FileOptions, *, as_json: bool) -> None:
    from moa_dspy.cli.files import write_file
    from moa_dspy.cli.views.optimization import result_text
    from moa_dspy.optimizers.report.page import render

    # The result first: writing files may fail, for example on a full disk.
    record = json.dumps(result.report, ensure_ascii=False, indent=2)
    write_result(record if as_json else printable(result_text(result)))
    result.program.save(files.out)
    if files.candidate is not None:
        result.candidate.save(files.candidate)
    write_file(files.record, record + "\n")
    if files.report is not None:
        write_file(files.report, render([result.report]))
    note(f"saved in {files.out}: {'the candidate' if result.accepted else 'the program as it was given'}")
    if result.ended_by == "budget":
        note("to go on with a larger budget, run the same command with --force, which replaces what was saved")


@contextmanager
def _hint_after_interrupt() -> Iterator[None]:
    """Write after Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        note("the same command goes on from here: answered calls are in the response cache, trials in --storage")
        raise


def _check_files(files: FileOptions, *, force: bool) -> None:
    from moa_dspy.cli.files import check_new_files

    check_new_files({f"--{field.name}": getattr(files, field.name) for field in dataclasses.fields(files)}, force=force)


def _prompt_lm(tuning: TuningOptions) -> Any:
    """Return the LM that writes instructions, if one is named."""
    if tuning.prompt_lm is None:
        return None
    from moa_dspy.cli.programs import check_lms, model_named

    lm = model_named(tuning.prompt_lm, "--prompt-lm").lm()
    check_lms([lm], "or name another --prompt-lm")
    return lm


def _valset(path: str, job: Job, data: DataOptions) -> list[Any]:
    """Return the examples of ``--valset``, read as those of ``--data`` are."""
    from moa_dspy.cli.examples import find_benchmark, prepare

    other = DataOptions(data=path, fields=data.fields, seed=data.seed)
    return list(prepare(job.program, find_benchmark(other), other, job.metric, None).examples)


def _data_names(data: DataOptions, valset: str | None) -> dict[str, str]:
    from moa_dspy.cli.examples import data_name

    return {"tuning": data_name(data.source), "held-out": data_name(valset or data.source)}


def _space(config: str | None) -> Any:
    """Return the search space of a configuration file, or None."""
    if config is None:
        return None
    from moa_dspy.config import load_config
    from moa_dspy.optimizers.search.space import SearchSpace

    values = load_config(config).space
    if values is None:
        return None
    try:
        return SearchSpace.from_dict(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{config}: space: {error}") from None
