"""``moa-dspy optimize``: a better program for a task, a metric and a price, and proof of it."""

from __future__ import annotations

from typing import Any, Final

import dspy

from moa_dspy.cli.costs import approval
from moa_dspy.cli.examples import Job, data_name, find_benchmark, prepare, tuning_job
from moa_dspy.cli.options import ExampleOptions, Optimize
from moa_dspy.cli.output import check_files, note, settings, write_file, write_json, write_parts, write_program
from moa_dspy.cli.programs import budget_of, check_lms, model_named
from moa_dspy.cli.views.optimization import result_parts, watching
from moa_dspy.config import load_config
from moa_dspy.errors import ConfigurationError
from moa_dspy.files.program_file import SavedProgram
from moa_dspy.json_safe import json_text
from moa_dspy.optimizers.optimize import OptimizeResult, optimize
from moa_dspy.optimizers.optimize_plan import PARTS
from moa_dspy.optimizers.report.page import render
from moa_dspy.optimizers.report.sources import is_storage
from moa_dspy.optimizers.report.studies import study_in
from moa_dspy.optimizers.search.space import SearchSpace

__all__ = ["run"]

_OBJECTIVES: Final = ("score", "score_at_price", "score,cost")
_SAME_NAME: Final = (
    "gain", "rounds", "method", "effort", "explain", "seed", "least_gain", "max_loss", "n_trials", "price", "unit",
    "storage", "study_name",
)  # fmt: skip


def run(options: Optimize) -> None:
    """Tune the program, write the verdict, and save the program to use."""
    files = {f"--{name}": getattr(options, name) for name in ("out", "candidate", "record", "report")}
    if not options.estimate:
        check_files(files, replace=options.force)
    _write(_optimize(options, _arguments(options)), options)


def _arguments(options: Optimize) -> dict[str, Any]:
    arguments: dict[str, Any] = {name: getattr(options, name) for name in _SAME_NAME}
    if options.objective not in _OBJECTIVES:
        raise ConfigurationError(f"--objective {options.objective} is unknown; use one of {' '.join(_OBJECTIVES)}")
    objective = tuple(options.objective.split(","))
    arguments |= {
        "budget": budget_of(options),
        "objective": objective if len(objective) > 1 else options.objective,
        "parts": options.only or PARTS,
        "prompt_lm": _prompt_lm(options.prompt_lm),
        "warm_start": [
            study_in(source) if is_storage(source) else SavedProgram.read(source).architecture
            for source in options.warm_start or ()
        ],
    }
    job = tuning_job(options)
    return arguments | {
        "program": job.program,
        "trainset": job.examples,
        "valset": None if options.valset is None else _valset(options, job),
        "metric": job.metric,
        "space": _space(options.config),
    }


def _optimize(options: Optimize, arguments: dict[str, Any]) -> OptimizeResult:
    names = {"tuning": data_name(options.source), "held-out": data_name(options.valset or options.source)}
    with watching(silent=settings.quiet) as progress:
        try:
            return optimize(
                **arguments,
                concurrency=options.concurrency,
                data_names=names,
                progress=progress,
                before=approval(options),
            )
        except KeyboardInterrupt:
            note(_kept(options))
            raise


def _kept(options: Optimize) -> str:
    """Return what an interrupted command leaves for the next one."""
    trials = "" if options.storage is None else f"finished trials are in {options.storage}"
    if not options.no_cache:
        kept = ", ".join(part for part in ("answered calls are in the response cache", trials) if part)
        return f"the same command continues: {kept}"
    if trials:
        return f"{trials}, and the same command goes on after them; with --no-cache no other call is kept"
    return "nothing is kept: --no-cache keeps no answered call, and no --storage was given"


def _write(result: OptimizeResult, options: Optimize) -> None:
    """Write the result first, because writing files may fail, for example on a full disk."""
    write_json(result.report) if options.json else write_parts(*result_parts(result))
    write_program(options.out, result.program)
    write_program(options.candidate, result.candidate)
    write_file(options.record, json_text(result.report) + "\n")
    if options.report is not None:
        write_file(options.report, render([result.report]))
    note(f"saved in {options.out}: {'the candidate' if result.accepted else 'the original program'}")
    if result.ended_by == "budget":
        note("to continue with a larger budget, run the same command with --force, which replaces the saved files")


def _prompt_lm(name: str | None) -> dspy.BaseLM | None:
    if name is None:
        return None
    lm = model_named(name, "--prompt-lm").lm()
    check_lms([lm], "or name another --prompt-lm")
    return lm


def _valset(options: Optimize, job: Job) -> list[dspy.Example]:
    """Return the examples of ``--valset``, read as those of ``--data`` are."""
    other = ExampleOptions(data=options.valset, fields=options.fields, seed=options.seed)
    return list(prepare(job.program, find_benchmark(other), other, job.metric, None).examples)


def _space(config: str | None) -> SearchSpace | None:
    values = None if config is None else load_config(config).space
    if values is None:
        return None
    try:
        return SearchSpace.from_dict(values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{config}: space: {error}") from None
