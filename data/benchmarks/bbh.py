"""BIG-Bench Hard: 27 task files with exact-match answers (Suzgun et al. 2022, arXiv 2210.09261)."""

from __future__ import annotations

import dspy

from moa_dspy.data.benchmark import Benchmark, Hub
from moa_dspy.data.metrics.hard_tasks import HardTaskAnswer, final_answer, read_as
from moa_dspy.data.sources import Row

__all__ = ["TASKS", "BigBenchHard", "final_answer", "is_correct"]

TASKS = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)


def is_correct(prediction: str, target: str) -> bool:
    """Return whether a prediction matches the target.

    `read_as` reads both, in the form of the target. Case, outer white space, emphasis marks and one final full stop are
    ignored. This rule reproduces the published accuracy of code-davinci-002 on all 27 tasks.

    Args:
        prediction: a model's whole answer.
        target: the data set's answer.
    """
    answer = read_as(prediction, target)
    return answer is not None and answer == read_as(target, target)


class AnswerHardTask(dspy.Signature):
    """Think step by step. End with the sentence "So the answer is X.", X in the form that the question asks for.

    Where there are options, X is the option's letter in parentheses, such as (B).
    """

    question: str = dspy.InputField()
    answer: str = dspy.OutputField(desc="the reasoning, then the sentence with the answer")


class BigBenchHard(Benchmark):
    """6511 questions of 27 tasks; the category is the task."""

    name = "bbh"
    title = "BIG-Bench Hard"
    source = "arXiv 2210.09261, suzgunmirac/BIG-Bench-Hard"
    licence = "MIT"
    signature = AnswerHardTask
    scorer = HardTaskAnswer()
    hub = Hub("SaylorTwift/bbh", configs=TASKS)
    files = {"test": ("bbh/*.json", "*.json")}

    def example(self, row: Row, part: str, position: int) -> dspy.Example:
        """Return an example. Its task is the column `task`, or the file's name or hub configuration."""
        task = row.get("task", part)
        return dspy.Example(
            id=f"{task}-{position}", question=row["input"], answer=row["target"], category=task
        ).with_inputs("question")
