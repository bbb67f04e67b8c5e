"""Metrics and prompt models that fail once or always while prompts are tuned: nothing that was paid for is lost."""

from __future__ import annotations

import contextlib
import contextvars
import math
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

import dspy
import numpy as np
import pytest
from dspy.lm15 import ServerError
from dspy.utils.callback import BaseCallback
from hypothesis import HealthCheck, given, settings, strategies as st
from support import planted

from moa_dspy import AllProposalsFailedError, AttentionMoA, Budget, Tolerance, single_model
from moa_dspy.errors import BudgetInterruptError, BudgetTooSmallError, MetricError
from moa_dspy.evaluation.scoring import judge, score_of
from moa_dspy.optimizers import PromptJob, compile, measure  # noqa: A004 (DSPy's word)
from moa_dspy.testing import ScriptedLM, prompt_of

SMALL: dict[str, dict[str, Any]] = {
    "labeled": {"demos": 2},
    "bootstrap": {"bootstrapped_demos": 2, "labeled_demos": 2, "rounds": 2},
    "bootstrap_random": {"candidates": 1, "bootstrapped_demos": 2, "labeled_demos": 2},
    "knn": {"k": 2},
    "copro": {"breadth": 3, "depth": 2},
    "mipro": {"candidates": 3, "trials": 3, "bootstrapped_demos": 1, "labeled_demos": 1},
    "simba": {"batch": 3, "steps": 1, "candidates": 2},
    "gepa": {"runs": 24, "minibatch": 2},
}
METHODS = list(SMALL)
WRITING = ["copro", "mipro", "simba", "gepa"]
TRAIN, VAL = planted.examples(0, 6), planted.examples(6, 10)


def compiled(program: AttentionMoA, method: Any, **options: Any) -> Any:
    given_options: dict[str, Any] = {
        "metric": planted.right, "prompt_lm": planted.writer(cache=False), **SMALL[method], **options
    }  # fmt: skip
    return compile(program, trainset=TRAIN, valset=VAL, method=method, **given_options)


def each_with(methods: list[str], kinds: list[str]) -> list[tuple[str, str]]:
    """Every method with one of the kinds, in turn."""
    return [(method, kinds[number % len(kinds)]) for number, method in enumerate(methods)]


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even printable")


class BadFloat:
    def __float__(self) -> float:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError


def raising(error: BaseException) -> Callable[[], Any]:
    def verdict() -> Any:
        raise error

    return verdict


# What a metric may do instead of returning a score.
VERDICTS: dict[str, Callable[[], Any]] = {
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "minus inf": lambda: -math.inf,
    "numpy nan": lambda: np.float32("nan"),
    "decimal nan": lambda: Decimal("NaN"),
    "none": lambda: None,
    "text": lambda: "good",
    "number as text": lambda: "0.7",
    "bytes": lambda: b"1",
    "too large": lambda: 7.5,
    "huge": lambda: 10**400,
    "negative": lambda: -0.5,
    "complex": lambda: 1j,
    "list": lambda: [1.0],
    "dict": lambda: {"score": 1.0},
    "array": lambda: np.array([0.1, 0.2]),
    "prediction without score": lambda: dspy.Prediction(feedback="fine"),
    "prediction with none": lambda: dspy.Prediction(score=None),
    "prediction with nan": lambda: dspy.Prediction(score=math.nan, feedback="fine"),
    "bad float": BadFloat,
    "value error": raising(ValueError("no")),
    "assertion": raising(AssertionError("expected 4")),
    "stop iteration": raising(StopIteration("end")),
    "recursion": raising(RecursionError("deep")),
    "memory": raising(MemoryError()),
    "unprintable": raising(UnprintableError()),
    "timeout": raising(TimeoutError("slow judge")),
}


@pytest.mark.parametrize("kind", VERDICTS)
def test_what_is_no_score_counts_as_an_exception_of_the_metric(kind: str) -> None:
    judgement = judge(lambda *_: VERDICTS[kind](), dspy.Example(), dspy.Prediction())
    assert (judgement.status, judgement.score) == ("error", None)
    assert judgement.failure is not None
    assert "the metric" in judgement.failure.message
    assert len(judgement.failure.message) <= 500


@given(st.one_of(st.floats(), st.integers(), st.text(), st.booleans(), st.none(), st.fractions(), st.decimals()))
def test_a_score_is_a_number_from_0_to_1_or_there_is_none(value: Any) -> None:
    with contextlib.suppress(MetricError):
        assert 0 <= score_of(value) <= 1
        assert not isinstance(value, str)
    judgement = judge(lambda *_: value, dspy.Example(), dspy.Prediction())
    assert judgement.score is None or 0 <= judgement.score <= 1


def failing_on(numbers: set[int], verdict: Callable[[], Any]) -> Any:
    """A metric that fails at some of its calls."""
    calls = iter(range(10**6))

    def metric(example: Any, prediction: Any, trace: Any = None) -> Any:
        return verdict() if next(calls) in numbers else planted.right(example, prediction)

    return metric


@pytest.mark.parametrize("kind", ["nan", "text", "too large", "assertion", "stop iteration"])
def test_a_measurement_goes_on_and_counts_the_answer(kind: str) -> None:
    metric = failing_on({1}, VERDICTS[kind])
    measured = measure(planted.program_of(planted.agents(1.0, count=1)), VAL, metric)
    assert (sorted(measured.scores), measured.errors) == ([0.0, 1.0, 1.0, 1.0], 1)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind"), each_with(METHODS, ["nan", "assertion"]))
def test_a_metric_that_fails_once_while_prompts_are_tuned_costs_one_answer(method: str, kind: str) -> None:
    in_the_search = len(VAL) + 1
    metric = failing_on({in_the_search}, VERDICTS[kind])
    result = compiled(planted.program_of(planted.agents(planted.either, count=2)), method, metric=metric)
    assert result.report["ended_by"] == "done"
    assert result.report["errors"]["count"] == 1
    assert "the metric" in result.report["errors"]["first"][0]


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(METHODS),
    numbers=st.sets(st.integers(1, 60), max_size=3),
    kind=st.sampled_from(list(VERDICTS)),
)
def test_whenever_a_metric_fails_the_tuning_ends_with_a_result(method: str, numbers: set[int], kind: str) -> None:
    metric = failing_on(numbers, VERDICTS[kind])
    result = compiled(planted.program_of(planted.agents(planted.either, count=1)), method, metric=metric)
    assert result.report["ended_by"] == "done"
    assert 0 <= result.score.value <= 1


def test_what_gepa_reflects_on_says_nothing_of_a_metrics_exception() -> None:
    writer = planted.writer(cache=False)
    metric = failing_on(set(range(4, 14)), VERDICTS["value error"])
    compiled(planted.program_of(planted.agents(planted.either, count=1)), "gepa", metric=metric, prompt_lm=writer)
    assert writer.requests
    assert not any("ValueError" in prompt_of(request) for request in writer.requests)


# The model that writes prompts


def unreadable_writer(unreadable: Callable[[int], bool], reply: Callable[[], str]) -> ScriptedLM:
    """A writer some of whose replies are ``reply``. DSPy does not retry its calls, which would hide failures."""
    good, numbers = planted.writer(), iter(range(10**6))

    def answer(request: Any) -> str:
        return reply() if unreadable(next(numbers)) else cast("Any", good.engine)._reply(request)

    return ScriptedLM(answer, "scripted/writer", temperature=1.0, num_retries=0)


def down() -> str:
    raise ServerError("upstream is down")


REPLIES: dict[str, Callable[[], str]] = {
    "prose": lambda: "I am sorry, Dave.",
    "empty": lambda: "",
    "half a format": lambda: "[[ ## proposed_instr",
    "broken JSON": lambda: '{"proposed_instruction": ',
    "empty fields": lambda: "[[ ## proposed_instruction ## ]]\n\n[[ ## proposed_prefix_for_output_field ## ]]\n",
    "down": down,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "reply"), [*each_with(WRITING, list(REPLIES)), *each_with(WRITING, [*REPLIES][::-1])]
)
def test_a_prompt_model_that_fails_always_leaves_the_program_and_its_score(method: str, reply: str) -> None:
    program = planted.program_of(planted.agents(planted.told, count=2))
    result = compiled(program, method, prompt_lm=unreadable_writer(lambda _: True, REPLIES[reply]))
    predictors = result.report["predictors"].values()
    assert all(one["instructions"]["before"] == one["instructions"]["after"] for one in predictors)
    assert result.before.value >= 0
    if method in ("copro", "mipro"):
        assert result.report["ended_by"] == "prompt_lm"
        assert "a reply of the prompt model was left out" in str(result.report["errors"]["first"])


@pytest.mark.slow
@pytest.mark.parametrize(("method", "reply"), each_with(WRITING, ["prose", "empty fields", "down"]))
@pytest.mark.parametrize("first", [0, 2])
def test_a_prompt_model_that_fails_twice_costs_no_more_than_a_candidate(method: str, reply: str, first: int) -> None:
    program = planted.program_of(planted.agents(planted.told, count=2))
    writer = unreadable_writer(lambda number: number in (first, first + 1), REPLIES[reply])
    result = compiled(program, method, prompt_lm=writer)
    assert result.report["ended_by"] == "done"
    assert len(writer.requests) > first + 2 or method == "simba"


@pytest.mark.slow
def test_the_readable_completions_of_one_call_are_candidates() -> None:
    program = planted.program_of(planted.agents(planted.told, count=1))
    writer = unreadable_writer(lambda number: number % 2 == 0, REPLIES["prose"])
    result = compiled(program, "copro", prompt_lm=writer, breadth=5, depth=1)
    assert result.report["ended_by"] == "done"
    left_out = [text for text in result.report["errors"]["first"] if "left out" in text]
    assert left_out
    assert any(one["instructions"]["after"] in planted.IDEAS for one in result.report["predictors"].values())


@pytest.mark.slow
def test_a_bug_in_the_prompt_model_is_raised_as_it_is() -> None:
    def reply(request: Any) -> str:
        return request.no_such_attribute

    with pytest.raises(AttributeError, match="no_such_attribute"):
        compiled(planted.program_of(planted.agents(count=1)), "copro", prompt_lm=ScriptedLM(reply, "scripted/writer"))


# Budgets


class Gauge:
    def __init__(self, lms: list[Any]) -> None:
        self._lms = lms

    @property
    def calls(self) -> int:
        return sum(len(lm.requests) for lm in self._lms)


LARGE: dict[str, dict[str, Any]] = {
    "bootstrap": {"rounds": 3},
    "bootstrap_random": {"candidates": 3},
    "knn": {},
    "copro": {"breadth": 4, "depth": 2},
    "mipro": {"candidates": 4, "trials": 6},
    "simba": {"batch": 6, "steps": 3, "candidates": 4},
    "gepa": {"runs": 150},
}


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(method=st.sampled_from(list(LARGE)), calls=st.integers(20, 260), concurrency=st.integers(1, 16))
def test_no_method_makes_more_calls_than_the_budget(method: str, calls: int, concurrency: int) -> None:
    lms: list[Any] = planted.agents(planted.either, latency=0.002)
    writer = planted.writer(cache=False)
    program = planted.program_of(lms, attention="cross")
    gauge = Gauge([*lms, writer])
    try:
        result = compile(
            program, trainset=planted.examples(0, 12), valset=planted.examples(12, 18), metric=planted.right,
            method=cast("Any", method), prompt_lm=writer, budget=Budget(calls=calls), concurrency=concurrency,
            **LARGE[method],
        )  # fmt: skip
    except BudgetTooSmallError:
        assert gauge.calls <= calls
        return
    assert gauge.calls == result.cost.paid_calls - result.cost.unanswered
    assert result.cost.paid_calls <= calls


class Interrupted:
    """A method that ends at the budget. A thread of its optimizer goes on."""

    def tune(self, job: PromptJob) -> dspy.Module:
        self.thread = contextvars.copy_context()
        job.prompt_lm("How?", n=1000)
        return job.student


def test_after_the_budget_has_ended_no_call_starts_that_would_not_be_reported() -> None:
    lms: list[Any] = planted.agents(count=1)
    writer, method = planted.writer(cache=False), Interrupted()
    program = planted.program_of(lms)
    result = compile(
        program, trainset=TRAIN, valset=VAL, metric=planted.right, method=method, prompt_lm=writer,
        budget=Budget(calls=100),
    )  # fmt: skip
    assert result.report["ended_by"] == "budget"
    with pytest.raises(BudgetInterruptError):
        method.thread.run(writer, "Why?")
    assert Gauge([*lms, writer]).calls == result.cost.paid_calls


class CutShort(BaseCallback):
    """A method that ends at the budget as soon as DSPy says that a call of another thread has ended."""

    def __init__(self, lm: Any) -> None:
        self.lm, self.ended = lm, threading.Event()

    def tune(self, job: PromptJob) -> dspy.Module:
        self.lm.engine.latency = 60  # from now on it does not answer
        with dspy.context(callbacks=[*dspy.settings.callbacks, self]):
            context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self.run, job.student), daemon=True).start()
        assert self.ended.wait(10)
        raise BudgetInterruptError("the budget has no room for another call")

    def run(self, student: dspy.Module) -> None:
        with contextlib.suppress(AllProposalsFailedError):
            student(question="?")

    def on_lm_end(self, *args: Any, **options: Any) -> None:
        self.ended.set()
        time.sleep(0.2)  # so that the step counts the call later than compile looks


@pytest.mark.slow
def test_a_call_cut_short_at_the_very_end_is_in_the_cost() -> None:
    lm = ScriptedLM("1")
    program = single_model("question -> answer", lm, tolerance=Tolerance(timeout=1.0, retries=0))
    result = compile(
        program, trainset=TRAIN, valset=VAL, metric=lambda *_, **__: 1.0, method=CutShort(lm), budget=Budget(calls=100)
    )
    assert (result.cost.paid_calls, result.cost.unanswered) == (len(VAL) + 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("method", LARGE)
def test_only_calls_under_way_exceed_a_budget_in_tokens(method: str) -> None:
    lms: list[Any] = planted.agents(planted.either, latency=0.002)
    writer = planted.writer(cache=False)
    program = planted.program_of(lms)
    result = compile(
        program, trainset=planted.examples(0, 12), valset=planted.examples(12, 18), metric=planted.right,
        method=cast("Any", method), prompt_lm=writer, budget=Budget(tokens=20_000), concurrency=2, **LARGE[method],
    )  # fmt: skip
    largest = max(len(prompt_of(request).split()) for lm in (*lms, writer) for request in lm.requests) + 200
    assert result.cost.tokens.total <= 20_000 + 2 * 4 * largest
