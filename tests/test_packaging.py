"""What is installed, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import moa_dspy

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "project"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in tracked.stdout.splitlines():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        else:
            target.write_bytes((ROOT / name).read_bytes())
    subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", out, source], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_claims_one_name_and_holds_every_module(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"moa_dspy"}
    assert "moa_dspy/py.typed" in names
    sources = {f"moa_dspy/{path.relative_to(ROOT / 'moa_dspy')}" for path in (ROOT / "moa_dspy").rglob("*.py")}
    for folder in ("signatures", "optimizers", "data"):
        sources |= {f"moa_dspy/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert {f"{name}i" for name in sources if (ROOT / f"{name}i").exists()} <= names
    assert "moa_dspy/__init__.pyi" in names
    page = {"report.html.j2", "sections.html.j2", "report.css"}
    assert {f"moa_dspy/optimizers/report/{name}" for name in page} <= names
    run_page = {"run.html.j2", "run_parts.html.j2", "run.css", "run.js"}
    assert {"moa_dspy/page.css", *(f"moa_dspy/run_view/{name}" for name in run_page)} <= names


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "dspy", "pydantic", "litellm", "optuna", "datasets", "numpy"
    code = f"import sys, moa_dspy; print([name for name in {heavy!r} if name in sys.modules])"
    assert run(code).strip() == "[]"


@pytest.mark.slow
def test_the_program_needs_neither_litellm_nor_the_optimizers_libraries() -> None:
    # DSPy registers LiteLLM as a lazy module, which becomes an ordinary one when it is first used.
    code = """
import sys, moa_dspy
moa_dspy.AttentionMoA
loaded = [name for name, module in sys.modules.items() if type(module).__name__ != "_LazyModule"]
print([name for name in ("litellm", "optuna", "datasets", "xllamacpp") if name in loaded])
"""
    assert run(code).strip() == "[]"


def test_every_public_name_is_there() -> None:
    package: Any = moa_dspy
    for name in package.__all__:
        assert getattr(moa_dspy, name) is not None
    assert set(package.__all__) <= set(dir(moa_dspy))
    with pytest.raises(AttributeError, match="nothing"):
        package.nothing  # noqa: B018
