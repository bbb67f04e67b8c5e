"""Names of other packages in the signatures of this one, so that they can be imported from here."""

from moa_dspy.cost.usage import Price
from moa_dspy.errors import (
    AllRunsFailedError,
    BudgetExhaustedError,
    BudgetTooSmallError,
    ConfigurationError,
    DeclinedError,
    MetricError,
    RunError,
)
from moa_dspy.evaluation.scoring import Judgement
from moa_dspy.evaluation.statistics import Gain, Score
from moa_dspy.files.provenance import CostRecord, DataRecord, ScoreRecord

__all__ = [
    "AllRunsFailedError",
    "BudgetExhaustedError",
    "BudgetTooSmallError",
    "ConfigurationError",
    "CostRecord",
    "DataRecord",
    "DeclinedError",
    "Gain",
    "Judgement",
    "MetricError",
    "Price",
    "RunError",
    "Score",
    "ScoreRecord",
]
