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

from moa_dspy.cost.prices import ModelPrice
from moa_dspy.cost.tokens import Counter
from moa_dspy.planning.build import make_plan
from moa_dspy.planning.lengths import Lengths
from moa_dspy.planning.plan import Amount, Course, ModelShare, Plan, StageShare
from moa_dspy.planning.summary import model_rows, stage_rows, summary_lines

__all__ = [
    "Amount",
    "Counter",
    "Course",
    "Lengths",
    "ModelPrice",
    "ModelShare",
    "Plan",
    "StageShare",
    "make_plan",
    "model_rows",
    "stage_rows",
    "summary_lines",
]
