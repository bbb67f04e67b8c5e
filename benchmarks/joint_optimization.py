"""Prompts and architecture that need each other: ``optimize`` against its parts alone, with the same budget.

    uv run python -m benchmarks.joint_optimization --out joint.jsonl [--seeds 10] [--kinds joint prompts architecture]

Two or three simulated agents, whose skills depend on one planted sentence in their prompt, and on who criticises whom.
The model that writes prompts is scripted; one in five of its ideas is the planted one. The figure is the score of the
candidate on questions that no part has seen. Results are appended to ``--out``; called again, the command skips them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
from dspy.clients.cache import Cache
from dspy.lm15 import Request
from support import planted

from benchmarks.search_simulated import keep
from moa_dspy import AttentionMoA, Budget
from moa_dspy.optimizers import Gepa, SearchSpace, measure, optimize
from moa_dspy.testing import SimulatedLM, prompt_of

__all__ = ["KINDS", "WORLDS", "main", "run"]

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "joint": ("prompts", "architecture", "stop"),
    "prompts": ("prompts", "stop"),
    "architecture": ("architecture", "stop"),
    "architecture first": ("architecture", "prompts", "stop"),
}
SPACE: Final = SearchSpace(
    samples=1,
    temperatures=(0.7,),
    shared_temperature=True,
    attention=("full", "none"),
    critiques=("single",),
    residual=("synthesis",),
    layers=(1,),
    aggregators=("a",),
    gate=("off",),
)


def told(yes: float, no: float) -> Callable[[Request], float]:
    """Return a skill that depends on whether the prompt has the planted sentence."""
    return lambda request: yes if planted.PHRASE in prompt_of(request) else no


_AGENT: Final[Mapping[str, Any]] = {"knows": 0.5, "finds": 0.0, "adopts": 0.9, "misled": 0.1}
_CRITIC: Final = {**_AGENT, "finds": told(0.85, 0.0)}
_REFINER: Final = {**_AGENT, "finds": 0.7, "adopts": told(0.95, 0.0), "misled": told(0.0, 0.6)}

WORLDS: Final[Mapping[str, tuple[Mapping[str, Mapping[str, Any]], str]]] = {
    "critics": ({"a": _CRITIC, "b": _CRITIC}, "full"),
    "critics, start without": ({"a": _CRITIC, "b": _CRITIC}, "none"),
    "sleeper": ({"a": _AGENT, "b": {**_AGENT, "knows": told(0.9, 0.2)}}, "none"),
    "refiners": ({"a": _REFINER, "b": _REFINER}, "full"),
    "critics and a liar": ({"a": _CRITIC, "b": _CRITIC, "c": {**_AGENT, "deceives": 1.0}}, "full"),
}
"""Agents by name, and the attention of the program at the start."""


def run(world: str, kind: str, seed: int, calls: int) -> dict[str, Any]:
    """Optimize one program; return its candidate's score on unseen questions, and what was paid."""
    cast("Any", dspy).cache = Cache(
        enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None, memory_max_entries=10**6
    )
    skills, attention = WORLDS[world]
    shared = {"seed": seed, "world": seed, "cache": True, "temperature": 0.7}
    agents = [SimulatedLM(planted.PRODUCTS, model=f"simulated/{name}", **shared, **one) for name, one in skills.items()]
    result = optimize(
        AttentionMoA("question -> answer", agents, layers=1, attention=attention),
        trainset=planted.examples(0, 36),
        valset=planted.examples(36, 48),
        metric=planted.right,
        parts=cast("Any", KINDS[kind]),
        method=Gepa(runs=250),
        prompt_lm=planted.writer(temperature=1.0),
        space=SPACE,
        n_trials=12,
        budget=Budget(calls=calls),
        explain=False,
        seed=seed,
    )
    score = measure(result.candidate, planted.examples(84, 144), planted.right).score().value
    return {"score": score, "paid": result.cost.paid_calls}


def main(argv: list[str] | None = None) -> None:
    """Run what is missing, then print the medians of each world."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("joint.jsonl"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["joint", "prompts", "architecture"])
    options = parser.parse_args(argv)
    keys = ("world", "kind", "seed", "calls")
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {tuple(row[key] for key in keys) for row in rows}
    for seed in range(options.seeds):
        for world in WORLDS:
            for kind in options.kinds:
                what = (world, kind, seed, options.calls)
                if what not in done:
                    rows.append({**dict(zip(keys, what, strict=True)), **run(*what)})
                    keep(options.out, rows[-1])
    tabulate([row for row in rows if row["calls"] == options.calls], options.kinds)


def tabulate(rows: list[dict[str, Any]], kinds: list[str]) -> None:
    """Print the median score of each kind by world, with the number of seeds and the mean of the paid calls."""
    print(f"| world | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for world in WORLDS:
        cells = []
        for kind in kinds:
            own = [row for row in rows if (row["world"], row["kind"]) == (world, kind)]
            paid = statistics.fmean(row["paid"] for row in own) if own else 0.0
            median = statistics.median(row["score"] for row in own) if own else 0.0
            cells.append(f"{median:.2f} ({len(own)} seeds, {paid:.0f} calls)")
        print(f"| {world} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
