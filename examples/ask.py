"""Ask a question, look at what happened, save the program and load it again."""

from moa_dspy import Agent, AttentionMoA, load
from moa_dspy.testing import SimulatedLM

answers = {"How many legs does a spider have?": "8", "How many legs does an ant have?": "6"}
lms = [SimulatedLM(answers, knows=0.6, finds=0.7, seed=seed, model=f"sim/{seed}") for seed in range(3)]

program = AttentionMoA(
    "question -> answer",
    agents=[lms[0], lms[1], Agent(lms[2], name="critic", persona="You doubt every number.")],
    layers=2,
)
prediction = program(question="How many legs does a spider have?")
print(prediction.answer)
print(prediction.trace.summary(steps=True))

program.save("program.json")  # no key and no address
loaded = load("program.json", lms={lm.model: lm for lm in lms})  # real models need no lms=
print(loaded(question="How many legs does an ant have?").answer)
