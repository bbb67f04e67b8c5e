"""What a run will cost, known before anything is paid: calls exactly, tokens and dollars estimated.

A plan is a rehearsal. The program itself is run, with its own layers, budget and prompts, on stand-ins for its models:
every prompt is written and none is sent, and the answer is a placeholder of an assumed length. So no rule of the
algorithm is written down a second time here, and no LM can be called.

::

    plan = moa.plan(question="...", budget=Budget(calls=40))
    plan.full.calls, plan.minimum.calls, plan.full.usd
    print(plan.to_table())

make_plan           rehearses a program and writes down what it comes to
Plan                what a program will do and cost: courses, shares of models and stages
Lengths             what is assumed of texts that nobody has written yet
stage_rows          a plan for people (also model_rows, summary_lines)
"""

from __future__ import annotations

from moa_dspy.planning.counting import Counter
from moa_dspy.planning.lengths import Lengths
from moa_dspy.planning.making import make_plan
from moa_dspy.planning.plan import Amount, Course, ModelShare, Plan, Price, StageShare
from moa_dspy.planning.tables import model_rows, stage_rows, summary_lines

__all__ = [
    "Amount",
    "Counter",
    "Course",
    "Lengths",
    "ModelShare",
    "Plan",
    "Price",
    "StageShare",
    "make_plan",
    "model_rows",
    "stage_rows",
    "summary_lines",
]
