"""Searches on simulated agents, where the optimum is known because every architecture was run.

    uv run python -m benchmarks.search_simulated --out results.jsonl --records records
    uv run python -m benchmarks.search_simulated --worlds kinds --examples 12 --out kinds.jsonl

Each world is run exhaustively once, and searches are replayed from the record, see ``benchmarks.search_records``. A
search ends when it has paid for a fifth of the exhaustive run's requests. What it would have returned after 2, 5, 10
and 20 % is compared with the best design of the world.

Results are appended to ``--out``, one line per search. Called again, the command skips what is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from benchmarks.search_records import Record, recorded
from benchmarks.search_worlds import ERRORS, QUALITY, World, quality, worlds
from moa_dspy.optimizers import TPEDesigns

SHARES = (0.02, 0.05, 0.1, 0.2)
"""Paid calls, as shares of those of the exhaustive run, after which the best design so far is noted."""
WANTED = 0.98
"""Share of the optimum that counts as found."""
SAMPLERS: dict[str, dict[str, Any]] = {"gp": {}, "tpe": {"sampler": TPEDesigns()}, "random": {}}

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Run what is missing, then print and return the results."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--worlds", nargs="+", default=["quality"], help="names of worlds, or: quality, kinds")
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--examples", type=int, default=50)
    options.add_argument("--draw", type=int, default=0, help="other draws of tasks and chances (worlds of quality)")
    options.add_argument("--errors", choices=list(ERRORS), default="shared", help="whether agents fail together")
    options.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS))
    options.add_argument("--out", type=Path, default=Path("search-results.jsonl"))
    options.add_argument("--records", type=Path, help="folder for the exhaustive runs (pickled: only read your own)")
    given = options.parse_args(arguments)
    key = {"errors": given.errors, "draw": given.draw, "examples": given.examples}
    names = [name for one in given.worlds for name in GROUPS.get(one, [one])]
    for name in names:
        wanted = [
            {**key, "world": name, "sampler": one, "seed": n} for one in given.samplers for n in range(given.seeds)
        ]
        known, records = rows_in(given.out), dict[int, Record]()
        for one in wanted:
            if not any(one.items() <= row.items() for row in known):
                world = world_of(name, one["seed"], given)
                record = records.get(world.seed) or recorded(world, given.records)
                records[world.seed] = record
                keep(given.out, {**one, **row_of(record, one["sampler"], one["seed"])})
    rows = [row for row in rows_in(given.out) if key.items() <= row.items() and row["world"] in names]
    rows = [row for row in rows if row["sampler"] in given.samplers and row["seed"] < given.seeds]
    tabulate(rows, given.samplers)
    return rows


GROUPS = {"quality": list(QUALITY), "kinds": list(worlds())}


def world_of(name: str, seed: int, given: argparse.Namespace) -> World:
    """Return a world by name, for a search with a seed."""
    one = quality(name, seed, draw=given.draw) if name in QUALITY else worlds()[name]
    return replace(one, count=given.examples, errors=given.errors)


def row_of(record: Record, sampler: str, seed: int) -> Row:
    """Return, of one search, the share of the optimum that it found after each of ``SHARES``, and what it paid."""
    most = int(SHARES[-1] * record.distinct)
    if sampler == "random":
        points = record.random(seed, most)
    else:
        points = record.search(seed, most=most, **SAMPLERS[sampler]).points
    found = {share: [one for calls, one in points if calls <= share * record.distinct][-1] for share in SHARES}
    row = {"optimum": record.best, "shares": {str(share): one.value / record.best for share, one in found.items()}}
    if record.world.deceptive is not None:
        row["dropped"] = {str(share): record.world.deceptive not in one.agents for share, one in found.items()}
    return row


def tabulate(rows: Sequence[Row], samplers: Sequence[str]) -> None:
    """Print the share of the optimum by world, sampler and paid calls, and sign tests against the first sampler."""
    names = list(dict.fromkeys(row["world"] for row in rows))
    for share in map(str, SHARES):
        print(f"\nShare of the optimum after {float(share):.0%} of the paid calls, mean (median) over seeds:\n")
        print(f"| world | {' | '.join(samplers)} |\n|---|{'---|' * len(samplers)}")
        found = {(row["world"], row["sampler"], row["seed"]): row["shares"][share] for row in rows}

        def values(name: str, sampler: str, of: dict[tuple[str, str, int], float] = found) -> list[float]:
            return [value for (world, one, _), value in of.items() if (world, one) == (name, sampler)]

        for name in names:
            cells = [values(name, sampler) for sampler in samplers]
            texts = [f"{statistics.fmean(cell):.1%} ({statistics.median(cell):.1%})" for cell in cells]
            print(f"| {name} | {' | '.join(texts)} |")
        for kind, average in (("mean", statistics.fmean), ("median", statistics.median)):
            counts = [sum(average(values(name, one)) >= WANTED for name in names) for one in samplers]
            print(f"| worlds with a {kind} of {WANTED:.0%} | {' | '.join(map(str, counts))} |")
        for rival in samplers[1:]:
            pairs = [(value, found[world, rival, n]) for (world, one, n), value in found.items() if one == samplers[0]]
            more, less = sum(ours > theirs for ours, theirs in pairs), sum(ours < theirs for ours, theirs in pairs)
            p = binomtest(more, more + less).pvalue if more + less else 1.0
            print(f"{samplers[0]} against {rival}: better {more}, worse {less}, of {len(pairs)}; p = {p:.3f}")
    for row in rows:
        if not all(row.get("dropped", {}).values()):
            print(f"{row['world']}, {row['sampler']}, seed {row['seed']}: not dropped after {row['dropped']}")


def rows_in(path: Path) -> list[Row]:
    """Return the results so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(path: Path, row: Row) -> None:
    """Append one result."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
