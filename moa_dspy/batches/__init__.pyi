from .batcher import (
    Batches as Batches,
    ConfigurationError as ConfigurationError,
    RunError as RunError,
)
