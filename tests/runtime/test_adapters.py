"""What models get to read, and what becomes of what they write."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, cast

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError

import moa_dspy
from moa_dspy import Agent
from moa_dspy.runtime.adapters import PlainTextAdapter
from moa_dspy.runtime.formats import adapters_for
from moa_dspy.testing import ScriptedLM, prompt_of


def signature(text: str, instructions: str | None = None) -> Any:
    return cast("Any", dspy.Signature)(text, instructions)


QA = signature("question -> answer", "Answer.")


def messages_of(task: Any, demos: list[dict[str, Any]] | None = None, **inputs: Any) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in PlainTextAdapter().format(task, demos or [], inputs)]


def answer_to(completion: str) -> str:
    return PlainTextAdapter().parse(QA, completion)["answer"]


def test_instructions_are_the_system_message_and_inputs_are_labelled():
    task = signature("question, the_context -> answer", "Answer.")
    assert messages_of(task, question="Why?", the_context="one\ntwo") == [
        ("system", "Answer."),
        ("user", "Question: Why?\n\nThe Context:\none\ntwo"),
    ]


def test_descriptions_of_fields_reach_the_system_message():
    task = QA.with_updated_fields("question", desc="what they ask").with_updated_fields("answer", desc="one word")
    assert messages_of(task, question="Why?")[0] == (
        "system",
        "Answer.\n\n- question: what they ask\n- answer: one word",
    )


def test_typed_inputs_are_shown_as_json_and_absent_ones_not_at_all():
    task = signature("rows: list[int], hint: str | None -> answer", "Add.")
    assert messages_of(task, rows=[1, 2], hint=None)[1] == ("user", "Rows: [1, 2]")
    assert messages_of(task, rows=[1, 2])[1] == ("user", "Rows: [1, 2]")


def test_demos_are_turns_before_the_question():
    demos = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": "4", "augmented": True}]
    assert messages_of(QA, demos, question="3 + 3?")[1:] == [
        ("user", "Question: 1 + 1?"),
        ("assistant", "2"),
        ("user", "Question: 2 + 2?"),
        ("assistant", "4"),
        ("user", "Question: 3 + 3?"),
    ]


def test_a_history_is_turns_between_the_demos_and_the_question():
    task = signature("history: dspy.History, question -> answer", "Answer.")
    history = dspy.History(messages=[{"question": "1 + 1?", "answer": "2"}])
    assert messages_of(task, history=history, question="And then?")[1:] == [
        ("user", "Question: 1 + 1?"),
        ("assistant", "2"),
        ("user", "Question: And then?"),
    ]


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("Paris", "Paris"),
        ("  Paris\n", "Paris"),
        ("two\n\nparagraphs", "two\n\nparagraphs"),
        ("<think>Rome? No.</think>Paris", "Paris"),
        ("<think>\nlong\n</think>\n\nParis", "Paris"),
        ("<THINKING>x</THINKING> Paris", "Paris"),
        ("Rome? No.</think>\nParis", "Paris"),
        ("if a < b then\n</think>\nParis", "Paris"),
        ("<think></think>Paris", "Paris"),
        ("[[ ## answer ## ]]\nParis", "Paris"),
        ("[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]", "Paris"),
        ("<think>x</think>\n[[ ## answer ## ]]\nParis", "Paris"),
        ("[[ ## other ## ]]\nParis", "[[ ## other ## ]]\nParis"),
        ("Write <think> tags as <think>x</think>.", "Write <think> tags as <think>x</think>."),
        ("{\"answer\": \"Paris\"}", "{\"answer\": \"Paris\"}"),
        ("x < y", "x < y"),
        ("It is far.\n</think>\n\nParis", "Paris"),
        ("It is far.\n  </think>Paris", "Paris"),
        ("They close with </think>, I know.\n</think>\nParis", "Paris"),
        ("R1 ends its reasoning with </think> and then answers 42.", None),
        ("The closing tag is </think> in Qwen models; it ends the reasoning.", None),
        ("Models of this kind end their reasoning with </think>", None),
        ("`</think>`\nends the reasoning", None),
        ("<answer>Paris</answer>", "Paris"),
        ('<answer number="2">\nParis\n</answer>', "Paris"),
        ("<CRITIQUE>\nToo short.\n</CRITIQUE>", "Too short."),
        ("<answer key='1'>a</answer> and <answer key='2'>b</answer>", None),
        ("<answer>a</answer> and <answer>b</answer>", None),
        ("<answer key='1'>a</answer>", None),
        ("<response><code>1</code></response>", None),
        ("Close it with </answer>", None),
        ("<answer>42</answer> is what to write", None),
        ('Demonstrative\n<answer number="3">\nDemonstrate it.', "Demonstrative\nDemonstrate it."),
        ('<answer number="1">\nRome\n</answer>\n\n<answer number="2">\nParis\n</answer>', "Rome\n\nParis"),
        ('Paris\n<answer round="2">', "Paris"),
        ('Write <answer number="1"> before it.', None),
        ('<answer number="1">Rome</answer>\n<answer number="2">Paris</answer>', None),
        ('<quiz>\n<answer number="1">\nRome\n</answer>\n</quiz>', None),
        ('```\n<answer number="1">\nRome\n</answer>\n```', None),
        ("Rome\n</answer>", None),
        ("<answer id='1'>\nRome", None),
    ],
)  # fmt: skip
def test_the_completion_is_the_value(completion: str, answer: str | None):
    """``None``: all of it is."""
    assert answer_to(completion) == (completion if answer is None else answer)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        " \n",
        "<think>all of it</think>",
        "<think>cut off",
        "all\n</think>",
        "[[ ## answer ## ]]\n\n[[ ## completed ## ]]",
    ],
)
def test_an_empty_completion_is_an_error(completion: str):
    with pytest.raises(AdapterParseError, match="empty"):
        answer_to(completion)
    lm = ScriptedLM(completion)
    with dspy.context(adapter=PlainTextAdapter()), pytest.raises(AdapterParseError, match="empty"):
        dspy.Predict(QA)(question="?", lm=lm)


def test_it_works_as_an_ordinary_dspy_adapter_blocking_and_async():
    import asyncio

    with dspy.context(lm=ScriptedLM("Paris"), adapter=PlainTextAdapter()):
        blocking: Any = dspy.Predict(QA)(question="?")
        assert blocking.answer == "Paris"
        prediction: Any = asyncio.run(dspy.Predict(QA).acall(question="?"))
        assert prediction.answer == "Paris"


def test_several_samples_go_dspys_general_way():
    lm = ScriptedLM(["one", "two", "three"])
    with dspy.context(lm=lm, adapter=PlainTextAdapter()):
        prediction: Any = dspy.Predict(QA, n=3, temperature=1.0)(question="?")
    assert sorted(prediction.completions.answer) == ["one", "three", "two"]


def test_images_in_the_inputs_reach_the_model():
    pixel = "data:image/png;base64,iVBORw0KGgo="
    lm = ScriptedLM("a dot")
    program = moa_dspy.AttentionMoA("image: dspy.Image, question -> answer", [lm, Agent(lm, name="b")], layers=1)
    assert program(image=dspy.Image(pixel), question="What is it?").answer == "a dot"
    for request in lm.requests:
        assert any(type(part).__name__ == "ImagePart" for message in request.messages for part in message.parts)


class Server(ThreadingHTTPServer):
    """A chat completion endpoint on loopback that writes down what it is sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.text = "Paris"

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = cast("Server", self.server)
        server.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        server.keys.append(self.headers.get("authorization"))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": server.text}}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        body = json.dumps({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's name)
        """Be quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    endpoint = Server()
    thread = threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield endpoint
    endpoint.shutdown()
    endpoint.server_close()
    thread.join()


def test_the_users_options_key_and_address_reach_the_server(server: Server):
    options = {"top_p": 0.5, "seed": 11, "stop": ["END"], "presence_penalty": 0.25}
    lm = dspy.LM(
        "openai/m", api_base=server.base, api_key="sk-own", temperature=0.6, max_tokens=77, cache=False, **options
    )
    prediction = moa_dspy.single_model("question -> answer", Agent(lm, temperature=0.9))(question="Where?")
    assert prediction.answer == "Paris"
    (body,) = server.bodies
    assert {name: body[name] for name in options} == options
    assert body["temperature"] == 0.9
    assert 77 in (body.get("max_tokens"), body.get("max_completion_tokens"))
    assert "rollout_id" not in body
    assert "cache" not in body
    assert body["messages"][-1] == {"role": "user", "content": "Question: Where?"}
    assert server.keys == ["Bearer sk-own"]
    assert prediction.trace.tokens.total == 10


@pytest.mark.slow
def test_options_that_only_some_servers_know_reach_them_or_the_step_says_why(server: Server):
    lm = dspy.LM("openai/m", api_base=server.base, api_key="k", cache=False, extra_body={"top_k": 5, "min_p": 0.1})
    assert moa_dspy.single_model("question -> answer", lm)(question="Where?").answer == "Paris"
    assert server.bodies[0]["top_k"] == 5
    assert server.bodies[0]["min_p"] == 0.1


class Legacy(dspy.BaseLM):
    """A model as people wrote them before dspy 3.4."""

    def __init__(self, **options: Any) -> None:
        super().__init__("legacy/model", cache=False, **options)
        self.seen: list[dict[str, Any]] = []

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        from types import SimpleNamespace

        self.seen.append({**self.kwargs, **kwargs})
        message = SimpleNamespace(content="Paris", tool_calls=None, reasoning_content=None, role="assistant")
        choice = SimpleNamespace(message=message, finish_reason="stop", index=0)
        return SimpleNamespace(choices=[choice], usage={"prompt_tokens": 1, "completion_tokens": 1}, model=self.model)

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return self.forward(prompt, messages, **kwargs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_model_of_the_old_kind_is_still_asked():
    lm = Legacy(temperature=0.5, top_p=0.3)
    program = moa_dspy.AttentionMoA("question -> answer", [lm, Agent(lm, name="b", temperature=0.8)], layers=1)
    prediction = program(question="Where?")
    assert prediction.answer == "Paris"
    assert {step.status for step in prediction.trace.steps} == {"ok"}
    assert {seen.get("top_p") for seen in lm.seen} == {0.3}
    assert {seen.get("temperature") for seen in lm.seen} == {0.5, 0.8}


def test_dspys_own_dummy_is_still_asked():
    from dspy.utils.dummies import DummyLM

    lm = DummyLM([{"answer": "Paris"}])
    assert moa_dspy.single_model("question -> answer", lm)(question="Where?").answer == "Paris"


@pytest.mark.parametrize("kind", ["list[str]", "dict[str, int]", "int | str"])
def test_long_typed_outputs_try_chat_then_json(kind: str):
    chat, json_ = adapters_for(signature(f"question -> answer: {kind}"), ScriptedLM("x"), None)
    assert isinstance(chat, dspy.ChatAdapter)
    assert not isinstance(chat, dspy.JSONAdapter)
    assert isinstance(json_, dspy.JSONAdapter)


def test_several_texts_are_not_free_text():
    assert len(adapters_for(signature("question -> answer, source"), ScriptedLM("x"), None)) == 2
    (plain,) = adapters_for(QA, ScriptedLM("x"), None)
    assert isinstance(plain, PlainTextAdapter)


def test_a_configured_adapter_is_used_alone_and_everywhere():
    own = dspy.ChatAdapter()
    for text in ("question -> answer", "question -> answer: int", "question -> answer, source"):
        assert adapters_for(signature(text), ScriptedLM("x"), own) == (own,)


def test_a_completion_that_cannot_be_parsed_costs_one_more_call_and_is_counted():
    lm = ScriptedLM(["what?", '{"reasoning": "r", "counts": [3]}'])
    prediction = moa_dspy.single_model("question -> counts: list[int]", lm)(question="How many?")
    assert prediction.counts == [3]
    (step,) = prediction.trace.steps
    assert (step.status, step.calls, prediction.trace.calls, len(lm.requests)) == ("ok", 2, 2, 2)
    assert step.tokens.completion == 1 + 4
    assert "Outputs will be a JSON object" in prompt_of(lm.requests[1])
    assert "Outputs will be a JSON object" not in prompt_of(lm.requests[0])


def test_where_neither_can_be_parsed_the_step_fails_after_two_calls():
    lm = ScriptedLM("what?")
    with pytest.raises(moa_dspy.AllProposalsFailedError, match="adapter_parse_error"):
        moa_dspy.single_model("question -> count: int", lm)(question="How many?")
    assert len(lm.requests) == 2


def test_a_literal_is_read_however_it_is_quoted():
    class Sentiment(dspy.Signature):
        text: str = dspy.InputField()
        mood: Literal["good", "bad"] = dspy.OutputField()

    lm = ScriptedLM('[[ ## mood ## ]]\n"good"')
    assert moa_dspy.single_model(Sentiment, lm, reasoning=False)(text="yay").mood == "good"
