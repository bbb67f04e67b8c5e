"""``evaluate`` on scripted models: scores, records, resuming, budgets, comparisons."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pydantic
import pytest
from dspy.utils.exceptions import LMRateLimitError

from moa_dspy import Agent, AttentionMoA, Budget, ConfigurationError, Tolerance, evaluate, single_model
from moa_dspy.data import ExactMatch, GradeJudge, VoteMatch, sample
from moa_dspy.data.benchmarks.mt_bench import GradedTurns
from moa_dspy.data.metrics.metric import field_of
from moa_dspy.errors import RunError
from moa_dspy.evaluation import Devset, EvaluateProgress, Score, compare_files, read_records
from moa_dspy.evaluation.suite import OwnData
from moa_dspy.optimizers import accept, compare, compile, optimize, profile, search  # noqa: A004
from moa_dspy.testing import ScriptedLM, prompt_of

Make = Callable[..., Any]


def items(count: int) -> list[dspy.Example]:
    return [
        dspy.Example(id=f"q{n}", question=f"item number {n}.", answer=str(n), category="even" if n % 2 == 0 else "odd")
        .with_inputs("question")
        for n in range(count)
    ]  # fmt: skip


def number(request: Any) -> int:
    return int(prompt_of(request).rpartition("item number ")[2].split(".")[0])


def model(wrong: set[int] = frozenset(), failing: set[int] = frozenset(), **options: Any) -> ScriptedLM:  # type: ignore[assignment]
    def reply(request: Any) -> str:
        asked = number(request)
        if asked in failing:
            raise ConnectionError("the line is dead")
        return "none" if asked in wrong else str(asked)

    return ScriptedLM(reply, **options)


def single(lm: dspy.BaseLM, **options: Any) -> AttentionMoA:
    return single_model("question -> answer", lm, **options)


def mine(examples: list[dspy.Example]) -> Devset:
    return Devset(OwnData("mine.jsonl"), examples)


def run(program: dspy.Module, count: int = 12, **options: Any) -> Any:
    return evaluate(program, mine(items(count)), ExactMatch(), **options)


def test_errors_are_no_wrong_answers() -> None:
    result = run(single(model(wrong={0, 1, 2}, failing={3, 4})))
    assert result.score.value == pytest.approx(7 / 10)
    assert (result.scored, result.errors, result.unparsed, result.pending) == (10, 2, 0, 0)
    assert result.errors_as_wrong == pytest.approx(7 / 12)
    failed = [record for record in result.records if record.status == "error"]
    assert [record.id for record in failed] == ["q3", "q4"]
    assert all(record.error is not None and "the line is dead" in record.error.message for record in failed)
    assert {name: part.examples for name, part in result.categories.items()} == {"even": 5, "odd": 5}


def test_records_keep_the_order_of_the_examples_whatever_ends_first() -> None:
    result = run(single(model(latency=0.001)), concurrency=5)
    assert [record.id for record in result.records] == [f"q{n}" for n in range(12)]
    assert result.score.value == 1.0


@pytest.mark.parametrize("ensemble", [False, True])
def test_spending_is_counted_the_same_for_any_module(ensemble: bool) -> None:
    lm = model()
    if ensemble:
        result = run(AttentionMoA("question -> answer", [lm, lm], layers=1))
        assert result.calls == 12 * 9 == len(lm.requests)
    else:
        lm = ScriptedLM(lambda request: f"[[ ## answer ## ]]\n{number(request)}\n\n[[ ## completed ## ]]")
        with dspy.context(lm=lm):
            result = run(dspy.Predict("question -> answer"))
        assert result.calls == 12 == len(lm.requests)
        assert result.score.value == 1.0
    assert result.tokens.total > 0
    assert result.cost_usd is None


def test_a_module_without_async_is_run_too() -> None:
    class Plain(dspy.Module):
        def forward(self, question: str) -> dspy.Prediction:
            return dspy.Prediction(answer=question.split()[2].strip("."))

    assert run(Plain(), concurrency=3).score.value == 1.0


def test_what_a_module_asks_in_threads_of_its_own_is_counted() -> None:
    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = dspy.Predict("question -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            asked = [(self.answer, {"question": question, "config": {"rollout_id": n}}) for n in (1, 2)]
            return dspy.Parallel(num_threads=2, disable_progress_bar=True)(asked)[0]

    lm = ScriptedLM(lambda request: f"[[ ## answer ## ]]\n{number(request)}\n\n[[ ## completed ## ]]")
    with dspy.context(lm=lm):
        result = run(Twice(), 4, concurrency=1)  # dspy.Parallel clears what all of tqdm shares: not two at once
    assert (result.score.value, result.calls, len(lm.requests)) == (1.0, 8, 8)
    assert result.tokens.total > 0


def test_cached_calls_cost_nothing_and_are_counted() -> None:
    lm = model(cache=True)
    run(single(lm))
    again = run(single(lm))
    assert (again.calls, again.usage.cached_calls, again.tokens.total, again.cost_usd) == (12, 12, 0, 0.0)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    lm, out = model(wrong={1}), tmp_path / "run.jsonl"
    first = run(single(lm), out=out)
    again = run(single(lm), out=out)
    assert len(lm.requests) == 12
    assert again.score == first.score
    assert again.records == first.records
    assert len(out.read_text().splitlines()) == 13


def test_a_torn_line_is_cut_off_and_its_item_run_again(tmp_path: Path) -> None:
    lm, out = model(), tmp_path / "run.jsonl"
    whole = run(single(lm), out=out)
    content = out.read_bytes()
    out.write_bytes(content[:-40])
    again = run(single(lm), out=out)
    assert len(lm.requests) == 13
    assert again.score == whole.score
    assert len(read_records(out)[1]) == 12


def test_a_header_torn_by_a_kill_is_written_anew(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    run(single(model()), 3, out=out)
    out.write_bytes(out.read_bytes()[:30])
    assert run(single(model()), 3, out=out).scored == 3


def test_items_that_failed_are_tried_again_and_what_they_took_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    lm = model(failing={5})
    before = run(single(lm), out=out)
    assert before.errors == 1
    after = run(single(model()), out=out)
    assert (after.errors, after.scored) == (0, 12)
    assert after.calls == before.calls + 1


def test_items_that_always_fail_do_not_hide_a_score_that_is_there(tmp_path: Path) -> None:
    out, failing = tmp_path / "run.jsonl", set(range(12, 24))
    first = run(single(model(failing=failing)), 24, out=out, concurrency=1)
    again = run(single(model(failing=failing)), 24, out=out, concurrency=1)
    assert (first.scored, first.errors) == (again.scored, again.errors) == (12, 12)
    assert again.score == first.score


def test_an_answer_is_kept_where_only_its_metric_failed(tmp_path: Path) -> None:
    lm, out = model(), tmp_path / "run.jsonl"
    broken = [True]

    def fussy(example: dspy.Example, prediction: Any) -> bool:
        if broken[0] and example.id == "q2":
            raise OSError("the judge is out")
        return bool(prediction.answer == example.answer)

    first = evaluate(single(lm), mine(items(4)), fussy, out=out)
    assert (first.errors, first.scored) == (1, 3)
    broken[0] = False
    second = evaluate(single(lm), mine(items(4)), fussy, out=out)
    assert (second.errors, second.scored, second.errors_as_wrong) == (0, 4, 1.0)
    assert len(lm.requests) == 4


class City(pydantic.BaseModel):
    name: str


def broken_once(judge: Callable[[Any], bool]) -> Callable[[dspy.Example, Any], bool]:
    broken = iter([True, True])

    def metric(example: dspy.Example, prediction: Any) -> bool:
        if next(broken, False):
            raise OSError("the judge is out")
        return judge(prediction)

    return metric


class Cities(dspy.Signature):
    question: str = dspy.InputField()
    answer: City = dspy.OutputField()


def test_typed_answers_are_what_they_were_where_only_the_metric_is_asked_again(tmp_path: Path) -> None:
    lm = ScriptedLM('[[ ## answer ## ]]\n{"name": "Lima"}\n\n[[ ## completed ## ]]')
    metric = broken_once(lambda prediction: bool(prediction.answer.name == "Lima"))
    for expected in (None, 1.0):
        result = evaluate(
            single_model(Cities, lm, reasoning=False),
            mine(items(2)),
            metric,
            out=tmp_path / "run.jsonl",
        )
        assert (result.score and result.score.value) == expected
    assert len(lm.requests) == 2


def test_answers_of_unknown_types_are_asked_for_again(tmp_path: Path) -> None:
    class Untyped(dspy.Module):
        def forward(self, question: str) -> dspy.Prediction:
            return dspy.Prediction(answer=City(name=question))

    metric = broken_once(lambda prediction: bool(prediction.answer.name))
    for expected in (None, 1.0):
        result = evaluate(Untyped(), mine(items(2)), metric, out=tmp_path / "run.jsonl")
        assert (result.score and result.score.value) == expected


def test_a_category_of_failures_is_a_category(capsys: pytest.CaptureFixture[str]) -> None:
    result = run(single(model(failing={1, 3, 5})), 6)
    assert {name: part and part.value for name, part in result.categories.items()} == {"even": 1.0, "odd": None}
    nothing = run(single(model(failing={0, 1})), 2)
    assert (nothing.score, nothing.errors_as_wrong) == (None, 0.0)
    assert nothing.to_dict()["categories"]["odd"] is None


def test_a_limit_holds_for_given_examples_too() -> None:
    assert [record.id for record in run(single(model()), 10, limit=3).records] == [
        example.id for example in sample(items(10), 3)
    ]


def test_a_metric_may_give_numbers_of_numpy() -> None:
    result = evaluate(single(model()), mine(items(2)), lambda example, _: np.bool_(True))
    assert result.score == Score.of([1.0, 1.0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"program": "other"}, "its program differs"),
        ({"count": 11}, r"1 of its 12 items are not among these examples.*\(the first is q11\)"),
        ({"seed": 1}, "its seed is 0, not 1"),
        ({"metric": VoteMatch(ExactMatch())}, "its metric is ExactMatch, not VoteMatch"),
        ({"benchmark": "others.jsonl"}, "its benchmark is mine.jsonl, not others.jsonl"),
    ],
)
def test_the_file_of_another_run_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    out = tmp_path / "run.jsonl"
    lm = model()
    run(single(lm), out=out)
    content = out.read_bytes()
    program = single(lm)
    if "program" in change:
        program.propose.signature = program.propose.signature.with_instructions("Answer in another way.")  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match=said) as refused:
        evaluate(
            program,
            Devset(OwnData(change.get("benchmark", "mine.jsonl")), items(change.get("count", 12))),
            change.get("metric", ExactMatch()),
            seed=change.get("seed", 0),
            out=out,
        )
    assert "\n" not in str(refused.value)
    assert len(lm.requests) == 12
    assert out.read_bytes() == content


def test_demos_temperature_and_labels_are_part_of_the_run(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    run(single(model()), out=out)
    program = single(model())
    program.propose.demos = [dspy.Example(question="q", answer="a")]  # type: ignore[union-attr]
    relabelled = items(12)
    relabelled[0].answer = "7"
    for changed, examples in (
        (program, items(12)),
        (single(model(temperature=0.9)), items(12)),
        (single(model()), relabelled),
    ):
        with pytest.raises(ConfigurationError, match="is of another run"):
            evaluate(changed, mine(examples), ExactMatch(), out=out)
    assert run(single(model()), out=out).scored == 12


@pytest.mark.parametrize("content", ["some notes\n", '{"a": 1}\n', '{"format": "moa-dspy-program"}\n', "notes"])
def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    out = tmp_path / "notes.txt"
    out.write_text(content)
    with pytest.raises(ConfigurationError, match="does not hold records"):
        run(single(model()), out=out)
    assert out.read_text() == content


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    run(single(model()), 3, out=out)
    lines = out.read_text().splitlines()
    out.write_text("\n".join([lines[0], "{}", *lines[2:]]) + "\n")
    with pytest.raises(ConfigurationError, match="damaged in line 2"):
        run(single(model()), 3, out=out)


def test_two_evaluations_cannot_write_one_file(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    refused: list[str] = []

    def nosy(progress: EvaluateProgress) -> None:
        if progress.done == 1 and not refused:
            with pytest.raises(ConfigurationError, match="being written by another evaluation") as error:
                run(single(model()), out=out)
            refused.append(str(error.value))

    run(single(model()), out=out, progress=nosy, concurrency=1)
    assert refused


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_folder_without_locks_is_named_before_anything_is_paid(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_locks)
    lm = model()
    with pytest.raises(
        ConfigurationError, match=r"run.jsonl cannot be locked \(.*; give a file in a folder on a local"
    ):
        run(single(lm), out=tmp_path / "run.jsonl")
    assert lm.requests == []


def test_a_budget_ends_it_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    lm, out = model(), tmp_path / "run.jsonl"
    first = run(single(lm), out=out, budget=Budget(calls=5))
    assert (first.scored, first.pending, first.ended_by, len(lm.requests)) == (5, 7, "budget", 5)
    again = run(single(lm), out=out, budget=Budget(calls=5))
    assert (again.scored, len(lm.requests)) == (5, 5)
    rest = run(single(lm), out=out)
    assert (rest.scored, rest.ended_by, len(lm.requests)) == (12, "items", 12)


@pytest.mark.parametrize("kind", ["program", "module", "judge"])
def test_a_budget_of_calls_holds_whatever_is_repeated_or_asked_by_the_metric(kind: str) -> None:
    asked: set[str] = set()

    def busy_at_first(request: Any) -> str:
        if prompt_of(request) not in asked:
            asked.add(prompt_of(request))
            raise LMRateLimitError("slow down", retry_after=0.001)
        return f"[[ ## answer ## ]]\n{number(request)}\n\n[[ ## completed ## ]]" if kind == "module" else "7"

    lm, judge = ScriptedLM(busy_at_first, num_retries=0), ScriptedLM("yes")
    program: dspy.Module = single(model() if kind == "judge" else lm, tolerance=Tolerance(retries=2))
    models = [lm, judge] if kind != "judge" else [program.agents[0].lm, judge]  # type: ignore[attr-defined]

    class Twice(dspy.Module):
        async def aforward(self, question: str) -> dspy.Prediction:
            with suppress(LMRateLimitError):
                await lm.acall(question)
            return dspy.Prediction(answer=(await lm.acall(question))[0])

    def metric(example: dspy.Example, prediction: Any, trace: Any = None) -> float:
        return float(kind != "judge" or judge(f"{example.question} {prediction.answer}") == ["yes"])

    result = evaluate(
        Twice() if kind == "module" else program, mine(items(12)), metric, budget=Budget(calls=7), concurrency=4
    )
    sent = sum(len(one.requests) for one in models)
    assert sent <= 7
    assert (result.ended_by, result.scored > 0) == ("budget", True)
    assert result.usage.paid_calls == sent


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", [False, True])
def test_calls_of_items_that_the_budgets_seconds_cut_short_are_reported(ensemble: bool, tmp_path: Path) -> None:
    quick, slow = model(latency=0.05), ScriptedLM("x", latency=60)

    class Both(dspy.Module):
        async def aforward(self, question: str) -> dspy.Prediction:
            return dspy.Prediction(answer=[await lm.acall(question) for lm in (quick, slow)])

    moa = AttentionMoA("question -> answer", [quick, slow], layers=1, attention="none")
    program = moa if ensemble else Both()
    options: dict[str, Any] = {"concurrency": 2, "out": tmp_path / "records.jsonl"}
    result = evaluate(program, mine(items(4)), ExactMatch(), budget=Budget(seconds=0.8), **options)
    assert (result.scored, result.ended_by, result.pending, result.errors) == (0, "budget", 4, 0)
    assert result.usage.paid_calls - result.usage.unanswered == len(quick.requests)
    assert result.usage.unanswered > 0
    vars(slow)["_engine_spec"].latency = 0
    later = evaluate(program, mine(items(4)), ExactMatch(), **options)
    assert (later.scored, later.errors) == (4, 0)
    assert later.usage.paid_calls - later.usage.unanswered == len(quick.requests) + len(slow.requests)
    assert later.usage.unanswered == result.usage.unanswered


def test_a_budget_of_tokens_is_kept_with_many_items_under_way() -> None:
    lm = model(latency=0.001)
    free = run(single(model()), 20).tokens.total
    result = run(single(lm), 20, budget=Budget(tokens=free // 2), concurrency=8)
    assert 0 < result.scored < 20
    assert result.tokens.total <= free // 2


def test_a_budget_in_dollars_needs_the_prices_of_agents_and_judge() -> None:
    lm, judge = model(), model(model="own/judge")
    turned = [example.copy(turns=["?"], reference=[]) for example in items(2)]
    with pytest.raises(ConfigurationError, match="the price of scripted/model is not known"):
        run(single(lm), budget=Budget(usd=1))
    priced = single_model("question -> answer", Agent(lm, price={"prompt": 1, "completion": 1}))
    with pytest.raises(ConfigurationError, match="the price of own/judge is not known"):
        evaluate(priced, mine(turned), GradedTurns(GradeJudge(judge)), budget=Budget(usd=1))
    assert not lm.requests + judge.requests
    assert run(priced, budget=Budget(usd=1)).scored == 12


def test_a_budget_too_small_for_one_item_is_refused() -> None:
    lm = model()
    with pytest.raises(ConfigurationError, match="8 calls is too small for a single item, which takes 9"):
        run(AttentionMoA("question -> answer", [lm, lm], layers=1), budget=Budget(calls=8))
    assert not lm.requests


def test_what_fails_for_every_item_ends_early() -> None:
    lm = model(failing=set(range(100)))
    with pytest.raises(RunError, match=r"fails on the first 1\d examples; the first one: .*the line is dead"):
        run(single(lm), 100, concurrency=4)
    assert len(lm.requests) < 20


def test_a_metric_that_does_not_fit_ends_it_at_once() -> None:
    with pytest.raises(ConfigurationError, match="no output 'wrong'"):
        evaluate(single(model()), mine(items(5)), ExactMatch(field="wrong"))
    with pytest.raises(ConfigurationError, match="no field 'wrong'"):
        evaluate(single(model()), mine(items(5)), lambda example, prediction: field_of(prediction, "wrong", "answer"))


def tickets(count: int = 4) -> list[dspy.Example]:
    return [
        dspy.Example(ticket=f"item number {n}.", category=str(n), urgent="no").with_inputs("ticket")
        for n in range(count)
    ]


def test_the_output_of_any_name_is_compared_with_the_field_of_its_name() -> None:
    result = evaluate(single_model("ticket -> category", model({1})), mine(tickets()), ExactMatch())
    assert result.score is not None
    assert result.score.value == 0.75
    result = evaluate(Sorter(), mine(tickets()), ExactMatch())
    assert result.score is not None
    assert result.score.value == 1


class Sorter(dspy.Module):
    """A program without a signature, and an output for its reasoning."""

    def forward(self, ticket: str) -> dspy.Prediction:
        return dspy.Prediction(reasoning="so", category=ticket.removeprefix("item number ").strip("."))


@pytest.mark.parametrize(
    ("signature", "left_out", "says"),
    [
        ("ticket -> category, urgent", "", r"outputs are category, urgent.*ExactMatch\(field='category'\)"),
        ("ticket -> category", "category", "4 of 4 examples have no 'category' to compare with"),
    ],
)
@pytest.mark.parametrize("work", [evaluate, optimize, compare, search, compile, accept, profile])
def test_what_does_not_fit_is_refused_before_anything_is_paid(
    work: Callable[..., Any], signature: str, left_out: str, says: str
) -> None:
    lm, examples = model(), tickets(4 if work is not optimize else 12)
    says = says if work is not optimize else says.replace("4 of 4", "12 of 12")
    if left_out:
        examples = [example.without(left_out) for example in examples]
    program = single_model(signature, lm)
    arguments: dict[Callable[..., Any], Callable[[], Any]] = {
        evaluate: lambda: evaluate(program, examples, ExactMatch()),
        optimize: lambda: optimize(program, trainset=examples, metric=ExactMatch()),
        compare: lambda: compare(program, devset=examples, metric=ExactMatch()),
        search: lambda: search(signature, [lm], trainset=examples, metric=ExactMatch()),
        compile: lambda: compile(program, trainset=examples, metric=ExactMatch()),
        accept: lambda: accept(program, program.replace(layers=2), valset=examples, metric=ExactMatch(), tuned_on=[]),
        profile: lambda: profile(program, examples, ExactMatch()),
    }
    with pytest.raises(ConfigurationError, match=says):
        arguments[work]()
    assert not lm.requests


def test_a_run_that_ended_before_its_first_record_blocks_no_other_one(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"

    def unfit(example: dspy.Example, prediction: Any) -> bool:
        raise ConfigurationError("the metric does not fit")

    with pytest.raises(ConfigurationError, match="does not fit"):
        evaluate(single(model()), mine(items(3)), unfit, out=out)
    assert not out.exists()
    run(single(model()), 3, out=out)
    header = out.read_bytes().splitlines(keepends=True)[0]
    out.write_bytes(header)  # as after a kill
    other = single_model("question -> answer", model(), reasoning=False)
    assert run(other, 3, out=out).scored == 3
    assert [record.id for record in read_records(out)[1]] == ["q0", "q1", "q2"]


def test_a_metric_that_never_returns_a_score_ends_it_and_says_why() -> None:
    for count in (5, 40):
        with pytest.raises(ConfigurationError, match=r"returned 3\.0; scores are from 0"):
            evaluate(single(model()), mine(items(count)), lambda example, prediction: 3)


def test_inputs_that_are_not_the_programs_are_refused_before_the_first_call() -> None:
    lm = model()
    with pytest.raises(ConfigurationError, match=r"inputs \(question\) are not the program's \(problem\)"):
        run(single_model("problem -> answer", lm))
    assert not lm.requests


def test_two_runs_are_compared_item_by_item(tmp_path: Path) -> None:
    worse, better = tmp_path / "worse.jsonl", tmp_path / "better.jsonl"
    run(single(model(wrong={0, 1, 2, 3, 4, 5}, failing={11})), out=worse)
    result = run(single(model(wrong={5})), out=better, against=worse)
    found = result.comparison
    assert found is not None
    assert (found.matched, found.only_here, found.only_there) == (11, 1, 0)
    assert (found.better, found.worse, found.equal) == (5, 0, 6)
    assert found.difference == pytest.approx(5 / 11)
    assert found.low < 0 < found.difference < found.high, "p is above 0.05"
    assert found.p_value == pytest.approx(2 / 2**5)
    assert compare_files(better, worse) == found


def test_runs_on_other_data_are_not_compared(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    renamed = [
        dspy.Example({**example.toDict(), "id": f"x{n}"}).with_inputs("question") for n, example in enumerate(items(4))
    ]
    evaluate(single(model()), mine(renamed), ExactMatch(), out=other)
    with pytest.raises(ConfigurationError, match="no item is in both"):
        run(single(model()), 4, against=other)
    changed = items(4)
    changed[1].answer = "other"
    evaluate(single(model()), mine(changed), ExactMatch(), out=tmp_path / "changed.jsonl")
    with pytest.raises(ConfigurationError, match="1 of 4 items have another content"):
        run(single(model()), 4, against=tmp_path / "changed.jsonl")


def test_progress_tells_score_and_cost_as_it_goes() -> None:
    seen: list[EvaluateProgress] = []
    run(single(model(wrong={0, 1})), progress=seen.append, concurrency=1)
    assert [progress.done for progress in seen] == list(range(13))
    assert seen[-1].mean == pytest.approx(10 / 12)
    assert seen[-1].usage.calls == 12


def test_a_log_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run(single(model(failing={7})), progress=True)
    said = capsys.readouterr().err
    assert "12 of 12 items: score 100.0 %, 1 errors" in said
    assert "item q7 failed" in said


def test_examples_without_ids_are_told_apart() -> None:
    twins = [dspy.Example(question="item number 1.", answer="1").with_inputs("question") for _ in range(3)]
    result = evaluate(single(model()), mine(twins), ExactMatch())
    assert len({record.id for record in result.records}) == 3


def test_what_models_write_is_recorded_whatever_it_is(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    strange = "\ud800 \x00 \u2028 \n é"
    lm = ScriptedLM(strange)
    result = evaluate(single(lm), mine(items(2)), ExactMatch(), out=out)
    assert result.scored == 2
    assert len(out.read_bytes().splitlines()) == 3
    assert len(read_records(out)[1]) == 2


def test_the_result_is_json(tmp_path: Path) -> None:
    result = run(single(model()), out=tmp_path / "run.jsonl")
    content = json.loads(result.to_json())
    assert content["score"]["value"] == 1.0
    assert content["records"].endswith("run.jsonl")


def test_an_input_without_value_is_refused_before_anything_is_paid() -> None:
    examples = items(5)
    examples[3]["question"] = None
    lm = model()
    with pytest.raises(
        ConfigurationError, match="1 of 5 examples have no value for the input 'question'; the first is"
    ):
        evaluate(single(lm), mine(examples), ExactMatch())
    assert not lm.requests


@pytest.mark.parametrize(("cut", "asked"), [(0, 0), (1, 0), (2, 1)])
def test_a_last_record_is_kept_if_only_its_line_end_is_missing(tmp_path: Path, cut: int, asked: int) -> None:
    out = tmp_path / "records.jsonl"
    run(single(model()), 4, out=out, concurrency=1)
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) - cut])
    lm = model()
    assert run(single(lm), 4, out=out).score.examples == 4
    assert len(lm.requests) == asked
    assert len(read_records(out)[1]) == 4


def test_examples_may_be_any_object_with_a_length_and_items() -> None:
    class Dataset:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> dspy.Example:
            if index > 1:
                raise IndexError
            return dspy.Example(question=f"question {index}", answer="b").with_inputs("question")

    devset: Any = Dataset()
    assert evaluate(single(model()), devset, ExactMatch()).items == 2
    one: Any = devset[0]
    with pytest.raises(ConfigurationError, match="pass a list of examples"):
        evaluate(single(model()), one, ExactMatch())


@pytest.mark.parametrize("devset", [[{"question": "a", "answer": "b"}], [dspy.Example(question="a")], [None], None, 5])
def test_examples_without_inputs_are_refused(devset: Any) -> None:
    with pytest.raises(ConfigurationError, match="with_inputs"):
        evaluate(single(model()), devset, ExactMatch())


@pytest.mark.parametrize("examples", [None, [{"question": "a"}] * 6])
def test_examples_without_inputs_are_refused_by_the_optimizers(examples: Any) -> None:
    for ask in (lambda: compare(single(model()), devset=examples, metric=ExactMatch()),
                lambda: compile(single(model()), trainset=examples, metric=ExactMatch())):  # fmt: skip
        with pytest.raises(ConfigurationError, match=r"with_inputs|pass a list"):
            ask()


def test_a_name_that_is_too_long_for_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot write"):
        evaluate(single(model()), items(1), ExactMatch(), out=tmp_path / ("x" * 300))
