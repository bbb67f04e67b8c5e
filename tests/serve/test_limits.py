"""Requests that are wrong, hostile or too many get an error in OpenAI's format, and cost nothing."""

from __future__ import annotations

import asyncio
import base64
import gc
import http.client
import json
import socket
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from support.loopback import Call, Loopback, refusal
from support.serving import PATH, Server, asked, serving
from uvicorn.server import ServerState

from moa_dspy import AttentionMoA, Budget, ConfigurationError, single_model
from moa_dspy.cli.output import quiet_libraries
from moa_dspy.files.provenance import Provenance
from moa_dspy.serve.app import ServeOptions
from moa_dspy.serve.connection import ClientConnection
from moa_dspy.serve.guard import BodyLimits
from moa_dspy.serve.problems import Problem
from moa_dspy.serve.programs import load_programs, warning_of
from moa_dspy.serve.requests import ChatRequest
from moa_dspy.serve.server import check_address, config_of
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


TEXT_PART = {"type": "text", "text": "?"}
MANY = b'{"model": "moa/p", "messages": [' + b"0," * 30_000 + b"0]}"
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
        (MANY, 400, "messages.0: Input should be an object"),
        (asked("?", moa={f"key{one}": 1 for one in range(101)}), 400, "101 parts of the body are wrong"),
        (asked("?", n=2), 400, "one answer"),
        (asked("?", n=0), 400, "one answer"),
        (asked("?", tool_choice="required"), 400, "call no tools"),
        (asked("?", stream="yes"), 400, "stream: Input should be a valid boolean"),
        (asked("?", model=3), 400, "model: Input should be a valid string"),
        (asked("?", model="moa/q"), 404, "there is no model 'moa/q'; there are: moa/p"),
        (asked("?", messages="?"), 400, "messages: "),
        (asked("?", messages=[{"role": "robot", "content": "?"}]), 400, "messages.0.role"),
        (asked("?", messages=[{"role": "user", "content": [{"type": "audio"}]}]), 400, "not 'audio'"),
        (asked("?", messages=[{"role": "user", "content": [{"type": "text"}]}]), 400, "type text has no text"),
        (asked("?", messages=[{"role": "user", "content": [TEXT_PART, {"type": "image_url"}]}]), 400, "no image_url"),
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
    assert server.http.delete("/usage").status_code == 405
    assert server.http.get("/runs/", follow_redirects=False).status_code == 404
    assert len(error_in(server.http.request("A" * 999, PATH, json={}))["message"]) < 200
    form = server.http.post(PATH, content=json.dumps(asked("?")), headers={"Content-Type": "text/plain"})
    assert (form.status_code, error_in(form)["code"]) == (415, "not_json")  # what a page of another site can send
    foreign = server.http.get("/v1/models", headers={"Host": "evil.example"})
    assert (foreign.status_code, error_in(foreign)["code"]) == (421, "wrong_host")
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        page = server.http.post(PATH, json=asked("?"), headers={"Origin": origin})
        assert (page.status_code, error_in(page)["code"]) == (403, "wrong_origin")
    assert server.http.post(PATH, json=asked("?", model="q"), headers={"Origin": server.url}).status_code == 404
    assert error_in(server.http.get("/runs/nothing"))["code"] == "run_not_found"


def test_a_body_with_too_many_values_is_not_read():
    for text in ("[],", "{},", '"a":0,', '"\\"",'):
        with pytest.raises(Problem, match="too many values") as refused:
            ChatRequest.read(text.encode() * 300_000)
        assert refused.value.status == 413
    body = json.dumps(asked("1,[{" * 200_000)).encode()
    assert ChatRequest.read(body).model == "moa/p"  # commas and brackets in a text are no values


def connected(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


HEAD = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("", None),
        (HEAD, 408),
        (f"{HEAD}Content-Length: 9\r\n\r\n", 415),
        ("\x16\x03\r\n\r\n", 400),
        (f"{HEAD}Host: evil\r\n\r\n", 400),
        (f"{HEAD}X: {'a' * 70_000}", 400),
        (f"{HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_a_connection_without_a_whole_request_ends(
    sent: str, status: int | None, server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ClientConnection, "request_seconds", 0.1)
    with connected(server) as raw:
        raw.sendall(sent.encode())
        if status is not None:
            reply = http.client.HTTPResponse(raw)
            reply.begin()
            assert reply.status == status
            assert json.loads(reply.read())["error"].keys() == {"message", "type", "param", "code"}
        assert not raw.recv(1)


class Transport(asyncio.Transport):
    """A client that takes what is written in steps, and then nothing more."""

    def __init__(self, *left: int) -> None:
        super().__init__()
        self.left, self.aborted = [*left], False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def get_write_buffer_size(self) -> int:
        return self.left.pop(0)

    def is_closing(self) -> bool:
        return self.aborted

    def write(self, data: Any) -> None:
        pass

    def write_eof(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


def test_a_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ClientConnection, "write_seconds", 0.01)

    async def write(*left: int) -> Transport:
        transport = Transport(*left)
        connection = ClientConnection(config_of(Starlette(), "127.0.0.1", 0), ServerState(), {})
        connection.connection_made(transport)
        connection.pause_writing()
        await asyncio.sleep(0.1)
        connection.connection_lost(OSError())
        return transport

    slow = asyncio.run(write(5, 4, 3, 3, 2))
    assert (slow.aborted, slow.left) == (True, [2])


@pytest.mark.slow
def test_nothing_is_kept_of_a_refused_connection():
    async def refuse() -> Any:
        connection = ClientConnection(config_of(Starlette(), "127.0.0.1", 0), ServerState(), {})
        connection.connection_made(Transport())
        connection.data_received(b"\x16\x03\r\n\r\n")
        connection.connection_lost(OSError())
        kept = weakref.ref(connection)
        del connection
        gc.collect()
        return kept()

    assert asyncio.run(refuse()) is None


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
        assert server.ask(moa={"budget": {"calls": 10**400, "tokens": 10**400}}).json()["moa"]["calls"] == 3


def test_a_budget_that_ends_before_any_answer_is_told_from_a_failure(lm: ScriptedLM):
    with serving({"p": single_model("question -> answer", lm)}) as server:
        refused = server.ask(moa={"budget": {"seconds": 1e-9}})
        assert (refused.status_code, error_in(refused)["code"]) == (400, "budget_exceeded")


def test_the_cause_of_an_unexpected_failure_is_told_to_the_operator_alone(caplog: pytest.LogCaptureFixture):
    async def broken(**_: Any) -> None:
        raise AssertionError("key sk-abcdefghijklmnopqrstuvwxyz of the model")

    program = single_model("question -> answer", ScriptedLM("x"))
    vars(program)["acall"] = broken
    with quiet_libraries(), serving({"p": program}) as server:
        failed = server.ask()
        assert (failed.status_code, error_in(failed)["code"]) == (500, "internal_error")
        assert "AssertionError" not in failed.text
    (record,) = caplog.records
    assert record.getMessage() == "a request failed: AssertionError: key [redacted] of the model"
    assert record.exc_info is None


def test_records_of_long_questions_do_not_fill_the_memory(lm: ScriptedLM):
    with serving({"p": single_model("question -> answer", lm)}) as server:
        server.runs.keep_letters = 5_000
        for _ in range(3):
            server.ask("x" * 2_000)
        assert len(server.runs.ended) == 2
        server.ask("x" * 10_000)
        assert len(server.runs.ended) == 1, "the last one is kept, however long"


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
    with pytest.raises(ConfigurationError, match="the price of openai/x is not known"):
        load_programs([str(tmp_path / "two")], budget=Budget(usd=1))
    (tmp_path / "three").mkdir()
    with pytest.raises(ConfigurationError, match="contains no program"):
        load_programs([str(tmp_path / "three")])


def test_a_program_says_how_many_calls_a_question_takes_at_most(lm: ScriptedLM):
    typed = AttentionMoA("question -> answer: bool", [lm, lm], layers=1, attention="none", aggregation="vote")
    text = AttentionMoA("question -> answer", [lm, lm], layers=1, attention="none", aggregation="vote")
    with serving({"typed": typed, "text": text}) as server:
        typed_model, text_model = server.http.get("/v1/models").json()["data"]
        page = " ".join(server.http.get("/").text.split())
    assert typed_model["price"]["most"] == {"calls": 2, "most_calls": 4, "usd": None}
    assert text_model["price"]["most"]["most_calls"] == 2
    assert "2 calls, at most 4 if replies cannot be read," in page
    assert "2 calls, price unknown" in page


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
