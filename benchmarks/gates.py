"""Gates and sparse attention on simulated agents: what they save, and what they lose.

``fit`` records runs of each world once, and draws the runs of each fit from them with replacement. So the loss of every
gate is known, and it can be counted how often a fit loses more than allowed. ``attention`` compares critiques.
"""

from __future__ import annotations

import dataclasses
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import dspy
from dspy.lm15 import Request

from benchmarks.common import Row, arguments, table
from moa_dspy import AttentionMoA
from moa_dspy.optimizers import measure
from moa_dspy.optimizers.stop_fitting.gates import choose_gate, replay_gates
from moa_dspy.testing import INDEPENDENT, SimulatedLM, prompt_of

__all__ = ["main"]

AGENTS = 5
USUAL = "usual"
Hard = Callable[[str], bool]


def question(number: int) -> str:
    return f"task {number:05d}"


def is_hard(share: float) -> Hard:
    """Return which questions are hard: a share of them, drawn by their text."""
    return lambda text: random.Random(text).random() < share


def agents(count: int, skill: float, hard: float = 0.0, usual: bool = False) -> list[SimulatedLM]:
    """Agents of a skill, which share only what is said here. Hard questions are known with 0.15.

    Args:
        count: number of questions.
        skill: probability of a right proposal to other questions.
        hard: share of hard questions.
        usual: whether all wrong answers are the same.
    """
    answers, chosen = {question(number): f"right {number}" for number in range(count)}, is_hard(hard)

    def knows(request: Request) -> float:
        prompt = prompt_of(request)
        start = prompt.rindex("task ")
        return 0.15 if chosen(prompt[start : start + 10]) else skill

    wrong = [USUAL] if usual else [f"wrong {number}" for number in range(9)]
    return [
        SimulatedLM(
            answers,
            knows=knows,
            finds=0.5,
            adopts=0.8,
            misled=0.1,
            wrong=wrong,
            seed=seed,
            model=f"sim/{seed}",
            **INDEPENDENT,
        )
        for seed in range(AGENTS)
    ]


WORLDS: dict[str, dict[str, Any]] = {
    "skill 0.9": {"skill": 0.9},
    "a third hard, shared errors": {"skill": 0.9, "hard": 1 / 3, "usual": True},
    "a thirtieth hard, shared errors": {"skill": 0.9, "hard": 1 / 30, "usual": True},
    "skill 0.6": {"skill": 0.6},
}


def exact(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(example.answer == prediction.answer)


def examples(count: int) -> list[dspy.Example]:
    return [
        dspy.Example(question=question(number), answer=f"right {number}").with_inputs("question")
        for number in range(count)
    ]


def fit(argv: Sequence[str]) -> dict[str, dict[str, float]]:
    """Fit a gate many times in each world, and return the figures of each world."""
    options = arguments(__doc__, argv, pool=1500, runs=500, fits=200, loss=0.01, confidence=0.95, seed=0)
    head = ("world", "unanimous: saved", "lost", "fitted: open", "saved", "lost", "loss above the limit", "gates")
    rows, figures = list[Row]([head]), dict[str, dict[str, float]]()
    for name, world in WORLDS.items():
        program = AttentionMoA("question -> answer", agents(options.pool, **world), layers=1)
        runs = measure(program, examples(options.pool), exact, keep_traces=True).runs
        pool = replay_gates(runs, exact)
        whole = {str(trial.gate): trial for trial in choose_gate(pool, options.loss, options.confidence).trials}
        full, draw = fmean(run.full.calls for run in pool.runs), random.Random(options.seed)
        chosen = Counter[str]()
        for _ in range(options.fits):
            drawn = dataclasses.replace(pool, runs=tuple(draw.choices(pool.runs, k=options.runs)))
            chosen[str(choose_gate(drawn, options.loss, options.confidence).gate)] += 1

        opened = [(whole[gate], count / options.fits) for gate, count in chosen.items() if gate != "off"]
        naive = whole["unanimous"]
        figures[name] = {
            "naive saved": 1 - naive.price.calls / full,
            "naive lost": naive.loss,
            "open": sum(share for _, share in opened),
            "saved": sum(share * (1 - trial.price.calls / full) for trial, share in opened),
            "lost": sum(share * trial.loss for trial, share in opened),
            "violated": sum(share for trial, share in opened if trial.loss > options.loss),
        }
        cells = [
            f"{value:.2%}" if "lost" in key or key == "violated" else f"{value:.0%}"
            for key, value in figures[name].items()
        ]
        rows.append((name, *cells, ", ".join(f"{gate} {count}" for gate, count in chosen.most_common(3))))
    table(rows)
    return figures


def attention(argv: Sequence[str]) -> dict[tuple[str, str], tuple[float, float]]:
    """Return score and calls of each kind of attention in each world, relative to full attention."""
    options = arguments(__doc__, argv, questions=800, layers=1)
    kinds: dict[str, dict[str, Any]] = {
        "full": {},
        "joint": {"critiques": "joint"},
        "disagreeing": {"attention": "disagreeing"},
        "disagreeing, joint": {"attention": "disagreeing", "critiques": "joint"},
        "none": {"attention": "none"},
    }
    rows: list[Row] = [("world", *(f"{kind}: score, calls" for kind in kinds))]
    figures: dict[tuple[str, str], tuple[float, float]] = {}
    for name, world in WORLDS.items():
        cells = []
        for kind, changes in kinds.items():
            program = AttentionMoA(
                "question -> answer", agents(options.questions, **world), layers=options.layers, **changes
            )
            measured = measure(program, examples(options.questions), exact)
            calls = measured.known_price.calls
            figures[name, kind] = fmean(measured.scores), calls
            of_full = figures[name, "full"]
            cells.append(f"{100 * (figures[name, kind][0] - of_full[0]):+.1f}, {calls / of_full[1]:.0%}")
        cells[0] = f"{figures[name, 'full'][0]:.1%}, {figures[name, 'full'][1]:.0f}"
        rows.append((name, *cells))
    table(rows)
    return figures


def main(argv: Sequence[str] | None = None) -> Any:
    """Run the measurement that the first argument names."""
    first, *rest = sys.argv[1:] if argv is None else argv
    return {"fit": fit, "attention": attention}[first](rest)


if __name__ == "__main__":
    main()
