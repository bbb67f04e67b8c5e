"""The Python of docs/plan.md runs as it is."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "plan.md"


def test_the_pages_python_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {"__name__": "page"}
    for code in blocks:
        exec(compile(code, PAGE.name, "exec"), names)
    plan: object = names["plan"]
    assert (plan.full.calls, plan.full.depth, plan.minimum.calls) == (29, 14, 19)  # type: ignore[attr-defined]
