"""Benchmarks and metrics by name, and the examples that a program is evaluated on."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import dspy

from moa_dspy._dspy import has_input_keys
from moa_dspy.data.benchmark import Benchmark
from moa_dspy.data.benchmarks.registry import get_benchmark
from moa_dspy.data.loading import is_benchmark, load
from moa_dspy.data.metrics.choices import ChoiceLetter
from moa_dspy.data.metrics.mathematics import MathEquivalence
from moa_dspy.data.metrics.metric import Metric, TextMetric
from moa_dspy.data.metrics.numbers import Numeric
from moa_dspy.data.metrics.text import F1, Contains, ExactMatch, NormalizedMatch
from moa_dspy.data.sources import Row
from moa_dspy.data.splitting import sample
from moa_dspy.errors import ConfigurationError
from moa_dspy.evaluation.scoring import check_metric
from moa_dspy.extras import imported

__all__ = ["METRICS", "Devset", "OwnData", "fit_metric", "named_metric", "open_benchmark", "output_fields_of"]

METRICS: Final[Mapping[str, type[TextMetric]]] = {
    "exact": ExactMatch,
    "normalized": NormalizedMatch,
    "f1": F1,
    "contains": Contains,
    "numeric": Numeric,
    "choice": ChoiceLetter,
    "math": MathEquivalence,
}
"""Metrics by name. Each compares the task's output with the example's field of the same name, or ``answer``."""

_IN_MODULE: Final = re.compile(r"(?!.*\.py:)[^\W\d]\w*(?:\.\w+)*:\w+")
_IN_FILE: Final = re.compile(r"(?P<module>[\w./]+)\.py:(?P<function>\w+)")


class OwnData(Benchmark):
    """A user's own examples: one turn, no official figures, no default metric."""

    title = "own data"
    source = "the user"
    licence = "the user's"
    splits = ("all",)

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", name)

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """Return a row unchanged."""
        return dspy.Example(row)

    def metric(self, lm: dspy.BaseLM | None = None, prompts: Path | str | None = None) -> Metric:  # noqa: ARG002
        """Raise ConfigurationError with the metrics by name, because own data has no default metric."""
        raise ConfigurationError(
            f"{self.name} brings no metric; choose one: {', '.join(METRICS)}, or package.module:function"
        )


@dataclass(frozen=True)
class Devset:
    """Examples to evaluate on, and the benchmark they belong to.

    Attributes:
        benchmark: runs a program on the examples, and has the default metric.
        examples: at least one.
        split: the benchmark's split.
        seed: seed of the sample.
        path: folder with the benchmark's files, if official figures need it.

    Raises:
        ConfigurationError: if there are no examples.
    """

    benchmark: Benchmark
    examples: Sequence[dspy.Example]
    split: str = "all"
    seed: int = 0
    path: str | Path | None = None

    def __post_init__(self) -> None:
        if not self.examples:
            raise ConfigurationError("no examples to evaluate on; pass at least one")

    @classmethod
    def of(
        cls,
        devset: Devset | Benchmark | str | Path | Sequence[dspy.Example],
        limit: int | None = None,
        seed: int | None = None,
    ) -> Devset:
        """Return the examples with their benchmark, from any argument that ``evaluate`` accepts.

        Raises:
            ConfigurationError: if nothing can be read, or ``limit`` is below 1.
        """
        if isinstance(devset, (str, Path, Benchmark)):
            return cls.load(devset, limit=limit, seed=seed or 0)
        if not isinstance(devset, Devset):
            if isinstance(devset, dspy.Example) or not (hasattr(devset, "__iter__") or hasattr(devset, "__getitem__")):
                raise ConfigurationError(
                    f"pass a list of examples, each with example.with_inputs('question'), not {type(devset).__name__}"
                )
            examples = list(devset)
            if any(not has_input_keys(example) for example in examples):
                raise ConfigurationError(
                    "an example does not say what its inputs are; pass examples with example.with_inputs('question')"
                )
            devset = cls(OwnData("examples"), examples)
        if seed is not None:
            devset = replace(devset, seed=seed)
        if limit is None:
            return devset
        return replace(devset, examples=sample(devset.examples, limit, seed=devset.seed))

    @classmethod
    def load(
        cls,
        name: Benchmark | str | Path,
        *,
        split: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        path: str | Path | None = None,
        fields: Mapping[str, str] | None = None,
        inputs: Sequence[str] = ("question",),
    ) -> Devset:
        """Load the examples of a benchmark, or of your own data.

        Args:
            name: a benchmark or its name, or a file, folder or hub id of your own data.
            split: default: the benchmark's first.
            limit: maximum number of examples, drawn by content: a larger limit includes the smaller sample.
            seed: seed of the sample.
            path: folder with the benchmark's files.
            fields: for your own data: column of each example field.
            inputs: for your own data: the input fields.

        Raises:
            ConfigurationError: if nothing can be read, or if an option is invalid for the data.
        """
        if limit is not None and limit < 1:
            raise ConfigurationError(f"limit is 1 or more, not {limit}")
        benchmark = name if isinstance(name, Benchmark) else open_benchmark(name)
        sample_seed = None if limit is None else seed
        if isinstance(benchmark, OwnData):
            source = benchmark.name if isinstance(name, Benchmark) else name
            examples = load(source, split, limit=limit, seed=sample_seed, fields=fields, inputs=inputs, path=path)
        elif fields is not None:
            raise ConfigurationError(f"fields= is for your own data; {benchmark.name} says its own")
        else:
            examples = benchmark.load(split, limit=limit, seed=sample_seed, path=path)
        return cls(benchmark, examples, split or benchmark.splits[0], seed, path)


def open_benchmark(name: str | Path) -> Benchmark:
    """Return a benchmark by its name or ``package.module:Class``; ``OwnData`` for a file, a folder or a hub id.

    Raises:
        ConfigurationError: if the class is not a benchmark, or cannot be imported.
    """
    if _IN_MODULE.fullmatch(str(name)):
        kind = _attribute(str(name))
        if not (isinstance(kind, type) and issubclass(kind, Benchmark)):
            raise ConfigurationError(f"{name} is not a subclass of moa_dspy.data.Benchmark")
        return kind()
    return get_benchmark(str(name)) if is_benchmark(name) else OwnData(Path(name).name)


def fit_metric(metric: Any, outputs: Collection[str], examples: Sequence[dspy.Example]) -> tuple[Any, list[str]]:
    """Return the metric for a task with these outputs, and its remarks on scoring these examples.

    A plain function is returned as it is, without remarks. Nothing is paid for. ``outputs`` is empty if the fields are
    not known.

    Raises:
        ConfigurationError: if the metric cannot be called, does not fit the outputs, or cannot score an example.
    """
    check_metric(metric)
    if not isinstance(metric, Metric):
        return metric, []
    fitted = metric.for_task(outputs, examples) if outputs else metric
    return fitted, fitted.check_examples(examples)


def output_fields_of(program: dspy.Module) -> list[str]:
    """Return the output fields of a program's signature; empty without a signature."""
    return list(getattr(getattr(program, "signature", None), "output_fields", ()))


def named_metric(name: str) -> Callable[..., Any]:
    """Return a metric by its name in ``METRICS``, as ``name:output``, or as ``package.module:function``.

    Raises:
        ConfigurationError: if there is no such metric.
    """
    known, colon, field = name.partition(":")
    if known in METRICS and (field or not colon):
        return METRICS[known](field or None)
    if not _IN_MODULE.fullmatch(name):
        file = _IN_FILE.fullmatch(name)
        raise ConfigurationError(
            f"metric {name!r} names a file; write {file['module'].lstrip('./').replace('/', '.')}:{file['function']}"
            if file
            else f"no metric {name!r}; there are: {', '.join(METRICS)}, or package.module:function"
        )
    value = _attribute(name)
    metric = value() if isinstance(value, type) else value
    if not callable(metric):
        raise ConfigurationError(f"{name} is neither a Metric nor a function (example, prediction) -> score")
    return metric


def _attribute(name: str) -> Any:
    """Return the object named by ``package.module:name``. The working directory is searched, too."""
    module, _, attribute = name.partition(":")
    try:
        value = imported(name)
    except Exception as error:
        raise ConfigurationError(f"cannot import {module}: {type(error).__name__}: {error}") from error
    if value is None:
        raise ConfigurationError(f"module {module} has no {attribute!r}")
    return value
