"""What an evaluation is of: the program, the data, the metric and the judge that the options describe."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dspy

from moa_dspy import presets
from moa_dspy.architecture import Architecture
from moa_dspy.cli.budgets import agreed
from moa_dspy.cli.commands.eval import checked_file
from moa_dspy.cli.console import note, warning
from moa_dspy.cli.keys import check_keys, missing_variables
from moa_dspy.cli.options import Options, refuse_contradictions
from moa_dspy.cli.programs import agent_config, build_program, uses_default_agents
from moa_dspy.cost.budget import Budget
from moa_dspy.data.benchmark import Benchmark
from moa_dspy.data.metrics.metric import Metric
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.evaluate import check_inputs, evaluate
from moa_dspy.evaluation.fingerprint import identified
from moa_dspy.evaluation.outputs import check_outputs
from moa_dspy.evaluation.recipes import ENDPOINT_VARIABLE, Recipe, recipe
from moa_dspy.evaluation.records import latest, read_records
from moa_dspy.evaluation.suite import OwnData, Selection, named_metric, open_benchmark
from moa_dspy.program import AttentionMoA

if TYPE_CHECKING:
    from moa_dspy.cli.commands.eval import EvalOptions
    from moa_dspy.evaluation.results import Evaluation
    from moa_dspy.signatures import TaskSignature

__all__ = ["Job", "announce", "check_reach", "confirm", "prepare"]

PRESETS: Final = ("single", "self-consistency", "self-moa", "moa", "attention-moa")
_SAMPLES: Final = 5
_SETTLED_BY_RECIPE: Final = (
    "benchmark", "agents", "config", "program", "layers", "attention", "aggregator", "signature", "split", "metric"
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """An evaluation, ready to be run.

    Attributes:
        program: what is evaluated.
        benchmark: what it is asked.
        examples: all of them.
        metric: what scores them.
        judge: the judge's model.
        own_metric: whether the metric is the benchmark's own.
        out: file of records.
        split: of the benchmark.
        recipe: which this is.
        remarks: what the user should know of how the examples will be scored.
    """

    program: AttentionMoA
    benchmark: Benchmark
    examples: Sequence[dspy.Example]
    metric: Metric
    judge: dspy.BaseLM | None
    own_metric: bool
    out: str | None
    split: str | None
    recipe: Recipe | None = None
    remarks: Sequence[str] = ()

    @property
    def waiting(self) -> list[dspy.Example]:
        """Return the examples that have no record yet."""
        if self.out is None or not Path(self.out).is_file() or not Path(self.out).stat().st_size:
            return list(self.examples)
        done = {name for name, record in latest(read_records(self.out)[1]).items() if record.status != "error"}
        return [example for name, example in identified(self.examples).items() if name not in done]

    def run(self, options: EvalOptions) -> Evaluation:
        """Run it."""
        return evaluate(
            self.program,
            self.benchmark,
            examples=self.examples,
            split=self.split,
            limit=options.limit,
            seed=options.seed,
            metric=self.metric,
            official=self.own_metric,
            out=self.out,
            against=options.against,
            outputs=options.outputs,
            concurrency=options.concurrency,
            budget=Budget(calls=options.max_calls, usd=options.max_usd),
            progress=not options.quiet,
            path=options.data,
            name=options.name,
        )


def prepare(options: EvalOptions) -> Job:
    """Return the evaluation that the options describe; everything about it has been checked, nothing been asked.

    Raises:
        ConfigurationError: something does not fit.
    """
    chosen = None if options.recipe is None else _recipe(options)
    name = options.benchmark if chosen is None else chosen.benchmark
    if not name:
        raise ConfigurationError("there is no BENCHMARK; name one, or a file of your own, or give --recipe")
    Budget(calls=options.max_calls, usd=options.max_usd)
    out = options.out
    if out is None and chosen is not None:
        out = "-".join(filter(None, (chosen.name, options.preset))) + ".jsonl"
    for path, option in ((out, "--out"), (options.outputs, "--outputs")):
        checked_file(path, option)
    benchmark = open_benchmark(name)
    if options.outputs is not None:
        check_outputs(benchmark, options.outputs)
    judge = _judge(options, benchmark, chosen)
    metric = _metric(options, benchmark, judge, chosen)
    program = _program(options, benchmark, chosen)
    split = options.split if chosen is None else chosen.split
    selection = Selection(
        split, options.limit, options.seed, options.data, _fields(options.fields), list(program.task.input_fields)
    )
    examples = selection.load(benchmark, name)
    check_inputs(program, examples[0])
    remarks = metric.check_examples(examples)
    own = options.metric is None
    return Job(program, benchmark, examples, metric, judge if own else None, own, out, split, chosen, remarks)


def announce(job: Job, *, quiet: bool) -> None:
    """Show how the examples will be scored and what a recipe will take; nothing where all of it has been run."""
    from moa_dspy.evaluation.estimates import estimate_cost

    waiting = job.waiting
    if not waiting:
        return
    for remark in () if quiet else job.remarks:
        warning(remark)
    if job.recipe is None:
        return
    asked, judged = estimate_cost(job.program, waiting, job.metric, job.judge)
    items = f"{len(waiting)} of {len(job.examples)} items"
    note(f"recipe {job.recipe.name} ({job.recipe.origin}): {items}; estimated, if nothing stops early:")
    for who, cost in (("program", asked), ("judge", judged), ("all", asked + judged)):
        note(f"  {who:<8}{cost.calls:>9,} calls  {cost.tokens:>13,} tokens  {cost.dollars:>18}")


def confirm(job: Job, *, yes: bool) -> None:
    """Have a recipe confirmed, unless all of it has been run.

    Raises:
        ConfigurationError: it was declined, or there is nobody to ask.
    """
    if yes or not job.waiting:
        return
    answer = agreed()
    if answer is None:
        raise ConfigurationError("nobody is there to confirm this; add --yes to run it")
    if not answer:
        raise ConfigurationError("not confirmed; nothing was run")


def check_reach(job: Job) -> None:
    """Refuse what has no key or no address, before the first call.

    Raises:
        ConfigurationError: names the environment variable to set.
    """
    program, judge = job.program, job.judge
    check_keys(program)
    if judge is not None and (variables := missing_variables(judge)):
        raise ConfigurationError(f"no API key for the judge {judge.model}: set {' or '.join(variables)}")
    lms = [agent.lm for agent in (*program.agents, program.aggregator) if agent is not None]
    for lm in (*lms, judge):
        if not isinstance(lm, dspy.LM) or not lm.model.startswith("hosted_vllm/"):
            continue
        if not (lm.kwargs.get("api_base") or os.environ.get(ENDPOINT_VARIABLE)):
            raise ConfigurationError(
                f"no address for {lm.model}: set {ENDPOINT_VARIABLE}, such as http://127.0.0.1:8000/v1"
            )


def _recipe(options: EvalOptions) -> Recipe:
    settled = [name for name in _SETTLED_BY_RECIPE if getattr(options, name) not in (None, ())]
    if settled:
        names = ", ".join({"benchmark": "BENCHMARK", "agents": "--agent"}.get(name, f"--{name}") for name in settled)
        raise ConfigurationError(f"{names} cannot go with --recipe, which settles it; leave one of them out")
    return recipe(options.recipe or "")


def _program(options: EvalOptions, benchmark: Benchmark, chosen: Recipe | None) -> AttentionMoA:
    own_data = isinstance(benchmark, OwnData)
    if options.signature is not None and not own_data:
        raise ConfigurationError(f"--signature is for your own data; {benchmark.name} says its own")
    if options.preset is None and options.samples is not None:
        raise ConfigurationError("--samples is for --preset self-consistency and self-moa")
    program = _built(options) if chosen is None else chosen.config().program()
    if options.program is not None:
        if options.preset is not None:
            raise ConfigurationError("--preset cannot go with --program: the program file settles it")
        return program
    return _shaped(program, program.task if own_data else benchmark.signature, options.preset, options.samples)


def _built(options: EvalOptions) -> AttentionMoA:
    asked = Options(
        agents=options.agents,
        config=options.config,
        program=options.program,
        layers=options.layers,
        attention=options.attention,
        aggregator=options.aggregator,
        signature=options.signature,
    )
    refuse_contradictions(asked)
    if uses_default_agents(asked) and not options.quiet:
        note("no agent is named: those on the embedded model 'local' are evaluated; --agent names others")
    return build_program(asked)


def _shaped(program: AttentionMoA, task: TaskSignature, preset: str | None, samples: int | None) -> AttentionMoA:
    """The same agents on another task, in the shape of a preset."""
    shape, agents, aggregator = program.architecture, program.agents, program.aggregator
    number = samples or _SAMPLES
    limits: dict[str, Any] = {"budget": program.budget, "tolerance": program.tolerance}
    if preset is None:
        kept = {
            name: getattr(shape, name) for name in Architecture.model_fields if name not in ("agents", "aggregator")
        }
        return AttentionMoA(task, agents, aggregator=aggregator, **kept, **limits)
    common = {"reasoning": shape.reasoning, **limits}
    makers: Mapping[str, Callable[[], AttentionMoA]] = {
        "single": lambda: presets.single_model(task, agents[0], **common),
        "self-consistency": lambda: presets.self_consistency(task, agents[0], number, **common),
        "self-moa": lambda: presets.self_moa(task, agents[0], number, shape.layers, aggregator, **common),
        "moa": lambda: presets.mixture_of_agents(task, agents, shape.layers, aggregator, **common),
        "attention-moa": lambda: presets.attention_moa(
            task, agents, shape.layers, aggregator, early_stop=shape.early_stop, **common
        ),
    }
    if preset not in makers:
        raise ConfigurationError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
    return makers[preset]()


def _judge(options: EvalOptions, benchmark: Benchmark, chosen: Recipe | None) -> dspy.BaseLM | None:
    needed = benchmark.needs_judge and options.metric is None
    if not needed:
        given = [name for name in ("judge", "judge_prompts") if getattr(options, name) is not None]
        if given:
            names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigurationError(f"{names}: nothing is judged here; leave it out")
        return None
    model = options.judge or (None if chosen is None else chosen.judge)
    if model is None:
        raise ConfigurationError(f"{benchmark.title} is judged by a model; name it with --judge")
    config = agent_config(model, "--judge")
    return config.model_copy(update={"temperature": config.temperature or 0.0}).lm()


def _metric(options: EvalOptions, benchmark: Benchmark, judge: dspy.BaseLM | None, chosen: Recipe | None) -> Metric:
    if options.metric is not None:
        return named_metric(options.metric)
    if options.judge_prompts is not None:
        if not Path(options.judge_prompts).exists():
            raise ConfigurationError(f"--judge-prompts {options.judge_prompts}: there is no such folder")
        return benchmark.metric(judge, options.judge_prompts)
    if chosen is not None:
        reasons = []
        for folder in benchmark.folders(options.data):
            try:
                return benchmark.metric(judge, folder)
            except ConfigurationError as error:
                reasons.append(str(error))
        if not options.quiet:
            reason = reasons[0] if reasons else "no folder was named"
            warning(f"our own judge is used, not the official prompts: {reason}; --judge-prompts names their folder")
    return benchmark.metric(judge)


def _fields(text: str | None) -> dict[str, str] | None:
    """The mapping of ``question=prompt,answer=label``; a field alone is a column of the same name."""
    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    mapping = {field.strip(): (column if equals else field).strip() for field, equals, column in pairs}
    if not all(mapping) or not all(mapping.values()) or len(mapping) < len(pairs):
        raise ConfigurationError(f"--fields {text!r} is not FIELD=COLUMN,FIELD=COLUMN with different fields")
    return mapping
