"""What tells two metrics apart, beside their source."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from moa_dspy.evaluation.fingerprint import describe, digest


def near(*_: Any, tolerance: float = 0.0) -> bool:
    return tolerance > 0


def never(*_: Any) -> bool:
    return False


def within(tolerance: float) -> Callable[..., bool]:
    def judge(*_: Any, least: float = tolerance) -> bool:
        return least <= tolerance

    return judge


def test_bound_arguments_and_closures_tell_metrics_apart() -> None:
    metrics = [near, functools.partial(near, tolerance=1), functools.partial(near, tolerance=2)]
    metrics += [functools.partial(never), within(0.1), within(0.9)]
    assert len({digest(describe(metric)) for metric in metrics}) == len(metrics)
    assert digest(describe(within(0.1))) == digest(describe(within(0.1)))


def test_a_function_that_holds_itself_is_described() -> None:
    def judge(depth: int) -> bool:
        return depth == 0 or judge(depth - 1)

    assert describe(judge) == describe(judge)
