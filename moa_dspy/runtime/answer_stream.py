"""The answer of a run, sent while the last call writes it.

Only the call whose text will be the answer is read as it is written, see ``layers.py``. What is sent is a beginning of
the answer. If that call fails after a part of its text was sent, another answer may follow; ``finish`` tells.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pydantic_core
from dspy.utils.exceptions import LMError, LMStreamAssemblyError, LMUnsupportedFeatureError

from moa_dspy.json_safe import json_safe
from moa_dspy.parsing import EDGES, UnreadableError, parse_value
from moa_dspy.parsing.fields import field_start, partial_fields
from moa_dspy.parsing.partial import AnswerSoFar, begins_with, grown

__all__ = [
    "AnswerStream",
    "LastCall",
    "ReplyReader",
    "answer_streams",
    "cannot_stream",
    "current_answer",
    "ignores_streaming",
    "is_readable",
    "note_reply",
]

_FIRST_HALF: Final = re.compile("[\ud800-\udbff]")
_REFUSED: Final = (400, 405, 422, 501)  # HTTP
# Whether the last reply of a model began with its answer, by model and server. Of a model whose template opens its
# reasoning, a reply is not sent before it is whole.
_begin_with_answer: Final[dict[tuple[str, str | None], bool]] = {}


class AnswerStream:
    """Sends the answer of a run as it is written.

    Args:
        send: called with each further part of the answer. It must be fast and must not raise.

    Attributes:
        sent: what was sent so far.
    """

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        self.sent = ""

    def update(self, text: str) -> None:
        """Send what the answer so far has beyond what was sent. Another answer is not sent."""
        if len(text) > len(self.sent) and text.startswith(self.sent):
            new, self.sent = text[len(self.sent) :], text
            self._send(new)

    def finish(self, answer: str) -> bool:
        """Send the rest of the whole answer. Return whether what was sent is the answer."""
        self.update(answer)
        return self.sent == answer


current_answer: contextvars.ContextVar[AnswerStream | None] = contextvars.ContextVar("moa_dspy_answer", default=None)


@contextlib.contextmanager
def answer_streams(stream: AnswerStream) -> Iterator[None]:
    """Send the answer of the run that starts within the block."""
    token = current_answer.set(stream)
    try:
        yield
    finally:
        current_answer.reset(token)


@dataclass(frozen=True)
class LastCall:
    """A call that writes the answer of the run, if it succeeds.

    Attributes:
        field: the output that is the answer.
        decision: the output that must be true for it; None if it is the answer anyway.
    """

    field: str
    decision: str | None = None


class ReplyReader:
    """Reads one reply as DSPy's engine receives it, in place of the stream of ``dspy.streamify``.

    Args:
        stream: where the answer goes.
        call: the call.
        names: the output fields of the call; None if the whole reply is the value of the only one.

    Attributes:
        began: whether a part of the reply came.
    """

    def __init__(self, stream: AnswerStream, call: LastCall, names: tuple[str, ...] | None) -> None:
        self._stream, self._call, self._names = stream, call, names
        self.began = False
        self._reply = ""
        self._half = ""  # the first half of a character that is written as two surrogates
        self._answer = AnswerSoFar()
        self._start: int | None = None  # where the answer's field begins in a reply with markers
        self._next = 0  # length of the reply at which it is read again

    async def send(self, chunk: Any) -> None:
        """Read a part of the reply."""
        self.began = True
        choices = getattr(chunk, "choices", None)
        text = getattr(getattr(choices[0], "delta", None), "content", None) if choices else None
        if text:
            text = self._half + text
            self._half = text[-1] if _FIRST_HALF.match(text[-1]) else ""
            self._reply += json_safe(text.removesuffix(self._half))
            value = self._reply if self._names is None else self._value(self._names)
            if value is not None:
                self._stream.update(self._answer.read(value))

    def _value(self, names: tuple[str, ...]) -> str | None:
        """Return the answer's field so far, if it is the answer; None if that is not known yet."""
        if self._start is not None:
            return self._reply[self._start :]  # a marker behind the answer is seen by the reader of the answer
        if len(self._reply) < self._next:
            return None
        lead = self._reply.lstrip(EDGES)
        is_json = lead.startswith(("{", "```"))
        values = _json(lead) if is_json else partial_fields(self._reply, names)
        value = values.get(self._call.field)
        is_known = isinstance(value, str) and values.keys() >= set(names) and self._decided(values)
        if is_known and not is_json:
            self._start = field_start(self._reply, names, self._call.field)
        if not (is_known and is_json) and self._start is None:
            self._next = grown(self._reply)
        return value if is_known else None

    def _decided(self, values: Mapping[str, Any]) -> bool:
        """Return whether the decision is known and makes this the answer."""
        if self._call.decision is None:
            return True
        try:
            return parse_value(values[self._call.decision], bool) is True
        except UnreadableError:
            return False


def is_readable(model: str, server: str | None) -> bool:
    """Return whether replies of a model begin with the answer, as far as is known."""
    return _begin_with_answer.get((model, server), False)


def note_reply(model: str, server: str | None, reply: str, answer: str) -> None:
    """Remember whether a model's whole reply begins with its answer, or with reasoning that the reply opens itself."""
    _begin_with_answer[model, server] = begins_with(reply, answer)


def cannot_stream(error: Exception) -> bool:
    """Return whether a provider or its engine refused to send a reply in parts."""
    if isinstance(error, LMUnsupportedFeatureError):
        return True
    return isinstance(error, LMError) and "stream" in str(error).lower() and getattr(error, "status", None) in _REFUSED


def ignores_streaming(error: Exception, reader: ReplyReader) -> bool:
    """Return whether a reply had no parts: its server sent it whole, which may be billed, or closed the connection."""
    return isinstance(error, LMStreamAssemblyError) and not reader.began


def _json(text: str) -> dict[str, Any]:
    """Return the fields of an object that is being written. All but the last are whole."""
    try:
        value = pydantic_core.from_json(text[max(0, text.find("{")) :], allow_partial="trailing-strings")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
