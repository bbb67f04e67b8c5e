"""``moa-dspy optimize`` and ``search``: a better program for a task, a metric and a price, and proof of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from moa_dspy.cli.budgets import MaxCalls, MaxMinutes, MaxTokens, MaxUsd, agreed, budget_of
from moa_dspy.cli.console import note, printable, quiet_libraries, write_result
from moa_dspy.cli.options import (
    AsJson,
    Concurrency,
    ConfigFile,
    Fields,
    JudgeModel,
    Limit,
    MetricName,
    Own,
    ProgramArgument,
    Quiet,
    Seed,
    Split,
)
from moa_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from moa_dspy.cli.eval_setup import Job
    from moa_dspy.optimizers.optimize import OptimizeResult
    from moa_dspy.planning import WorkEstimate

__all__ = ["optimize_command", "search_command"]

_OBJECTIVES: Final[dict[str, Any]] = {
    "score": "score",
    "score-at-price": "score_at_price",
    "score-and-cost": ("score", "cost"),
}

HeldOut: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Examples that decide, which are not tuned on.  [default: a third of DATA]"),
]
Trials: TypeAlias = Annotated[int, typer.Option(min=1, metavar="N", help="Architectures to try.")]
ObjectiveName: TypeAlias = Annotated[
    str, typer.Option("--objective", metavar="NAME", help="score, score-at-price or score-and-cost.")
]
Price: TypeAlias = Annotated[
    float | None, typer.Option(metavar="AMOUNT", help="With score-at-price: the most that an example may cost.")
]
UnitName: TypeAlias = Annotated[str, typer.Option("--unit", metavar="UNIT", help="Of prices: usd, tokens or calls.")]
Storage: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="PLACE", help="Keep the study in FILE.db or at a database URL; go on if it is there."),
]
StudyName: TypeAlias = Annotated[str, typer.Option("--study", metavar="NAME", help="Of the study in the storage.")]
Out: TypeAlias = Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The program to use, saved.")]
Candidate: TypeAlias = Annotated[
    str | None, typer.Option(metavar="FILE", help="What was found, saved whether it was accepted or not.")
]
Record: TypeAlias = Annotated[
    str | None, typer.Option(metavar="FILE", help="Everything that was found, as JSON; moa-dspy report shows it.")
]
ReportPage: TypeAlias = Annotated[
    str | None, typer.Option("--report", metavar="FILE", help="The same as an HTML page.")
]
Explain: TypeAlias = Annotated[
    bool, typer.Option("--explain/--no-explain", help="Also tell what each stage and each agent is worth.")
]
EstimateOnly: TypeAlias = Annotated[
    bool, typer.Option("--estimate", help="Show what it takes at most, and about, and exit.")
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before it runs.")]
Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]


@dataclass(frozen=True)
class _Options:
    """What the user wrote that both commands have."""

    program: str | None
    config: str | None
    data: str | None
    heldout: str | None
    metric: str | None
    fields: str | None
    judge: str | None
    split: str | None
    limit: int | None
    seed: int
    concurrency: int
    max_calls: int | None
    max_tokens: int | None
    max_usd: float | None
    max_minutes: float | None
    out: str
    candidate: str | None
    record: str | None
    report: str | None
    estimate: bool
    yes: bool
    force: bool
    as_json: bool
    quiet: bool


def optimize_command(
    program: ProgramArgument = None,
    config: ConfigFile = None,
    data: Own = None,
    heldout: HeldOut = None,
    metric: MetricName = None,
    out: Out = "program.json",
    candidate: Candidate = None,
    parts: Annotated[
        str, typer.Option(metavar="NAME,...", help="What is tuned: architecture, prompts, stop.")
    ] = "architecture,prompts,stop",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="How often; each goes on from the one before.")] = 1,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="gepa, mipro, simba, copro, bootstrap, bootstrap_random, labeled, knn or reanchor: tunes the prompts.",
        ),
    ] = "gepa",
    effort: Annotated[str, typer.Option(metavar="LEVEL", help="Of that method: light, medium or heavy.")] = "light",
    prompt_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Writes instructions.  [default: the aggregator's model]")
    ] = None,
    trials: Trials = 40,
    objective: ObjectiveName = "score",
    price: Price = None,
    unit: UnitName = "usd",
    storage: Storage = None,
    study: StudyName = "moa-dspy",
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_usd: MaxUsd = None,
    max_minutes: MaxMinutes = None,
    fields: Fields = None,
    judge: JudgeModel = None,
    split: Split = None,
    limit: Limit = None,
    seed: Seed = 0,
    concurrency: Concurrency = 8,
    explain: Explain = True,
    record: Record = None,
    report: ReportPage = None,
    estimate: EstimateOnly = False,
    yes: Yes = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Tune architecture, prompts and stop rule, and keep the result only if it wins on examples it has not seen.

    What a search may choose is in the [space] table of --config. At the end of a budget the best so far is tested.
    """
    options = _Options(
        program, config, data, heldout, metric, fields, judge, split, limit, seed, concurrency,
        max_calls, max_tokens, max_usd, max_minutes, out, candidate, record, report, estimate, yes, force, as_json,
        quiet,
    )  # fmt: skip
    tuning = {"parts": _listed(parts), "rounds": rounds, "method": method, "effort": effort, "explain": explain}
    searching = _searching(trials, objective, price, unit, storage, study)
    with quiet_libraries():
        _run(options, {**tuning, **searching}, prompt_model)


def search_command(
    program: ProgramArgument = None,
    config: ConfigFile = None,
    data: Own = None,
    heldout: HeldOut = None,
    metric: MetricName = None,
    out: Out = "program.json",
    candidate: Candidate = None,
    trials: Trials = 40,
    objective: ObjectiveName = "score",
    price: Price = None,
    unit: UnitName = "usd",
    storage: Storage = None,
    study: StudyName = "moa-dspy",
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_usd: MaxUsd = None,
    max_minutes: MaxMinutes = None,
    fields: Fields = None,
    judge: JudgeModel = None,
    split: Split = None,
    limit: Limit = None,
    seed: Seed = 0,
    concurrency: Concurrency = 8,
    explain: Explain = False,
    record: Record = None,
    report: ReportPage = None,
    estimate: EstimateOnly = False,
    yes: Yes = False,
    force: Force = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search for the best agents, attention, depth and stop rule; prompts stay as they are.

    What may be chosen is in the [space] table of --config. The best is kept only if it wins on examples that were not
    searched with.
    """
    options = _Options(
        program, config, data, heldout, metric, fields, judge, split, limit, seed, concurrency,
        max_calls, max_tokens, max_usd, max_minutes, out, candidate, record, report, estimate, yes, force, as_json,
        quiet,
    )  # fmt: skip
    searching = _searching(trials, objective, price, unit, storage, study)
    with quiet_libraries():
        _run(options, {"parts": ["architecture"], "explain": explain, **searching}, None)


def _run(options: _Options, arguments: dict[str, Any], prompt_model: str | None) -> None:
    from moa_dspy.cli.judged import judged
    from moa_dspy.cli.keys import missing_variables
    from moa_dspy.cli.programs import agent_config

    _check_files(options)
    budget = budget_of(options.max_calls, options.max_tokens, options.max_usd, options.max_minutes)
    job = judged(
        options.program, options.config, options.data, options.fields, options.metric, options.judge, options.split,
        options.limit, options.seed,
    )  # fmt: skip
    prompt_lm = None if prompt_model is None else agent_config(prompt_model, "--prompt-model").lm()
    if prompt_lm is not None and (variables := missing_variables(prompt_lm)):
        raise ConfigurationError(f"no API key for --prompt-model {prompt_model}: set {' or '.join(variables)}")
    given = {
        "program": job.program,
        "trainset": job.examples,
        "valset": _held_out(options, job),
        "metric": job.metric,
        "space": _space(options.config),
        "budget": budget,
        "seed": options.seed,
        "prompt_lm": prompt_lm,
        **arguments,
    }
    if options.estimate:
        _estimate(options, given)
    else:
        _optimize(options, given)


def _estimate(options: _Options, given: dict[str, Any]) -> None:
    from moa_dspy.optimizers.optimize import forecast

    found = forecast(**given)
    whole = json.dumps(found.to_dict(), ensure_ascii=False, indent=2)
    write_result(whole if options.as_json else printable(str(found)))


def _optimize(options: _Options, given: dict[str, Any]) -> None:
    from moa_dspy.cli.judged import data_name
    from moa_dspy.cli.views.optimization import shown, watching
    from moa_dspy.optimizers.optimize import optimize

    def confirmed(found: WorkEstimate) -> bool:
        for line in str(found).splitlines():
            note(line)
        return options.yes or agreed() is not False

    with watching(silent=options.quiet) as progress, _told_how_to_go_on():
        result = optimize(
            **given,
            concurrency=options.concurrency,
            progress=progress,
            before=None if options.quiet else confirmed,
            data_names={
                "tuning": data_name(options.data or ""),
                "held-out": data_name(options.heldout or options.data or ""),
            },
        )
    # The result first: writing files may fail, on a full disk say.
    write_result(
        json.dumps(result.report, ensure_ascii=False, indent=2) if options.as_json else printable(shown(result))
    )
    _save(result, options)


def _save(result: OptimizeResult, options: _Options) -> None:
    from moa_dspy.cli.commands.report import write_page
    from moa_dspy.optimizers.report.page import render

    which = "the candidate" if result.accepted else "the program as it was given"
    result.program.save(options.out)
    if options.candidate is not None:
        result.candidate.save(options.candidate)
    if options.record is not None:
        write_page(Path(options.record), json.dumps(result.report, indent=2) + "\n")
    if options.report is not None:
        write_page(Path(options.report), render([result.report]))
    if not options.quiet:
        note(f"saved in {options.out}: {which}")
        if result.ended_by == "budget":
            note("to go on with a larger budget, run the same command with --force, which replaces what was saved")


@contextmanager
def _told_how_to_go_on() -> Iterator[None]:
    """Say after Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        note("the same command goes on from here: answered calls are in the response cache, trials in --storage")
        raise


def _check_files(options: _Options) -> None:
    """Refuse what could not be written, before anything is paid for."""
    from moa_dspy.cli.commands.eval import checked_file

    if options.estimate:
        return
    given = (
        ("--out", options.out),
        ("--candidate", options.candidate),
        ("--record", options.record),
        ("--report", options.report),
    )
    wanted = [(option, path) for option, path in given if path is not None]
    places = [Path(path).resolve() for _, path in wanted]
    for (option, path), place in zip(wanted, places, strict=True):
        checked_file(path, option)
        if places.count(place) > 1:
            raise ConfigurationError(f"{option} {path} is to hold something else as well; give each a file of its own")
        if place.exists() and not options.force:
            raise ConfigurationError(f"{option} {path} is there already; name another file, or add --force")


def _held_out(options: _Options, job: Job) -> list[Any] | None:
    """The examples of ``--heldout``, read as those of ``--data`` are."""
    if options.heldout is None:
        return None
    from moa_dspy.cli.judged import judged

    return list(
        judged(
            options.program, options.config, options.heldout, options.fields,
            options.metric if options.metric is not None or not job.own_metric else None, options.judge,
        ).examples
    )  # fmt: skip


def _space(config: str | None) -> Any:
    """The search space of a configuration file, if it has one."""
    if config is None:
        return None
    from moa_dspy.config import load_config
    from moa_dspy.optimizers.search.space import SearchSpace

    given = load_config(config).space
    if given is None:
        return None
    try:
        return SearchSpace.from_dict(given)
    except ConfigurationError as error:
        raise ConfigurationError(f"{config}: space: {error}") from None


def _searching(
    trials: int, objective: str, price: float | None, unit: str, storage: str | None, study: str
) -> dict[str, Any]:
    if objective not in _OBJECTIVES:
        raise ConfigurationError(f"--objective {objective!r} is none; use {', '.join(_OBJECTIVES)}")
    return {
        "n_trials": trials,
        "objective": _OBJECTIVES[objective],
        "price": price,
        "unit": unit,
        "storage": storage,
        "study_name": study,
    }


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
