"""One process of a search, for tests: runs it, and writes its result as JSON."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import dspy
from dspy.clients.cache import Cache
from dspy.lm15 import Request
from support.simulated_tasks import ANSWERS, exact, examples

from moa_dspy.optimizers import Pruning, SearchSpace, search
from moa_dspy.testing import SimulatedLM, prompt_of

__all__ = ["work"]

N_TRIALS = 6
SPACE = SearchSpace(samples=1, temperatures=(0.4, 0.9), attention=("full", "none"), aggregators=("a",), layers=(1,))


def work(folder: Path, storage: str, name: str, latency: float, n_trials: int = N_TRIALS) -> None:
    """Search, and write down every request that reaches a model, before and after its answer.

    Args:
        folder: where the process writes ``calls-<name>.txt``, ``answered-<name>.txt`` and ``result-<name>.json``. The
            response cache of all processes is there, too.
        storage: of the study.
        name: of the process.
        latency: of a model, in seconds.
        n_trials: of the study.
    """
    warnings.simplefilter("error")
    dspy.cache = Cache(enable_disk_cache=True, enable_memory_cache=True, disk_cache_dir=f"{folder}/cache")  # pyright: ignore[reportAttributeAccessIssue]
    asked, answered = folder / f"calls-{name}.txt", folder / f"answered-{name}.txt"

    def counted(model: str, **skill: Any) -> SimulatedLM:
        lm = SimulatedLM(ANSWERS, model=f"simulated/{model}", latency=latency, cache=True, **skill)
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
        trainset=examples(8),
        metric=exact,
        n_trials=n_trials,
        storage=storage,
        unit="calls",
        pruning=Pruning(first_batch=2, level=0.0),
        concurrency=2,
    )
    result = {"score": found.score.value, "n_trials": n_trials, "ended_by": found.report["ended_by"]}
    (folder / f"result-{name}.json").write_text(json.dumps(result))


def note(path: Path, line: str) -> None:
    """Append a line that is on disk when this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
