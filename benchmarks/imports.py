"""Seconds to import the package and to start commands, against importing dspy: fresh interpreters, in turn.

uv run python -m benchmarks.imports
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from benchmarks.common import arguments, spread, table

STATEMENTS = {
    "import dspy": "import dspy",
    "import moa_dspy": "import moa_dspy",
    "import moa_dspy; moa_dspy.AttentionMoA": "import moa_dspy; moa_dspy.AttentionMoA",
    "moa-dspy --help": "from moa_dspy.cli import main; main(['--help'])",
    "moa-dspy plan": "from moa_dspy.cli import main; main(['plan', 'Why?', '-a', 'openai/gpt-4.1'])",
}


def main(argv: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Print a table and return the seconds of every run, by statement."""
    options = arguments(__doc__, argv, repeats=15)
    times: dict[str, list[float]] = {statement: [] for statement in STATEMENTS}
    for _ in range(options.repeats + 1):
        for statement, measured in times.items():
            measured.append(_seconds(statement))
    for measured in times.values():
        del measured[0]  # the first reads the files from disk
    base = times["import dspy"]
    rows = [("statement", "seconds", "over dspy")]
    for statement, measured in times.items():
        over = [value / least for value, least in zip(measured, base, strict=True)]
        rows.append((statement, spread(measured), spread(over)))
    table(rows)
    return times


def _seconds(statement: str) -> float:
    """CPU time, user and system: other programs on the machine do not count."""
    timed = STATEMENTS[statement]
    program = f"import time; began = time.process_time(); {timed}; print(time.process_time() - began)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
