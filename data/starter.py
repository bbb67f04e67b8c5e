"""The packaged benchmark: 160 items written for this project. It needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import dspy

from moa_dspy.data.benchmark import Benchmark
from moa_dspy.data.metrics.choices import ChoiceLetter
from moa_dspy.data.metrics.instructions import Instructions
from moa_dspy.data.metrics.metric import Metric, Verdict, field_of, output_of, vote_key
from moa_dspy.data.metrics.numbers import ShortNumber
from moa_dspy.data.metrics.text import Stated
from moa_dspy.data.sources import Row, parse_structure, read_file
from moa_dspy.errors import ConfigurationError

__all__ = ["ByKind", "Starter"]

_FILE = Path(__file__).with_name("starter.jsonl")


class ByKind(Metric):
    """Scores an item by the metric of its `kind`. An output that repeats the question is always wrong."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "fact": Stated(),
        "choice": ChoiceLetter(),
        "arithmetic": ShortNumber(),
        "instruction": Instructions(),
    }

    def assess(self, example: dspy.Example, prediction: Any) -> Verdict:
        """Return the verdict of the kind's metric."""
        kind = field_of(example, "kind", "example")
        if kind not in self.metrics:
            raise ConfigurationError(f"no metric for the kind {kind!r}; there are: {', '.join(self.metrics)}")
        output = output_of(prediction, "answer")
        if output and vote_key(output) == vote_key(example.get("question", "")):
            return Verdict(False, "Wrong: the output repeats the question.")
        return self.metrics[kind].assess(example, prediction)


class AnswerShortly(dspy.Signature):
    """Do what the question asks and give only the answer. Where there are choices, answer with the letter alone."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Starter(Benchmark):
    """Four kinds of 40 items: fact, choice, arithmetic, instruction; the category is the kind."""

    name = "starter"
    title = "Starter set"
    source = "this package (data/starter.md)"
    licence = "Apache-2.0"
    signature = AnswerShortly
    scorer = ByKind()

    def rows(self, split: str, path: Path | str | None, *, streaming: bool) -> Iterator[tuple[str, Row]]:
        """Yield the rows of the packaged file, or of the files in `path`."""
        if path is not None:
            return super().rows(split, path, streaming=streaming)
        return (("starter", row) for row in read_file(_FILE))

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """Return an example. For an instruction, `answer` is empty and `checks` contains the requirements."""
        choices, answer = parse_structure(row.get("choices") or []), row.get("answer", "")
        lettered = [f"{letter}) {text}" for letter, text in zip("ABCD", choices, strict=False)]
        item = dspy.Example(
            id=row["id"],
            kind=row["kind"],
            question="\n".join([row["question"], *lettered]),
            answer=parse_structure(answer) if str(answer).startswith("[") else answer,
            checks=parse_structure(row.get("checks") or []),
        )
        if choices:
            item["choices"] = list(choices)
        return item.with_inputs("question")

    def category(self, example: dspy.Example) -> str | None:
        """Return the kind."""
        return str(example.kind)
