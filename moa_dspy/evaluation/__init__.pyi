from .evaluate import (
    AllRunsFailedError as AllRunsFailedError,
    ConfigurationError as ConfigurationError,
    MetricError as MetricError,
    RunError as RunError,
    evaluate as evaluate,
)
from .progress import EvaluateProgress as EvaluateProgress
from .records import (
    Record as Record,
    latest as latest,
    read_records as read_records,
)
from .results import (
    EvaluateResult as EvaluateResult,
    PairedDifference as PairedDifference,
    compare_files as compare_files,
    paired_difference as paired_difference,
)
from .statistics import (
    Gain as Gain,
    Score as Score,
)
from .suite import (
    Devset as Devset,
    named_metric as named_metric,
)
