"""``evaluate``: a program, a benchmark, a score with its interval."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.cost.budget import Budget
from moa_dspy.data.benchmark import Benchmark
from moa_dspy.data.metrics.metric import Metric
from moa_dspy.data.splitting import sample
from moa_dspy.errors import ConfigurationError, MoAError
from moa_dspy.evaluation.display import shown
from moa_dspy.evaluation.fingerprint import content_of, fingerprint, identified, label
from moa_dspy.evaluation.outputs import check_outputs, write_outputs
from moa_dspy.evaluation.paired import paired_difference, read_other
from moa_dspy.evaluation.purse import Purse
from moa_dspy.evaluation.records import Record, RecordFile, latest
from moa_dspy.evaluation.results import Evaluation, Progress, by_category
from moa_dspy.evaluation.runner import Runner
from moa_dspy.evaluation.spending import Spending
from moa_dspy.evaluation.statistics import Score
from moa_dspy.evaluation.suite import Selection, as_metric, open_benchmark
from moa_dspy.program import AttentionMoA
from moa_dspy.run import event_loop

__all__ = ["evaluate"]


def evaluate(
    program: dspy.Module,
    benchmark: Benchmark | str | Path,
    *,
    examples: Sequence[dspy.Example] | None = None,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    metric: Metric | Callable[..., Any] | None = None,
    official: bool | None = None,
    judge: dspy.BaseLM | None = None,
    judge_prompts: str | Path | None = None,
    out: str | Path | None = None,
    against: str | Path | None = None,
    outputs: str | Path | None = None,
    concurrency: int = 8,
    budget: Budget | None = None,
    progress: Callable[[Progress], None] | bool = False,
    fields: Mapping[str, str] | None = None,
    inputs: Sequence[str] = ("question",),
    path: str | Path | None = None,
    name: str | None = None,
) -> Evaluation:
    """Score a program on a benchmark, item by item, and go on where an earlier start of the same run stopped.

    Args:
        program: any DSPy module.
        benchmark: one, its name, or a file, folder or hub id of one's own data.
        examples: these instead of the benchmark's own.
        split: of the benchmark; default: its first.
        limit: the most items, also of ``examples``; they are drawn by content, so that a larger limit holds the
            smaller sample.
        seed: of the sample and of the resampling.
        metric: default: the benchmark's own.
        official: whether the benchmark's official figures are made of the metric's details; default: where the
            metric is the benchmark's own.
        judge: the LM that judges, for benchmarks that are judged.
        judge_prompts: folder with the official judge prompts; without it our own judge is asked.
        out: JSONL file of records. If it is there, items with a record are not run again; those that failed are. The
            same call with a larger limit, or without one, adds the other items.
        against: records of another run on the same data, to be compared item by item.
        outputs: file for the answers in the benchmark's official format.
        concurrency: items under way at once; the calls within an item are concurrent besides.
        budget: for the whole evaluation, judge included. No item is started that does not fit beside those under
            way; what is there then is the result, and the same call with a larger budget goes on.
        progress: True shows it on standard error; a function is called after each item.
        fields: for one's own data: example field to column.
        inputs: for one's own data: the fields that are inputs.
        path: folder with the benchmark's files.
        name: what the program is called in the result and in official files; default: its kind and agents.

    Raises:
        ConfigurationError: something does not fit, such as a file of another run; or the program, the metric and the
            data do not go together.
        RunError: all of the first ten items failed, or a file cannot be written.
    """
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigurationError(f"concurrency is a whole number from 1, not {concurrency!r}")
    task = benchmark if isinstance(benchmark, Benchmark) else open_benchmark(benchmark)
    scorer = task.metric(judge, judge_prompts) if metric is None else as_metric(metric)
    if examples is None:
        selection = Selection(split, limit, seed, path, fields, inputs)
        examples = selection.load(task, task.name if isinstance(benchmark, Benchmark) else benchmark)
    elif limit is not None:
        examples = sample(examples, limit, seed=seed)
    if not examples:
        raise ConfigurationError("there are no examples to evaluate on")
    check_inputs(program, examples[0])
    remarks = scorer.check_examples(examples)
    job = _Job(program, task, scorer, identified(examples), split or task.splits[0], seed, name or label(program))
    others = None if against is None else read_other(against, job.run)
    if outputs is not None:
        check_outputs(task, outputs)
    began = time.perf_counter()
    done = _run(job, out, Purse(budget or Budget(), program, turns_of(examples)), concurrency, progress)
    result = replace(_result(job, done), path=None if out is None else Path(out))
    if metric is None if official is None else official:
        result = replace(result, figures=_figures(task, job.split, result.records, path))
    if others is not None and against is not None:
        result = replace(result, comparison=paired_difference(done, others, other=Path(against).name, seed=seed))
    if outputs is not None:
        written = write_outputs(task, job.examples, done, outputs, job.name)
        if written < len(job.examples):
            remarks.append(
                f"{outputs} holds {written} of {len(job.examples)} answers: the others failed or were not run"
            )
    return replace(result, seconds=time.perf_counter() - began, remarks=remarks)


@dataclass(frozen=True)
class _Job:
    """What is evaluated, on what, by what."""

    program: dspy.Module
    task: Benchmark
    metric: Metric
    examples: Mapping[str, dspy.Example]
    split: str
    seed: int
    name: str

    @cached_property
    def run(self) -> dict[str, Any]:
        """The run's fingerprint."""
        return fingerprint(self.program, self.task.name, self.split, self.seed, self.metric)

    @cached_property
    def contents(self) -> dict[str, str]:
        """The digest of each example."""
        return {name: content_of(example) for name, example in self.examples.items()}


def _run(
    job: _Job,
    out: str | Path | None,
    purse: Purse,
    concurrency: int,
    progress: Callable[[Progress], None] | bool,
) -> dict[str, Record]:
    """Run what has no record yet, and return the record of each item that has one."""
    with ExitStack() as files:
        file = None if out is None else files.enter_context(RecordFile(out, job.run, job.contents))
        runner = Runner(
            program=job.program,
            benchmark=job.task,
            metric=job.metric,
            examples=job.examples,
            contents=job.contents,
            purse=purse,
            write=(lambda _: None) if file is None else file.append,
            show=files.enter_context(shown(progress)),
            done={} if file is None else latest(file.records),
            concurrency=concurrency,
        )
        event_loop.run(runner.run)
        return runner.done


def turns_of(examples: Sequence[dspy.Example]) -> int:
    """Return how often an item asks the program: once, or as often as its longest conversation has turns."""
    return max((len(example["turns"]) for example in examples if "turns" in example), default=1)


def check_inputs(program: dspy.Module, example: dspy.Example) -> None:
    """Refuse data whose inputs are not those of an ``AttentionMoA``, before anything is asked.

    Raises:
        ConfigurationError: names the fields of both.
    """
    if not isinstance(program, AttentionMoA):
        return
    given, known = list(example.inputs().keys()), list(program.signature.input_fields)
    unknown = [field for field in given if field not in known]
    missing = [field for field in program.task.input_fields if field not in given]
    if unknown or (missing and not given):
        raise ConfigurationError(
            f"the data's inputs ({', '.join(given)}) are not the program's ({', '.join(known)}); "
            "map columns with fields={...}, or use a program with the benchmark's signature"
        )


def _result(job: _Job, done: Mapping[str, Record]) -> Evaluation:
    records = [done[name] for name in job.examples if name in done]
    pending = len(job.examples) - len(records)
    scores = [record.score for record in records if record.score is not None]
    return Evaluation(
        benchmark=job.task.name,
        split=job.split,
        program=job.name,
        metric=job.run["metric"]["name"],
        items=len(job.examples),
        score=Score.of(scores, seed=job.seed) if scores else None,
        categories=by_category(records, job.seed),
        errors=sum(record.status == "error" for record in records),
        unparsed=sum(record.status == "unparsed" for record in records),
        pending=pending,
        ended_by="budget" if pending else "items",
        figures={},
        program_spent=sum((record.program for record in records), start=Spending()),
        judge_spent=sum((record.judge for record in records), start=Spending()),
        seconds=0.0,
        records=tuple(records),
    )


def _figures(task: Benchmark, split: str, records: Sequence[Record], path: str | Path | None) -> Mapping[str, Any]:
    """The official figures. That they cannot be computed must not lose what was paid for: the reason stands there."""
    details = [record.details for record in records if record.status != "error" and record.details]
    if not details:
        return {}
    try:
        figures = task.summarize(details, path)
    except MoAError as error:
        return {"no_official_figures": str(error)}
    whole = task.sizes.get(split, 0)
    if figures and len(details) < whole:
        figures["sample"] = f"{len(details)} of {whole} items: not to be compared with figures of all"
    return figures
