"""Chat completions: whole and streamed answers are the same, and tell what the run used."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from types import SimpleNamespace
from typing import Any, Literal

import dspy
import litellm
import openai
import pytest
from markupsafe import escape
from support.loopback import Broken, Call, Cut, Http, Loopback, completion, refusal
from support.runs import in_format, role_of, until
from support.serving import PATH, asked, content_of, data_of, serving
from support.streams import Streamed, both_ways, drawn

from moa_dspy import AttentionMoA, Budget, Trace, single_model
from moa_dspy.parsing.fields import partial_fields
from moa_dspy.run_view import visible_signs
from moa_dspy.runtime import answer_stream
from moa_dspy.runtime.answer_stream import AnswerStream, LastCall, ReplyReader, answer_streams
from moa_dspy.serve.chat import streamed
from moa_dspy.serve.requests import ChatRequest
from moa_dspy.serve.runs import ServedRun
from moa_dspy.testing import ScriptedLM, prompt_of

ANSWER = "Use `a[0]` of [the list](x), if **a** < b.\n\n```\nx = [1, 2]\n```\nIt is\u2028 42\x85 & nothing else."


def program(server: Loopback, **options: Any) -> AttentionMoA:
    return AttentionMoA("question -> answer", [server.lm("one"), server.lm("two")], **{"layers": 1, **options})


async def slowly(_: Call) -> None:
    """Other tasks go on between two pieces."""
    await asyncio.sleep(0.002)


def answering(body: Any) -> str:
    return in_format(body, ANSWER)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_streamed_answer_comes_in_pieces_and_is_the_whole_one(layers: int):
    with Loopback(answering, pace=slowly) as provider, serving({"p": program(provider, layers=layers)}) as server:
        whole = server.ask().json()
        chunks = server.stream(moa={"stream": "text"})
    assert whole["choices"][0]["message"]["content"] == content_of(chunks) == ANSWER
    assert chunks.pop() == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert sum("content" in chunk["choices"][0]["delta"] for chunk in chunks) > 3
    reasoning = content_of(chunks, "reasoning_content")
    assert reasoning.count("one answers\n") == layers
    drafts = [chunk["choices"][0]["delta"]["draft"] for chunk in chunks if "draft" in chunk["choices"][0]["delta"]]
    assert drafts == [{"layer": 1, "content": ANSWER}] * (layers - 1)
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[-1]["moa"]["calls"] == whole["moa"]["calls"] == len(provider.calls) // 2
    used = [call.usage for call in provider.calls]
    assert whole["usage"]["total_tokens"] == sum(one["total_tokens"] for one in used) // 2


@pytest.mark.parametrize(
    ("cut", "shape", "reason"),
    [
        ("aggregate", {"dissent": True}, "length"),
        ("dissent", {"dissent": True}, "stop"),
        ("synthesize", {"layers": 2}, "length"),
        ("propose", {}, "stop"),
        ("propose", {"aggregation": "vote"}, "length"),
    ],
)
def test_the_finish_reason_is_that_of_the_call_that_wrote_the_answer(cut: str, shape: Any, reason: str):
    def reply(body: Any) -> str:
        text = in_format(body, role_of(body))
        return Cut(text) if role_of(body) == cut else text

    with Loopback(reply) as provider, serving({"p": program(provider, attention="none", **shape)}) as server:
        *chunks, end, used, _ = server.stream(stream_options={"include_usage": True})
        assert server.ask().json()["choices"][0]["finish_reason"] == reason
    assert end["choices"][0]["finish_reason"] == reason
    assert all("usage" in chunk and chunk["usage"] is None for chunk in [*chunks, end])
    assert used["usage"]["total_tokens"]


def test_a_rejected_synthesis_is_never_sent():
    rejecting = Loopback(lambda body: in_format(body, role_of(body), improved=False))
    with rejecting as provider, serving({"p": program(provider, layers=2)}) as server:
        chunks = server.stream(moa={"stream": "none"})
    assert content_of(chunks) == "aggregate"
    assert not content_of(chunks, "reasoning_content")
    assert chunks[-2]["moa"]["stopped_by"] == "no_improvement"


def test_an_answer_that_broke_off_ends_the_stream_with_an_error():
    def breaking(body: Any) -> Any:
        if role_of(body) == "aggregate":
            return Broken("a long text of many words")
        return "a proposal"

    with Loopback(breaking) as provider, serving({"p": program(provider)}) as server:
        assert server.ask().json()["choices"][0]["message"]["content"] == "a proposal"  # by a vote
        chunks = server.stream()
    assert content_of(chunks[:-1]).startswith("a long")
    assert chunks[-1]["error"]["code"] == "answer_replaced"


def test_the_text_is_held_back_where_another_answer_may_follow():
    def thinking(body: Any) -> str:
        return f"hm\n</think>\n\n{in_format(body, ANSWER)}"

    with Loopback(answering) as provider, serving({"p": program(provider, budget=Budget(seconds=60))}) as server:
        timed = server.stream()
    with Loopback(thinking) as provider, serving({"p": program(provider)}) as server:
        thought = server.stream()
    for chunks in (timed, thought):
        assert content_of(chunks) == ANSWER
        assert sum(bool(content_of([chunk])) for chunk in chunks) == 1


def test_a_provider_that_cannot_stream_gives_the_whole_text():
    def refusing(body: Any) -> Any:
        return refusal(400, "stream is not supported") if body.get("stream") else answering(body)

    with Loopback(refusing) as provider, serving({"p": program(provider)}) as server:
        assert content_of(server.stream()) == ANSWER
        assert content_of(server.stream()) == ANSWER
    assert sum(bool(call.body.get("stream")) for call in provider.calls) == 1  # asked once, and never again


def test_a_provider_that_ignores_the_wish_for_a_stream_is_asked_for_whole_replies_from_then_on():
    def ignoring(body: Any) -> Any:
        text = answering(body)
        return Http(200, completion(body, text)) if body.get("stream") else text

    with Loopback(ignoring) as provider, serving({"p": program(provider, attention="none")}) as server:
        first, second = server.ask().json(), server.stream()
    assert first["choices"][0]["message"]["content"] == content_of(second) == ANSWER
    assert [one["moa"]["calls"] for one in (first, second[-2])] == [4, 3]  # the reply that was lost counts
    assert first["moa"]["cost_is_lower_bound"]
    assert sum(bool(call.body.get("stream")) for call in provider.calls) == 1


def test_tools_are_offered_in_vain_and_cannot_be_demanded():
    tools = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}]
    with Loopback(answering) as provider, serving({"p": program(provider)}) as server:
        for choice in (None, "auto", "none"):
            reply = server.ask(tools=tools, tool_choice=choice)
            assert reply.json()["choices"][0]["message"]["content"] == ANSWER
        for choice in ("required", {"type": "function", "function": {"name": "search"}}):
            refused = server.ask(tools=tools, tool_choice=choice)
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == "tool_choice"


def test_openai_and_litellm_clients_ask_and_stream():
    with Loopback(answering) as provider, serving({"p": program(provider)}) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
        assert [model.id for model in client.models.list()] == ["moa/p"]
        body: Any = asked("What?")
        assert client.chat.completions.create(**body).choices[0].message.content == ANSWER
        stream: Any = client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
        assert chunks[-1].usage.total_tokens == chunks[-1].moa["tokens"]["total"] > 0
        assert not chunks[-1].choices
        with pytest.raises(openai.NotFoundError, match="there is no model 'moa/q'"):
            client.chat.completions.create(**{**body, "model": "moa/q"})
        asyncio.run(_litellm(server.url, body["messages"]))
        client.close()


async def _litellm(url: str, messages: Any) -> None:
    options: Any = {"api_base": f"{url}/v1", "api_key": "none", "messages": messages}
    said: Any = await litellm.acompletion("openai/moa/p", **options)
    assert said.choices[0].message.content == ANSWER
    parts: Any = await litellm.acompletion("openai/moa/p", stream=True, **options)
    assert "".join([part.choices[0].delta.content or "" async for part in parts]) == ANSWER


class Judged(dspy.Signature):
    """Judge a picture."""

    picture: dspy.Image = dspy.InputField()
    question: str = dspy.InputField()
    label: Literal["good", "bad"] = dspy.OutputField()
    score: int = dspy.OutputField()


PIXEL = "data:image/png;base64,iVBORw0KGgo="


def test_typed_answers_are_json_and_images_are_inputs():
    lm = ScriptedLM('{"reasoning": "x", "label": "good", "score": 3}')
    schema = {"type": "object", "properties": {"label": {"enum": ["good", "bad"]}, "score": {"type": "integer"}}}
    content = [{"type": "text", "text": "Is it?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    with serving({"p": single_model(Judged, lm)}) as server:
        formats = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        body: Any = {"messages": [{"role": "user", "content": content}]}
        whole = server.ask(**body, response_format=formats).json()
        assert (
            whole["choices"][0]["message"]["content"]
            == '{"label": "good", "score": 3}'
            == content_of(server.stream(**body))
        )
        schema["properties"] = {"label": {"type": "string"}}
        refused = server.ask(**body, response_format=formats)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "format_mismatch")
        body["messages"][0]["content"][1]["image_url"]["url"] = "/etc/hostname"
        assert "data URL" in server.ask(**body).json()["error"]["message"]
    assert any(part.type == "image" for part in lm.requests[0].messages[-1].parts)


class Chat(dspy.Signature):
    """Answer."""

    history: dspy.History = dspy.InputField()
    context: str = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


def test_earlier_turns_are_history_and_named_inputs_are_inputs():
    lm = ScriptedLM("yes")
    turns: list[Any] = [
        {"role": "user", "content": "FIRST"},
        {"role": "assistant", "content": "SECOND"},
        {"role": "user", "content": "THIRD"},
    ]
    with serving({"p": single_model(Chat, lm), "q": single_model("question -> answer", lm)}) as server:
        said = server.ask(messages=turns, moa={"inputs": {"context": "CONTEXT"}, "trace": True}).json()
        assert said["choices"][0]["message"]["content"] == "yes"
        assert said["moa"]["trace"]["inputs"]["context"] == "CONTEXT"
        texts = [message.text for message in lm.requests[0].messages]
        assert texts[:2] == ["FIRST", "SECOND"]
        assert "CONTEXT" in (texts[2] or "")
        assert "THIRD" in (texts[2] or "")
        assert server.ask(model="q", messages=turns).json()["error"]["code"] == "no_history"
        turns[0]["content"] = [{"type": "image_url", "image_url": {"url": PIXEL}}]
        assert "image of an earlier turn" in server.ask(messages=turns).json()["error"]["message"]
        wrong = server.ask(moa={"inputs": {"contxt": "?"}}).json()["error"]
        assert "its inputs are: history, context, question" in wrong["message"]
        assert "context is missing" in server.ask().json()["error"]["message"]


@pytest.mark.slow
def test_streamed_and_whole_answers_are_the_same_in_random_runs():
    async def compare() -> list[Streamed]:
        return [await both_ways(*drawn(seed)[:2], seed, drawn(seed)[2]) for seed in range(60)]

    outcomes = asyncio.run(compare())
    assert [seed for seed, outcome in enumerate(outcomes) if not outcome.is_same] == []
    assert sum(bool(outcome.early) for outcome in outcomes) > 10
    ends = {outcome.whole.trace.stopped_by for outcome in outcomes if isinstance(outcome.whole, dspy.Prediction)}
    assert ends >= {"layers", "agreement", "no_improvement", "budget"}


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()])
def test_the_answer_is_found_in_the_notation_of_the_callers_adapter(adapter: dspy.Adapter):
    def reply(request: Any) -> str:
        values = {"improved": "true", "answer": 'He said: "a[0] is 42."\nThen he left.'}
        asked_for = {name: value for name, value in values.items() if f"`{name}`" in prompt_of(request)}
        if isinstance(adapter, dspy.JSONAdapter):
            return json.dumps(asked_for)
        if isinstance(adapter, dspy.XMLAdapter):
            return "".join(f"<{name}>\n{value}\n</{name}>\n" for name, value in asked_for.items())
        return "".join(f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in asked_for.items())

    lm, parts = ScriptedLM(reply, f"scripted/{type(adapter).__name__}"), list[str]()
    moa = AttentionMoA("question -> answer", [lm, lm], attention="none", layers=2)
    with dspy.context(adapter=adapter), answer_streams(AnswerStream(parts.append)):
        answer = asyncio.run(moa.acall(question="?")).answer
    assert answer == 'He said: "a[0] is 42."\nThen he left.'
    assert answer.startswith("".join(parts))
    assert (len(parts) > 3) is not isinstance(adapter, dspy.XMLAdapter)


def test_a_long_reply_is_read_in_linear_time(monkeypatch: pytest.MonkeyPatch):
    reads = list[str]()

    def counted(text: str, names: Any) -> dict[str, str]:
        reads.append(text)
        return partial_fields(text, names)

    monkeypatch.setattr(answer_stream, "partial_fields", counted)
    for text, sent in (("some words. " * 300).strip(), 901), ("*" * 4000, 0):
        reads.clear()
        parts = list[str]()
        reader = ReplyReader(AnswerStream(parts.append), LastCall("answer", "improved"), ("improved", "answer"))

        async def read(reader: ReplyReader, reply: str) -> None:
            for at in range(0, len(reply), 4):
                delta = SimpleNamespace(content=reply[at : at + 4])
                await reader.send(SimpleNamespace(choices=[SimpleNamespace(delta=delta)]))

        asyncio.run(read(reader, f"[[ ## improved ## ]]\ntrue\n\n[[ ## answer ## ]]\n{text}"))
        assert len(reads) < 400
        assert (len(parts), text.startswith("".join(parts))) == (sent, True)


def test_a_run_ends_with_a_client_that_left_before_the_first_chunk():
    async def leave() -> ServedRun:
        run = ServedRun("p", single_model("question -> answer", ScriptedLM("yes")), {"question": "?"}, Budget())

        async def send(_: Any) -> None:
            await asyncio.Event().wait()

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        wished = ChatRequest.read(json.dumps(asked("?", stream=True)).encode())
        await streamed(run, wished)({"type": "http", "method": "POST"}, receive, send)
        await asyncio.wait({run.task})
        return run

    assert asyncio.run(leave()).status == "stopped"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_calls(stream: bool):
    called = threading.Semaphore(0)

    async def hold(_: Call) -> None:
        called.release()
        await asyncio.Event().wait()

    with Loopback(hold=hold) as provider, serving({"p": program(provider)}) as server:
        client = http.client.HTTPConnection(server.url.removeprefix("http://"))
        client.request("POST", PATH, json.dumps(asked("What?", stream=stream)), {"Content-Type": "application/json"})
        for _ in range(2):
            called.acquire()
        client.close()
        assert until(lambda: all(call.hung_up for call in provider.calls) and not server.runs.running)
        (run,) = server.runs.ended.values()
    assert run.status == "stopped"
    assert run.trace is not None
    assert run.trace.stopped_by == "cancelled"
    assert server.runs.total.unanswered == len(provider.calls) == 2


def test_a_run_that_was_started_goes_on_alone_and_has_a_page():
    with Loopback(answering) as provider, serving({"p": program(provider)}) as server:
        begun = server.http.post("/runs", json=asked("Who <b>won</b>?\u202e"))
        assert begun.status_code == 201
        run = begun.json()
        live = server.http.get(run["page"]).text if run["status"] == "running" else None
        assert until(lambda: server.http.get(f"/runs/{run['id']}").status_code == 200)
        finished, home = server.http.get(run["page"]).text, server.http.get("/")
    assert live is None or f'data-events="/runs/{run["id"]}/events"' in live
    assert visible_signs(escape(ANSWER)) in finished
    assert "<script" not in finished
    for page in (finished, home.text):
        assert "Who &lt;b&gt;won&lt;/b&gt;?\ufffd" in page
    nonce = home.headers["Content-Security-Policy"].partition("'nonce-")[2].partition("'")[0]
    assert nonce
    assert home.text.count("<script") == home.text.count(f'<script nonce="{nonce}">') == 1


def test_a_run_can_be_followed_and_stopped():
    called = threading.Semaphore(0)

    async def hold(call: Call) -> None:
        if role_of(call) == "critique":
            called.release()
            await asyncio.Event().wait()

    with Loopback(answering, hold=hold) as provider, serving({"p": program(provider)}) as server:
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(server.ask()))
        thread.start()
        called.acquire()
        (run,) = server.http.get("/runs").json()["data"]
        assert run["status"] == "running"
        assert server.http.get(f"/runs/{run['id']}").json()["error"]["code"] == "run_under_way"
        stopped = threading.Timer(0.1, lambda: server.http.post(f"/runs/{run['id']}/stop", json={}))
        stopped.start()
        events = data_of(server.http.get(f"/runs/{run['id']}/events").text)
        thread.join()
        stopped.join()
        assert answers[0].json()["error"]["code"] == "run_stopped"
        trace = Trace.from_json(server.http.get(f"/runs/{run['id']}").text)
    assert {"layer": 1, "stage": "propose", "target": None}.items() <= events[0].items()
    assert {event["stage"] for event in events if "status" in event} == {"propose", "critique"}
    assert events[-1] == json.loads(trace.to_json())
    assert until(lambda: all(call.hung_up or call.answered for call in provider.calls))
