"""Runs under ``dspy.streamify``: a status message for each step, and the answer as it is written.

The answer comes as ``dspy.streaming.StreamResponse``s, which need no parsing by DSPy's listeners.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import anyio
import dspy
from dspy.streaming import StatusMessage, StreamResponse

from moa_dspy.runtime.answer_stream import AnswerStream, answer_streams
from moa_dspy.signatures import TaskSignature, is_free_text
from moa_dspy.trace import Step, StepStarted, Trace, watch

__all__ = ["streamed"]

P = TypeVar("P", bound=dspy.Prediction)

_END: Final = object()
_NAME: Final = "self"  # as DSPy calls a program that is its own predictor


async def streamed(stream: Any, task: TaskSignature, run: Callable[[], Awaitable[P]]) -> P:
    """Return the answer of a run. Meanwhile, send what happens to the stream of ``dspy.streamify``.

    The answer to a task is sent while it is written if it is a single text.
    """
    queue: asyncio.Queue[Any] = asyncio.Queue()
    sending = asyncio.create_task(_send_all(queue, stream))
    wanted = _Wanted(task)
    answer = AnswerStream(lambda text: wanted.send(queue, text))
    try:
        with dspy.context(send_stream=None), watch(lambda event: _tell(queue, event)), answer_streams(answer):
            prediction = await run()
        wanted.finish(queue, answer, prediction)
        queue.put_nowait(_END)
        await sending
        return prediction
    finally:
        sending.cancel()


class _Wanted:
    """The outputs that the caller listens to; without listeners, the one that is text."""

    def __init__(self, task: TaskSignature) -> None:
        listeners: list[Any] = list(dspy.settings.stream_listeners or ())
        self._listeners = [one for one in listeners if one.signature_field_name in task.output_fields]
        self._text = next(iter(task.output_fields)) if is_free_text(task) else None
        is_all = not listeners and self._text is not None
        self._names = {self._text: _NAME} if is_all else {}
        self._names |= {one.signature_field_name: one.predict_name or _NAME for one in self._listeners}

    def send(self, queue: asyncio.Queue[Any], text: str, *, field: str | None = None, last: bool = False) -> None:
        """Send a part of an output."""
        name = field or self._text
        if name in self._names and name is not None:
            queue.put_nowait(StreamResponse(self._names[name], name, text, is_last_chunk=last))
            for listener in self._listeners:
                if listener.signature_field_name == name:
                    listener.stream_start = listener.stream_end = True  # as after chunks that it has read itself

    def finish(self, queue: asyncio.Queue[Any], answer: AnswerStream, prediction: dspy.Prediction) -> None:
        """Send the rest of each output."""
        for field in self._names:
            if field is not None and field == self._text:
                answer.finish(prediction[field])
                self.send(queue, "", last=True)
            elif field is not None:
                self.send(queue, str(prediction[field]), field=field, last=True)


def _tell(queue: asyncio.Queue[Any], event: StepStarted | Step | Trace) -> None:
    if isinstance(event, StepStarted):
        target = f" of {event.target}" if event.target and event.target != event.agent else ""
        queue.put_nowait(StatusMessage(f"layer {event.layer}: {event.stage} by {event.agent}{target}"))


async def _send_all(queue: asyncio.Queue[Any], stream: Any) -> None:
    """Send until the end, or until nobody receives."""
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        while (item := await queue.get()) is not _END:
            await stream.send(item)
