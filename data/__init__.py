"""Benchmarks, examples, metrics and judges.

    load, stream, split, sample     examples from benchmarks, files and the hub
    Benchmark, benchmarks, get_benchmark     what a benchmark is, and which there are
    ExactMatch, Numeric, ... vote    metrics
    PairJudge, GradeJudge, SkillJudge     judges
    gsm8k, bbh, alpaca_eval, mt_bench, flask, ...     one module for each benchmark

Names are loaded on first use; ``import moa_dspy.data`` costs nothing until one is touched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moa_dspy.data import (
        alpaca_eval,
        bbh,
        flask,
        gpqa,
        gsm8k,
        hotpotqa,
        math500,
        mmlu,
        mmlu_pro,
        mt_bench,
        starter,
    )
    from moa_dspy.data.benchmark import Benchmark, Hub, benchmarks, get_benchmark
    from moa_dspy.data.checks import Instructions
    from moa_dspy.data.judges import GradeJudge, JudgeMetric, PairJudge, SkillJudge, UnparsedVerdictError
    from moa_dspy.data.loading import load, stream
    from moa_dspy.data.metrics import (
        F1,
        Checked,
        ChoiceLetter,
        Contains,
        ExactMatch,
        MathEquivalence,
        Metric,
        NormalizedMatch,
        Numeric,
        TextMetric,
        Verdict,
        Vote,
        VoteMatch,
        vote,
    )
    from moa_dspy.data.splitting import Split, sample, split

__all__ = [
    "F1",
    "Benchmark",
    "Checked",
    "ChoiceLetter",
    "Contains",
    "ExactMatch",
    "GradeJudge",
    "Hub",
    "Instructions",
    "JudgeMetric",
    "MathEquivalence",
    "Metric",
    "NormalizedMatch",
    "Numeric",
    "PairJudge",
    "SkillJudge",
    "Split",
    "TextMetric",
    "UnparsedVerdictError",
    "Verdict",
    "Vote",
    "VoteMatch",
    "alpaca_eval",
    "bbh",
    "benchmarks",
    "flask",
    "get_benchmark",
    "gpqa",
    "gsm8k",
    "hotpotqa",
    "load",
    "math500",
    "mmlu",
    "mmlu_pro",
    "mt_bench",
    "sample",
    "split",
    "starter",
    "stream",
    "vote",
]

_HOMES = {
    "benchmark": ("Benchmark", "Hub", "benchmarks", "get_benchmark"),
    "checks": ("Instructions",),
    "judges": ("GradeJudge", "JudgeMetric", "PairJudge", "SkillJudge", "UnparsedVerdictError"),
    "loading": ("load", "stream"),
    "metrics": (
        "F1",
        "Checked",
        "ChoiceLetter",
        "Contains",
        "ExactMatch",
        "MathEquivalence",
        "Metric",
        "NormalizedMatch",
        "Numeric",
        "TextMetric",
        "Verdict",
        "Vote",
        "VoteMatch",
        "vote",
    ),
    "splitting": ("Split", "sample", "split"),
}
_HOME = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _HOME:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
