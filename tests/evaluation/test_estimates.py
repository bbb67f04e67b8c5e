"""What an evaluation is said to cost before it is paid."""

from __future__ import annotations

from pathlib import Path

import dspy

from moa_dspy import single_model
from moa_dspy.data import get_benchmark
from moa_dspy.evaluation.evaluate import estimate_cost
from moa_dspy.planning import CostEstimate
from moa_dspy.testing import ScriptedLM

EXAMPLES = [
    dspy.Example(id=str(n), index=n, instruction=f"Do {n}.", baseline="done " * 300).with_inputs("instruction")
    for n in range(10)
]


def test_the_judge_is_estimated_by_how_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "alpaca_eval_clf.txt").write_text("<|im_start|>user\n{instruction}{output_1}{output_2}<|im_end|>")
    benchmark, judge = get_benchmark("alpaca_eval"), dspy.LM("openai/gpt-4-1106-preview", api_key="none")
    program = single_model(benchmark.signature, ScriptedLM(""))
    official, own = (
        estimate_cost(program, EXAMPLES, benchmark.metric(judge, prompts), judge)[1] for prompts in (tmp_path, None)
    )
    assert (official.calls, own.calls) == (10, 20), "our own judge is asked in both orders"
    price_of_a_prompt = official.tokens * 10 / 1_000_000
    assert official.usd is not None
    assert price_of_a_prompt <= official.usd < 1.05 * price_of_a_prompt, "the official one replies with one token"


def test_unknown_prices_are_said_to_be_unknown() -> None:
    unknown = CostEstimate(calls=5760, usd=None)
    assert unknown.dollars == "unknown"
    assert (unknown + CostEstimate(calls=1, usd=2.5, usd_at_least=2.5)).dollars == "at least $2.500"
    assert CostEstimate(usd=2.5, usd_at_least=2.5).dollars == "$2.500"
