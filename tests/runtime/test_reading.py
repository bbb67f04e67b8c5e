"""Whole responses: what they contain decides what a step makes of their text."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import dspy
import pytest
from support.loopback import Http, Loopback, Reply, completion
from support.runs import Watched

from moa_dspy import AllProposalsFailedError, AttentionMoA, Prediction, Tolerance
from moa_dspy.runtime import call
from moa_dspy.runtime.answer_stream import AnswerStream, answer_streams
from moa_dspy.runtime.bodies import repair_chunk
from moa_dspy.trace import Step, Trace, watch


def body(message: Any, finish: Any = "stop", **others: Any) -> Http:
    """A response with a message as the provider wrote it."""
    message = (
        {"role": "assistant", **message} if isinstance(message, dict) else {"role": "assistant", "content": message}
    )
    whole = {
        "id": "c",
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": message, **others.pop("choice", {})}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
    return Http(200, {**whole, **others})


def run(*replies: Reply, task: Any = "question -> answer", retries: int = 0, **options: Any) -> tuple[Any, Trace]:
    turns = list(replies)
    seen = Watched()
    with Loopback(lambda _: turns.pop(0) if len(turns) > 1 else turns[0]) as server:
        lm = server.lm(**options)
        program = AttentionMoA(
            task, [lm], layers=1, attention="none", aggregation="none", tolerance=Tolerance(retries=retries)
        )
        with watch(seen):
            try:
                outcome: Any = program(question="?")
            except AllProposalsFailedError as error:
                outcome = error
        assert seen.trace.calls == len(server.calls)
    return outcome, seen.trace


def step_of(trace: Trace) -> Step:
    (step,) = trace.steps
    return step


SENTIMENT = "question -> answer: Literal['positive', 'negative']"


@pytest.mark.parametrize(
    "reply",
    [
        (
            "<think>\n[[ ## reasoning ## ]]\nIt blames.\n\n[[ ## answer ## ]]\nnegative\n</think>\n\n"
            "[[ ## reasoning ## ]]\nIt praises.\n\n[[ ## answer ## ]]\npositive"
        ),
        '<think>{"reasoning": "r", "answer": "negative"}</think>[[ ## reasoning ## ]]\nx\n[[ ## answer ## ]]\npositive',
        "[[ ## answer ## ]]\nnegative\n</think>\n[[ ## reasoning ## ]]\nx\n[[ ## answer ## ]]\npositive",
        (
            "<|channel|>analysis<|message|>[[ ## answer ## ]]\nnegative<|end|><|start|>assistant<|channel|>final"
            "<|message|>[[ ## reasoning ## ]]\nx\n[[ ## answer ## ]]\npositive<|return|>"
        ),
    ],
)
def test_a_draft_in_the_reasoning_is_no_answer(reply: str) -> None:
    """R1."""
    outcome, trace = run(reply, task=SENTIMENT)
    assert outcome.answer == "positive"
    assert step_of(trace).calls == 1


def test_a_refusal_is_a_failure_of_its_own_kind_with_the_words() -> None:
    """R3."""
    outcome, trace = run(body({"content": None, "refusal": "I cannot help with that request."}))
    step = step_of(trace)
    assert step.error is not None
    assert (step.status, step.error.kind) == ("failed", "refusal")
    assert "I cannot help with that request." in step.error.message
    assert "I cannot help with that request." in str(outcome)


@pytest.mark.parametrize(
    ("finish", "kind"),
    [
        ("content_filter", "content_filter"),
        ("SAFETY", "content_filter"),
        ("sensitive", "content_filter"),
        ("RECITATION", "content_filter"),
        ("refusal", "refusal"),
        ("error", "server"),
        ("abort", "server"),
        ("insufficient_system_resource", "server"),
        ("network_error", "server"),
    ],
)
def test_what_did_not_finish_is_a_failed_step(finish: str, kind: str) -> None:
    """R4."""
    _, trace = run(body("The first step is to", finish))
    step = step_of(trace)
    assert step.error is not None
    assert (step.status, step.error.kind, step.text) == ("failed", kind, "")


@pytest.mark.parametrize(
    "finish", ["stop", "eos", "end_turn", "stop_sequence", None, "", "tool_calls", "FINISH_REASON_STOP"]
)
def test_what_finished_is_an_answer_whatever_the_word_for_it(finish: Any) -> None:
    outcome, trace = run(body("Paris", finish))
    assert outcome.answer == "Paris"
    assert not step_of(trace).truncated


@pytest.mark.parametrize("finish", ["length", "max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens"])
def test_a_truncated_answer_stays_marked(finish: str) -> None:
    outcome, trace = run(body("The first step is to", finish))
    assert outcome.answer == "The first step is to"
    assert step_of(trace).truncated


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "reasoning_content": "Let me think…"},
        {"content": "", "reasoning": "Let me think…"},
        {"content": "", "thinking": "Let me think…"},
        {"content": "", "reasoning_details": [{"type": "reasoning.text", "text": "Let me think…"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Let me think…"}]}]},
        {"content": "<think>Let me think…"},
        {"content": "<|channel|>analysis<|message|>Let me think…"},
        {"content": "[THINK]Let me think…"},
    ],
)
def test_a_reply_cut_while_reasoning_says_so(message: dict[str, Any]) -> None:
    """R5."""
    for task in ("question -> answer", SENTIMENT):
        _, trace = run(body(message, "length"), task=task)
        step = step_of(trace)
        assert step.error is not None
        assert step.error.kind == "truncated"
        assert "cut at max_tokens while still reasoning; raise max_tokens" in step.error.message
        assert (step.calls, step.truncated) == (1, True)


def test_a_reply_that_ended_while_reasoning_is_unreadable() -> None:
    _, trace = run(body({"content": None, "reasoning_content": "Paris, I think"}, "stop"))
    error = step_of(trace).error
    assert error is not None
    assert error.kind == "adapter_parse_error"
    assert "while the model was still reasoning" in error.message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "kind", "again"),
    [
        ({"message": "upstream broke off", "code": 502}, "server", True),
        ({"message": "slow down", "code": 429}, "rate_limit", True),
        ({"message": "slow down", "code": "rate_limit_exceeded"}, "rate_limit", True),
        ({"message": "upstream timed out", "code": 504}, "server", True),
        ({"message": "no key", "code": 401}, "auth", False),
        ({"message": "no credit", "code": 402}, "billing", False),
        ({"message": "overloaded", "type": "overloaded_error"}, "server", True),
        ("upstream broke off", "server", True),
    ],
)
@pytest.mark.parametrize("cache", [False, True])
def test_an_error_inside_a_success_is_handled_as_its_code(error: Any, kind: str, again: bool, cache: bool) -> None:
    """R6."""
    failed = body({"content": ""}, "error", choice={"error": error})
    outcome, trace = run(failed, "Paris", retries=1, cache=cache, model=f"m{kind}{cache}{str(error)[:30]}")
    step = step_of(trace)
    assert [failure.kind for failure in step.failures] == [kind]
    assert str(error["message"] if isinstance(error, dict) else error) in step.failures[0].message
    if again:
        assert isinstance(outcome, Prediction)
        assert outcome.answer == "Paris"
    else:
        assert isinstance(outcome, AllProposalsFailedError)


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 144.92, "completion_tokens": 3.5}, (145, 4)),
        ({"prompt_tokens": "7", "completion_tokens": "3"}, (7, 3)),
        ({"prompt_tokens": "1,024", "completion_tokens": 3}, (1024, 3)),
        ({"prompt_tokens": -5, "completion_tokens": 3}, None),
        ({"prompt_tokens": 5, "completion_tokens": -3}, None),
        ({"prompt_tokens": "many", "completion_tokens": "few"}, None),
        ({"prompt_tokens": [7], "completion_tokens": {"text": 3}}, None),
        ({"prompt_tokens": True, "completion_tokens": False}, None),
        ({"prompt_tokens": 1e300, "completion_tokens": 3}, None),
        ([7, 3], None),
        ("7 and 3", None),
        (7, None),
        ({"prompt_tokens": 7.0, "completion_tokens": 3, "prompt_tokens_details": "none"}, (7, 3)),
        ({"prompt_tokens": 7.5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": "x"}}, (8, 3)),
        ({"prompt_tokens": 7.5, "completion_tokens": 3, "completion_tokens_details": [1]}, (8, 3)),
    ],
)
def test_bookkeeping_never_decides_over_a_text(usage: Any, counted: tuple[int, int] | None) -> None:
    """R7."""
    outcome, trace = run(body("Paris", usage=usage))
    assert outcome.answer == "Paris"
    step = step_of(trace)
    assert step.estimated
    if counted is None:
        assert step.tokens.prompt > 0
        assert step.tokens.completion > 0
    else:
        assert (step.tokens.prompt, step.tokens.completion) == counted


@pytest.mark.parametrize("engine", ["lm15", "litellm"])
@pytest.mark.parametrize("task", ["question -> answer", "question -> answer: int"])
@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "refusal": "I cannot do that."},
        {"content": "", "refusal": "I cannot do that."},
        {"content": None, "reasoning_content": "I should not do that, so I stop."},
    ],
)
def test_what_a_model_wrote_instead_of_an_answer_is_billed(message: Any, task: str, engine: Any) -> None:
    _, trace = run(body(message, usage={"prompt_tokens": 40}), task=task, engine=engine)
    step = step_of(trace)
    assert step.status == "failed"
    assert step.estimated
    assert step.tokens.completion >= 4 * step.calls


@pytest.mark.parametrize("usage", [b'{"prompt_tokens": NaN, "completion_tokens": Infinity}', b"null"])
def test_usage_that_is_no_json_number(usage: bytes) -> None:
    whole = json.dumps(completion({"messages": [], "model": "m"}, "Paris")).encode()
    at = whole.index(b'"usage": ') + len(b'"usage": ')
    outcome, trace = run(Http(200, whole[:at] + usage + b"}"))
    assert outcome.answer == "Paris"
    assert step_of(trace).estimated


@pytest.mark.parametrize(
    "content",
    [
        "Par\ud83dis",
        [{"type": "text", "text": "Par\ud83dis"}],
    ],
)
def test_a_lone_surrogate_is_cleaned(content: Any) -> None:
    """R16."""
    outcome, trace = run(body({"content": content}))
    assert outcome.answer == "Par?is"
    outcome.answer.encode()
    trace.to_json().encode()


def test_reasoning_reaches_no_prompt_in_any_notation() -> None:
    """R9."""
    secret = "SECRET-DRAFT"
    forms = [
        f"<|channel|>analysis<|message|>{secret}<|end|><|start|>assistant<|channel|>final<|message|>Paris<|return|>",
        f"<think>{secret}</think>Paris",
        f"{secret}.</think>\n\nParis",
        f"[THINK]{secret}[/THINK]Paris",
        f"◁think▷{secret}◁/think▷Paris",
    ]
    for form in forms:
        with Loopback(lambda _, form=form: form) as server:
            program = AttentionMoA("question -> answer", [server.lm("a"), server.lm("b")], layers=1)
            assert program(question="?").answer == "Paris"
            assert not any(secret in call.prompt for call in server.calls)
            assert not any("<|" in call.prompt for call in server.calls)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "Pa"}, {"type": "text", "text": "ris"}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": "Rome?"}]}, {"type": "text", "text": "Paris"}],
        [{"type": "output_text", "text": "Paris"}],
        [{"text": "Paris"}],
        ["Paris"],
        {"type": "text", "text": "Paris"},
        {"parts": [{"text": "Rome?", "thought": True}, {"text": "Paris"}]},
    ],
)
def test_content_parts_are_read(content: Any) -> None:
    outcome, _ = run(body({"content": content}))
    assert outcome.answer == "Paris"


CALL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "message",
    [
        {"content": "Paris", "tool_calls": [CALL]},
        {"content": "Paris", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": None}}]},
        {"content": "Paris", "refusal": "no"},
        {"content": "Paris", "tool_calls": [CALL], "reasoning_content": "Rome?"},
    ],
)
def test_a_text_beside_other_parts_is_the_answer(message: dict[str, Any]) -> None:
    for task in ("question -> answer", "question -> answer: Literal['Paris', 'Rome']"):
        outcome, _ = run(body(message, "tool_calls"), task=task)
        assert outcome.answer == "Paris"


PARIS = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Paris"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"error": {}},
        {"error": ""},
        {"error": {"code": 0, "message": ""}},
        {"choices": [PARIS, None]},
        {"choices": [{**PARIS, "error": {}}]},
        {"choices": [{"index": 0, "finish_reason": "stop", "delta": {"content": "Paris"}}]},
        {"choices": [{"index": 0, "finish_reason": "stop", "text": "Paris"}]},
        {"detail": None, "msg": "", "code": 0},
        {"choices": [PARIS, {**PARIS, "index": 1, "message": {"role": "assistant", "content": "Rome"}}]},
        {"choices": [{**PARIS, "message": {"role": "assistant", "content": None}}, {**PARIS, "index": 1}]},
    ],
)
def test_odd_parts_of_a_body_cost_no_answer(changes: dict[str, Any]) -> None:
    outcome, _ = run(body("Paris", **changes))
    assert outcome.answer == "Paris"


@pytest.mark.parametrize(("content", "text"), [(42, "42"), (1.5, "1.5"), ({"city": "Köln"}, '{"city": "Köln"}')])
def test_a_content_that_is_json_is_its_text(content: Any, text: str) -> None:
    outcome, _ = run(body({"content": content}))
    assert outcome.answer == text


@pytest.mark.parametrize(
    ("whole", "kind"),
    [
        ({"error": {"code": 429, "message": "WORDS"}}, "rate_limit"),
        ({"error": {"code": 401, "message": "WORDS"}}, "auth"),
        ({"error": {"code": 402, "message": "WORDS"}, "user_id": "u"}, "billing"),
        ({"error": {"code": 502, "message": "WORDS"}, "choices": []}, "server"),
        ({"error": {"code": 404, "message": "WORDS"}}, "invalid_request"),
        ({"error": {"code": 400, "message": "WORDS: the prompt is too long"}}, "context_window_exceeded"),
        ({"error": "WORDS"}, "server"),
        ({"detail": "WORDS: not authenticated"}, "auth"),
        ({"detail": [{"loc": ["body"], "msg": "WORDS"}], "code": 422}, "invalid_request"),
        ({"code": 429, "msg": "WORDS", "success": False}, "rate_limit"),
        ({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "WORDS: rate limit"}}, "rate_limit"),
        ({"message": "WORDS"}, "server"),
        ({"errors": ["WORDS"], "status": 500}, "server"),
    ],
)
def test_an_error_in_place_of_a_completion_is_handled_as_its_code_and_words(whole: Any, kind: str) -> None:
    _, trace = run(Http(200, whole))
    error = step_of(trace).error
    assert error is not None
    assert error.kind == kind
    assert "WORDS" in error.message


@pytest.mark.parametrize(
    "whole", [{"detail": "WORDS"}, {"detail": [{"msg": "WORDS"}]}, {"msg": "WORDS"}, {"message": "WORDS"}]
)
@pytest.mark.parametrize("status", [404, 422])
def test_the_words_of_an_error_are_found_where_its_server_puts_them(whole: Any, status: int) -> None:
    _, trace = run(Http(status, whole))
    error = step_of(trace).error
    assert error is not None
    assert "WORDS" in error.message


def test_an_error_in_a_list_has_its_words() -> None:
    _, trace = run(Http(400, [{"error": {"code": 400, "message": "WORDS"}}]))
    error = step_of(trace).error
    assert error is not None
    assert "WORDS" in error.message


def chunk(delta: Any = None, finish: Any = None, **others: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **others}


def sse(events: list[Any]) -> bytes:
    """A streamed completion with these parts."""
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


class Sent(list[Any]):
    async def send(self, part: Any) -> None:
        self.append(part)


@pytest.mark.parametrize(
    ("parts", "counted"),
    [
        ([chunk({}, "stop", usage={"prompt_tokens": 5.5, "completion_tokens": "2"})], (6, 2)),
        ([chunk({}, "stop", usage={"prompt_tokens": -1})], None),
        ([chunk({}, "stop", usage=[1, 2])], None),
        ([chunk({"tool_calls": [{"index": 0, "function": {"name": "", "arguments": ""}}]}), chunk({}, "stop")], None),
        ([chunk({"tool_calls": [None]}), chunk({}, "stop")], None),
        ([chunk({"content": [{"type": "text", "text": ""}]}), chunk(None, "stop"), {"id": "c", "choices": []}], None),
    ],
)
def test_odd_parts_of_a_stream_cost_no_answer(parts: list[Any], counted: tuple[int, int] | None) -> None:
    events = [chunk({"content": [{"type": "text", "text": "Pa"}]}), chunk({"content": "ris"}), *parts]
    with Loopback(lambda _: Http(200, sse(events))) as server, dspy.context(send_stream=Sent()):
        lm = server.lm()
        assert asyncio.run(lm.acall("?")) == ["Paris"]
    usage = lm.history[-1]["usage"]
    assert counted is None or (usage["prompt_tokens"], usage["completion_tokens"]) == counted


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": 429, "message": "m"}, "rate_limit_exceeded"),
        ({"code": "401", "message": "m"}, "invalid_api_key"),
        ({"code": 502, "message": "m"}, "server_error"),
        ({"message": "m"}, "server_error"),
        ("m", "server_error"),
        ({"code": "other", "message": "m"}, "other"),
    ],
)
def test_an_error_in_a_stream_has_the_name_of_its_code(error: Any, code: str) -> None:
    assert json.loads(repair_chunk(json.dumps({"error": error}))) == {"error": {"message": "m", "code": code}}


@pytest.mark.parametrize("text", ["[DONE]", "", "[]", "null", '"x"', "{", '{"choices": 1}', '{"choices": [1]}'])
def test_any_part_of_a_stream_can_be_read(text: str) -> None:
    assert repair_chunk(text) == text


# A message's content as providers send it, in the order of its parts, and the text that it is.
PARTS: dict[str, tuple[list[Any], str]] = {
    "texts": (["Pa", "ris"], "Paris"),
    "parts": ([{"type": "text", "text": "Pa"}, {"type": "text", "text": "ris"}], "Paris"),
    "no type": ([{"text": "Pa"}, {"text": "ris"}], "Paris"),
    "names of the Responses API": ([{"type": "output_text", "text": "Paris"}], "Paris"),
    "thinking": ([{"type": "thinking", "thinking": [{"type": "text", "text": "Rome?"}]}, "Paris"], "Paris"),
    "other parts": ([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "Paris"}], "Paris"),
}
# A stream may be cut inside of a character that JSON writes as two.
STREAMED_PARTS: dict[str, tuple[list[Any], str]] = {
    **PARTS,
    "halves of a character": (["a \ud83d", "\ude00 b"], "a \U0001f600 b"),
    "a lone half": (["a \ud83d", " b"], "a ? b"),
    "a lone second half": (["a ", "\ude00 b"], "a ? b"),
}


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # OpenAI's package warns of the list
@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize("form", PARTS)
def test_a_text_in_parts_is_the_same_text(form: str, engine: str) -> None:
    parts, text = PARTS[form]
    outcome, _ = run(body({"content": parts}), engine=engine)
    assert outcome.answer == text


@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("form", STREAMED_PARTS)
def test_a_streamed_text_in_parts_is_the_same_text(
    form: str, as_list: bool, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, text = STREAMED_PARTS[form]
    monkeypatch.setattr(call, "is_readable", lambda model, server: True)
    events = [chunk({"content": [part] if as_list else part}) for part in parts] + [chunk({}, "stop")]
    sent: list[str] = []
    with answer_streams(AnswerStream(sent.append)):
        outcome, _ = run(Http(200, sse(events)), engine=engine)
    assert outcome.answer == text
    assert sent
    assert text.startswith("".join(sent))


def test_an_answer_in_the_reasoning_field_after_its_closing_tag_is_found() -> None:
    outcome, _ = run(body({"content": "", "reasoning_content": "Rome? No.\n</think>\n\nParis"}))
    assert outcome.answer == "Paris"


def test_the_reader_is_in_front_of_a_configured_adapter_too() -> None:
    reply = "<think>[[ ## answer ## ]]\nRome</think>\n[[ ## answer ## ]]\nParis"
    for adapter in (dspy.ChatAdapter(), dspy.XMLAdapter()):
        text = (
            reply if type(adapter) is dspy.ChatAdapter else "<think><answer>Rome</answer></think><answer>Paris</answer>"
        )
        with dspy.context(adapter=adapter):
            outcome, _ = run(text)
        assert outcome.answer == "Paris"
