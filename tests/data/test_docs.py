"""The examples of docs/data.md run as they are written."""

import re
from pathlib import Path

import pytest

from moa_dspy.data import benchmark, benchmarks

DOCS = Path(__file__).resolve().parents[2] / "docs" / "data.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """Benchmarks that an example defines are forgotten again."""
    benchmarks()
    monkeypatch.setattr(benchmark, "_REGISTRY", dict(benchmark._REGISTRY))


@pytest.mark.parametrize("block", [block for block in BLOCKS if "path/to" not in block])
def test_example(block):
    exec(compile(block, "docs/data.md", "exec"), {})


def test_they_are_found():
    assert len(BLOCKS) == 5


def test_scoring_functions_are_exported() -> None:
    from moa_dspy import data

    assert data.choice_letter("The answer is (B).", ["x", "y"]) == "B"
    assert data.parse_score("Good. [[7.5]]") == data.mt_bench.parse_score("[[7.5]]") == 7.5
    assert data.raw_win_rate([2, 1, 0]).value == data.alpaca_eval.raw_win_rate([2, 1, 0]).value == 50.0
    assert data.length_controlled_win_rate is data.alpaca_eval.length_controlled_win_rate
    for scored, output, reference in ((data.gsm8k, "#### 18", "18"), (data.bbh, "the answer is (B).", "(B)")):
        assert scored.is_correct(output, reference)
        assert not scored.is_correct(output, "(C) 19")
