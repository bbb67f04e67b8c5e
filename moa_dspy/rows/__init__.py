"""Many questions: the rows of a file, a data set or standard input, answered and written row by row.

run           answers rows, without a metric
RunResult     what was answered, and what it took
RunProgress   how far it is
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
