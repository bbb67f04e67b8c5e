"""Many questions: the rows of a file, a data set or standard input, answered and written row by row.

run           answers rows, without a metric
RunResult     answers and usage of a run
RunProgress   progress of a run
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
