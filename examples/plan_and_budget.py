"""Know the cost before it is paid, and limit it."""

from moa_dspy import AttentionMoA, Budget
from moa_dspy.testing import ScriptedLM

# The names decide about prices and tokenizers. The models themselves are scripted here.
agents = [ScriptedLM("It is 9.9.", model=name) for name in ("openai/gpt-4.1", "openai/gpt-4.1-mini")]
program = AttentionMoA("question -> answer", agents=agents, layers=2)
question = "Which is larger, 9.9 or 9.11?"

plan = program.plan(question=question, times=1000)
print(plan.to_table())

budget = Budget(calls=8)
print("left out:", [(share.layer, share.stage) for share in program.plan(question=question, budget=budget).left_out])
trace = program(question=question, budget=budget).trace
print(f"{trace.calls} calls, stopped by {trace.stopped_by}")
