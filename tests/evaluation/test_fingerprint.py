"""What tells two metrics apart, beside their source."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from moa_dspy import AttentionMoA
from moa_dspy.evaluation.fingerprint import describe, digest
from moa_dspy.testing import ScriptedLM


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


class Shifted:
    def __init__(self, by: int, reason: str = "") -> None:
        self._by, self.reason = by, reason

    def critics(self, target: int, agents: int, layer: int) -> list[int]:
        return [(target + self._by) % agents]


def other_code() -> Any:
    class Shifted:
        def critics(self, target: int, agents: int, layer: int) -> list[int]:
            return []

    return Shifted


class Latest:
    async def aggregate(self, answers: Any, context: Any) -> Any:
        return answers[-1]


class Always:
    def stops(self, accepted: Any, newest: Any, improved: Any) -> bool:
        return True


def test_custom_parts_tell_programs_apart_by_their_code_and_settings() -> None:
    moa = AttentionMoA("question -> answer", [ScriptedLM("yes")] * 2, layers=2)
    patterns = [Shifted(0), Shifted(1), Shifted(1, "no"), other_code()()]
    programs = [moa, *(moa.replace(attention=pattern) for pattern in patterns)]
    programs += [moa.replace(aggregation=Latest()), moa.replace(early_stop=Always())]
    assert len({digest(describe(program)) for program in programs}) == len(programs)
    again = [moa.replace(attention=Shifted(1)), moa.replace(attention=Shifted(1))]
    assert digest(describe(again[0])) == digest(describe(again[1]))
