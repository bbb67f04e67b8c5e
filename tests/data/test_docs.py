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
