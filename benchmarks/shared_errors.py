"""How much independent errors flatter ensembles: the same agents and questions with shared and with independent errors.

uv run python -m benchmarks.shared_errors [--questions 150] [--knows 0.5] [--finds 0.3]
"""

from __future__ import annotations

import argparse

import dspy

from benchmarks.search_worlds import ERRORS, TASK, Errors, exact
from moa_dspy import AttentionMoA, single_model
from moa_dspy.optimizers import ceiling, measure
from moa_dspy.testing import SimulatedLM


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument("--knows", type=float, default=0.5)
    parser.add_argument("--finds", type=float, default=0.3)
    options = parser.parse_args()
    tasks = {f"task {number:03d}": str(number % 7) for number in range(options.questions)}
    rows = [dspy.Example(question=task, answer=int(answer)).with_inputs("question") for task, answer in tasks.items()]
    columns: dict[Errors, dict[str, float]] = {}
    for errors, shared in ERRORS.items():
        skill = {"knows": options.knows, "finds": options.finds, "cache": True, **shared}
        lms = [SimulatedLM(tasks, model=f"{errors}/{number}", **skill) for number in range(5)]
        found = ceiling(AttentionMoA(TASK, lms, layers=1), rows, exact)
        assert found.vote is not None
        programs = {
            "one agent": single_model(TASK, lms[0]),
            "Attention-MoA, 5 agents, one layer": AttentionMoA(TASK, lms, layers=1),
        }
        scores = {name: measure(program, rows, exact).score().value for name, program in programs.items()}
        columns[errors] = {
            "one agent": scores.pop("one agent"),
            "vote of 5 agents": found.vote.right.value,
            "any of the 5 is right": found.selection.right.value,
            **scores,
        }
    print(f"| what | {' | '.join(f'{errors} errors' for errors in columns)} |\n|---|{'---|' * len(columns)}")
    for what in columns["shared"]:
        print(f"| {what} | {' | '.join(f'{column[what]:.3f}' for column in columns.values())} |")


if __name__ == "__main__":
    main()
