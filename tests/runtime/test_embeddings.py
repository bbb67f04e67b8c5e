"""Embedding models that choose demos: allowed by the user, counted, planned, limited and repeated like every call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.loopback import Http, Loopback, Reply, refusal

import moa_dspy
from moa_dspy import AttentionMoA, Budget, ConfigurationError, ProgramFileError, Tolerance
from moa_dspy.cli import main
from moa_dspy.errors import AllProposalsFailedError
from moa_dspy.runtime import embeddings
from moa_dspy.runtime.knn_demos import Nearest

MODEL = "openai/text-embedding-3-small"
ANIMALS = ["cat", "dog", "cow", "hen", "pig"]


def vector_of(text: str) -> list[float]:
    return [float(animal in text) for animal in ANIMALS] + [0.1]


def embedded(body: dict[str, Any]) -> Http:
    data = [{"object": "embedding", "index": at, "embedding": vector_of(text)} for at, text in enumerate(body["input"])]
    tokens = sum(len(text.split()) for text in body["input"])
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Http(200, {"object": "list", "model": body["model"], "data": data, "usage": usage})


class Provider:
    """A provider on loopback with chat models and an embedding model, which may fail first."""

    def __init__(self, server: Loopback) -> None:
        self.server = server
        self.failures: list[Http] = []

    def reply(self, body: dict[str, Any]) -> Reply:
        if "input" not in body:
            return "an answer"
        return self.failures.pop(0) if self.failures else embedded(body)

    @property
    def embeddings(self) -> list[dict[str, Any]]:
        return [call.body for call in self.server.calls if "input" in call.body]

    @property
    def chats(self) -> list[str]:
        return [call.prompt for call in self.server.calls if "input" not in call.body]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    server = Loopback()
    found = Provider(server)
    server.reply = found.reply
    embeddings._kept.clear()
    with server:
        for name in ("OPENAI_API_BASE", "OPENAI_BASE_URL"):
            monkeypatch.setenv(name, server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "loopback-key")
        yield found


def choosing(provider: Provider, agents: int = 1, **options: Any) -> AttentionMoA:
    lms = [provider.server.lm(f"m{number}") for number in range(agents)]
    program = AttentionMoA("question -> answer", lms, layers=1, attention="none", **options)
    demos = [{"question": f"a {animal}?", "answer": animal.upper()} for animal in ANIMALS]
    program.propose.demos = demos  # type: ignore[union-attr]
    Nearest.set_on(program.propose, Nearest(1, ("question",), MODEL))  # type: ignore[arg-type]
    return program


def calls(provider: Provider) -> int:
    return len(provider.server.calls)


def test_a_run_asks_once_shows_the_nearest_and_counts(provider: Provider):
    program = choosing(provider, agents=3)
    trace = program(question="what does a cow say?").trace
    assert [len(body["input"]) for body in provider.embeddings] == [6]
    assert trace.calls == calls(provider) == 1 + 3 + 1
    assert all("COW" in prompt and "HEN" not in prompt for prompt in provider.chats[:3])
    words = sum(len(text.split()) for text in provider.embeddings[0]["input"])
    assert trace.tokens.prompt == words + sum(
        call.usage["prompt_tokens"] for call in provider.server.calls if call.usage
    )


def test_only_new_texts_are_sent_again(provider: Provider):
    program = choosing(provider)
    program(question="what does a cow say?")
    program(question="and a pig?")
    program(question="and a pig?")
    assert [body["input"] for body in provider.embeddings[1:]] == [["question: and a pig?"]]


def test_a_plan_counts_them_and_sends_nothing(provider: Provider):
    program = choosing(provider, agents=3)
    plan = program.plan(question="what does a cow say?")
    assert calls(provider) == 0
    assert plan.full.calls == 5
    assert any(MODEL in note for note in plan.notes)
    assert program.plan().full.calls == 5
    assert program(question="what does a cow say?").trace.calls == plan.full.calls


@pytest.mark.parametrize("limit", range(1, 8))
@pytest.mark.parametrize("agents", [1, 2, 3])
def test_a_budget_of_calls_limits_them(limit: int, agents: int, provider: Provider):
    program = choosing(provider, agents=agents)
    try:
        trace = program(question="what does a cow say?", budget=Budget(calls=limit)).trace
    except AllProposalsFailedError:
        assert limit == 1
    else:
        assert trace.calls == calls(provider)
        assert trace.stopped_by == ("layers" if limit >= agents + 2 else "budget")
    assert calls(provider) <= limit


def test_a_budget_of_dollars_needs_their_price(provider: Provider, monkeypatch: pytest.MonkeyPatch):
    program = choosing(provider)
    monkeypatch.setattr(embeddings, "price_list", dict)
    program.budget = Budget(usd=1.0)
    for agent in program.agents:
        agent.lm.model = "openai/gpt-4.1-mini"  # type: ignore[union-attr]
    with pytest.raises(ConfigurationError, match="price of the embedding model"):
        program(question="what does a cow say?")
    assert provider.embeddings == []


def test_their_price_is_in_the_trace(provider: Provider):
    program = choosing(provider)
    program.agents[0].lm.model = "openai/gpt-4.1-mini"  # type: ignore[union-attr]
    with_them = program(question="what does a cow say?", budget=Budget(usd=1.0)).trace
    price = embeddings.embedding_price(MODEL)
    assert price == pytest.approx(2e-8)
    (first, *_) = with_them.steps
    assert first.calls == 2
    assert first.cost_usd is not None


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 500, 503, 408, 409, 425, 498])
def test_a_transient_failure_is_repeated_as_the_tolerance_says(status: int, provider: Provider):
    provider.failures = [refusal(status, "try again")] * 2
    program = choosing(provider, tolerance=Tolerance(retries=2))
    trace = program(question="what does a cow say?").trace
    assert len(provider.embeddings) == 3
    assert trace.calls == calls(provider) == 5
    assert len(trace.steps[0].failures) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_another_failure_fails_the_step_with_its_cause(status: int, provider: Provider):
    provider.failures = [refusal(status, f"refused: sk-LIVESECRET0123456789 ({status})")] * 9
    program = choosing(provider, agents=2, tolerance=Tolerance(retries=2))
    with pytest.raises(AllProposalsFailedError, match=rf"refused: .*{status}") as caught:
        program(question="what does a cow say?")
    assert "LIVESECRET" not in str(caught.value)
    assert len(provider.embeddings) <= 2
    assert provider.chats == []


def test_no_reply_in_time_is_a_timeout(provider: Provider):
    async def never(call: Any) -> None:
        import asyncio

        if "input" in call.body:
            await asyncio.sleep(30)

    provider.server.hold = never
    program = choosing(provider, tolerance=Tolerance(timeout=0.5, retries=0))
    with pytest.raises(AllProposalsFailedError, match="no reply in time"):
        program(question="what does a cow say?")


def test_half_a_reply_is_a_failure(provider: Provider):
    provider.failures = [embedded({"model": "x", "input": ["one"]})]
    program = choosing(provider, tolerance=Tolerance(retries=0))
    with pytest.raises(AllProposalsFailedError, match="6 texts have 1 embeddings"):
        program(question="what does a cow say?")


@pytest.fixture
def file(provider: Provider, tmp_path: Path) -> Path:
    choosing(provider).save(tmp_path / "program.json")
    return tmp_path / "program.json"


def edited(file: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads(file.read_text())
    change(content["predictors"]["propose"]["nearest"])
    file.write_text(json.dumps(content))
    return file


def test_a_file_does_not_ask_for_them_by_itself(file: Path, provider: Provider):
    with pytest.raises(ConfigurationError, match=rf"paid for each question; give vectorizers=\['{MODEL}'\]"):
        moa_dspy.load(file)
    with pytest.raises(ConfigurationError, match="is paid"):
        moa_dspy.load(file, vectorizers=["openai/another"])
    with pytest.raises(ConfigurationError, match="is paid"):
        choosing(provider).load(file)
    loaded = moa_dspy.load(file, lms={"m0": provider.server.lm("m0")}, vectorizers=[MODEL])
    choosing(provider).load(file, vectorizers=[MODEL])
    assert calls(provider) == 0
    assert loaded(question="what does a cow say?").trace.calls == calls(provider) == 3


@pytest.mark.parametrize(
    "name",
    ["http://evil.example/embed", "huggingface/https://evil.example", "openai/x@evil.example", "ollama/evil.example:99",
     "openai/127.0.0.1", "x" * 100_000, "openai/http%3A%2F%2Fevil"],
)  # fmt: skip
def test_the_name_of_one_holds_no_address(name: str, file: Path, capsys: pytest.CaptureFixture[str]):
    edited(file, lambda nearest: nearest.update(vectorizer=name))
    with pytest.raises(ProgramFileError, match="no addresses"):
        moa_dspy.load(file, vectorizers=[name])
    assert main(["show", str(file)]) == 2
    assert len(capsys.readouterr().err) < 2000


def test_the_name_of_one_must_have_a_provider(file: Path):
    edited(file, lambda nearest: nearest.update(vectorizer="nosuchprovider/x"))
    with pytest.raises(ConfigurationError, match="names no provider"):
        moa_dspy.load(file, vectorizers=["nosuchprovider/x"])


def test_show_tells_of_them(file: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["show", str(file)]) == 0
    text = capsys.readouterr().out
    assert f"{MODEL} gets the inputs and chooses the demos of propose: paid calls" in " ".join(text.split())
    assert main(["show", str(file), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["embedding_models"] == [MODEL]
    assert shown["predictors"]["propose"]["nearest"]["vectorizer"] == MODEL


def test_the_command_line_asks_for_leave(file: Path, provider: Provider, capsys: pytest.CaptureFixture[str]):
    edited(file, lambda nearest: None)
    content = json.loads(file.read_text())
    content["architecture"]["agents"][0]["model"] = "openai/m0"
    file.write_text(json.dumps(content))
    for command in (["ask", "a cow?", "-p"], ["plan", "a cow?", "-p"]):
        assert main([*command, str(file)]) == 2
        assert f"give --vectorizer {MODEL} to allow it" in capsys.readouterr().err
    assert main(["plan", "a cow?", "-p", str(file), "--vectorizer", MODEL, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["full"]["calls"] == 3
    assert calls(provider) == 0
    assert main(["ask", "a cow?", "-p", str(file), "--vectorizer", MODEL, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == calls(provider) == 3
    assert main(["ask", "hi", "--agent", "openai/m0", "--vectorizer", MODEL]) == 2
    assert "name one" in capsys.readouterr().err


def test_words_need_no_leave_and_no_call(file: Path, provider: Provider):
    edited(file, lambda nearest: nearest.update(vectorizer="words"))
    loaded = moa_dspy.load(file, lms={"m0": provider.server.lm("m0")})
    loaded(question="what does a cow say?")
    assert provider.embeddings == []


def test_without_more_demos_than_are_shown_nothing_is_asked(provider: Provider):
    program = choosing(provider)
    Nearest.set_on(program.propose, Nearest(5, ("question",), MODEL))  # type: ignore[arg-type]
    assert program.plan(question="?").full.calls == 2
    program(question="?")
    assert provider.embeddings == []


def test_a_usage_tracker_of_dspy_sees_them(provider: Provider):
    with dspy.context(track_usage=True):
        usage = choosing(provider)(question="a cow?").get_lm_usage()
    assert usage is not None
    assert MODEL in usage
