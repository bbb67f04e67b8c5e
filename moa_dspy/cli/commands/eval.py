"""``moa-dspy eval``: a program's score on a benchmark, with its interval and its cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import dspy

from moa_dspy.cli.costs import require_approval
from moa_dspy.cli.examples import Job, check_reach, find_benchmark, find_judge, prepare, shaped, work_of
from moa_dspy.cli.options import Eval
from moa_dspy.cli.output import check_files, confirmed, note, settings, warning, write_json, write_parts
from moa_dspy.cli.programs import budget_of, build_program, note_default_agents, refuse_beside
from moa_dspy.cli.views.evaluation import recipe_table, recipe_values, result_parts
from moa_dspy.cost.budget import Budget
from moa_dspy.data.benchmark import Benchmark
from moa_dspy.errors import ConfigurationError, RunError
from moa_dspy.evaluation import EvaluateResult, evaluate
from moa_dspy.evaluation.evaluate import check_outputs, estimate_cost
from moa_dspy.evaluation.fingerprint import identified
from moa_dspy.evaluation.recipes import Recipe, recipe
from moa_dspy.evaluation.records import latest, read_records
from moa_dspy.evaluation.scoring import Metric
from moa_dspy.evaluation.suite import named_metric

__all__ = ["run"]

_SETTLED_BY_RECIPE: Final = (
    "program", "agent", "config", "layers", "attention", "critiques", "gate", "dissent", "aggregator", "signature",
    "benchmark", "data", "split", "metric",
)  # fmt: skip


def run(options: Eval) -> None:
    """Evaluate the program, and write the result."""
    if options.recipes:
        write_json(recipe_values()) if options.json else write_parts(recipe_table())
        return
    budget = budget_of(options)
    chosen = None if options.recipe is None else recipe(options.recipe)
    if chosen is not None:
        refuse_beside("--recipe", options, _SETTLED_BY_RECIPE)
        options = _settled(options, chosen)
    job = _prepare(options, chosen)
    if chosen is None:
        note_default_agents(options, "evaluating")
    waiting = _waiting(job, options.out)
    remarks = job.remarks if waiting else ()
    for remark in remarks:
        warning(remark)
    if chosen is not None and waiting and not options.estimate:
        _announce(job, chosen, waiting)
    check_reach(job)
    if options.estimate or (chosen is None and waiting):
        require_approval(options, lambda: work_of([("program", job.program)], job, waiting))
    elif waiting and not options.yes:
        _confirm()
    result = _evaluate(job, options, budget)
    _warn_of_gaps(result, [remark for remark in result.remarks if remark not in remarks])
    if options.out is not None:
        note(f"records: {result.path}")
    if options.json:
        write_json(result.to_dict())
    else:
        write_parts(*result_parts(result, {} if chosen is None else chosen.published))
    if not result.scored:
        first = next((record.error for record in result.records if record.error is not None), None)
        raise RunError(f"no item has a score{'' if first is None else f': {first.message}'}")


def _settled(options: Eval, chosen: Recipe) -> Eval:
    return dataclasses.replace(
        options,
        benchmark=chosen.benchmark,
        split=chosen.split,
        judge=options.judge or chosen.judge,
        out=options.out or "-".join(filter(None, (chosen.name, options.preset))) + ".jsonl",
    )


def _prepare(options: Eval, chosen: Recipe | None) -> Job:
    """Return the checked job. Nothing has been called."""
    if options.samples is not None and options.preset not in ("self-consistency", "self-moa"):
        raise ConfigurationError("--samples is for --preset self-consistency and self-moa")
    if options.program is not None:
        refuse_beside("a saved program", options, ["preset"])
    outputs = None if options.outputs is None or Path(options.outputs).is_dir() else options.outputs
    check_files({"--out": options.out, "--outputs": outputs}, replace=True)
    benchmark = find_benchmark(options)
    if options.outputs is not None:
        check_outputs(benchmark, options.outputs)
    judge = find_judge(options, benchmark)
    metric = _metric(options, benchmark, judge, official=chosen is not None)
    program = build_program(options) if chosen is None else chosen.config().program()
    if options.program is None:
        program = shaped(program, benchmark, options.signature, options.preset, options.samples)
    return prepare(program, benchmark, options, metric, judge)


def _metric(options: Eval, benchmark: Benchmark, judge: dspy.BaseLM | None, *, official: bool) -> Metric:
    """Return the named metric, or the benchmark's. ``official`` asks for the official prompts, if they are there."""
    if options.judge_prompts is not None and judge is None:
        raise ConfigurationError("--judge-prompts: the metric needs no model here; leave it out")
    if options.metric is not None:
        return named_metric(options.metric)
    if options.judge_prompts is not None:
        if not Path(options.judge_prompts).exists():
            raise ConfigurationError(f"--judge-prompts {options.judge_prompts}: there is no such folder")
        return benchmark.metric(judge, options.judge_prompts)
    if official:
        reason = "no folder was named"
        for folder in benchmark.folders(options.path):
            try:
                return benchmark.metric(judge, folder)
            except ConfigurationError as error:
                reason = str(error)
        warning(f"our own judge is used, not the official prompts: {reason}; --judge-prompts names their folder")
    return benchmark.metric(judge)


def _waiting(job: Job, out: str | None) -> list[dspy.Example]:
    if out is None or not Path(out).is_file() or not Path(out).stat().st_size:
        return list(job.examples)
    done = {name for name, record in latest(read_records(out)[1]).items() if record.complete}
    return [example for name, example in identified(job.examples).items() if name not in done]


def _announce(job: Job, chosen: Recipe, waiting: Sequence[dspy.Example]) -> None:
    asked, judged = estimate_cost(job.program, waiting, job.metric, job.judge)
    items = f"{len(waiting)} of {len(job.examples)} items"
    note(f"recipe {chosen.name} ({chosen.origin}): {items}; estimated, if nothing stops early:")
    for who, cost in (("program", asked), ("judge", judged), ("all", asked + judged)):
        note(f"  {who:<8}{cost.calls:>9,} calls  {cost.tokens:>13,} tokens  {cost.dollars:>18}")
    if asked.most_calls > asked.calls:
        note(f"  the program makes at most {asked.most_calls:,} calls, if no reply can be read at once")


def _confirm() -> None:
    answer = confirmed()
    if answer is None:
        raise ConfigurationError("nobody is there to confirm this; add --yes to run it")
    if not answer:
        raise ConfigurationError("not confirmed; nothing was run")


def _evaluate(job: Job, options: Eval, budget: Budget | None) -> EvaluateResult:
    try:
        return evaluate(
            job.program,
            job.devset,
            job.metric,
            official=options.metric is None,
            out=options.out,
            against=options.against,
            outputs=options.outputs,
            concurrency=options.concurrency,
            budget=budget,
            progress=not settings.quiet,
            name=options.name,
            trace=options.trace,
        )
    except KeyboardInterrupt:
        if options.out is not None:
            note(f"the same command resumes the run: finished items are in {options.out}")
        raise


def _warn_of_gaps(result: EvaluateResult, remarks: Sequence[str]) -> None:
    for remark in remarks:
        warning(remark)
    if result.errors:
        how = "the same command tries them again" if result.path else "with --out they could be tried again"
        warning(f"{result.errors} of {result.items} items failed and are in no score; {how}")
    if result.unparsed:
        how = "the same command asks again" if result.path else "with --out they could be asked for again"
        warning(f"verdicts on {result.unparsed} of {result.items} items could not be read; they are in no score; {how}")
    if result.unread:
        how = "the same command asks again" if result.path else "with --out they could be asked for again"
        warning(f"{result.unread} of {result.items} answers could not be read and count as wrong; {how}")
    if result.pending:
        how = "the same command with a larger budget resumes it" if result.path else "with --out it could be resumed"
        warning(f"the budget ended the run: {result.pending} of {result.items} items were not run; {how}")
