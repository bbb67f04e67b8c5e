"""Requests that are wrong, hostile or too many get an error in OpenAI's format, and cost nothing."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.loopback import Call, Loopback, refusal
from support.serving import PATH, Server, asked, serving

from moa_dspy import AttentionMoA, Budget, ConfigurationError, single_model
from moa_dspy.files.provenance import Provenance
from moa_dspy.serve.app import ServeOptions
from moa_dspy.serve.guard import BodyLimits
from moa_dspy.serve.programs import load_programs, warning_of
from moa_dspy.serve.server import check_address
from moa_dspy.testing import ScriptedLM

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def lm() -> ScriptedLM:
    return ScriptedLM("yes")


@pytest.fixture(scope="module")
def server(lm: ScriptedLM) -> Iterator[Server]:
    options = ServeOptions(body=BodyLimits(size=100_000, seconds=0.3))
    with serving({"p": single_model("question -> answer", lm)}, options) as one:
        yield one


def error_in(answer: Any) -> dict[str, Any]:
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in answer.text
    return error


DEEP = b'{"model": "moa/p", "messages": ' + b"[" * 40_000 + b"]" * 40_000 + b"}"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "Invalid JSON"),
        (b"{", 400, "Invalid JSON"),
        (b"\xff\xfe", 400, "Invalid JSON"),
        (b"[]", 400, "the body"),
        (b"{}", 400, "model: Field required"),
        (DEEP, 400, "recursion limit"),
        (b"x" * 100_001, 413, "larger than 100000 bytes"),
        (asked("?", n=2), 400, "one answer"),
        (asked("?", tools=[{}]), 400, "not support tools"),
        (asked("?", stream="yes"), 400, "stream: Input should be a valid boolean"),
        (asked("?", model=3), 400, "model: Input should be a valid string"),
        (asked("?", model="moa/q"), 404, "there is no model 'moa/q'; there are: moa/p"),
        (asked("?", messages="?"), 400, "messages: "),
        (asked("?", messages=[{"role": "robot", "content": "?"}]), 400, "messages.0.role"),
        (asked("?", messages=[{"role": "user", "content": [{"type": "audio"}]}]), 400, "not 'audio'"),
        (asked("?", messages=[{"role": "assistant", "content": "?"}]), 400, "must be the user's"),
        (asked("?", messages=[]), 400, "question is missing"),
        (asked("?", moa={"streem": "none"}), 400, "moa.streem"),
        (asked("?", moa={"budget": {"calls": 0}}), 400, "must be at least 1"),
        (asked("?", moa={"budget": {"calls": 1e300}}), 400, "moa.budget.calls"),
        (asked("?", moa={"inputs": {"question": 3}}), 400, "question does not fit its type"),
        (asked("?", response_format={"type": "json_object"}), 400, "plain text"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(body: Any, status: int, words: str, server: Server, lm: ScriptedLM):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = server.http.post(PATH, content=content, headers=JSON)
    assert (answer.status_code, words in error_in(answer)["message"]) == (status, True), answer.text
    assert not lm.requests


def test_other_addresses_methods_and_media_are_refused(server: Server):
    assert (server.http.get("/v2").status_code, error_in(server.http.get("/v2"))["type"]) == (
        404,
        "invalid_request_error",
    )
    assert server.http.get(PATH).status_code == 405
    form = server.http.post(PATH, content=json.dumps(asked("?")), headers={"Content-Type": "text/plain"})
    assert (form.status_code, error_in(form)["code"]) == (415, "not_json")  # what a page of another site can send
    foreign = server.http.get("/v1/models", headers={"Host": "evil.example"})
    assert (foreign.status_code, error_in(foreign)["code"]) == (421, "wrong_host")
    assert error_in(server.http.get("/runs/nothing"))["code"] == "run_not_found"


@pytest.mark.parametrize("head", ["Content-Length: 50", "Content-Length: 99999999999", "Transfer-Encoding: chunked"])
def test_a_body_that_is_too_slow_or_too_large_ends_the_request(head: str, server: Server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}\r\n\r\n".encode()
        )
        reply = http.client.HTTPResponse(raw)
        reply.begin()
        assert reply.status == (413 if "99999" in head else 408)
        assert json.loads(reply.read())["error"]["code"] in ("slow_body", "body_too_large")


def test_a_budget_of_a_request_only_narrows(lm: ScriptedLM):
    moa = AttentionMoA("question -> answer", [lm, lm], layers=1, budget=Budget(calls=3))
    with serving({"p": moa}) as server:
        assert server.ask(moa={"budget": {"calls": 100}}).json()["moa"]["calls"] == 3
        narrow = server.ask(moa={"budget": {"calls": 2}}).json()["moa"]
        assert (narrow["calls"], narrow["stopped_by"]) == (2, "budget")


def test_failures_tell_nothing_of_providers():
    refusing = Loopback(lambda body: refusal(401, "wrong key sk-SECRET of ACCOUNT"))
    with refusing as provider, serving({"p": single_model("question -> answer", provider.lm())}) as server:
        whole = server.ask()
        assert (whole.status_code, error_in(whole)["code"]) == (502, "no_answer")
        streamed = server.ask(stream=True).text
        assert '"code": "no_answer"' in streamed
        assert "ACCOUNT" not in whole.text + streamed
        run = error_in(whole)["message"].rpartition("/")[2]
        assert "ACCOUNT" in server.http.get(f"/runs/{run}").text  # the record, for who runs the server


def test_more_runs_than_allowed_are_told_to_come_back():
    called, going_on = threading.Event(), threading.Event()

    async def hold(_: Call) -> None:
        called.set()
        await asyncio.to_thread(going_on.wait)

    with Loopback(hold=hold) as provider:
        programs = {"p": single_model("question -> answer", provider.lm())}
        with serving(programs, ServeOptions(concurrency=1)) as server:
            thread = threading.Thread(target=server.ask)
            thread.start()
            called.wait()
            refused = server.ask()
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert error_in(refused)["code"] == "rate_limit_exceeded"
            going_on.set()
            thread.join()
            assert server.ask().status_code == 200


def test_a_key_is_needed_where_there_is_one(lm: ScriptedLM):
    with serving({"p": single_model("question -> answer", lm)}, ServeOptions(key="schlüssel")) as server:
        basic = base64.b64encode("me:schlüssel".encode()).decode()
        for header, status in (
            (None, 401),
            ("Bearer nothing", 401),
            ("Bearer", 401),
            ("Basic ???", 401),
            ("Bearer schlüssel", 200),
            (f"Basic {basic}", 200),  # what a browser sends after it has asked its user
        ):
            headers = {} if header is None else {b"Authorization": header.encode()}
            assert server.http.get("/v1/models", headers=headers).status_code == status
        assert server.http.get("/health").status_code == 200
    with pytest.raises(ConfigurationError, match="--key-env"):
        check_address("0.0.0.0", ServeOptions())
    check_address("::1", ServeOptions())


def test_programs_are_named_after_files_and_folders(tmp_path: Path):
    moa = single_model("question -> answer", "local")
    moa.save(tmp_path / "one.json")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "moa.toml").write_text('[[agents]]\nmodel = "openai/x"\n')
    programs = load_programs([str(tmp_path), str(tmp_path / "two")], budget=Budget(calls=7))
    assert {name: program.budget.calls for name, program in programs.items()} == {"one": 7, "two": 7}
    with pytest.raises(ConfigurationError, match="two programs would be called 'one'"):
        load_programs([str(tmp_path), str(tmp_path / "one.json")])
    (tmp_path / "three").mkdir()
    with pytest.raises(ConfigurationError, match="contains no program"):
        load_programs([str(tmp_path / "three")])


def test_a_program_that_lost_a_comparison_says_so(lm: ScriptedLM):
    moa = AttentionMoA("question -> answer", [lm, lm])
    record: Any = {"method": "compare", "date": "2026-01-01T00:00:00Z"}
    moa.provenance = Provenance(verdict="use the single model: it is the cheapest", **record)
    assert "use the single model" in (warning_of(moa) or "")
    with serving({"p": moa}) as server:
        (model,) = server.http.get("/v1/models").json()["data"]
        assert model["warning"] == warning_of(moa)
        assert model["task"] == "question -> answer"
        assert server.http.get("/v1/models/moa/p").json() == model
        assert "use the single model" in server.http.get("/").text
    moa.provenance = Provenance(verdict="use the program: it is better than every baseline", **record)
    assert warning_of(moa) is None
