"""Benchmarks, examples, metrics and judges.

    load, stream, split, sample     examples from benchmarks, files and the hub
    Benchmark, benchmarks, get_benchmark     what a benchmark is, and which there are
    ExactMatch, Numeric, ... vote    metrics
    PairJudge, GradeJudge, SkillJudge     judges
    gsm8k, bbh, alpaca_eval, mt_bench, flask, ...     one module for each benchmark

Names are loaded on first use; ``import moa_dspy.data`` costs nothing until one is touched.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
