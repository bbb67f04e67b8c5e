"""Evaluation: a program's score on a benchmark or on examples, with intervals, records and comparisons.

evaluate            runs a program on examples and records the results
EvaluateResult      its result
Devset              the examples to evaluate on, with their benchmark
compare_files       compares two evaluations item by item
read_records        reads the records of an evaluation
named_metric        returns a metric by name
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
