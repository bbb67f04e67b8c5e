"""Rows answered with Ray Data on one machine: an actor that is killed, and two actors against one.

uv run --with 'ray[data]' python -m benchmarks.ray_rows
uv run --with 'ray[data]' python -m benchmarks.ray_rows --rows 400 --latency 0.2
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers are started with this Python, not by uv

import ray
import ray.data

from benchmarks.common import TASK, arguments, lm_at, provider, question, table
from moa_dspy import single_model
from moa_dspy.ray import ask


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print a table and return its figures."""
    options = arguments(__doc__, argv, rows=2_000, latency=0.2, concurrency=32)
    ray.init(num_cpus=4, log_to_driver=False, include_dashboard=False)
    figures: dict[str, float] = {}
    with provider(options.latency) as url, tempfile.TemporaryDirectory() as folder:
        for name, actors, kill in (("one actor", 1, False), ("two actors", 2, False), ("one of two killed", 2, True)):
            out = Path(folder) / name
            began = time.perf_counter()
            if kill:
                threading.Timer(0.4 * figures["two actors, seconds"], _kill_one).start()
            rows = [{"id": number, "question": question(number)} for number in range(options.rows)]
            program = single_model(TASK, lm_at(url))
            asked = ask(
                ray.data.from_items(rows, override_num_blocks=32), program, actors=actors,
                concurrency=options.concurrency, calls_at_once=options.concurrency * actors, num_cpus=1,
                max_restarts=-1, max_task_retries=-1,
            )  # fmt: skip
            asked.write_parquet(str(out))
            answers = ray.data.read_parquet(str(out))
            figures[f"{name}, seconds"] = time.perf_counter() - began
            figures[f"{name}, rows lost"] = options.rows - len(
                {row["id"] for row in answers.iter_rows() if row["answer"]}
            )
        resumed = ask(ray.data.from_items(rows), program, id_column="id", done=answers)
        figures["rows asked again with all of them done"] = resumed.count()
    figures["two actors against one"] = figures["one actor, seconds"] / figures["two actors, seconds"]
    table([("", "figure"), *((name, f"{value:.2f}") for name, value in figures.items())])
    ray.shutdown()
    return figures


def _kill_one() -> None:
    """Kill the process of an actor."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            children_of_ours = _is_ours(int(folder.name))
        except OSError:
            continue
        if b"ray::" in command and b"MapWorker" in command and children_of_ours:
            os.kill(int(folder.name), signal.SIGKILL)
            return
    raise RuntimeError("no actor is running")


def _is_ours(process: int) -> bool:
    """Return whether a process descends from this one."""
    while process > 1:
        if process == os.getpid():
            return True
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return False


if __name__ == "__main__":
    main()
