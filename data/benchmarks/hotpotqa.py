"""HotPotQA: questions over two paragraphs (Yang et al. 2018, arXiv 1809.09600)."""

from __future__ import annotations

from typing import Any

import dspy

from moa_dspy.data.benchmark import Benchmark, Hub
from moa_dspy.data.metrics.text import F1
from moa_dspy.data.sources import Row, parse_structure

__all__ = ["HotpotQa"]


class AnswerFromParagraphs(dspy.Signature):
    """Answer from the paragraphs, in as few words as possible: a name, a date, a number, or yes or no. No sentence."""

    context: list[str] = dspy.InputField(desc="paragraphs, some of which hold the answer")
    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="the short answer alone")


class HotpotQa(Benchmark):
    """The distractor setting: 7405 validation questions with ten paragraphs each. The score is F1; EM is F1 = 1."""

    name = "hotpotqa"
    title = "HotPotQA (distractor)"
    source = "arXiv 1809.09600, hotpotqa/hotpot_qa"
    licence = "CC BY-SA 4.0"
    signature = AnswerFromParagraphs
    scorer = F1()
    splits = ("validation", "train")
    hub = Hub("hotpotqa/hotpot_qa", configs=("distractor",))
    files = {"validation": ("hotpot_dev_distractor_v1.json",), "train": ("hotpot_train_v1.1.json",)}

    def example(self, row: Row, part: str, position: int) -> dspy.Example:  # noqa: ARG002
        """Return an example. The hub has columns of titles and sentences; the authors' file has pairs."""
        return dspy.Example(
            id=str(row.get("id") or row.get("_id") or position),
            context=_paragraphs(parse_structure(row["context"])),
            question=row["question"],
            answer=row["answer"],
            category=row.get("type"),
        ).with_inputs("context", "question")


def _paragraphs(context: Any) -> list[str]:
    pairs = zip(context["title"], context["sentences"], strict=True) if isinstance(context, dict) else context
    return [f"{title}: {''.join(sentences).strip()}" for title, sentences in pairs]
