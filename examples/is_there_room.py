"""Look before you pay: what can these agents reach at all, and which program is worth its price?"""

import dspy

from moa_dspy import AttentionMoA
from moa_dspy.optimizers import ceiling, compare, optimize
from moa_dspy.testing import SimulatedLM

sums = {f"What is {a} + {b}?": str(a + b) for a in range(2, 7) for b in range(2, 7)}
agents = [SimulatedLM(sums, knows=0.5, finds=0.6, seed=seed, model=f"sim/{seed}", cache=True) for seed in range(3)]
examples = [dspy.Example(question=question, answer=answer).with_inputs("question") for question, answer in sums.items()]


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    """Score 1 if the answer is right, else 0."""
    return example.answer == prediction.answer


program = AttentionMoA("question -> answer", agents, layers=1)
print(ceiling(program, examples, exact))  # one call of each agent for each example

# No selection among these agents gains 0.9 over the best of them, so nothing more is paid for.
print(optimize(program, trainset=examples, metric=exact, least_gain=0.9, explain=False))

# The cheapest program that is not shown to be worse, and how many examples a gain of 0.1 takes. Or prefer="score".
result = compare(program, devset=examples, metric=exact, baselines=["single"], prefer="cheapest", gain=0.1)
print(result)
