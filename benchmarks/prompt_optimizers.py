"""All prompt optimizers on simulated tasks with something planted: what each gains on unseen questions, and its calls.

    uv run python -m benchmarks.prompt_optimizers [--questions 60] [--seed 0] [--method gepa ...] [--errors shared ...]

Three agents on different models, one layer of proposals and an aggregate. An agent's skill is 0.35, and 0.9 where the
prompt has what is planted: an example of the task (methods that give demos), one sentence (methods that write
instructions), or either. Agents fail on the same hard questions (``shared`` errors), or each for itself. The model that
writes instructions is scripted; one in five of its ideas is the planted one. For ``reanchor`` two layers and a
synthesis that gives real improvements a probability of 0.4, and so never goes on. Simulated models: this shows that the
machinery finds what is there to be found, not what real models gain.
"""

from __future__ import annotations

import argparse
import os
from typing import Any, cast

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import dspy
from dspy.clients.cache import Cache
from support import planted

from benchmarks.search_worlds import ERRORS, Errors
from moa_dspy.optimizers import Gain, compile, measure  # noqa: A004 (DSPy's word)

PLANTED: dict[str, tuple[str, Any]] = {
    "labeled": ("demo", planted.shown),
    "bootstrap": ("demo", planted.shown),
    "bootstrap_random": ("demo", planted.shown),
    "knn": ("demo", planted.shown),
    "copro": ("instruction", planted.told),
    "mipro": ("either", planted.either),
    "simba": ("either", planted.either),
    "gepa": ("instruction", planted.told),
    "reanchor": ("threshold", None),
}


def run(method: Any, errors: Errors, seed: int, questions: int) -> str:
    """One line of the table: a method with its default effort, scored on questions that it never saw."""
    cast("Any", dspy).cache = Cache(
        enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir=None, memory_max_entries=10**6
    )
    what, knows = PLANTED[method]
    if knows is None:
        program, tasks = planted.cautious_program(80 + questions)
        train, val, test = tasks[:40], tasks[40:80], tasks[80:]
    else:
        program = planted.program_of(planted.agents(knows, cache=True, **ERRORS[errors]))
        train, val, test = planted.examples(0, 40), planted.examples(40, 80), planted.examples(80, 80 + questions)
    result = compile(
        program,
        trainset=train,
        valset=val,
        metric=planted.right,
        method=method,
        seed=seed,
        prompt_lm=planted.writer(temperature=1.0),
    )
    before, after = measure(program, test, planted.right), measure(result.program, test, planted.right)
    gain = Gain.of(before.scores, after.scores)
    cells = [
        method,
        what,
        errors if knows else "",
        str(len(test)),
        str(before.score()),
        str(after.score()),
        str(gain),
        f"{gain.p:.4f}",
    ]
    return f"| {' | '.join([*cells, str(result.cost.paid_calls), f'{result.cost.seconds:.0f}'])} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", action="append", choices=list(PLANTED))
    parser.add_argument("--errors", action="append", choices=list(ERRORS))
    options = parser.parse_args()
    print("| method | planted | errors | unseen questions | before | after | gain | p | LM calls | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for method in options.method or PLANTED:
        for errors in options.errors or ERRORS:
            if errors == "shared" or PLANTED[method][1]:  # the threshold is planted in scripted models
                print(run(method, errors, options.seed, options.questions), flush=True)


if __name__ == "__main__":
    main()
