"""Tuning of a program for a task, a metric and a price.

    compiled = compile(program, trainset, valset, metric=metric, method="gepa")     # prompts, by DSPy's optimizers
    found = search(task, agents, trainset=trainset, metric=metric, n_trials=40)     # the architecture, by Optuna
    result = optimize(program, trainset, metric=metric, budget=Budget(usd=5))       # both, and proof
    print(profile(program, devset, metric))                                         # which stage gains, which loses
    print(compare(program, testset=testset, metric=metric))                         # against simpler ones, same spend

Names are loaded on first use; ``import moa_dspy.optimizers`` costs nothing until one is touched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from moa_dspy.optimizers.acceptance import Acceptance, accept
    from moa_dspy.optimizers.comparing import Comparison, Contender, compare
    from moa_dspy.optimizers.compiling import Compiled, CompileProgress, compile  # noqa: A004 (DSPy's word)
    from moa_dspy.optimizers.contributing import Contribution, Contributions, contributions
    from moa_dspy.optimizers.depth import Depth, Price, depth_curve, fit_stop
    from moa_dspy.optimizers.feedback import StageFeedback
    from moa_dspy.optimizers.measuring import Measurement, Metric, Run, measure
    from moa_dspy.optimizers.optimizing import Optimized, forecast, optimize
    from moa_dspy.optimizers.paired import Gain
    from moa_dspy.optimizers.profiling import Profile, StageRow, profile
    from moa_dspy.optimizers.provenance import Provenance, provenance_of, stamp
    from moa_dspy.optimizers.report_page import records_in, render
    from moa_dspy.optimizers.results import Cost, Score
    from moa_dspy.optimizers.search_report import Point
    from moa_dspy.optimizers.searching import Searched, SearchProgress, search
    from moa_dspy.optimizers.space import SearchSpace
    from moa_dspy.optimizers.stages import StageScore, StageScores, attribute
    from moa_dspy.optimizers.stop_fitting import StopFit, fit_stop_rule
    from moa_dspy.optimizers.stopping import StopRule
    from moa_dspy.optimizers.undertaking import OptimizeProgress

__all__ = [
    "Acceptance",
    "Comparison",
    "CompileProgress",
    "Compiled",
    "Contender",
    "Contribution",
    "Contributions",
    "Cost",
    "Depth",
    "Gain",
    "Measurement",
    "Metric",
    "OptimizeProgress",
    "Optimized",
    "Point",
    "Price",
    "Profile",
    "Provenance",
    "Run",
    "Score",
    "SearchProgress",
    "SearchSpace",
    "Searched",
    "StageFeedback",
    "StageRow",
    "StageScore",
    "StageScores",
    "StopFit",
    "StopRule",
    "accept",
    "attribute",
    "compare",
    "compile",
    "contributions",
    "depth_curve",
    "fit_stop",
    "fit_stop_rule",
    "forecast",
    "measure",
    "optimize",
    "profile",
    "provenance_of",
    "records_in",
    "render",
    "search",
    "stamp",
]

_HOMES: Final = {
    "acceptance": ("Acceptance", "accept"),
    "comparing": ("Comparison", "Contender", "compare"),
    "contributing": ("Contribution", "Contributions", "contributions"),
    "compiling": ("CompileProgress", "Compiled", "compile"),
    "feedback": ("StageFeedback",),
    "measuring": ("Measurement", "Metric", "Run", "measure"),
    "optimizing": ("Optimized", "forecast", "optimize"),
    "undertaking": ("OptimizeProgress",),
    "paired": ("Gain",),
    "profiling": ("Profile", "StageRow", "profile"),
    "provenance": ("Provenance", "provenance_of", "stamp"),
    "results": ("Cost", "Score"),
    "depth": ("Depth", "Price", "depth_curve", "fit_stop"),
    "report_page": ("records_in", "render"),
    "search_report": ("Point",),
    "searching": ("SearchProgress", "Searched", "search"),
    "space": ("SearchSpace",),
    "stages": ("StageScore", "StageScores", "attribute"),
    "stop_fitting": ("StopFit", "fit_stop_rule"),
    "stopping": ("StopRule",),
}
_HOME_OF: Final = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
