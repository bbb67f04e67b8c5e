"""One process of a search, for tests: ``search_worker.py folder storage name latency``; prints its result as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import dspy
from dspy.clients.cache import Cache
from dspy.lm15 import Request
from support.simulated_tasks import ANSWERS, exact, examples

from moa_dspy.optimizers import Pruning, SearchSpace, search
from moa_dspy.testing import SimulatedLM, prompt_of

N_TRIALS = 8
SPACE = SearchSpace(samples=1, temperatures=(0.4, 0.9), attention=("full", "none"), aggregators=("a",), layers=(1, 2))


def main(folder: str, storage: str, name: str, latency: str) -> None:
    """Search, and write down every request that reaches a model, before and after its answer."""
    dspy.cache = Cache(enable_disk_cache=True, enable_memory_cache=True, disk_cache_dir=f"{folder}/cache")  # pyright: ignore[reportAttributeAccessIssue]
    asked, answered = Path(folder, f"calls-{name}.txt"), Path(folder, f"answered-{name}.txt")

    def counted(model: str, **skill: Any) -> SimulatedLM:
        lm = SimulatedLM(ANSWERS, model=f"simulated/{model}", latency=float(latency), cache=True, **skill)
        script: Any = lm.engine
        reply = script._reply

        def noted(request: Request) -> str:
            key = json.dumps([model, request.config.temperature, prompt_of(request)])
            note(asked, key)
            text = reply(request)
            note(answered, key)
            return text

        script._reply = noted
        return lm

    lms = [counted("a", knows=0.3, finds=0.8), counted("b", knows=0.6, finds=0.1)]
    found = search(
        *("question -> answer", lms),
        space=SPACE,
        trainset=examples(12),
        metric=exact,
        n_trials=N_TRIALS,
        storage=storage,
        unit="calls",
        pruning=Pruning(first_batch=3, level=0.0),
        concurrency=2,
    )
    print(json.dumps({"score": found.score.value, "n_trials": N_TRIALS, "ended_by": found.report["ended_by"]}))


def note(path: Path, line: str) -> None:
    """Append a line that is on disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
