"""Rows answered with Ray Data, on this machine. Ray is an extra: without it, only the message is tested."""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from support.loopback import Call, Loopback, refusal

import moa_dspy
from moa_dspy import ConfigurationError, run, single_model
from moa_dspy.evaluation.runner import ExampleRunner, Item, Run
from moa_dspy.ray import _Asker, _told, ask, evaluate
from moa_dspy.testing import ScriptedLM

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="needs Ray: uv pip install 'ray[data]'")
ROWS = [{"id": number, "question": f"what is {number}?", "answer": "gold"} for number in range(24)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    from benchmarks import ray_rows

    ray_rows.start()
    yield ray_rows
    ray_rows.ray.shutdown()


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_message_says_how_to_install_it() -> None:
    with pytest.raises(ConfigurationError, match=r"ray\[data\]"):
        ask(None, single_model("question -> answer", ScriptedLM("yes")))


@needs_ray
def test_arguments_that_do_not_fit_are_refused_before_anything_starts() -> None:
    program = single_model("question -> answer", dspy.LM("openai/model", api_key="x"))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"actors": 0}, "actors=0"),
        ({"actors": 4, "calls_at_once": {"openai/model": 3}}, "3 calls at once of openai/model"),
        ({"done": object()}, "id_column="),
    ]
    for options, words in cases:
        with pytest.raises(ConfigurationError, match=words):
            ask(SimpleNamespace(filter=None), program, **options)
    with pytest.raises(ConfigurationError, match="cannot be sent"):
        ask(None, single_model("question -> answer", ScriptedLM("yes")))  # it has a lock


class Provider(Loopback):
    """A provider that counts concurrent calls, and during whose tenth call an actor is killed."""

    def __init__(self, kill: Any) -> None:
        super().__init__(reply=self._reply, hold=self._hold)
        self.open = self.most = 0
        self._kill = kill

    def _reply(self, body: dict[str, Any]) -> str:
        if len(self.calls) == 10:
            self._kill()
        return "yes"

    async def _hold(self, _: Call) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await asyncio.sleep(0.1)
        finally:
            self.open -= 1


@pytest.mark.slow
@needs_ray
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_killed_actor_loses_no_row_and_done_rows_are_not_asked_again(cluster: Any) -> None:
    data = cluster.ray.data
    with Provider(cluster.kill_an_actor) as provider:
        program = single_model("question -> answer", provider.lm())
        options: Any = {"rows_per_block": 4, "concurrency": 4, "num_cpus": 1}
        rows = data.from_items(ROWS, override_num_blocks=2)
        answers = ask(
            data.from_items(ROWS, override_num_blocks=2), program, actors=2, calls_at_once=6, **options
        ).take_all()
        assert sorted(answer["id"] for answer in answers) == list(range(24))  # none lost, none twice
        assert {(answer["answer"], answer["input_answer"], answer["error"]) for answer in answers} == {
            ("yes", "gold", None)
        }
        assert provider.most <= 6
        assert 24 <= len(provider.calls) <= 24 + 2 * 4  # the actor had two blocks at most

        known = (run(program, ROWS[:1]).answers or [])[0]
        first = next(answer for answer in answers if answer["id"] == 0)
        assert (first["program"], first["row_id"]) == (known["program"], known["row_id"])

        done = [
            {**answer, "error": "no reply" if answer["id"] == 3 else None} for answer in answers if answer["id"] < 20
        ]
        earlier = data.from_items(done, override_num_blocks=1)
        rest = ask(rows, program, id_column="id", done=earlier, **options)
        assert sorted(answer["id"] for answer in rest.take_all()) == [3, 20, 21, 22, 23]


JUDGED = "question -> count: int"
EXAMPLES = [dspy.Example(question=f"{n}?", count=n).with_inputs("question") for n in range(8)]


def same(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.count == example.count)


def counting(body: dict[str, Any]) -> Any:
    number = int(str(body["messages"][-1]["content"]).split("?")[0].split()[-1])
    return refusal(400, "no") if number == 7 else f"#### {number if number % 2 else 0}"


@needs_ray
def test_recorded_answers_are_those_of_the_program() -> None:
    """Without a cluster: an actor's answers, as they come back, scored in place of the program."""
    with Loopback(counting) as provider:
        program = single_model(JUDGED, provider.lm())
        usual = moa_dspy.evaluate(program, EXAMPLES, same)
        assert usual.score is not None
        asker = _Asker(program, None, {"lm": None, "adapter": None}, None, {}, 4, trace=True)
        import pyarrow as pa

        async def answered() -> list[dict[str, Any]]:
            table = pa.table({"question": [one.question for one in EXAMPLES]})
            return [row async for part in asker(table) for row in part.to_pylist()]

        rows = asyncio.run(answered())
    answers = {json.dumps({"question": row["question"]}): row for row in rows}
    runs: list[Run] = []
    recorded = copy.copy(program)
    object.__setattr__(recorded, "aforward", _told(program, answers))
    items = [Item(bytes([number]), one) for number, one in enumerate(EXAMPLES)]
    asyncio.run(ExampleRunner(recorded, same, concurrency=2).run(items, lambda _, one: runs.append(one)))
    (failed,) = [one.error for one in runs if one.error]
    assert "no agent answered (model: invalid_request" in failed
    assert sum(one.score or 0 for one in runs) / 7 == usual.score.value == 4 / 7
    assert sum(one.status == "error" for one in runs) == 1
    assert sum(one.usage.calls for one in runs) == usual.usage.calls
    assert sum(one.usage.tokens.total for one in runs) == usual.usage.tokens.total


@needs_ray
def test_what_cannot_be_scored_is_refused_before_anything_starts() -> None:
    program = single_model(JUDGED, dspy.LM("openai/model", api_key="x"))
    with pytest.raises(ConfigurationError, match="inputs"):
        evaluate(program, [dspy.Example(other="?", count=1).with_inputs("other")], same)
    turns = [dspy.Example(question="?", turns=["a", "b"]).with_inputs("question")]
    with pytest.raises(ConfigurationError, match="conversations"):
        evaluate(program, turns, same)


@pytest.mark.slow
@needs_ray
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_an_evaluation_on_actors_is_the_usual_one(cluster: Any, tmp_path: Path) -> None:
    del cluster
    with Loopback(counting) as provider:
        program = single_model(JUDGED, provider.lm())
        out = tmp_path / "records.jsonl"
        result = evaluate(program, EXAMPLES, same, asking={"actors": 2, "rows_per_block": 2, "num_cpus": 1}, out=out)
        calls = len(provider.calls)
        assert result.score is not None
        assert (result.score.value, result.usage.calls) == (4 / 7, calls)
        again = moa_dspy.evaluate(program, EXAMPLES, same, out=out)  # its records are those of the program
        assert len(provider.calls) - calls <= 2  # the item that failed
    assert again.score is not None
    assert again.score.value == 4 / 7
