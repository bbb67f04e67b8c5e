"""What is evaluated on, and what scores it: benchmarks, a user's own examples, metrics by name."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dspy
import numpy as np

from moa_dspy.data.benchmark import Benchmark
from moa_dspy.data.benchmarks.registry import get_benchmark
from moa_dspy.data.loading import is_benchmark, load
from moa_dspy.data.metrics.choices import ChoiceLetter
from moa_dspy.data.metrics.mathematics import MathEquivalence
from moa_dspy.data.metrics.metric import Metric, Verdict
from moa_dspy.data.metrics.numbers import Numeric
from moa_dspy.data.metrics.text import F1, Contains, ExactMatch, NormalizedMatch
from moa_dspy.data.sources import Row
from moa_dspy.errors import ConfigurationError

__all__ = ["METRICS", "FunctionMetric", "OwnData", "Selection", "as_metric", "named_metric", "open_benchmark"]

METRICS: Final[Mapping[str, type[Metric]]] = {
    "exact": ExactMatch,
    "normalized": NormalizedMatch,
    "f1": F1,
    "contains": Contains,
    "numeric": Numeric,
    "choice": ChoiceLetter,
    "math": MathEquivalence,
}
"""Metrics by name; all compare the field ``answer`` of the prediction with that of the example."""


_IN_MODULE: Final = re.compile(r"[^\W\d]\w*(?:\.\w+)*:\w+")


class OwnData(Benchmark):
    """A user's own examples: one turn, no official figures, and no metric of their own."""

    title = "own data"
    source = "the user"
    licence = "the user's"
    splits = ("all",)

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", name)

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """A row as it is."""
        return dspy.Example(row)

    def metric(self, lm: dspy.BaseLM | None = None, prompts: Path | str | None = None) -> Metric:  # noqa: ARG002
        """There is none.

        Raises:
            ConfigurationError: always; it names those there are.
        """
        raise ConfigurationError(
            f"{self.name} brings no metric; name one (--metric, metric=): {', '.join(METRICS)}, "
            "or package.module:function"
        )


@dataclass(frozen=True)
class Selection:
    """Which examples of a benchmark or file.

    Attributes:
        split: None is the benchmark's first.
        limit: the most examples; None is all, in their order.
        seed: of the sample that a limit draws.
        path: folder with a benchmark's files.
        fields: for one's own data: example field to column.
        inputs: for one's own data: the fields that are inputs.
    """

    split: str | None = None
    limit: int | None = None
    seed: int = 0
    path: str | Path | None = None
    fields: Mapping[str, str] | None = None
    inputs: Sequence[str] = ("question",)

    def load(self, task: Benchmark, name: str | Path) -> list[dspy.Example]:
        """The examples; with a limit a sample of them, drawn by content, so that a larger one holds the smaller.

        Args:
            task: what ``open_benchmark`` made of the name.
            name: file, folder or hub id, for a user's own data.

        Raises:
            ConfigurationError: there is nothing to read, or it does not fit.
        """
        if self.limit is not None and self.limit < 1:
            raise ConfigurationError(f"limit is 1 or more, not {self.limit}")
        seed = None if self.limit is None else self.seed
        if not isinstance(task, OwnData):
            if self.fields is not None:
                raise ConfigurationError(f"fields are for your own data; {task.name} says its own")
            return task.load(self.split, limit=self.limit, seed=seed, path=self.path)
        return load(
            name,
            self.split,
            limit=self.limit,
            seed=seed,
            fields=self.fields,
            inputs=self.inputs,
            path=self.path,
        )


def open_benchmark(name: str | Path) -> Benchmark:
    """The benchmark of a name, or of ``package.module:Class``; a user's own data for a file, a folder or a hub id.

    Raises:
        ConfigurationError: it is neither.
    """
    if _IN_MODULE.fullmatch(str(name)):
        kind = _found(str(name))
        if not (isinstance(kind, type) and issubclass(kind, Benchmark)):
            raise ConfigurationError(f"{name} is no subclass of moa_dspy.data.Benchmark")
        return kind()
    return get_benchmark(str(name)) if is_benchmark(name) else OwnData(Path(name).name)


class FunctionMetric(Metric):
    """A function of example and prediction as a metric.

    Attributes:
        function: returns a bool, a number from 0 to 1, or an object with ``score`` (and ``feedback``).
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def assess(self, example: dspy.Example, prediction: Any) -> Verdict:
        """What the function says.

        Raises:
            ConfigurationError: it says something that is no score.
        """
        said = self.function(example, prediction)
        score = getattr(said, "score", said)
        score = score.item() if isinstance(score, np.generic) else score
        if isinstance(score, (bool, int, float)) and 0 <= score <= 1:
            return Verdict(score, str(getattr(said, "feedback", "") or ""))
        name = getattr(self.function, "__qualname__", self.function)
        raise ConfigurationError(f"the metric {name} gave {score!r}; a score is a bool or a number from 0 to 1")


def as_metric(metric: Metric | Callable[..., Any]) -> Metric:
    """A metric as it is, a function as a metric.

    Raises:
        ConfigurationError: it is neither.
    """
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise ConfigurationError(f"a metric is a Metric or a function (example, prediction) -> score, not {metric!r}")
    return FunctionMetric(metric)


def named_metric(name: str) -> Metric:
    """A metric by its name in ``METRICS``, or as ``package.module:function``.

    Raises:
        ConfigurationError: there is no such thing.
    """
    if name in METRICS:
        return METRICS[name]()
    if not _IN_MODULE.fullmatch(name):
        raise ConfigurationError(f"no metric {name!r}; there are: {', '.join(METRICS)}, or package.module:function")
    found = _found(name)
    return as_metric(found() if isinstance(found, type) else found)


def _found(name: str) -> Any:
    """What ``package.module:name`` is."""
    module, _, attribute = name.partition(":")
    found = getattr(_imported(module), attribute, None)
    if found is None:
        raise ConfigurationError(f"module {module} has no {attribute!r}")
    return found


def _imported(module: str) -> Any:
    """The module; one in the working directory is found too, as with ``python -m``."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise ConfigurationError(f"cannot import {module}: {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(here)
