"""Benchmarks, examples, metrics and judges.

    load, stream, split, sample             examples from benchmarks, files and the hub
    Benchmark, benchmarks, get_benchmark    the base class of benchmarks, their names, one by its name
    ExactMatch, Numeric, ..., vote          metrics, and votes over answers
    PairJudge, GradeJudge, SkillJudge       judges
    gsm8k, bbh, alpaca_eval, ...            one module for each benchmark, with its scoring functions

Names are loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
