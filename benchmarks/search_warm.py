"""What a warm start saves if the tasks are alike, and costs if they differ, on replayed searches of simulated agents.

    uv run python -m benchmarks.search_warm --out warm.jsonl --records records

The world has one strong agent in any position, see ``benchmarks.search_worlds``. A search of other tasks comes first:
with the same strong agent (``alike``) or with another one (``different``). Its study or its program is the warm start.
The figure is the number of calls paid until the best design so far has 98 % of the optimum.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.search_records import Record, recorded
from benchmarks.search_simulated import WANTED, Row, keep, rows_in
from benchmarks.search_worlds import quality

NAME = "strong agent"
STARTS = ("none", "alike, study", "alike, program", "different, study", "different, program")
MOST = 0.5
"""Paid calls at which a search ends, as a share of those of the exhaustive run."""
BEFORE = 0.2
"""The same of the search that the warm start comes from."""


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Run what is missing, then print and return the results."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--examples", type=int, default=50)
    options.add_argument("--out", type=Path, default=Path("search-warm.jsonl"))
    options.add_argument("--records", type=Path, help="folder for the exhaustive runs (pickled: only read your own)")
    given = options.parse_args(arguments)
    known = rows_in(given.out)
    for seed in range(given.seeds):
        done = {row["start"] for row in known if (row["seed"], row["examples"]) == (seed, given.examples)}
        if done < set(STARTS):
            for start, calls in calls_of(seed, given).items():
                if start not in done:
                    keep(given.out, {"seed": seed, "examples": given.examples, "start": start, "calls": calls})
    rows = [row for row in rows_in(given.out) if row["examples"] == given.examples]
    tabulate(rows)
    return rows


def calls_of(seed: int, given: argparse.Namespace) -> dict[str, int]:
    """Return, by start, the calls paid until the optimum; at most ``MOST`` of those of the exhaustive run."""

    def record_of(position: int, draw: int) -> Record:
        return recorded(quality(NAME, position, draw=draw, count=given.examples), given.records)

    target, starts = record_of(seed, 0), dict[str, Any](none=())
    for name, position in (("alike", seed), ("different", seed + 2)):
        source = record_of(position, 1)
        before = source.search(1000 + seed, most=int(BEFORE * source.distinct)).result
        starts |= {f"{name}, study": before.study, f"{name}, program": before.program}
    return {name: calls_until(target, seed, start) for name, start in starts.items()}


def calls_until(record: Record, seed: int, start: Any) -> int:
    """Return the calls that a search pays until the best design so far has ``WANTED`` of the optimum."""
    most, enough = int(MOST * record.distinct), WANTED * record.best
    points = record.search(seed, most=most, enough=enough, warm_start=start).points
    return next((calls for calls, found in points if found.value >= enough), most)


def tabulate(rows: Sequence[Row]) -> None:
    """Print the calls by start, and their ratio to those of cold starts."""
    print("| start | calls, median | mean | mean over that of cold starts |\n|---|---|---|---|")
    cold = statistics.fmean(row["calls"] for row in rows if row["start"] == STARTS[0])
    for start in STARTS:
        calls = [row["calls"] for row in rows if row["start"] == start]
        mean = statistics.fmean(calls)
        print(f"| {start} | {statistics.median(calls):.0f} | {mean:.0f} | {mean / cold:.2f} |")


if __name__ == "__main__":
    main()
