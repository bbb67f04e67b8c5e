"""``evaluate``: a program's score on a benchmark or on examples, with its interval; and what that will cost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import dspy

from moa_dspy.batches.batcher import Batcher, Batches
from moa_dspy.cost.budget import Budget, BudgetGuard
from moa_dspy.cost.usage import Usage
from moa_dspy.data.benchmark import Answered, Benchmark
from moa_dspy.data.judges import JudgeMetric
from moa_dspy.errors import AllRunsFailedError, ConfigurationError, MetricError, MoAError, RunError
from moa_dspy.evaluation.fingerprint import content_of, fingerprint, identified, label
from moa_dspy.evaluation.progress import EvaluateProgress, Totals, progress_display
from moa_dspy.evaluation.records import Record, RecordFile, latest, outputs_of, restored
from moa_dspy.evaluation.results import EvaluateResult, by_category, paired_difference, read_other
from moa_dspy.evaluation.runner import (
    ExampleRunner,
    Item,
    Run,
    calls_of_a_run,
    check_budget,
    check_concurrency,
    models_of,
)
from moa_dspy.evaluation.scoring import Metric
from moa_dspy.evaluation.statistics import Score
from moa_dspy.evaluation.suite import Devset, fit_metric, output_fields_of
from moa_dspy.files.atomic_write import replace_file
from moa_dspy.planning import CostEstimate, Lengths, evenly_spaced, total
from moa_dspy.presets import single_model
from moa_dspy.program import AttentionMoA
from moa_dspy.runtime import event_loop
from moa_dspy.signatures import needed_inputs

__all__ = [
    "AllRunsFailedError",
    "ConfigurationError",
    "MetricError",
    "RunError",
    "check_inputs",
    "check_outputs",
    "estimate_cost",
    "evaluate",
    "turns_of",
]

_AT_ONCE: Final = 8  # items
_PLANNED: Final = 5  # number of examples planned for an estimate
_REPLY: Final = 300  # assumed tokens of a judge's reply
_ANSWER: Final = "word " * 450  # assumed answer in a conversation


def evaluate(
    program: dspy.Module,
    devset: Devset | Benchmark | str | Path | Sequence[dspy.Example],
    metric: Metric | None = None,
    *,
    limit: int | None = None,
    seed: int | None = None,
    judge: dspy.BaseLM | None = None,
    judge_prompts: str | Path | None = None,
    official: bool | None = None,
    out: str | Path | None = None,
    against: str | Path | None = None,
    outputs: str | Path | None = None,
    name: str | None = None,
    trace: bool = False,
    batch: Batches | bool = False,
    concurrency: int | None = None,
    budget: Budget | None = None,
    progress: Callable[[EvaluateProgress], None] | bool = False,
) -> EvaluateResult:
    """Score a program on examples. With ``out``, an interrupted evaluation resumes.

    Args:
        program: any DSPy module.
        devset: a benchmark, its name, a file, folder or hub id, or examples; see ``Devset.load``.
        metric: default: the benchmark's own.
        limit: maximum number of examples, drawn by content: a larger limit includes the smaller sample.
        seed: seed of the sample; default: the ``Devset``'s, or 0.
        judge: the judge's LM, if the benchmark's metric has a judge.
        judge_prompts: folder with the official judge prompts; default: our own judge prompt.
        official: compute the benchmark's official figures; default: if the benchmark's own metric is used.
        out: JSONL file of records. Items with a record run again only if they failed or could not be read.
        against: records of another evaluation of the same data, to compare with.
        outputs: file for answers in the official format, or a folder for answers and judgments in the official layout.
        name: the program's name in the result and in official files.
        trace: whether each record has the trace of its run, for the report.
        batch: whether requests go in batches of their provider, at half the price; or how, see ``Batches``.
        concurrency: maximum number of concurrent items. Default: 8, or all in batches.
        budget: limits of the evaluation, including the judge and earlier starts (seconds: this start only).
        progress: called after each item; True shows progress on standard error.

    Raises:
        ConfigurationError: if program, metric, data and files are incompatible, or if the budget is in dollars and the
            price of a model is unknown.
        RunError: if the first ten items all failed, or if a file cannot be written.
    """
    data = Devset.of(devset, limit, seed)
    scorer = data.benchmark.metric(judge, judge_prompts) if metric is None else metric
    check_inputs(program, data.examples)
    scorer, remarks = fit_metric(scorer, output_fields_of(program), data.examples)
    job = _Job(program, data, scorer, identified(data.examples), name or label(program), trace)
    others = {} if against is None else read_other(against, job.run)
    check_outputs(data.benchmark, outputs)
    done, cut_short = _run(job, out, Batches.of(batch), budget, concurrency, progress)
    result = _result(job, done, cut_short, out)
    if official or (official is None and metric is None):
        result = replace(result, figures=_figures(data, result.records))
    comparison = None if against is None else paired_difference(done, others, other=Path(against).name)
    remarks += [] if outputs is None else _write_outputs(job, done, outputs)
    return replace(result, comparison=comparison, seconds=time.perf_counter() - job.began, remarks=remarks)


def turns_of(examples: Sequence[dspy.Example]) -> int:
    """Return the number of calls of the program per item: the turns of the longest conversation, or 1."""
    return max((len(example["turns"]) for example in examples if "turns" in example), default=1)


def check_inputs(program: dspy.Module, examples: Sequence[dspy.Example]) -> None:
    """Raise ConfigurationError if an input of an ``AttentionMoA`` is unknown, missing, or None in an example."""
    if not isinstance(program, AttentionMoA) or not examples:
        return
    inputs, known = list(examples[0].inputs().keys()), list(program.signature.input_fields)
    unknown = [field for field in inputs if field not in known]
    missing = [field for field in program.task.input_fields if field not in inputs]
    if unknown or (missing and not inputs):
        raise ConfigurationError(
            f"the data's inputs ({', '.join(inputs)}) are not the program's ({', '.join(known)}); "
            "map columns with fields={...}, or use a program with the benchmark's signature"
        )
    for name in needed_inputs(program.task):
        lacking = [number for number, example in enumerate(examples, start=1) if example.get(name) is None]
        if name in inputs and lacking:
            raise ConfigurationError(
                f"{len(lacking)} of {len(examples)} examples have no value for the input {name!r}; the first is number "
                f"{lacking[0]} of those chosen: correct them, or leave them out"
            )


def check_outputs(benchmark: Benchmark, path: str | Path | None) -> None:
    """Raise ConfigurationError if ``path`` is given, and the benchmark has no official format or the file no folder."""
    if path is None:
        return
    if not benchmark.official_outputs:
        raise ConfigurationError(f"{benchmark.name} has no official format of answers; leave outputs= out")
    if not Path(path).is_dir() and not Path(path).parent.is_dir():
        raise ConfigurationError(f"cannot write {path}: its folder does not exist")


def estimate_cost(
    program: AttentionMoA, examples: Sequence[dspy.Example], metric: Callable[..., Any], judge: dspy.BaseLM | None
) -> tuple[CostEstimate, CostEstimate]:
    """Return the estimated cost of the program's calls and of the judge's calls.

    A few examples are planned, and their cost is scaled to all examples.
    """
    chosen = evenly_spaced(examples, _PLANNED)

    def scaled(cost_of: Callable[[dspy.Example], CostEstimate]) -> CostEstimate:
        return total(map(cost_of, chosen)).times(len(examples) / len(chosen))

    asked = scaled(lambda example: total(program.plan(turn).full for turn in (example, *_later_turns(example))))
    judged = CostEstimate() if judge is None else scaled(lambda example: _verdicts(judge, example, metric))
    return asked, judged


@dataclass(frozen=True)
class _Job:
    """One call of ``evaluate``: program, data and metric."""

    program: dspy.Module
    data: Devset
    metric: Metric
    examples: Mapping[str, dspy.Example]
    name: str
    trace: bool
    began: float = field(default_factory=time.perf_counter)

    @cached_property
    def run(self) -> dict[str, Any]:
        """Return the run's fingerprint."""
        return fingerprint(self.program, self.data.benchmark.name, self.data.split, self.data.seed, self.metric)

    @cached_property
    def contents(self) -> dict[str, str]:
        """Return the digest of each example."""
        return {name: content_of(example) for name, example in self.examples.items()}

    def item(self, name: str, record: Record | None) -> Item:
        """Return the item to run. If only the metric failed on the recorded answer, only the metric is called."""
        if record is None:
            return Item(name, self.examples[name])
        answer = restored(self.program, record.outputs) if record.outputs and not record.unread else None
        return Item(name, self.examples[name], answer, again=record.unread or record.status == "unparsed")

    def record(self, item: Item, run: Run, earlier: Record | None) -> Record:
        """Return the record of a run. Its usage includes earlier attempts."""
        answered = earlier if item.prediction is not None else None
        return Record(
            id=item.key,
            content=self.contents[item.key],
            category=self.data.benchmark.category(item.example),
            status=run.status,
            score=run.score,
            feedback=run.feedback,
            outputs=answered.outputs if answered else outputs_of(run.prediction),
            details=dict(run.details),
            error=run.failure if run.status == "error" else None,
            program=run.program_usage + earlier.program if earlier else run.program_usage,
            judge=run.metric_usage + earlier.judge if earlier else run.metric_usage,
            seconds=round(run.seconds + (answered.seconds if answered else 0.0), 3),
            finished=round(time.time(), 3),
            trace=answered.trace if answered else run.trace,
        )


def _run(
    job: _Job,
    out: str | Path | None,
    batches: Batches | None,
    budget: Budget | None,
    concurrency: int | None,
    progress: Callable[[EvaluateProgress], None] | bool,
) -> tuple[dict[str, Record], Mapping[str, Usage]]:
    """Run the items without a record. Return the record of each item that has one, and the usage of those cut short."""
    if concurrency is None:
        concurrency = _AT_ONCE if batches is None else len(job.examples)
    check_concurrency(concurrency)
    judge = job.metric if isinstance(job.metric, JudgeMetric) else None
    judged = 0 if judge is None else judge.calls
    calls = (calls_of_a_run(job.program) + judged) * turns_of(list(job.examples.values()))
    check_budget(budget, [*models_of(job.program), *([] if judge is None else judge.lms)])
    guard = BudgetGuard(budget)
    if guard.budget.calls is not None and guard.budget.calls < calls:
        raise ConfigurationError(
            f"a budget of {guard.budget.calls} calls is too small for a single item, which takes {calls}"
        )
    with ExitStack() as stack:
        if batches is not None:
            stack.enter_context(Batcher(batches, out))
        file = None if out is None else stack.enter_context(RecordFile(out, job.run, job.contents))
        done = {} if file is None else latest(file.records)
        for record in done.values():
            guard.spend(record.usage)
        show = stack.enter_context(progress_display(progress))
        totals = Totals(len(job.examples), done.values())
        failed = {name: record for name, record in done.items() if record.status == "error"}
        runner = ExampleRunner(
            job.program,
            job.metric,
            concurrency=concurrency,
            guard=guard,
            benchmark=job.data.benchmark,
            calls=calls,
            keep_traces=job.trace,
            succeeded=len(failed) < len(done),
        )

        def on_run(item: Item, run: Run) -> None:
            earlier = done.get(item.key)
            record = done[item.key] = job.record(item, run, earlier)
            if file is not None:
                file.add(record)
            if show is not None:
                totals.add(record, earlier)
                show(totals.progress(record))

        def on_cut(item: Item, run: Run) -> None:
            if file is not None and (run.program_usage.calls or run.metric_usage.calls):
                file.add(job.record(item, run, done.get(item.key)))  # so that a later start counts it

        if show is not None:
            show(totals.progress())
        items = [job.item(name, done.get(name)) for name in job.examples if name not in done or not done[name].complete]
        event_loop.run(lambda: runner.run(items, on_run, on_cut=on_cut))
    return done, runner.cut_short


def _result(
    job: _Job, done: Mapping[str, Record], cut_short: Mapping[str, Usage], out: str | Path | None
) -> EvaluateResult:
    records = [done[name] for name in job.examples if name in done]
    pending = len(job.examples) - len(records)
    scores = [record.score for record in records if record.score is not None]
    return EvaluateResult(
        benchmark=job.data.benchmark.name,
        split=job.data.split,
        program=job.name,
        metric=job.run["metric"]["name"],
        items=len(job.examples),
        score=Score.of(scores) if scores else None,
        categories=by_category(records),
        errors=sum(record.status == "error" for record in records),
        unparsed=sum(record.status == "unparsed" for record in records),
        unread=sum(record.unread for record in records),
        pending=pending,
        ended_by="budget" if pending else "items",
        figures={},
        program_usage=sum(
            (record.program for record in records if record.program.calls or record.program.seconds),
            start=cut_short["program"],
        ),
        judge_usage=sum((record.judge for record in records if record.judge.calls), start=cut_short["metric"]),
        seconds=0.0,
        records=tuple(records),
        path=None if out is None else Path(out),
    )


def _figures(data: Devset, records: Sequence[Record]) -> Mapping[str, Any]:
    """Return the official figures, or the reason why they cannot be computed. The records are kept in both cases."""
    judged = (record for record in records if record.status != "error" and not record.unread)
    details = [record.details for record in judged if record.details]
    if not details:
        return {}
    try:
        figures = data.benchmark.summarize(details, data.path)
    except MoAError as error:
        return {"no_official_figures": str(error)}
    whole = data.benchmark.sizes.get(data.split, 0)
    if figures and len(details) < whole:
        figures["sample"] = f"{len(details)} of {whole} items: not to be compared with figures of all"
    return figures


def _write_outputs(job: _Job, records: Mapping[str, Record], path: str | Path) -> list[str]:
    """Write the answers in the official format, and into a folder also the judgments.

    Returns:
        A remark if some answers are missing, because an item has none.

    Raises:
        RunError: if a file cannot be written.
    """
    benchmark, answered = job.data.benchmark, _answered(job, records)
    files = {Path(path): benchmark.format_outputs(answered, job.name)}
    if Path(path).is_dir():
        judge = job.metric.judge_name if isinstance(job.metric, JudgeMetric) else "judge"

        def place(name: str) -> Path:
            return Path(path) / name.replace("<name>", _safe_name(job.name)).replace("<judge>", _safe_name(judge))

        files = {place(benchmark.official_outputs): files[Path(path)]}
        if benchmark.official_judgments and isinstance(job.metric, JudgeMetric):
            judged = [item for item in answered if item.details]
            judgments = benchmark.format_judgments(judged, job.name, judge)
            files[place(benchmark.official_judgments)] = judgments
    try:
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, text.encode())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from None
    if len(answered) == len(job.examples):
        return []
    return [f"{path} holds {len(answered)} of {len(job.examples)} answers: the others failed or were not run"]


def _answered(job: _Job, records: Mapping[str, Record]) -> list[Answered]:
    return [
        Answered(example, records[key].outputs, records[key].finished, records[key].details)
        for key, example in job.examples.items()
        if key in records and records[key].outputs
    ]


def _safe_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "program"


def _later_turns(example: dspy.Example) -> Iterator[dict[str, Any]]:
    """Yield the inputs of all turns after the first, with the conversation so far."""
    turns = example.get("turns", [])
    messages = [{"question": question, "answer": _ANSWER} for question in turns]
    for number in range(1, len(turns)):
        yield {"history": dspy.History(messages=messages[:number]), "question": turns[number]}


def _verdicts(judge: dspy.BaseLM, example: dspy.Example, metric: Callable[..., Any]) -> CostEstimate:
    """Return the cost of judging one example. The judge reads the example and an answer in each of its calls."""
    calls, reply = (metric.calls, metric.reply_tokens) if isinstance(metric, JudgeMetric) else (1, _REPLY)
    reader = single_model("material -> verdict", judge, reasoning=False)
    material = " ".join(str(value) for value in example.toDict().values()) + " word" * 900
    return reader.plan(material=material, lengths=Lengths(answer=reply)).full.times(turns_of([example]) * calls)
