"""Questions that are the same, however they are kept or written."""

from __future__ import annotations

import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import dspy
from support.simulated_tasks import simulated

from moa_dspy import AttentionMoA, load
from moa_dspy.optimizers.leakage import demo_questions, question_of


class Kind(Enum):
    OPEN = "open"


class Typed(dspy.Signature):
    """Answer."""

    kind: Kind = dspy.InputField()
    at: datetime.datetime = dspy.InputField()
    answer: str = dspy.OutputField()


def test_a_demo_that_was_saved_is_known_as_the_example_that_it_is(tmp_path: Path) -> None:
    lm = simulated("a", knows=1.0)
    program = AttentionMoA(Typed, [lm], layers=1)
    example = dspy.Example(
        kind=Kind.OPEN, at=datetime.datetime(2024, 1, 2, 3, tzinfo=datetime.UTC), answer="yes"
    ).with_inputs("kind", "at")
    predictor: Any = program.propose
    predictor.demos = [example]
    program.save(tmp_path / "program.json")
    loaded = load(tmp_path / "program.json", lms={"a": lm})
    assert {question_of(example)} == demo_questions(program) == demo_questions(loaded)


def test_a_demo_with_a_history_is_known_as_the_example_that_it_is() -> None:
    program = AttentionMoA("history: dspy.History, question -> answer", [simulated("a", knows=1.0)], layers=1)
    history = dspy.History(messages=[{"question": "Caf\u00e9?", "answer": "yes"}])
    example = dspy.Example(history=history, question="where?", answer="here").with_inputs("history", "question")
    program.named_predictors()[0][1].demos = [example]
    assert question_of(example) in demo_questions(program)
    same = dspy.History(messages=[{"question": "CAFE\u0301? ", "answer": "yes"}])
    assert question_of(dspy.Example(history=same, question="Where?").with_inputs("history", "question")) == question_of(
        example
    )
