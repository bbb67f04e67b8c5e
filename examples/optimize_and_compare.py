"""Tune a program for a metric. Keep the result only if held-out examples show that it is better."""

import dspy

from moa_dspy import AttentionMoA
from moa_dspy.optimizers import SearchSpace, optimize
from moa_dspy.testing import SimulatedLM

sums = {f"What is {a} + {b}?": str(a + b) for a in range(2, 10) for b in range(2, 10)}
agents = [SimulatedLM(sums, knows=0.5, finds=0.6, seed=seed, model=f"sim/{seed}", cache=True) for seed in range(3)]
examples = [dspy.Example(question=question, answer=answer).with_inputs("question") for question, answer in sums.items()]


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    """Score 1 if the answer is right, else 0."""
    return example.answer == prediction.answer


program = AttentionMoA("question -> answer", agents, layers=1, attention="none")
space = SearchSpace(samples=1, temperatures=(0.7,), shared_temperature=True, layers=(1, 2))
result = optimize(program, trainset=examples, metric=exact, space=space, n_trials=4, method="bootstrap", explain=False)
print(result)
result.program.save("tuned.json")
