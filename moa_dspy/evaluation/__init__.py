"""Evaluation: a program on a benchmark, with intervals, records, comparisons and official outputs.

evaluate            runs, records, resumes
Evaluation          the result
compare_files       two runs, item by item
read_records        the records of a run
named_metric        a metric by name
"""

from __future__ import annotations

from moa_dspy.evaluation.comparison import Comparison, compare, compare_files
from moa_dspy.evaluation.evaluator import evaluate
from moa_dspy.evaluation.records import Record, latest, read_records
from moa_dspy.evaluation.results import Evaluation, Progress
from moa_dspy.evaluation.spending import Spending
from moa_dspy.evaluation.statistics import Estimate, estimate
from moa_dspy.evaluation.suite import named_metric

__all__ = [
    "Comparison",
    "Estimate",
    "Evaluation",
    "Progress",
    "Record",
    "Spending",
    "compare",
    "compare_files",
    "estimate",
    "evaluate",
    "latest",
    "named_metric",
    "read_records",
]
