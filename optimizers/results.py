"""Values that all results of optimizers are made of."""

from moa_dspy.evaluation.runs import Price
from moa_dspy.evaluation.statistics import Gain, Score

__all__ = ["Gain", "Price", "Score"]
