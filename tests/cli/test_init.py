"""``moa-dspy init`` and ``moa-dspy doctor``, run in this process against servers on loopback."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.loopback import Body, Hang, Http, Loopback, refusal

from moa_dspy.cli import main
from moa_dspy.cli.commands import init
from moa_dspy.config import load_config
from moa_dspy.cost.prices import price_list
from moa_dspy.discovery import PROVIDERS, Server, context_at, discover, models_at, three_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def port_of(server: Loopback) -> int:
    return int(server.url.split(":")[2].split("/")[0])


def models(*names: object) -> Callable[[Body], Any]:
    return lambda body: "7" if body else Http(200, {"object": "list", "data": [{"id": name} for name in names]})


def only(monkeypatch: pytest.MonkeyPatch, *servers: Server) -> None:
    monkeypatch.setattr(init, "discover", functools.partial(discover, servers=servers))


def test_the_proposed_models_have_a_price() -> None:
    prices = price_list()
    for provider in PROVIDERS:
        entries = [prices.get(model) or prices.get(model.partition("/")[2]) or {} for model in provider.models]
        assert any(entry.get("input_cost_per_token") for entry in entries), provider


def test_a_server_and_a_key_become_a_file_that_asks_and_plans(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-in-the-file")
    with Loopback(models("qwen3:4b", "nomic-embed-text", "evil\nname", 7, "llama3.2")) as server:
        only(monkeypatch, Server("Ollama", port_of(server)), Server("none", 9))
        code, out, err = run("init", "--json")
        assert code == 0, err
        found = json.loads(out)
        assert found["agents"] == ["openai/gpt-5.4-mini", "openai/qwen3:4b", "openai/gpt-5.4-nano"]
        assert found["calls"] == 16
        assert 0 < found["cost_usd"] < 0.1
        text = Path("moa.toml").read_text(encoding="utf-8")
        assert "sk-not" not in text
        assert "evil" not in text
        config = load_config("moa.toml")
        assert config.agents[1].api_base == f"http://127.0.0.1:{port_of(server)}/v1"
        assert run("plan", "--config", "moa.toml")[0] == 0
        assert run("init") == (2, "", "error: --out moa.toml exists already; name another file, or add --force\n")
        monkeypatch.delenv("OPENAI_API_KEY")
        code, out, err = run("init", "--force")
        assert (code, "costs nothing" in out) == (0, True), err
        code, out, err = run("ask", "?", "--config", "moa.toml")
        assert out == "7\n", err
        assert err.splitlines()[-1].startswith("3 of 3 agents agreed, 1 layer, 16 of 16 calls")


def test_without_anything_the_embedded_model_is_used_or_its_absence_explained(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, Server("none", 9))
    code, out, err = run("init", "--out", "own.toml")
    assert (code, out.startswith("own.toml: local, local, local")) == (0, True), err
    monkeypatch.setattr(init, "_has_embedded_model", lambda: False)
    code, out, err = run("init", "--out", "other.toml")
    assert (code, out) == (2, "")
    assert "set one of OPENAI_API_KEY" in err
    assert not Path("other.toml").exists()


@pytest.mark.parametrize(
    "reply",
    [
        Http(200, b"<html>"), Http(500, {}), Http(200, {"data": "many"}), Http(200, [1]), Http(200, b"[" * 100_000),
        Http(200, {"data": [{"id": None}, "x", {}]}), Http(401, {"data": [{"id": "a"}]}),
    ],
)  # fmt: skip
def test_a_server_that_is_not_one_of_models_is_passed_over(reply: Http) -> None:
    with Loopback(lambda _: reply) as server:
        assert models_at(port_of(server)) == []


def test_a_server_that_never_answers_costs_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa_dspy.discovery._SECONDS", 0.05)
    with Loopback(lambda _: Hang()) as server:
        assert models_at(port_of(server)) == []


@pytest.mark.slow
def test_a_server_that_never_ends_its_answer_costs_a_second() -> None:
    ended = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not ended.wait(0.05):
                connection.sendall(b"[")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,), daemon=True)
        thread.start()
        assert models_at(listener.getsockname()[1]) == []
        ended.set()
        thread.join()


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("/v1/models", {"data": [{"id": "other", "max_model_len": 1}, {"id": "m", "max_model_len": 4096}]}, 4096),
        ("/v1/models", {"data": [{"id": "m", "context_length": 131072}]}, 131072),
        ("/api/v0/models", {"data": [{"id": "m", "max_context_length": 32768, "loaded_context_length": 4096}]}, 4096),
        ("/api/ps", {"models": [{"name": "m", "model": "m", "context_length": 8192}]}, 8192),
        ("/props", {"default_generation_settings": {"n_ctx": 2048}}, 2048),
        ("/v1/models", {"data": [{"id": "m", "max_model_len": "many"}]}, None),
        ("/v1/models", {"data": [{"id": "m", "meta": {"n_ctx_train": 4096}}]}, None),
        ("/nowhere", {}, None),
    ],
)
def test_the_context_is_what_the_server_says(path: str, content: Any, expected: int | None) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            self.send_response(200 if self.path == path else 404)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name of the base class)
            pass

    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        assert context_at(f"http://127.0.0.1:{server.server_port}/v1/", "m", "key") == expected
        server.shutdown()
    assert set(asked) == {"Bearer key"}


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/v1", "nowhere", "http://[::1", "http://127.0.0.1:99999/v1"])
def test_the_context_at_a_useless_address_is_unknown(address: str) -> None:
    assert context_at(address, "m") is None


def test_three_models_of_as_many_sources_as_there_are() -> None:
    offers = discover({"GROQ_API_KEY": "x", "XAI_API_KEY": "y", "OPENAI_API_KEY": " "}, servers=())
    assert [offer.source for offer in offers] == ["Groq", "xAI"]
    assert [model for model, _ in three_of(offers)] == [
        "groq/openai/gpt-oss-120b", "xai/grok-4.3", "groq/openai/gpt-oss-20b",
    ]  # fmt: skip
    assert [model for model, _ in three_of(offers[1:])] == ["xai/grok-4.3"] * 3
    assert three_of([]) == []


def test_doctor_reports_each_agent_and_what_to_do(run: Run) -> None:
    def reply(body: Body) -> Any:
        if not body:
            return Http(200, {"data": [{"id": "good", "max_model_len": 4096}]})
        if body["model"] == "broken":
            return refusal(401, "no such key", "invalid_api_key")
        if body["model"] == "old" and body["messages"][0]["role"] == "system":
            return refusal(400, "the system role is not supported")
        return "7"

    with Loopback(reply) as server:
        agents = "".join(
            f'[[agents]]\nmodel = "openai/{name}"\napi_base = "{server.url}"\n' for name in ("good", "old", "broken")
        )
        Path("moa.toml").write_text(agents, encoding="utf-8")
        code, out, err = run("doctor", "--config", "moa.toml", "--json")
        good, old, broken = json.loads(out)
        assert (code, sum(bool(call.body) for call in server.calls)) == (1, 4)  # the others ask for the context
        assert err.splitlines()[-1] == "error: 1 of 3 agents did not answer: broken"
        assert (good["answer"], good["calls"], good["failure"], good["features"]["system"]) == ("7", 1, None, "yes")
        assert (good["context"], old["context"], good["price"]) == (4096, None, None)
        assert any("price = {" in remedy for remedy in good["remedies"])
        assert (old["answer"], old["calls"], old["features"]["system"]) == ("7", 2, "no")
        assert (broken["answer"], broken["failure"]["kind"]) == (None, "auth")
        code, out, err = run("doctor", "--config", "moa.toml")
        assert "broken: auth" in out
        assert "check the API key" in out
        assert "no system: nothing to do" in out
        code, out, err = run("doctor", "--config", "moa.toml", "--max-tokens", "1")
        assert (code, out.count("budget: ")) == (1, 3)
