"""The errors of `moa_dspy.errors` that the functions of this package raise, so that they can be imported from here."""

from moa_dspy.errors import (
    AllRunsFailedError,
    BudgetExhaustedError,
    BudgetTooSmallError,
    DeclinedError,
    MetricError,
)

__all__ = ["AllRunsFailedError", "BudgetExhaustedError", "BudgetTooSmallError", "DeclinedError", "MetricError"]
