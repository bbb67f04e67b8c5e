from .batcher import Batches as Batches
