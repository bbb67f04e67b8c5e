"""Evaluation: a program on a benchmark, with intervals, records, comparisons and official outputs.

evaluate            runs, records, resumes
Evaluation          the result
compare_files       two runs, item by item
read_records        the records of a run
named_metric        a metric by name
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
