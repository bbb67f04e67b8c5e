from .results import (
    RunProgress as RunProgress,
    RunResult as RunResult,
)
from .run import (
    AllRunsFailedError as AllRunsFailedError,
    ConfigurationError as ConfigurationError,
    RunError as RunError,
    run as run,
)
