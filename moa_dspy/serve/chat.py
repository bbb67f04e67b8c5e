"""One answer: as one completion, or as a stream of chunks during the run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from moa_dspy.serve.problems import Problem, error_body, problem_of, response_of
from moa_dspy.serve.replies import ChunkMaker, answer_of, completion, step_line
from moa_dspy.serve.requests import ChatRequest
from moa_dspy.serve.runs import ServedRun
from moa_dspy.trace import Step, StepStarted

__all__ = ["SECONDS_BETWEEN_COMMENTS", "streamed", "whole"]

SECONDS_BETWEEN_COMMENTS = 10
"""Seconds without a chunk after which a stream sends a comment, to keep the connection alive."""

_DONE = "[DONE]"
_ENDS_A_LAYER = ("aggregate", "synthesize")


async def whole(request: Request, run: ServedRun, wished: ChatRequest) -> Response:
    """Return the answer as one completion. If the client disconnects, the run is stopped."""
    leaving = asyncio.create_task(_left(request))
    answering = asyncio.create_task(run.result())
    try:
        await asyncio.wait({leaving, answering}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            return response_of(Problem("the client disconnected", 408, code="client_left"))
        reply = completion(run, answering.result(), with_trace=wished.moa.trace)
        return Response(reply.to_json(indent=None, exclude_unset=True), media_type="application/json")
    except Exception as error:  # noqa: BLE001 (whatever it is, the client gets it in OpenAI's format)
        return response_of(problem_of(error, run.id))
    finally:
        run.stop()
        for task in (leaving, answering):
            task.cancel()
        await asyncio.gather(leaving, answering, return_exceptions=True)


async def _left(request: Request) -> None:
    """Wait until the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def streamed(run: ServedRun, wished: ChatRequest) -> Response:
    """Return the answer as a stream of chunks. If the client disconnects, the run is stopped."""
    return _RunResponse(run, _chunks(run, wished))


class _RunResponse(EventSourceResponse):
    """A stream whose run ends with it, also if the client disconnected before the first chunk."""

    def __init__(self, run: ServedRun, chunks: AsyncIterator[ServerSentEvent]) -> None:
        super().__init__(chunks, ping=SECONDS_BETWEEN_COMMENTS, sep="\n")
        self._run = run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._run.stop()


async def _chunks(run: ServedRun, wished: ChatRequest) -> AsyncIterator[ServerSentEvent]:
    apart = wished.stream_options is not None and bool(wished.stream_options.include_usage)
    make = ChunkMaker(run, with_trace=wished.moa.trace, usage_apart=apart)
    try:
        yield ServerSentEvent(data=make.delta(role="assistant", content=""))
        async for parts in _deltas(run, wished.moa.stream):
            yield ServerSentEvent(data=make.delta(**parts))
        prediction = await run.result()
        if rest := _rest(run, answer_of(run.program, prediction)):
            yield ServerSentEvent(data=make.delta(content=rest))
        for chunk in make.end(prediction.trace):
            yield ServerSentEvent(data=chunk)
        yield ServerSentEvent(data=_DONE)
    except Exception as error:  # noqa: BLE001 (whatever it is, the client gets it in OpenAI's format)
        yield ServerSentEvent(data=json.dumps(error_body(problem_of(error, run.id))))


def _rest(run: ServedRun, answer: str) -> str:
    """Return the part of the answer that was not sent yet."""
    sent = run.answer.sent
    if run.answer.finish(answer):
        return answer[len(sent) :]
    raise Problem(
        f"the call that wrote the answer broke off, and another answer replaced it: GET /runs/{run.id}",
        502,
        code="answer_replaced",
    )


async def _deltas(run: ServedRun, detail: str) -> AsyncIterator[dict[str, object]]:
    """Yield the parts of the message during the run: steps as reasoning, drafts, and the answer."""
    layer, draft, answering = 1, "", False
    async for event in run.events():
        match event:
            case str():
                answering = True
                yield {"content": event}
            case _ if answering:  # a message has no reasoning behind its answer
                pass
            case StepStarted() if event.layer > layer and detail == "text":
                if draft:
                    yield {"draft": {"layer": layer, "content": draft}}
                layer, draft = event.layer, ""
            case Step():
                if event.stage in _ENDS_A_LAYER and event.status == "ok":
                    draft = event.text
                if detail == "text" and event.text:
                    yield {"reasoning_content": f"{step_line(event)}\n{event.text}\n\n"}
                elif detail != "none":
                    yield {"reasoning_content": f"{step_line(event)}\n"}
