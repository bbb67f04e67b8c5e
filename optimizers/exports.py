"""Names of other packages that this package's functions return or raise, so that they can be imported from here."""

from moa_dspy.cost.usage import Price
from moa_dspy.errors import AllRunsFailedError, BudgetExhaustedError, BudgetTooSmallError, DeclinedError, MetricError
from moa_dspy.evaluation.statistics import Gain, Score

__all__ = [
    "AllRunsFailedError",
    "BudgetExhaustedError",
    "BudgetTooSmallError",
    "DeclinedError",
    "Gain",
    "MetricError",
    "Price",
    "Score",
]
