"""A model is its name, its server and its settings: in the response cache, samples, records and comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.loopback import Loopback

from moa_dspy import Agent, AttentionMoA, ConfigurationError, evaluate, single_model
from moa_dspy.agents import slots_of
from moa_dspy.data import ExactMatch
from moa_dspy.data.judges import GradeJudge, send
from moa_dspy.errors import AllProposalsFailedError
from moa_dspy.evaluation import Devset, read_records
from moa_dspy.evaluation.suite import OwnData
from moa_dspy.identity import connection_of, server_of
from moa_dspy.optimizers import SearchSpace, search
from moa_dspy.optimizers.comparison.baselines import singles_of
from moa_dspy.testing import ScriptedLM

DEAD = "http://127.0.0.1:9/v1"  # nothing listens at the discard port


def at(address: str, **options: Any) -> dspy.LM:
    return dspy.LM("openai/model", api_base=address, api_key="k", **{"num_retries": 0, **options})


def server(text: str) -> Loopback:
    return Loopback(lambda body: text)


@pytest.mark.parametrize("temperature", [None, 0.0, 1.0])
def test_two_servers_behind_one_name_give_their_own_answers(temperature: float | None) -> None:
    with server("one") as first, server("two") as second:
        answers = [
            single_model("question -> answer", at(url, temperature=temperature))(question="?").answer
            for url in (first.url, second.url, first.url, second.url)
        ]
        assert answers == ["one", "two", "one", "two"]
        assert (len(first.calls), len(second.calls)) == (1, 1)  # the cache still works, for each server


@pytest.mark.parametrize("signature", ["question -> answer", "question -> answer: int"])
@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_a_dead_server_has_no_answer_from_another_ones_cache(signature: str, engine: str) -> None:
    options: Any = {"temperature": 0.0, "engine": engine}
    text = "7" if signature.endswith("answer") else "[[ ## answer ## ]]\n7\n\n[[ ## completed ## ]]"
    with server(text) as alive:
        program = single_model(signature, at(alive.url, **options), reasoning=False)
        assert str(program(question="?").answer) == "7"
        moved = program.replace(agents=[at(DEAD, **options)])
        with pytest.raises(AllProposalsFailedError):
            moved(question="?")
        assert str(program(question="?").answer) == "7"
        assert len(alive.calls) == 1


def test_agents_on_two_servers_in_one_program_each_ask_their_own() -> None:
    with server("one") as first, server("two") as second:
        program = AttentionMoA(
            "question -> answer", [at(first.url), at(second.url)], layers=1, attention="none", aggregation="vote"
        )
        trace = program(question="?").trace
        assert [step.text for step in trace.steps if step.stage == "propose"] == ["one", "two"]


def test_plans_and_traces_name_servers_that_share_a_model() -> None:
    with server("one") as first, server("two") as second:
        agents: list[Any] = [
            Agent(at(first.url), price={"prompt": 1, "completion": 1}),
            Agent(at(second.url), price={"prompt": 100, "completion": 100}),
        ]
        program = AttentionMoA("question -> answer", agents, layers=1, attention="none", aggregation="vote")
        plan, trace = program.plan(question="?"), program(question="?").trace
        assert [share.server for share in plan.full.models] == [first.url, second.url]
        cheap, dear = plan.full.models
        assert (cheap.usd or 0) * 90 < (dear.usd or 0)
        assert f"openai/model at {second.url}" in plan.to_table()
        assert [step.server for step in trace.steps if step.model] == [first.url, second.url]
        names = [f"openai/model at {there.url}" for there in (first, second)]
        assert [group.name for group in trace.by("model")] == names
        one = AttentionMoA("question -> answer", agents[:1], layers=1)
        assert [group.name for group in one(question="?").trace.by("model")] == ["openai/model"]
        assert "openai/model at" not in one.plan(question="?").to_table()


def test_an_optimizer_asks_the_server_that_the_program_has_now() -> None:
    trainset = [dspy.Example(question=str(n), answer="x").with_inputs("question") for n in range(2)]
    with server("one") as first, server("two") as second:
        for there in (first, second):
            program = single_model("question -> answer", at(there.url, temperature=0.7))
            optimizer = dspy.BootstrapFewShot(metric=lambda *_: True, max_bootstrapped_demos=2, max_labeled_demos=0)
            tuned = optimizer.compile(program, trainset=trainset)
            (_, predictor), *_ = tuned.named_predictors()
            assert {demo["answer"] for demo in predictor.demos} == {"one" if there is first else "two"}


def test_a_judge_on_another_server_judges_anew() -> None:
    asked = {"conversation": "q", "reference": "", "answer": "a"}

    def grade(text: str) -> str:
        return f"[[ ## reasons ## ]]\nfine\n\n[[ ## score ## ]]\n{text}\n\n[[ ## completed ## ]]"

    with server(grade("3")) as first, server(grade("9")) as second:
        judges = [GradeJudge(at(there.url, temperature=0.0)) for there in (first, second, first)]
        assert [judge._ask(judge.grade, **asked).score for judge in judges] == ["3", "9", "3"]  # type: ignore[union-attr]
        assert (len(first.calls), len(second.calls)) == (1, 1)
        official = [send(judge._lm(judge.grade), "official", None).text for judge in judges]
        assert official == [grade("3"), grade("9"), grade("3")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"api_base": None}, None),
        ({"api_base": ""}, None),
        ({"api_base": "http://h:1/v1"}, "http://h:1/v1"),
        ({"base_url": "http://h:1/v1"}, "http://h:1/v1"),
        ({"api_base": "http://h:1/v1/"}, "http://h:1/v1"),
        ({"api_base": "HTTP://H:1/v1"}, "http://h:1/v1"),
        ({"api_base": "http://h:1/V1"}, "http://h:1/V1"),
        ({"api_base": "http://user:secret@h:1/v1"}, "http://h:1/v1"),
        ({"api_base": "http://h:1/v1?key=secret"}, "http://h:1/v1"),
        ({"api_base": "http://h:1/v1#x"}, "http://h:1/v1"),
        ({"api_base": "http://h:2/v1"}, "http://h:2/v1"),
        ({"api_base": "http://h:1"}, "http://h:1"),
        ({"api_base": "https://h/v1"}, "https://h/v1"),
        ({"api_base": "http://[::1]:8000/v1"}, "http://[::1]:8000/v1"),
        ({"api_base": "http://h:1/a/v1"}, "http://h:1/a/v1"),
        ({"api_base": "h:1/v1"}, "h:1/v1"),
        ({"api_base": "http://h:1/v1", "api_key": "k"}, "http://h:1/v1"),
        ({"api_base": "http://h:1/v1", "timeout": 3}, "http://h:1/v1"),
        ({"api_base": "http://[broken", "api_key": "k"}, "http://[broken"),
        ({"api_base": "http://user:secret@[broken"}, "http://[broken"),
    ],
)
def test_the_address_of_a_server(options: dict[str, Any], expected: str | None) -> None:
    assert server_of(dspy.LM("openai/model", **options)) == expected


@pytest.mark.parametrize("variable", ["OPENAI_API_BASE", "OPENAI_BASE_URL"])
def test_an_address_in_the_environment_counts(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "http://h:1/v1")
    assert server_of(dspy.LM("openai/model")) == "http://h:1/v1"
    assert server_of(dspy.LM("openai/model", api_base="http://h:2/v1")) == "http://h:2/v1"
    assert server_of(dspy.LM("anthropic/model")) is None


def test_a_scripted_model_has_no_server() -> None:
    assert server_of(ScriptedLM("a")) is None
    assert connection_of(ScriptedLM("a", temperature=0.3)) == {}
    assert connection_of(None) == {}


def test_further_settings_are_part_of_the_identity_and_keys_are_not() -> None:
    one = dspy.LM("openai/m", api_key="k", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    other = dspy.LM("openai/m", api_key="other", extra_body={"chat_template_kwargs": {"enable_thinking": True}})
    assert Agent(one).identity != Agent(other).identity
    assert Agent(one).identity == Agent(one.copy(api_key="third")).identity
    assert "other" not in Agent(other).identity


def test_samples_are_numbered_for_each_server() -> None:
    agents = [Agent(at("http://h:1/v1")), Agent(at("http://h:2/v1")), Agent(at("http://h:1/v1/"))]
    assert [slot.sample for slot in slots_of(agents)] == [0, 0, 1]


def test_a_comparison_takes_each_server_as_a_model_of_its_own() -> None:
    program = AttentionMoA("question -> answer", [at("http://h:1/v1"), at("http://h:2/v1"), at("http://h:1/v1")])
    assert [single.place for single in singles_of(program)] == [0, 1]


def examples(count: int = 3) -> list[dspy.Example]:
    return [dspy.Example(id=f"q{n}", question=str(n), answer="one").with_inputs("question") for n in range(count)]


def scored(url: str, out: Path) -> Any:
    devset = Devset(OwnData("mine.jsonl"), examples())
    return evaluate(single_model("question -> answer", at(url)), devset, ExactMatch(), out=out)


def test_records_of_one_server_are_not_continued_on_another(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    with server("one") as first, server("two") as second:
        assert scored(first.url, out).scored == 3
        with pytest.raises(ConfigurationError, match="other servers") as refused:
            scored(second.url, out)
        assert "\n" not in str(refused.value)
        assert scored(f"{first.url}/", out).scored == 3
        assert (len(first.calls), len(second.calls)) == (3, 0)
    assert "127.0.0.1" not in out.read_text()  # records have no address


def test_records_of_an_older_version_continue(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    with server("one") as first:
        scored(first.url, out)
        header, *rows = out.read_text().splitlines()
        old = json.loads(header)
        del old["run"]["connection"]
        out.write_text("\n".join([json.dumps(old), *rows[:2]]) + "\n")
        assert scored(first.url, out).scored == 3
    assert "connection" not in read_records(out)[0]


def test_a_study_of_one_server_is_not_continued_on_another(tmp_path: Path) -> None:
    space = SearchSpace(samples=1, temperatures=(None,), attention=("none",), residual=("none",), layers=(1,))
    trainset = [dspy.Example(question=str(n), answer="one").with_inputs("question") for n in range(2)]

    def searched(url: str) -> Any:
        return search(
            "question -> answer", [at(url)], trainset=trainset, metric=ExactMatch(), space=space, n_trials=1,
            storage=tmp_path / "study.db",
        )  # fmt: skip

    with server("one") as first, server("one") as second:
        searched(first.url)
        with pytest.raises(ConfigurationError, match="begun with another connection"):
            searched(second.url)
        found = searched(first.url)
    about = found.study.user_attrs["about"]
    found.study.set_user_attr("about", {name: value for name, value in about.items() if name != "connection"})
    with server("one") as third:  # a study of an older version does not say which server it asked
        searched(third.url)
