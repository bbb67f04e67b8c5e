"""What a benchmark is, and the registry that finds them.

One benchmark is one file with one subclass of ``Benchmark``; defining it registers it. The files of this package are
found by themselves; a benchmark of one's own is registered by importing its module.
"""

from __future__ import annotations

import itertools
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import dspy

from moa_dspy.data.metrics.metric import Metric
from moa_dspy.data.sources import FORMATS, Row, read_file, read_hub
from moa_dspy.data.splitting import check_limit, sample
from moa_dspy.errors import ConfigurationError

__all__ = ["DATA_VARIABLE", "Answered", "Benchmark", "Hub", "key_of", "registered"]

DATA_VARIABLE = "MOA_DSPY_DATA"
"""Environment variable with a folder that has one folder of files for each benchmark."""


@dataclass(frozen=True)
class Hub:
    """Where a benchmark is on the Hugging Face hub.

    Attributes:
        repository: its id.
        configs: the configurations to read, one after the other; None is the set's only one.
        splits: our name of a split to the hub's, where they differ.
        files: split to a JSON file in the repository, for sets whose loading script ``datasets`` does not run.
    """

    repository: str
    configs: tuple[str | None, ...] = (None,)
    splits: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def rows(self, split: str, *, streaming: bool) -> Iterator[tuple[str, Row]]:
        """Rows with the configuration that each is from."""
        if split in self.files:
            files = {split: f"hf://datasets/{self.repository}/{self.files[split]}"}
            yield from (("", row) for row in read_hub("json", split=split, data_files=files, streaming=streaming))
            return
        for config in self.configs:
            rows = read_hub(self.repository, config=config, split=self.splits.get(split, split), streaming=streaming)
            yield from ((config or "", row) for row in rows)


class Answered(NamedTuple):
    """An example with what a program answered.

    Attributes:
        example: what was asked.
        outputs: the program's outputs, by field.
        finished: when, in seconds since 1970.
    """

    example: dspy.Example
    outputs: Mapping[str, Any]
    finished: float = 0.0


class Benchmark(ABC):
    """A task with data, a prompt convention and a metric. Subclasses declare: class attributes and small hooks.

    Attributes:
        name: what it is called in code and on the command line.
        title: what it is called in print.
        source: the paper or page that it is from.
        licence: of the data.
        signature: the task as a DSPy signature; its instructions hold the prompt convention that the metric reads.
        splits: names of the splits, the default first.
        sizes: split to its number of items, where published figures are of all of them.
        hub: where it is on the hub, None where it is not.
        files: split to patterns of file names in a folder; ``<split>.jsonl`` (``.json``, ``.csv``, ``.parquet``)
            with the hub's columns always works.
        csv_columns: column names of CSV files without a header.
        judged: whether scoring takes a language model.
        official_outputs: what the official evaluator calls its file of answers, empty where there is none.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    licence: ClassVar[str]
    signature: ClassVar[type[dspy.Signature]]
    splits: ClassVar[tuple[str, ...]] = ("test",)
    sizes: ClassVar[Mapping[str, int]] = {}
    hub: ClassVar[Hub | None] = None
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    csv_columns: ClassVar[tuple[str, ...] | None] = None
    judged: ClassVar[bool] = False
    official_outputs: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls):
            _REGISTRY[key_of(cls.name)] = cls

    @abstractmethod
    def example(self, row: Row, part: str, position: int) -> dspy.Example:
        """One row as an example with inputs set and an ``id``.

        Args:
            row: a row as it is in the file or on the hub.
            part: the hub configuration, or the file's stem.
            position: number of the row in that part, from 0.
        """

    @abstractmethod
    def metric(self, lm: dspy.BaseLM | None = None, prompts: Path | str | None = None) -> Metric:
        """What scores a prediction.

        Args:
            lm: the judge's language model, for benchmarks that are judged.
            prompts: folder with the official judge prompts; without it a judge of our own is used.
        """

    def category(self, example: dspy.Example) -> str | None:
        """The category that an example is reported under."""
        value = example.get("category")
        return None if value is None else str(value)

    def generation(self, example: dspy.Example) -> dict[str, Any]:  # noqa: ARG002 - for subclasses
        """Settings for the language model that the benchmark prescribes for an example, such as its temperature."""
        return {}

    def run(self, program: Any, example: dspy.Example) -> dspy.Prediction:
        """Let a program answer an example; several turns where the benchmark has them."""
        prediction: dspy.Prediction = program(**example.inputs())
        return prediction

    async def arun(self, program: Any, example: dspy.Example) -> dspy.Prediction:
        """``run`` for async callers."""
        prediction: dspy.Prediction = await program.acall(**example.inputs())
        return prediction

    def summarize(
        self,
        details: Iterable[Mapping[str, Any]],  # noqa: ARG002 - for subclasses
        path: Path | str | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """The benchmark's official figures; empty where the mean score is the official figure.

        Args:
            details: of all verdicts.
            path: folder with the benchmark's files, as for ``load``.
        """
        return {}

    def format_outputs(self, answers: Iterable[Answered], name: str) -> str:  # noqa: ARG002 - for subclasses
        """The answers as the text of a file that the official evaluator takes.

        Args:
            answers: in the order of the examples.
            name: what the program is called there.

        Raises:
            ConfigurationError: the benchmark has no official evaluator.
        """
        raise ConfigurationError(f"{self.name} has no official format of outputs")

    def load(
        self,
        split: str | None = None,
        limit: int | None = None,
        seed: int | None = None,
        path: Path | str | None = None,
    ) -> list[dspy.Example]:
        """The examples of one split.

        Args:
            split: its name; default is the first of ``splits``.
            limit: how many at most.
            seed: draw a random sample (a larger limit holds the smaller sample); None takes the first ones.
            path: folder with the files, or with a folder of this benchmark's name; default is the folder in the
                environment variable ``MOA_DSPY_DATA`` where it has them, then the hub or its local cache.

        Raises:
            ConfigurationError: an unknown split, nothing to read, or a row without a needed field.
        """
        check_limit(limit)
        examples = self.stream(split, path=path, streaming=False)
        found = sample(examples, limit, seed) if seed is not None else list(itertools.islice(examples, limit))
        if not found and limit != 0:
            raise ConfigurationError(f"{self.name}: the split {split or self.splits[0]!r} is empty")
        return found

    def stream(
        self, split: str | None = None, path: Path | str | None = None, *, streaming: bool = True
    ) -> Iterator[dspy.Example]:
        """The examples of one split, one after the other, held in memory one at a time."""
        split = split or self.splits[0]
        if split not in self.splits:
            raise ConfigurationError(f"{self.name} has no split {split!r}; there are: {', '.join(self.splits)}")
        seen: Counter[str] = Counter()
        for part, row in self.rows(split, path, streaming=streaming):
            yield self._example(row, part, seen[part])
            seen[part] += 1

    def rows(self, split: str, path: Path | str | None, *, streaming: bool) -> Iterator[tuple[str, Row]]:
        """Rows with the part that each is from: from files where there are some, else from the hub."""
        files = self.find_files(split, path)
        if files:
            for file in files:
                yield from ((file.stem, row) for row in read_file(file, self._columns(file)))
        elif self.hub is not None:
            yield from self.hub.rows(split, streaming=streaming)
        else:
            raise ConfigurationError(
                f"{self.name} is not on the hub: give a folder with {' or '.join(self._patterns(split))} "
                f"(path=, or the environment variable {DATA_VARIABLE}); get it from {self.source}"
            )

    def find_files(self, split: str, path: Path | str | None = None) -> list[Path]:
        """The files of a split in a given folder, or in the one of the environment variable.

        Raises:
            ConfigurationError: a folder was given and has none of them.
        """
        for folder in self.folders(path):
            for pattern in self._patterns(split):
                if found := sorted(folder.glob(pattern)):
                    return found
        if path is None:
            return []
        if not Path(path).is_dir():
            raise ConfigurationError(f"no such folder: {path}")
        raise ConfigurationError(f"{self.name}: the folder {path} has none of {', '.join(self._patterns(split))}")

    def folders(self, path: Path | str | None = None) -> list[Path]:
        """Folders that may hold this benchmark's files, the likeliest first."""
        if path is not None:
            return [Path(path) / self.name, Path(path)]
        root = os.environ.get(DATA_VARIABLE)
        if root and not Path(root).is_dir():
            raise ConfigurationError(f"there is no folder {root}, which the environment variable {DATA_VARIABLE} names")
        return [Path(root) / self.name] if root else []

    def _patterns(self, split: str) -> list[str]:
        return [*self.files.get(split, ()), *(f"{split}{suffix}" for suffix in FORMATS)]

    def _columns(self, file: Path) -> Sequence[str] | None:
        return None if file.stem in self.splits else self.csv_columns

    def _example(self, row: Row, part: str, position: int) -> dspy.Example:
        try:
            return self.example(row, part, position)
        except KeyError as error:
            have = ", ".join(row) or "none"
            raise ConfigurationError(f"{self._place(part, position)} lacks the field {error}; it has: {have}") from None
        except (ValueError, TypeError, IndexError) as error:
            raise ConfigurationError(f"{self._place(part, position)} cannot be read: {error}") from error

    def _place(self, part: str, position: int) -> str:
        return f"{self.name}, row {position + 1}{f' of {part}' if part and part not in self.splits else ''}"


_REGISTRY: dict[str, type[Benchmark]] = {}


def registered() -> dict[str, type[Benchmark]]:
    """Return the benchmark classes by their key; classes register when they are defined."""
    return _REGISTRY


def key_of(name: str) -> str:
    """Return ``name`` without case and punctuation, as benchmarks are looked up."""
    return re.sub(r"[-_ .]", "", name).lower()
