"""GEPA guided by stage scores against GEPA with text feedback alone: runs until the planted instruction is found.

    PYTHONPATH=tests uv run python -m benchmarks.stage_guide --seeds 10

Three simulated agents, full attention, one layer, so GEPA has five prompts to choose from. One sentence helps, and only
in one role (in the world ``two`` it takes both of two roles). The model that writes instructions is scripted; one in
five of its ideas is that sentence. Counted are the runs of the program, as GEPA counts them, until a candidate that has
the sentence where it helps is accepted. A search that does not find it counts with the limit.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

import dspy
from dspy.clients.cache import Cache
from support import planted

from benchmarks.common import table
from moa_dspy.optimizers import Gepa, compile  # noqa: A004 (DSPy's word)
from moa_dspy.testing import prompt_of


class World(NamedTuple):
    """Where the sentence helps.

    Attributes:
        roles: the predictors that need it.
        skill: options of the agents.
    """

    roles: tuple[str, ...]
    skill: Mapping[str, Any]


def told(yes: float, no: float) -> Any:
    """Return a chance that depends on whether the prompt has the sentence."""
    return lambda request: yes if planted.PHRASE in prompt_of(request) else no


WORLDS: Final[Mapping[str, World]] = {
    "propose": World(("propose",), {"knows": told(0.9, 0.35), "finds": 0.3, "adopts": 0.5}),
    "critique": World(("critique",), {"knows": 0.5, "finds": told(0.8, 0.0), "adopts": 0.9}),
    "refine": World(("refine",), {"knows": 0.5, "finds": 0.8, "adopts": told(0.9, 0.05)}),
    "two": World(("propose", "critique"), {"knows": told(0.75, 0.35), "finds": told(0.8, 0.0), "adopts": 0.9}),
}


def runs_until_found(world: World, guide: Any, seed: int, limit: int) -> int:
    """Return the number of runs until the sentence is where it helps; at most ``limit``."""
    cast("Any", dspy).cache = Cache(
        enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None, memory_max_entries=10**6
    )
    found: list[int] = []

    def is_found(state: Any) -> bool:
        if any(all(planted.PHRASE in one[role] for role in world.roles) for one in state.program_candidates):
            found.append(state.total_num_evals)
        return bool(found)

    skill = dict(world.skill)
    program = planted.program_of(planted.agents(skill.pop("knows"), cache=True, **skill), attention="full")
    compile(
        program,
        trainset=planted.examples(0, 40),
        valset=planted.examples(40, 60),
        metric=planted.right,
        method=Gepa(runs=limit, guide=guide, more={"stop_callbacks": [is_found]}),
        seed=seed,
        prompt_lm=planted.writer(temperature=1.0),
    )
    return min([*found, limit])


def main() -> None:
    """Print the median, the mean and each number of runs."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--limit", type=int, default=600, help="runs of a search")
    options.add_argument("--world", choices=list(WORLDS), nargs="*")
    arguments = options.parse_args()
    rows = [("world", "guide", "median", "mean", "found", "runs of each seed")]
    for name in arguments.world or WORLDS:
        for guide in ("text", "stages"):
            runs = [runs_until_found(WORLDS[name], guide, seed, arguments.limit) for seed in range(arguments.seeds)]
            found = sum(one < arguments.limit for one in runs)
            figures = f"{statistics.median(runs):.0f}", f"{statistics.fmean(runs):.0f}", f"{found} of {len(runs)}"
            rows.append((name, guide, *figures, " ".join(map(str, runs))))
            print(*rows[-1], flush=True)
    table(rows)


if __name__ == "__main__":
    main()
