"""The packaged set on the embedded model, end to end: single model, MoA and Attention-MoA side by side.

    uv run python -m benchmarks.eval_local --limit 32 --layers 1

Every row is a `moa-dspy eval` of its own, from the same agents; the ensembles are compared with the single model
item by item. The embedded model is far too small to criticise: the table shows that the machine runs, and what it
costs there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

AGENTS = ("local@0.2", "local@0.5", "local@0.8")
PRESETS = {"single": "single model", "moa": "MoA, 3 agents", "attention-moa": "Attention-MoA, 3 agents"}


def main() -> None:
    """Run the three and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--limit", type=int, default=32)
    options.add_argument("--layers", type=int, default=1)
    options.add_argument("--concurrency", type=int, default=4)
    arguments = options.parse_args()
    print("| program | score, 95 % interval | against single | calls | tokens | seconds |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for preset in PRESETS:
            print(_row(preset, run(preset, Path(folder), arguments)), flush=True)


def run(preset: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One evaluation, as a user would start it; DSPy's response cache starts empty."""
    command = [sys.executable, "-m", "moa_dspy", "eval", "--benchmark", "starter", "--json", "--preset", preset]
    for agent in AGENTS:
        command += ["--agent", agent]
    command += ["--layers", str(arguments.layers), "--limit", str(arguments.limit)]
    command += ["--concurrency", str(arguments.concurrency), "--out", str(folder / f"{preset}.jsonl")]
    if preset != "single":
        command += ["--against", str(folder / "single.jsonl")]
    environment = {**os.environ, "DSPY_CACHEDIR": str(folder / "cache")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _row(preset: str, result: dict[str, Any]) -> str:
    score, compared = result["score"], result["comparison"]
    against = "" if compared is None else f"{100 * compared['difference']:+.1f} (p = {compared['p_value']:.2f})"
    cells = [
        PRESETS[preset],
        f"{100 * score['value']:.1f} % ({100 * score['low']:.1f} to {100 * score['high']:.1f}), n = {result['scored']}",
        against,
        str(result["calls"]),
        f"{result['tokens']['total']:,}",
        f"{result['seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
