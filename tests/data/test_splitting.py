"""Splits by content: deterministic, stable, without leaks."""

import os
import subprocess
import sys

import dspy
import pytest
from hypothesis import given, strategies as st

from moa_dspy.data import load, sample, split
from moa_dspy.data.splitting import unit_hash
from moa_dspy.errors import ConfigurationError


@pytest.fixture(autouse=True)
def dspy_sandbox():
    """No language model is called in this file: the shared fixture's response cache on disk is not needed."""


def example(question, answer="x"):
    return dspy.Example(question=question, answer=answer).with_inputs("question")


def where(parts):
    return {item.question: name for name in parts._fields for item in getattr(parts, name)}


questions = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=30, unique_by=lambda t: " ".join(t.split()))


@given(questions, st.integers(0, 5), st.data())
def test_adding_examples_moves_no_other(texts, seed, data):
    some = data.draw(st.lists(st.sampled_from(texts), unique=True))
    whole = where(split(map(example, texts), seed=seed))
    part = where(split(map(example, some), seed=seed))
    assert part == {text: whole[text] for text in some}
    assert len(whole) == len(texts)


@given(st.text(max_size=20), st.text(max_size=5), st.text(max_size=5), st.integers(0, 9))
def test_duplicates_stay_together_whatever_their_labels(text, one, other, seed):
    parts = split([example(text, one), example(text, other), example(f" {text}\n", one)], seed=seed)
    assert sorted(map(len, parts)) == [0, 0, 3]


def test_shares_are_about_right_and_every_example_is_somewhere():
    items = [example(str(n)) for n in range(4000)]
    parts = split(items)
    assert [len(part) / 4000 for part in parts] == pytest.approx([0.6, 0.2, 0.2], abs=0.03)
    assert sum(map(len, parts)) == 4000
    assert [item.question for item in parts.train] == sorted((item.question for item in parts.train), key=int)
    assert where(split(items, seed=1)) != where(parts)


def test_a_known_place_never_changes():
    assert unit_hash(example("What is the capital of France?"), 0) == pytest.approx(0.37387758186294917, abs=1e-12)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"train": 0.5}, (0.5, 0.25, 0.25)),
        ({"train": 0.5, "test": 0.5}, (0.5, 0, 0.5)),
        ({"train": 0.1, "val": 0.1, "test": 0.1}, (0.1, 0.1, 0.1)),
        ({"train": 1}, (1, 0, 0)),
        ({"train": 0, "val": 0}, (0, 0, 1)),
    ],
)
def test_shares(shares, expected):
    parts = split((example(str(n)) for n in range(3000)), **shares)
    assert [len(part) / 3000 for part in parts] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("shares", [{"train": 50}, {"train": -0.1}, {"train": 0.8, "test": 0.3}])
def test_shares_that_cannot_be(shares):
    with pytest.raises(ConfigurationError):
        split([], **shares)


def test_history_and_lists_are_content_too():
    def turn(said):
        history = dspy.History(messages=[{"question": "a", "answer": said}])
        return dspy.Example(history=history, context=["x", "y"]).with_inputs("history", "context")

    assert unit_hash(turn("b")) == unit_hash(turn("b"))
    assert unit_hash(turn("b")) != unit_hash(turn("c"))


@given(questions, st.integers(0, 30), st.integers(0, 30), st.randoms())
def test_samples_are_nested_and_ignore_the_order(texts, few, more, random):
    few, more = sorted((few, more))
    items = [example(text) for text in texts]
    shuffled = items[:]
    random.shuffle(shuffled)
    assert sample(items, more)[:few] == sample(shuffled, few)


def test_the_packaged_set_splits():
    parts = split(load("starter"), train=0.5, val=0.25)
    assert all(len(part) > 20 for part in parts)


@pytest.mark.slow
def test_sets_have_the_same_place_in_every_process():
    code = (
        "import dspy; from moa_dspy.data.splitting import unit_hash;"
        "from moa_dspy.evaluation.fingerprint import content_of;"
        "example = dspy.Example(tags={'a', 'b', 'c', 'd'}, n={1, 2}).with_inputs('tags', 'n');"
        "print(unit_hash(example), content_of(example))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1


def test_a_sample_can_be_split_like_the_whole() -> None:
    examples = [dspy.Example(question=f"q {number}").with_inputs("question") for number in range(400)]
    parts = split(sample(examples, 100, seed=0), train=0.5, val=0.25, test=0.25, seed=0)
    assert [35 < len(parts.train) < 65, 12 < len(parts.val) < 40, 12 < len(parts.test) < 40] == [True] * 3
