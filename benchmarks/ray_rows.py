"""Rows answered with Ray Data on one machine: one actor, two, and two of which one is killed.

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
from typing import Any

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers are started with this Python, not by uv
os.environ.setdefault("RAY_raylet_start_wait_time_s", "240")  # on a busy machine, Ray starts slowly

import pyarrow.parquet as pq
import ray  # pyright: ignore[reportMissingImports]
import ray.data  # pyright: ignore[reportMissingImports]

from benchmarks.common import TASK, arguments, lm_at, provider, question, table
from moa_dspy import AttentionMoA, single_model
from moa_dspy.ray import ask

__all__ = ["kill_an_actor", "main", "start"]

_BLOCK = 32  # rows


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print a table and return its figures."""
    options = arguments(__doc__, argv, rows=2_000, latency=0.2, concurrency=32)
    figures: dict[str, float] = {}
    with provider(options.latency) as url, tempfile.TemporaryDirectory() as folder:
        start()
        program = single_model(TASK, lm_at(url))
        rows = [{"id": number, "question": question(number)} for number in range(options.rows)]
        for name, actors, kill in (("one actor", 1, False), ("two actors", 2, False), ("one of two killed", 2, True)):
            out = Path(folder) / name
            killer = threading.Thread(target=_kill_when_under_way, args=(out, options.rows // _BLOCK // 4))
            if kill:
                killer.start()
            began = time.perf_counter()
            _answer(rows, program, out, actors, options.concurrency)
            figures[f"{name}: seconds, start included"] = time.perf_counter() - began
            if kill:
                killer.join()
            answers = pq.read_table(out, columns=["id", "error"]).to_pylist()
            answered = [answer["id"] for answer in answers if answer["error"] is None]
            figures[f"{name}: rows lost"] = options.rows - len(set(answered))
            figures[f"{name}: rows twice"] = len(answered) - len(set(answered))
        ray.shutdown()
    table([("", "figure"), *((name, f"{value:.2f}") for name, value in figures.items())])
    return figures


def start() -> None:
    """Start Ray on this machine, with four logical CPUs. Two actors leave two for reading and writing."""
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)


def _answer(rows: list[dict[str, Any]], program: AttentionMoA, out: Path, actors: int, concurrency: int) -> None:
    asked = ask(
        ray.data.from_items(rows, override_num_blocks=8), program, actors=actors, concurrency=concurrency,
        calls_at_once=concurrency * actors, rows_per_block=_BLOCK, num_cpus=1,
    )  # fmt: skip
    asked.write_parquet(str(out))


def _kill_when_under_way(out: Path, blocks: int) -> None:
    """Kill an actor once that many blocks of answers are written."""
    while len(list(out.glob("*.parquet"))) < blocks:
        time.sleep(0.05)
    kill_an_actor()
    print("an actor was killed")


def kill_an_actor() -> None:
    """Kill the process of an actor that answers rows.

    Raises:
        RuntimeError: if there is none.
    """
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            if b"ray::MapWorker" in command and _is_ours(int(folder.name)):
                os.kill(int(folder.name), signal.SIGKILL)
                return
        except OSError:  # it has ended
            continue
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
