"""MoA, Self-MoA and Self-MoA-Seq as published, and the prompts that they send."""

from moa_dspy import AttentionMoA, mixture_of_agents, record_prompts, self_moa
from moa_dspy.testing import ScriptedLM

task = "question -> answer"
question = "What is the capital of France?"
agents = [ScriptedLM("Paris", model=f"scripted/{number}") for number in range(5)]

moa = mixture_of_agents(task, agents, layers=3)
print("MoA:", moa(question=question).trace.calls, "calls")  # 11

# The same from parts: agents of a later layer read all answers, and the last layer is the aggregator alone.
parts = AttentionMoA(task, agents, layers=3, attention="none", residual="answers")
print("from parts:", parts(question=question).trace.calls, "calls")  # 11

sampled = ScriptedLM("Paris", temperature=0.7)
print("Self-MoA:", self_moa(task, sampled, samples=6)(question=question).trace.calls, "calls")  # 7
sequential = self_moa(task, sampled, samples=6, window=3)  # the aggregator never reads more than three answers
print("Self-MoA-Seq:", sequential(question=question).trace.calls, "calls")  # 9

with record_prompts():
    trace = moa(question=question).trace
print(trace.steps[-1].prompts[0])  # what the aggregator read
