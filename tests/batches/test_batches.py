"""Provider batches: equal answers at half the price, whatever the provider does to a batch."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.batch_server import BatchServer, Fate

from moa_dspy import (
    AttentionMoA,
    Batches,
    Budget,
    ConfigurationError,
    Tolerance,
    attention_moa,
    evaluate,
    run,
    single_model,
)
from moa_dspy.testing import ScriptedLM

ROWS = [{"question": f"question {number}"} for number in range(4)]
PROVIDERS = {"openai": "gpt-4.1", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-pro"}


def reply(prompt: str) -> str:
    """A reply that depends on the prompt alone, and differs between prompts."""
    return f"[[ ## improved ## ]]\ntrue\n\n[[ ## answer ## ]]\nanswer {hash(prompt)}\n\n[[ ## completed ## ]]"


def moa(server: BatchServer, provider: str = "openai") -> AttentionMoA:
    return attention_moa(
        "question -> answer", [server.lm(provider, PROVIDERS[provider], temperature=1.0)] * 2, layers=2
    )


def one(server: BatchServer, provider: str = "openai", **options: Any) -> AttentionMoA:
    return single_model("question -> answer", server.lm(provider, PROVIDERS[provider]), **options)


def answers(result: Any) -> list[str]:
    return [answer["answer"] for answer in result.answers]


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_nine_batches_at_half_the_price_give_the_same_answers(provider: str) -> None:
    with BatchServer(reply) as server:
        batched = run(moa(server, provider), ROWS, batch=Batches(sleep=server.sleep, poll_seconds=1800))
        assert not server.singles
        assert [len(batch.requests) for batch in server.batches] == [8, 16, 8, 4, 8, 16, 8, 4, 4]
        single = run(moa(server, provider), ROWS)
    assert answers(batched) == answers(single)
    assert batched.usage.tokens == single.usage.tokens
    assert single.usage.cost_usd
    assert batched.usage.cost_usd == pytest.approx(single.usage.cost_usd / 2)


FATES: dict[str, Callable[[int, str], Fate]] = {
    "expired": lambda batch, prompt: "expired" if "question 1" in prompt else "ok",
    "missing": lambda batch, prompt: "missing" if "question 1" in prompt and batch == 1 else "twice",
    "error": lambda batch, prompt: "error" if "question 1" in prompt else "ok",
}


@pytest.mark.slow
@pytest.mark.parametrize(("provider", "fate", "rest"), [*itertools.product(PROVIDERS, FATES, ("single", "resubmit"))])
def test_what_a_batch_leaves_out_is_completed(provider: str, fate: str, rest: Any) -> None:
    with BatchServer(reply, FATES[fate]) as server:
        batches = Batches(rest=rest, sleep=server.sleep, poll_seconds=3600)
        result = run(one(server, provider), ROWS, batch=batches)
        passing = rest == "resubmit" and fate == "missing"
        assert len(server.batches) == (1 if rest == "single" else 2 if passing else 3)
        assert len(server.singles) == (0 if passing else 1)
        assert max(server.billed.values()) == 1
    assert (result.answered, result.errors) == (4, 0)


@pytest.mark.slow
def test_an_invalid_request_fails_its_row_alone() -> None:
    with BatchServer(reply, lambda batch, prompt: "invalid" if "question 1" in prompt else "ok") as server:
        result = run(one(server), ROWS, batch=Batches(sleep=server.sleep))
        assert (result.answered, result.errors) == (3, 1)
        assert not server.singles


@pytest.mark.slow
def test_agents_without_batches_run_beside() -> None:
    with BatchServer(reply) as server, BatchServer(reply, has_batches=False) as other:
        agents = [server.lm(model="gpt-4.1"), other.lm(model="gpt-4o"), ScriptedLM("scripted")]
        program = attention_moa("question -> answer", agents, layers=1)
        result = run(program, ROWS, batch=Batches(sleep=server.sleep))
        assert result.answered == 4
        assert len(server.batches) == 4
        assert not server.singles
        assert len(other.singles) == 4 * (1 + 3 + 1)


@pytest.mark.slow
def test_a_server_without_batches_keeps_the_timeout_of_calls() -> None:
    release = threading.Event()

    def late(prompt: str) -> str:
        release.wait(20)
        return "late"

    with BatchServer(late, has_batches=False) as server:
        try:
            program = one(server, tolerance=Tolerance(timeout=0.3, retries=0))
            result = run(program, ROWS[:1], batch=Batches(sleep=server.sleep))
        finally:
            release.set()
    assert result.answers is not None
    assert (result.errors, result.answers[0]["error"].partition(":")[0]) == (1, "AllProposalsFailedError")
    assert "timeout" in result.answers[0]["error"]


def test_a_batch_that_the_server_has_no_time_for_is_sent_again() -> None:
    class Busy(BatchServer):
        def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
            is_first = path.endswith("/batches") and method == "POST" and not self.calls["refused"]
            if not is_first:
                return super().answer(method, path, body)
            self.calls["refused"] += 1
            return 429, {"error": {"message": "too many"}}

    with Busy(reply) as server:
        result = run(one(server), ROWS, batch=Batches(sleep=server.sleep))
        assert (server.calls["refused"], len(server.batches), len(server.singles)) == (1, 1, 0)
    assert (result.answered, result.errors) == (4, 0)


def test_a_batch_over_the_limit_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa_dspy.batches.wire.OpenAI.most", 3)
    with BatchServer(reply) as server:
        assert run(one(server), ROWS, batch=Batches(sleep=server.sleep)).answered == 4
        assert [len(batch.requests) for batch in server.batches] == [3, 1]


@pytest.mark.slow
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_run_that_ends_in_a_batch_pays_nothing_twice(tmp_path: Path, provider: str) -> None:
    """The run ends in the middle of each batch, and does not know the id of the last one."""
    with BatchServer(reply) as server:
        expected = answers(run(moa(server, provider), ROWS))
        singles = len(server.singles)
        out = tmp_path / "answers.jsonl"

        async def sleep(seconds: float) -> None:
            await server.sleep(seconds)
            raise OSError("the end")

        starts, errors, answered = 0, 4, 0
        while errors and starts < 12:
            result = run(moa(server, provider), ROWS, out=out, batch=Batches(sleep=sleep, poll_seconds=3600))
            starts, errors, answered = starts + 1, result.errors, result.answered
            _forget_id(out)
        assert starts == 10
        assert (answered, errors) == (4, 0)
        assert len(server.batches) == 9
        assert len(server.singles) == singles
        assert answers_in(out) == expected


def test_a_batch_of_another_program_with_equal_time_and_size_is_not_taken_for_a_lost_one(tmp_path: Path) -> None:
    with BatchServer(reply) as server:

        async def end(seconds: float) -> None:
            raise OSError("the end")

        out, program = tmp_path / "answers.jsonl", one(server, "anthropic")
        run(program, ROWS, out=out, batch=Batches(sleep=end))
        _forget_id(out)
        (own,) = server.batches
        foreign = server._create("anthropic", {str(number): {} for number in range(len(ROWS))}, None)
        foreign.created, own.created = own.created, own.created + 60  # it is the nearer one
        result = run(program, ROWS, out=out, batch=Batches(sleep=server.sleep))
        assert (result.answered, result.errors) == (len(ROWS), 0)
        assert (server.batches, server.singles) == ([own, foreign], [])


def answers_in(out: Path) -> list[str]:
    import json

    return [json.loads(line)["answer"] for line in out.read_text().splitlines()]


def _forget_id(out: Path) -> None:
    import sqlite3

    base = sqlite3.connect(out.with_name(f"{out.name}.batches.db"))
    with base:
        base.execute("update batches set id = null where ended is null")
    base.close()


@pytest.mark.slow
def test_a_budget_in_dollars_lets_all_rows_that_it_covers_go_together() -> None:
    with BatchServer(lambda prompt: "yes") as server:
        program = one(server)
        each = program.plan(question="question 1").full.usd
        assert each is not None
        result = run(program, ROWS, batch=Batches(sleep=server.sleep), budget=Budget(usd=each * 1.1))
        assert len(server.batches[0].requests) == 2  # at half the price
        assert result.ended_by in ("rows", "budget")


@pytest.mark.slow
def test_a_timeout_of_calls_does_not_end_batches() -> None:
    with BatchServer(reply) as server:
        program = one(server, tolerance=Tolerance(timeout=0.001))
        assert run(program, ROWS, batch=Batches(sleep=server.sleep, poll_seconds=60)).answered == 4


def test_an_evaluation_can_use_batches() -> None:
    with BatchServer(lambda prompt: "yes") as server:
        devset = [dspy.Example(question=row["question"], answer="yes").with_inputs("question") for row in ROWS]

        def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
            return bool(example.answer == prediction.answer)

        result = evaluate(one(server), devset, metric, batch=Batches(sleep=server.sleep, poll_seconds=3600))
        assert (result.scored, len(server.batches), len(server.singles)) == (4, 1, 0)


@pytest.mark.parametrize("options", [{"rest": "none"}, {"poll_seconds": 0}])
def test_settings_are_checked(options: Any) -> None:
    with pytest.raises(ConfigurationError):
        Batches(**options)


@pytest.mark.slow
def test_flex_is_planned_and_recorded_at_its_price() -> None:
    with BatchServer(reply) as server:
        usual, flex = (
            single_model("question -> answer", server.lm(model="gpt-5", max_tokens=None, **options))
            for options in ({}, {"service_tier": "flex"})
        )
        plans = [program.plan(question="question").full.usd or 0.0 for program in (usual, flex)]
        costs = [run(program, ROWS).usage.cost_usd or 0.0 for program in (usual, flex)]
    assert plans[1] > 0
    assert plans[1] == pytest.approx(plans[0] / 2)
    assert costs[1] == pytest.approx(costs[0] / 2)
