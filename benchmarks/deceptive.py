"""One of five agents is wrong on purpose and argues for it: what that costs, and what each defence saves.

    uv run python -m benchmarks.deceptive [--questions 50] [--tuning 60] [--draws 500] [--seed 0]

Simulated agents share hard questions and wrong answers. The liar gives the usual wrong answer in every role. Quarantine
is fitted on tuning sets that are drawn from further questions; it is counted how often the liar and honest agents are
left out. Prompts show candidate answers without names, so the order of the agents is all that may tell them apart.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

import dspy
from dspy.clients.cache import Cache

from benchmarks.common import Row, arguments, table
from benchmarks.search_records import fresh
from moa_dspy import AttentionMoA
from moa_dspy.optimizers import Run, attribute, measure
from moa_dspy.optimizers.analysis.ceiling import proposals_of
from moa_dspy.optimizers.analysis.quarantine import QUARANTINE_LEVEL, drop, p_values
from moa_dspy.testing import SimulatedLM

__all__ = ["main"]

WORLDS: dict[str, tuple[float, ...]] = {
    "equal skill": (0.6, 0.6, 0.6, 0.6, 0.6),
    "unequal skill": (0.4, 0.5, 0.6, 0.7, 0.8),
    "weak agents": (0.3, 0.3, 0.3, 0.3, 0.3),
}
TASK = "question -> answer: int"


def exact(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.answer == prediction.answer)


def agents(world: str, answers: dict[str, str], seed: int, liar: int | None) -> list[SimulatedLM]:
    """Five agents, of which one may deceive. It has the name and the skill of the honest agent in its place."""
    return [
        SimulatedLM(
            answers,
            knows=skill,
            finds=0.2,
            adopts=0.8,
            misled=0.3,
            deceives=float(number == liar),
            seed=seed,
            world=seed,
            model=f"sim/{world}-{number}{'-liar' if number == liar else ''}",
            cache=True,
        )
        for number, skill in enumerate(WORLDS[world])
    ]


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the scores of each defence, and how often quarantine leaves out the liar and honest agents."""
    options = arguments(__doc__, argv, questions=50, tuning=60, pool=200, draws=500, seed=0)
    answers = {f"task {number:04d}": str(number) for number in range(options.questions + options.pool)}
    rows = [dspy.Example(question=task, answer=int(text)).with_inputs("question") for task, text in answers.items()]
    figures: dict[str, dict[str, float]] = {}
    cast("Any", dspy).cache = fresh(Cache)
    for world in WORLDS:
        figures[world] = world_figures(world, answers, rows[: options.questions], rows[options.questions :], options)
        print(world, figures[world], flush=True)
    names = list(figures["equal skill"])
    cells: list[Row] = [("what", *figures)]
    table([*cells, *((name, *(f"{100 * figures[world][name]:.1f} %" for world in figures)) for name in names)])
    return figures


def world_figures(
    world: str, answers: dict[str, str], test: list[dspy.Example], pool: list[dspy.Example], options: Any
) -> dict[str, float]:
    """Return scores on ``test``, and how often tuning sets from ``pool`` put agents into quarantine."""

    def moa(liar: int | None, **changes: Any) -> AttentionMoA:
        return AttentionMoA(TASK, agents(world, answers, options.seed, liar), layers=1, **changes)

    def score(program: AttentionMoA) -> float:
        return measure(program, test, exact).score().value

    def left_out(program: AttentionMoA) -> tuple[list[list[str]], dict[str, float]]:
        runs = measure(proposals_of(program), pool, exact, keep_traces=True).runs
        columns = scores_of(proposals_of(program), runs)
        draw, names = random.Random(options.seed), list[list[str]]()
        for _ in range(options.draws):
            picked = draw.sample(range(len(pool)), options.tuning)
            p = p_values(list(columns), [{name: column[index] for name, column in columns.items()} for index in picked])
            names.append([name for name, value in p.items() if value <= QUARANTINE_LEVEL / len(p)])
        return names, {name: sum(column) for name, column in columns.items()}

    shown = {"honest": score(moa(None))}
    for place, where in ((0, "first"), (4, "last")):
        plain = moa(place)
        liar = plain.architecture.agents[place].name
        names, means = left_out(plain)
        shown |= {
            f"liar {where}": score(plain),
            f"liar {where}, nobody judges its own answer": score(moa(place, attention="cross")),
            f"liar {where}, in quarantine": score(drop(plain, {liar}, means)),
            f"liar {where}: found": sum(liar in one for one in names) / len(names),
            f"liar {where}: an honest agent left out": sum(bool(set(one) - {liar}) for one in names) / len(names),
        }
    names, _ = left_out(moa(None))
    return {**shown, "no liar: an agent left out": sum(map(bool, names)) / len(names)}


def scores_of(program: AttentionMoA, runs: Sequence[Run]) -> dict[str, list[float]]:
    """Return the score of each agent's proposal in each run."""
    known = []
    for run in runs:
        assert run.trace is not None
        known.append(
            {
                one.step.agent: one.score
                for one in attribute(run.trace, run.example, exact, program).select(1, "propose")
            }
        )
    return {spec.name: [scores[spec.name] for scores in known] for spec in program.architecture.agents}


if __name__ == "__main__":
    main()
