from .evaluate import evaluate as evaluate
from .paired import (
    PairedDifference as PairedDifference,
    compare_files as compare_files,
    paired_difference as paired_difference,
)
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
    Gain as Gain,
    Score as Score,
)
from .suite import named_metric as named_metric
