"""The measurements of docs/reliability.md in small: books that add up, and replies that never raise."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import fuzz_replies, money_runs
from benchmarks.fuzz_seeds import BUILT_IN, mutated, templated


@pytest.mark.slow
def test_random_programs_under_faults_report_what_was_billed() -> None:
    figures = money_runs.block(0, seed=11, runs=20)
    assert figures.problems == []
    assert figures.runs == 20
    assert figures.evaluations == 1
    assert figures.billed > 0
    assert figures.reported > 0


def test_mutated_replies_are_read_or_unreadable() -> None:
    ends, slowest = fuzz_replies.block(1, seed=11, seeds=BUILT_IN, count=20)
    assert set(ends) <= {"read", "unreadable", "slow"}
    assert sum(ends.values()) == 20 * len(fuzz_replies.readers("", random.Random(0)))
    assert len(slowest) == 5


def test_replies_are_what_a_chat_template_makes_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text(
        "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}"
    )
    (tmp_path / "b.jinja").write_text("{{ raise_exception('no such conversation') }}")
    assert "<|assistant|>The answer is Paris.</s>" in next(templated(tmp_path))
    assert len(list(templated(tmp_path))) == 6
    assert len({mutated(random.Random(seed), BUILT_IN) for seed in range(50)}) > 40
