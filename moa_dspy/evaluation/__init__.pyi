from .comparison import (
    Comparison as Comparison,
    compare as compare,
    compare_files as compare_files,
)
from .evaluate import evaluate as evaluate
from .records import (
    Record as Record,
    latest as latest,
    read_records as read_records,
)
from .results import (
    Evaluation as Evaluation,
    Progress as Progress,
)
from .spending import Spending as Spending
from .statistics import (
    Estimate as Estimate,
    estimate as estimate,
)
from .suite import named_metric as named_metric
