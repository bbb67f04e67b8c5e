"""The program, the examples and the metric for commands that run on examples."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dspy

from moa_dspy import presets
from moa_dspy.cli.options import ExampleOptions
from moa_dspy.cli.programs import build_program, check_keys, check_lms, model_named, uses_default_agents
from moa_dspy.data.benchmark import Benchmark
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.evaluate import check_inputs, estimate_cost, turns_of
from moa_dspy.evaluation.recipes import ENDPOINT_VARIABLE
from moa_dspy.evaluation.scoring import Metric
from moa_dspy.evaluation.suite import Devset, OwnData, fit_metric, named_metric, open_benchmark, output_fields_of
from moa_dspy.planning import CostEstimate, PartEstimate, WorkEstimate
from moa_dspy.program import AttentionMoA

__all__ = [
    "Job",
    "check_reach",
    "data_name",
    "fields_of",
    "find_benchmark",
    "find_judge",
    "prepare",
    "shaped",
    "tuning_job",
    "work_of",
]

_SAMPLES: Final = 5


@dataclass(frozen=True)
class Job:
    """The program, the examples and the metric of a command, its judge, and remarks on the scoring."""

    program: AttentionMoA
    devset: Devset
    metric: Metric
    judge: dspy.BaseLM | None = None
    remarks: Sequence[str] = ()

    @property
    def examples(self) -> Sequence[dspy.Example]:
        """Return the examples."""
        return self.devset.examples


def tuning_job(options: ExampleOptions) -> Job:
    """Return the checked job of a command that tunes, compares or profiles a program.

    Raises:
        ConfigurationError: if an option is missing or does not fit.
    """
    if uses_default_agents(options):
        raise ConfigurationError("there is no program; name a saved PROGRAM, or agents with --config or --agent")
    benchmark = find_benchmark(options)
    judge = find_judge(options, benchmark)
    metric = named_metric(options.metric) if options.metric is not None else benchmark.metric(judge)
    program = build_program(options)
    if options.program is None:
        program = shaped(program, benchmark, options.signature)
    job = prepare(program, benchmark, options, metric, judge)
    if turns_of(job.examples) > 1:
        raise ConfigurationError(f"{benchmark.name} has conversations of several turns; only eval runs these")
    check_reach(job)
    return job


def prepare(
    program: AttentionMoA, benchmark: Benchmark, options: ExampleOptions, metric: Metric, judge: dspy.BaseLM | None
) -> Job:
    """Return a job with its examples loaded.

    Raises:
        ConfigurationError: if the examples cannot be read, or do not fit the program or the metric.
    """
    devset = Devset.load(
        options.source or benchmark,
        split=options.split,
        limit=options.limit,
        seed=options.seed,
        path=options.path,
        fields=fields_of(options.fields),
        inputs=list(program.task.input_fields),
    )
    check_inputs(program, devset.examples)
    metric, remarks = fit_metric(metric, output_fields_of(program), devset.examples)
    return Job(program, devset, metric, judge, remarks)


def find_benchmark(options: ExampleOptions) -> Benchmark:
    """Return the benchmark of ``--benchmark`` or ``--data``.

    Raises:
        ConfigurationError: if not exactly one of them is given, or it does not exist.
    """
    if options.benchmark is not None and options.data is not None:
        raise ConfigurationError("--benchmark and --data are both the examples; leave one of them out")
    if not options.source:
        raise ConfigurationError("no examples are given; give --data FILE or --benchmark NAME")
    benchmark = open_benchmark(options.source)
    if options.benchmark is not None and isinstance(benchmark, OwnData):
        raise ConfigurationError(
            f"--benchmark {options.benchmark} is not a benchmark; give your own examples with --data"
        )
    return benchmark


def find_judge(options: ExampleOptions, benchmark: Benchmark) -> dspy.BaseLM | None:
    """Return the judge's LM, or None if the metric needs none.

    Raises:
        ConfigurationError: if a judge is needed but not named, or named but not needed.
    """
    if not (benchmark.needs_judge and options.metric is None):
        if options.judge is not None:
            raise ConfigurationError("--judge: the metric needs no model here; leave it out")
        return None
    if options.judge is None:
        raise ConfigurationError(f"{benchmark.title} is judged by a model; name it with --judge")
    config = model_named(options.judge, "--judge")
    return config.model_copy(update={"temperature": config.temperature or 0.0}).lm()


def shaped(
    program: AttentionMoA,
    benchmark: Benchmark,
    signature: str | None,
    preset: str | None = None,
    samples: int | None = None,
) -> AttentionMoA:
    """Return a program with the same agents, for the benchmark's task, with the architecture of a preset.

    Raises:
        ConfigurationError: if the preset is unknown, or ``--signature`` is given for a benchmark, which has its own.
    """
    own_data = isinstance(benchmark, OwnData)
    if signature is not None and not own_data:
        raise ConfigurationError(f"--signature is for --data; {benchmark.name} has its own signature")
    task = program.task if own_data else benchmark.signature
    if preset is None:
        return program if own_data else program.replace(signature=task)
    shape, agents = program.architecture, program.agents
    common: dict[str, Any] = {
        "reasoning": shape.reasoning, "budget": program.budget, "tolerance": program.tolerance
    }  # fmt: skip
    layered = {"layers": shape.layers, "aggregator": program.aggregator, **common}
    moa = {**layered, "layers": max(2, shape.layers)}  # the last layer is the aggregator alone
    number = samples or _SAMPLES
    builders: Mapping[str, Callable[[], AttentionMoA]] = {
        "single": lambda: presets.single_model(task, agents[0], **common),
        "self-consistency": lambda: presets.self_consistency(task, agents[0], samples=number, **common),
        "self-moa": lambda: presets.self_moa(task, agents[0], samples=number, **moa),
        "moa": lambda: presets.mixture_of_agents(task, agents, **moa),
        "attention-moa": lambda: presets.attention_moa(task, agents, early_stop=shape.early_stop, **layered),
    }
    if preset not in builders:
        raise ConfigurationError(f"--preset {preset!r} is not a preset; choose one of {', '.join(builders)}")
    return builders[preset]()


def check_reach(job: Job) -> None:
    """Raise ConfigurationError if a model has no key or no address. The message names the variable to set."""
    check_keys(job.program)
    check_lms([job.judge], "or name another judge")
    agents = [agent.lm for agent in (*job.program.agents, job.program.aggregator) if agent is not None]
    for lm in (*agents, job.judge):
        if not isinstance(lm, dspy.LM) or not lm.model.startswith("hosted_vllm/"):
            continue
        if not (lm.kwargs.get("api_base") or os.environ.get(ENDPOINT_VARIABLE)):
            raise ConfigurationError(
                f"no address for {lm.model}: set {ENDPOINT_VARIABLE}, such as http://127.0.0.1:8000/v1"
            )


def work_of(
    programs: Sequence[tuple[str, AttentionMoA]], job: Job, waiting: Sequence[dspy.Example] | None = None
) -> WorkEstimate:
    """Return the estimated cost of running programs on the job's examples, or on those that wait."""
    examples = job.examples if waiting is None else waiting
    costs: list[tuple[str, CostEstimate]] = []
    for name, program in programs:
        nothing = CostEstimate(), CostEstimate()
        asked, judged = estimate_cost(program, examples, job.metric, job.judge) if examples else nothing
        costs += [(name, asked), *([("judge", judged)] if job.judge is not None else [])]
    parts = tuple(PartEstimate(part=name, most=cost.at_most, expected=cost) for name, cost in costs)
    note = "calls that the response cache answers are included, and cost nothing; retries are not"
    return WorkEstimate(parts=parts, notes=(f"{len(examples)} examples, if nothing stops early; {note}",))


def data_name(data: str | None) -> str:
    """Return a file name without its folders, for records that leave this machine."""
    return Path(data or "").name


def fields_of(text: str | None) -> dict[str, str] | None:
    """Return the mapping of ``question=prompt,answer=label``. A field alone maps to the column of the same name.

    Raises:
        ConfigurationError: if the text has another form.
    """
    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    mapping = {field.strip(): (column if equals else field).strip() for field, equals, column in pairs}
    if not all(mapping) or not all(mapping.values()) or len(mapping) < len(pairs):
        raise ConfigurationError(f"--fields {text!r} is not FIELD=COLUMN,FIELD=COLUMN with different fields")
    return mapping
