"""One search by one, two and four processes on a study in a database: how much sooner is it over?

    uv run python -m benchmarks.search_processes                  # a journal file
    uv run --with psycopg2-binary python -m benchmarks.search_processes --server postgresql+psycopg2://me@127.0.0.1/postgres

Simulated agents take 200 ms a call. Every process runs the same call of ``search``; together they run its trials. The
time is from when all have imported everything to when the last one returns. Each number of processes has a study and a
response cache of its own. On a server, the command makes its databases itself.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import dspy
import sqlalchemy
from dspy.clients.cache import Cache

from benchmarks.common import Row, spread, table
from moa_dspy.optimizers import SearchSpace, search
from moa_dspy.testing import SimulatedLM

_CONTEXT = multiprocessing.get_context("spawn")
_SPACE = SearchSpace(samples=1, temperatures=(0.3, 0.9), critiques=("single",), gate=("off",), layers=(1,))
_SKILLS: dict[str, dict[str, Any]] = {
    "planner": {"knows": 0.3, "finds": 0.4, "misled": 0.2},
    "writer": {"knows": 0.45, "finds": 0.15, "misled": 0.3},
    "talker": {"knows": 0.2, "finds": 0.0, "misled": 0.5},
}

Figures: TypeAlias = dict[str, float]


def exact(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    """Return whether the answer is the example's."""
    return str(example.answer) == prediction.answer


def work(folder: Path, storage: str, name: str, settings: argparse.Namespace, ready: Barrier) -> None:
    """Search once all processes are ready. Write the seconds, the score and the paid calls to a file."""
    dspy.cache = Cache(enable_disk_cache=True, enable_memory_cache=True, disk_cache_dir=str(folder / "cache"))  # pyright: ignore[reportAttributeAccessIssue]
    answers = {f"task {number:03d}": str(number + 100) for number in range(settings.examples)}
    latency = settings.milliseconds / 1000
    lms = [
        SimulatedLM(answers, model=f"simulated/{model}", latency=latency, cache=True, **skill)
        for model, skill in _SKILLS.items()
    ]
    trainset = [dspy.Example(question=task, answer=answer).with_inputs("question") for task, answer in answers.items()]
    ready.wait()
    began = time.monotonic()
    found = search(
        *("question -> answer", lms),
        trainset=trainset,
        metric=exact,
        space=_SPACE,
        n_trials=settings.trials,
        storage=storage,
        unit="calls",
        concurrency=settings.concurrency,
    )
    figures = {"seconds": time.monotonic() - began, "score": found.score.value, "calls": found.cost.paid_calls}
    (folder / f"{name}.json").write_text(json.dumps(figures))


def together(processes: int, settings: argparse.Namespace) -> Figures:
    """Return the seconds until the last of some processes has ended, the best score, and all calls."""
    with tempfile.TemporaryDirectory() as name, study(settings.server, Path(name)) as storage:
        folder, ready = Path(name), _CONTEXT.Barrier(processes)
        begun = [
            _CONTEXT.Process(target=work, args=(folder, storage, f"result-{number}", settings, ready))
            for number in range(processes)
        ]
        for process in begun:
            process.start()
        for process in begun:
            process.join()
        results = [json.loads(file.read_text()) for file in folder.glob("result-*.json")]
    assert len(results) == processes, "a process failed"
    return {
        "seconds": max(one["seconds"] for one in results),
        "score": max(one["score"] for one in results),
        "calls": sum(one["calls"] for one in results),
    }


@contextmanager
def study(server: str | None, folder: Path) -> Iterator[str]:
    """A storage for one study: a database on a server, or a journal file."""
    if server is None:
        yield f"journal:///{folder}/study.log"
        return
    url, name = sqlalchemy.make_url(server), f"moa_{uuid.uuid4().hex}"
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"DROP DATABASE {name}"))


def main(argv: Sequence[str] | None = None) -> dict[int, list[Figures]]:
    """Print a table and return the figures by number of processes."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--server", help="URL of a database on a server where databases may be made")
    options.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    options.add_argument("--trials", type=int, default=24)
    options.add_argument("--examples", type=int, default=16)
    options.add_argument("--milliseconds", type=float, default=200.0, help="of a call")
    options.add_argument("--concurrency", type=int, default=4, help="runs at once in a process")
    options.add_argument("--repeats", type=int, default=3)
    settings = options.parse_args(argv)
    figures: dict[int, list[Figures]] = {number: [] for number in settings.processes}
    for _ in range(settings.repeats):
        for number in settings.processes:
            figures[number].append(together(number, settings))
    first = median(one["seconds"] for one in figures[settings.processes[0]])
    rows: list[Row] = [("processes", "speed-up", "calls", "best score")]
    for number, runs in figures.items():
        columns = (
            [first / one["seconds"] for one in runs],
            *([one[key] for one in runs] for key in ("calls", "score")),
        )
        rows.append((str(number), *(spread(column) for column in columns)))
    table(rows)
    return figures


if __name__ == "__main__":
    main()
