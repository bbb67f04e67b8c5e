"""Follow several concurrent runs while they happen."""

import asyncio

from moa_dspy import AttentionMoA, Step, StepStarted, Trace, watch
from moa_dspy.testing import SimulatedLM

answers = {"2 + 2": "4", "3 + 5": "8", "9 - 2": "7"}
agents = [SimulatedLM(answers, knows=0.6, finds=0.7, seed=seed, model=f"sim/{seed}") for seed in range(2)]
program = AttentionMoA("question -> answer", agents, layers=1)


def show(event: object) -> None:
    if isinstance(event, StepStarted):
        print(f"{event.agent} starts to {event.stage}")
    elif isinstance(event, Step):
        print(f"{event.agent} finished to {event.stage}: {event.status}")
    elif isinstance(event, Trace):
        print(f"a run is over after {event.calls} calls")


async def main() -> None:
    predictions = await asyncio.gather(*(program.acall(question=f"What is {sum_}?") for sum_ in answers))
    print([prediction.answer for prediction in predictions])


with watch(show):
    asyncio.run(main())
