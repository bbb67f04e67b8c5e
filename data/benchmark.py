"""The base class of benchmarks. Defining a subclass registers it under its name."""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import dspy

from moa_dspy.data.metrics.metric import Metric
from moa_dspy.data.sources import DATA_VARIABLE, FORMATS, Row, read_file, read_hub
from moa_dspy.data.splitting import first_or_sampled
from moa_dspy.errors import ConfigurationError

__all__ = ["Answered", "Benchmark", "Hub", "json_lines", "key_of", "registered"]


@dataclass(frozen=True)
class Hub:
    """The place of a benchmark on the Hugging Face hub.

    Attributes:
        repository: the id of the data set.
        configs: the configurations to read, in order. None means the data set's only one.
        splits: the hub's split name by our split name, if they differ.
        files: a JSON file in the repository for each split, for data sets that need a loading script.
    """

    repository: str
    configs: tuple[str | None, ...] = (None,)
    splits: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def rows(self, split: str, *, streaming: bool) -> Iterator[tuple[str, Row]]:
        """Return the rows of a split, each with its configuration."""
        if split in self.files:
            file = f"hf://datasets/{self.repository}/{self.files[split]}"
            yield from (("", row) for row in read_hub("json", split=split, file=file, streaming=streaming))
            return
        for config in self.configs:
            rows = read_hub(self.repository, config=config, split=self.splits.get(split, split), streaming=streaming)
            yield from ((config or "", row) for row in rows)


class Answered(NamedTuple):
    """An example with a program's outputs by field, and the time of the answer in seconds since 1970.

    `details` are those of the verdict on it.
    """

    example: dspy.Example
    outputs: Mapping[str, Any]
    finished: float = 0.0
    details: Mapping[str, Any] = MappingProxyType({})

    @property
    def number(self) -> int | str:
        """Return the example's id, as a number if it is one."""
        return int(self.example.id) if str(self.example.id).isdecimal() else str(self.example.id)


class Benchmark(ABC):
    """A task with data, a signature and a metric. Subclasses set class attributes and implement `example`.

    Attributes:
        name: the name in code and on the command line.
        title: the name in print.
        source: the paper or page of the benchmark.
        licence: the licence of the data.
        signature: the task as a DSPy signature. Its instructions define the answer format that the metric reads.
        scorer: the metric. Benchmarks with a judge override `metric` instead.
        splits: names of the splits; the first is the default.
        sizes: number of items by split, if published figures use all items.
        hub: the place on the hub, or None.
        files: patterns of file names by split. `<split>.jsonl` (`.json`, `.csv`, `.parquet`) with the hub's columns
            always works.
        csv_columns: column names of CSV files without a header.
        needs_judge: whether scoring uses a language model.
        official_outputs: file name of answers for the official evaluator; empty if there is none. `<name>` stands for
            the program's name.
        official_judgments: file name of judgments in the official format, likewise; `<judge>` stands for its model.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    licence: ClassVar[str]
    signature: ClassVar[type[dspy.Signature]]
    scorer: ClassVar[Metric | None] = None
    splits: ClassVar[tuple[str, ...]] = ("test",)
    sizes: ClassVar[Mapping[str, int]] = {}
    hub: ClassVar[Hub | None] = None
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    csv_columns: ClassVar[tuple[str, ...] | None] = None
    needs_judge: ClassVar[bool] = False
    official_outputs: ClassVar[str] = ""
    official_judgments: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls):
            _REGISTRY[key_of(cls.name)] = cls

    @abstractmethod
    def example(self, row: Row, part: str, position: int) -> dspy.Example:
        """Return a row as an example with inputs set and an `id`.

        Args:
            row: a row of the file or the hub.
            part: the hub configuration, or the stem of the file's name.
            position: number of the row in that part, from 0.
        """

    def metric(self, lm: dspy.BaseLM | None = None, prompts: Path | str | None = None) -> Metric:  # noqa: ARG002
        """Return the metric that scores a prediction.

        Args:
            lm: the judge's language model, for benchmarks that need a judge.
            prompts: folder with the official judge prompts. None means our own judge.
        """
        if self.scorer is None:
            raise NotImplementedError(f"{type(self).__name__} must set `scorer` or implement `metric`")
        return self.scorer

    def category(self, example: dspy.Example) -> str | None:
        """Return the category of an example in reports."""
        value = example.get("category")
        return None if value is None else str(value)

    def generation(self, example: dspy.Example) -> dict[str, Any]:  # noqa: ARG002 - for subclasses
        """Return the model settings that the benchmark prescribes for an example, such as the temperature."""
        return {}

    def run(self, program: Any, example: dspy.Example) -> dspy.Prediction:
        """Run a program on an example, with all turns of the example."""
        prediction: dspy.Prediction = program(**example.inputs())
        return prediction

    async def arun(self, program: Any, example: dspy.Example) -> dspy.Prediction:
        """Run a program on an example, for async callers."""
        prediction: dspy.Prediction = await program.acall(**example.inputs())
        return prediction

    def summarize(self, details: Iterable[Mapping[str, Any]], path: Path | str | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Return the official figures from the details of all verdicts; empty if the mean score is the official figure.

        `path` is the folder with the benchmark's files, as for `load`.
        """
        return {}

    def format_outputs(self, answers: Iterable[Answered], name: str) -> str:  # noqa: ARG002 - for subclasses
        """Return the answers, in the order of the examples, as a file for the official evaluator.

        `name` is the program's name in the file.

        Raises:
            ConfigurationError: if the benchmark has no official evaluator.
        """
        raise ConfigurationError(f"{self.name} has no official format of outputs")

    def format_judgments(self, answers: Iterable[Answered], name: str, judge: str) -> str:  # noqa: ARG002
        """Return the judgments, in the order of the examples, as the file that the official scripts aggregate.

        `name` is the program's name in the file, `judge` the judge's.

        Raises:
            ConfigurationError: if the benchmark has no official format of judgments.
        """
        raise ConfigurationError(f"{self.name} has no official format of judgments")

    def load(
        self,
        split: str | None = None,
        *,
        limit: int | None = None,
        seed: int | None = None,
        path: Path | str | None = None,
    ) -> list[dspy.Example]:
        """Return the examples of one split.

        Args:
            split: name of the split; None means the first of `splits`.
            limit: maximum number of examples.
            seed: draw a random sample; a larger limit contains the smaller sample. None takes the first examples.
            path: folder with the files, or with a folder of this benchmark's name. None means the folder in the
                environment variable `MOA_DSPY_DATA`, then the hub or its local cache.

        Raises:
            ConfigurationError: if the split is unknown or empty, or a row lacks a needed field.
        """
        examples = first_or_sampled(self.stream(split, path=path, streaming=False), limit, seed)
        if not examples and limit != 0:
            raise ConfigurationError(f"{self.name}: the split {split or self.splits[0]!r} is empty")
        return examples

    def stream(
        self, split: str | None = None, *, path: Path | str | None = None, streaming: bool = True
    ) -> Iterator[dspy.Example]:
        """Yield the examples of one split without keeping all of them in memory."""
        split = split or self.splits[0]
        if split not in self.splits:
            raise ConfigurationError(f"{self.name} has no split {split!r}; there are: {', '.join(self.splits)}")
        positions: Counter[str] = Counter()
        for part, row in self.rows(split, path, streaming=streaming):
            yield self._example(row, part, positions[part])
            positions[part] += 1

    def rows(self, split: str, path: Path | str | None, *, streaming: bool) -> Iterator[tuple[str, Row]]:
        """Yield the rows of a split, each with its part, from files if there are any, else from the hub.

        Raises:
            ConfigurationError: if `path` does not exist or has no file of the split, or there is neither file nor hub.
        """
        patterns = [*self.files.get(split, ()), *(f"{split}{suffix}" for suffix in FORMATS)]
        found = (sorted(folder.glob(pattern)) for folder in self.folders(path) for pattern in patterns)
        if files := next(filter(None, found), None):
            for file in files:
                columns = None if file.stem in self.splits else self.csv_columns
                yield from ((file.stem, row) for row in read_file(file, columns))
        elif path is not None:
            missing = f"the folder {path} has none of {', '.join(patterns)}"
            raise ConfigurationError(f"{self.name}: {missing if Path(path).is_dir() else f'no such folder: {path}'}")
        elif self.hub is not None:
            yield from self.hub.rows(split, streaming=streaming)
        else:
            raise ConfigurationError(
                f"{self.name} is not on the hub: give a folder with {' or '.join(patterns)} "
                f"(path=, or the environment variable {DATA_VARIABLE}); get it from {self.source}"
            )

    def folders(self, path: Path | str | None = None) -> list[Path]:
        """Return the folders that may contain this benchmark's files, in order of priority."""
        if path is not None:
            return [Path(path) / self.name, Path(path)]
        root = os.environ.get(DATA_VARIABLE)
        if root and not Path(root).is_dir():
            raise ConfigurationError(f"{DATA_VARIABLE} must name an existing folder, got {root}; correct or unset it")
        return [Path(root) / self.name] if root else []

    def _example(self, row: Row, part: str, position: int) -> dspy.Example:
        where = f"{self.name}, row {position + 1}{f' of {part}' if part and part not in self.splits else ''}"
        try:
            return self.example(row, part, position)
        except KeyError as error:
            raise ConfigurationError(f"{where} lacks the field {error}; it has: {', '.join(row) or 'none'}") from None
        except (ValueError, TypeError, IndexError) as error:
            raise ConfigurationError(f"{where} cannot be read: {error}") from error


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as the text of a file with one JSON object a line."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


_REGISTRY: dict[str, type[Benchmark]] = {}


def registered() -> dict[str, type[Benchmark]]:
    """Return the benchmark classes by key. A class is registered when it is defined."""
    return _REGISTRY


def key_of(name: str) -> str:
    """Return a name without case and punctuation."""
    return re.sub(r"[-_ .]", "", name).lower()
