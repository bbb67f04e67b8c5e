"""Measurements of docs/benchmarks.md; run them as ``uv run python -m benchmarks.NAME`` in the project's folder.

They use the loopback server and the simulated worlds of the tests' ``support`` package.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
