"""The Python of the README and of the pages it points to, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.xdist_group("local")
@pytest.mark.slow
def test_the_readmes_python_runs_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for code in blocks("README.md"):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert (tmp_path / "moa.json").exists()
    assert (tmp_path / "tuned.json").exists()
    said = re.search(r"# (The candidate is accepted: it gains) \.\.\. (on .*)", (ROOT / "README.md").read_text())
    assert said is not None
    assert re.search(f"{said[1]} .* {said[2]}", capsys.readouterr().out)


def test_no_two_commands_of_the_readme_write_one_file() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    files = re.findall(r"""(?:save\("|--out |--html |--report )([\w.]+)""", page)
    assert {"moa.json", "tuned.json", "best.json", "run.html"} <= set(files)
    assert len(files) == len(set(files))
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {f"/{name}" for name in (*files, "moa.toml", "run.json")} <= set(ignored)


def test_every_page_that_a_page_points_to_is_there() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} points to {target}, which is not there"


def test_the_python_of_the_page_on_gates_runs_in_order() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    first, fitting, sparse = blocks("docs/gate.md")
    exec(compile(first, "gate.md", "exec"), names)
    assert (names["trace"].calls, names["trace"].stopped_by, names["trace"].agreement) == (5, "agreement", 1.0)
    exec(compile(fitting, "gate.md", "exec"), names)
    assert names["fit"].gate == "off"
    exec(compile(sparse, "gate.md", "exec"), names)
    assert names["calls"] == [36, 6, 16]
