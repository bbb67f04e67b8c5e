from .results import (
    RunProgress as RunProgress,
    RunResult as RunResult,
)
from .run import run as run
