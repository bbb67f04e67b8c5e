"""The examples of docs/evaluation.md run as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moa_dspy.evaluation.recipes import RECIPES

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "evaluation.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], "docs/evaluation.md", "exec"), {})


def test_reproduce_names_every_recipe() -> None:
    text = (DOCS / "reproduce.md").read_text(encoding="utf-8")
    assert all(name in text for name in RECIPES if not name.endswith("layers"))
    for each in RECIPES.values():
        assert all(str(figure) in text for figure in each.published.values())
