"""GSM8K on the embedded model: the single model, and Attention-MoA of three samples of it.

    uv run python -m benchmarks.gsm8k_local --data <folder with test.jsonl> --problems 20

Prints a row per program: accuracy, calls, tokens, seconds. The embedded model is far too small for these problems; the
table shows that the program runs from end to end on a real model, and what it costs there.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import dspy

from moa_dspy import Agent, AttentionMoA, Tokens, single_model
from moa_dspy.data import gsm8k
from moa_dspy.local import local_lm

TASK = "problem -> solution"
INSTRUCTIONS = "Solve the problem step by step. Write the final number on the last line after ####."


def main() -> None:
    """Run both programs on the same problems."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared/data/gsm8k")
    options.add_argument("--problems", type=int, default=20)
    options.add_argument("--layers", type=int, default=2)
    options.add_argument("--max-tokens", type=int, default=128, help="of each call")
    arguments = options.parse_args()
    logging.getLogger("dspy.clients.lm").setLevel(logging.ERROR)  # that answers are cut short is expected here
    lines = (arguments.data / "test.jsonl").read_text(encoding="utf-8").splitlines()
    problems = [json.loads(line) for line in lines[: arguments.problems]]
    task = dspy.Signature(TASK, INSTRUCTIONS)  # pyright: ignore[reportCallIssue]
    lm = local_lm(max_tokens=arguments.max_tokens, frequency_penalty=0.5, cache=False)
    agents = [Agent(lm, temperature=temperature) for temperature in (0.2, 0.5, 0.8)]
    programs = {
        "single model": single_model(task, Agent(lm, temperature=0.0)),  # pyright: ignore[reportArgumentType]
        f"Attention-MoA, 3 agents, {arguments.layers} layer(s)": AttentionMoA(
            task,  # pyright: ignore[reportArgumentType]
            agents,
            layers=arguments.layers,
        ),
    }
    print(f"{'program':<36} {'right':>7} {'calls':>6} {'tokens':>8} {'seconds':>8}")
    for name, program in programs.items():
        print(f"{name:<36} {_row(program, problems)}", flush=True)


def _row(program: AttentionMoA, problems: list[dict[str, str]]) -> str:
    right, calls, tokens, began = 0, 0, Tokens(), time.perf_counter()
    for problem in problems:
        prediction = program(problem=problem["question"])
        right += gsm8k.is_correct(prediction.solution, problem["answer"])
        calls += prediction.trace.calls
        tokens += prediction.trace.tokens
    return f"{right:>3}/{len(problems):<3} {calls:>6} {tokens.total:>8} {time.perf_counter() - began:>8.1f}"


if __name__ == "__main__":
    main()
