"""Typed answers against free text on GSM8K: one model, read from text, from DSPy's format and from our answer line.

    uv run python -m benchmarks.typed_answers --model local/FILE.gguf --data FOLDER --out FOLDER

One row per contender: share of right answers with its interval, replies without a readable value, calls and tokens.
Every problem is written to ``--out`` as soon as it is answered; the same command resumes.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy

from moa_dspy import Agent, AttentionMoA, self_consistency, single_model
from moa_dspy.data import get_benchmark, gsm8k, load
from moa_dspy.evaluation import EvaluateResult, evaluate
from moa_dspy.local import local_lm


class Typed(dspy.Signature):
    """Solve the word problem."""

    question: str = dspy.InputField()
    answer: float = dspy.OutputField()


class TypedWithReasoning(dspy.Signature):
    """Solve the word problem."""

    question: str = dspy.InputField()
    reasoning: str = dspy.OutputField()
    answer: float = dspy.OutputField()


def is_right(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    """Return whether a typed answer is the reference's number."""
    reference = gsm8k.final_number(example.answer)
    return reference is not None and float(prediction.answer) == float(reference)


def contenders(lm: dspy.BaseLM) -> Mapping[str, tuple[AttentionMoA, Any, dspy.Adapter | None]]:
    """Return program, metric and adapter of each contender."""
    benchmark = get_benchmark("gsm8k")
    cold, warm = Agent(lm, temperature=0.0), Agent(lm, temperature=0.7)
    return {
        "free text": (single_model(benchmark.signature, cold), benchmark.metric(), None),
        "typed": (single_model(Typed, cold), is_right, None),
        "typed in DSPy's format": (single_model(TypedWithReasoning, cold), is_right, dspy.ChatAdapter()),
        "vote of five typed at 0.7": (self_consistency(Typed, warm, samples=5), is_right, None),
    }


def main() -> None:
    """Run the contenders one after the other and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", required=True, help="for example local/FILE.gguf")
    options.add_argument("--url", help="address of an OpenAI-compatible server with this model; its key is not used")
    options.add_argument("--concurrency", type=int, default=4)
    options.add_argument("--data", type=Path, required=True, help="folder with test.jsonl")
    options.add_argument("--out", type=Path, required=True, help="folder for the records")
    options.add_argument("--problems", type=int, default=200)
    options.add_argument("--max-tokens", type=int, default=320, help="of each call")
    options.add_argument("--only", nargs="*", help="names of contenders")
    arguments = options.parse_args()
    logging.getLogger("dspy.clients.lm").setLevel(logging.ERROR)  # that answers are cut short is expected here
    lm = _lm(arguments)
    devset = load("gsm8k", "test", path=arguments.data, limit=arguments.problems)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print("| contender | right, 95 % interval | unreadable or failed | calls | tokens |")
    print("|---|---|---|---|---|", flush=True)
    for name, (program, metric, adapter) in contenders(lm).items():
        if arguments.only and name not in arguments.only:
            continue
        records = arguments.out / f"{name.replace(' ', '-').replace(chr(39), '')}.jsonl"
        with dspy.context(adapter=adapter):
            result = evaluate(program, devset, metric, out=records, concurrency=arguments.concurrency)
        print(row(name, result), flush=True)


def _lm(arguments: argparse.Namespace) -> dspy.LM:
    if arguments.url is None:
        return local_lm(arguments.model, max_tokens=arguments.max_tokens, cache=False)
    settings = {"max_tokens": arguments.max_tokens, "cache": False}
    return dspy.LM(arguments.model, api_base=arguments.url, api_key="unused", **settings)


def row(name: str, result: EvaluateResult) -> str:
    """Return a line of the table. Failed and unreadable answers count as wrong."""
    right = sum(record.score or 0.0 for record in result.records)
    usage = result.program_usage
    interval = "" if result.score is None else f"{100 * result.score.low:.1f} to {100 * result.score.high:.1f}"
    missing = result.errors + result.unread + result.unparsed
    share = f"{100 * right / result.items:.1f} % ({interval}), n = {result.items}"
    return f"| {name} | {share} | {missing} | {usage.calls} | {usage.tokens.total:,} |"


if __name__ == "__main__":
    main()
