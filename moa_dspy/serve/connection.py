"""A connection of the server: what uvicorn's lacks are time limits, and errors in OpenAI's format."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from moa_dspy.serve.problems import Problem, response_of

__all__ = ["ClientConnection"]

_MAY_ANSWER: Final = (h11.IDLE, h11.SEND_RESPONSE)


class ClientConnection(H11Protocol):
    """A connection that is closed if a request does not arrive in time, or if the client does not read its reply.

    Attributes:
        request_seconds: until a whole request must have arrived. More than ``BodyLimits`` allows for a body.
        write_seconds: after which a reply must have progressed.
        refused_seconds: until a refused connection is closed.
    """

    request_seconds = 30.0
    write_seconds = 60.0
    refused_seconds = 2.0

    _is_refused = False
    _receiving: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that any rest of a reply has a limit
        self._limit_receiving()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request. What comes after a refusal is discarded."""
        if not self._is_refused:
            super().data_received(data)
            self._limit_receiving()

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        super().on_response_complete()
        self._limit_receiving()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        super().connection_lost(exc)
        self._stop_receiving()
        if self._writing is not None:
            self._writing.cancel()

    def pause_writing(self) -> None:
        """Wait until the client has taken what was written."""
        super().pause_writing()
        self._limit_writing()

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's words are no JSON)
        """Refuse what is no HTTP."""
        self._refuse(Problem("this is not a valid HTTP request", code="invalid_http"))

    def _limit_receiving(self) -> None:
        """Start the clock if a part of a request is missing; stop it if the request is whole."""
        is_missing = self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing()
        if is_missing and self._receiving is None:
            self._receiving = self.loop.call_later(self.request_seconds, self._end_receiving)
        elif not is_missing:
            self._stop_receiving()

    def _stop_receiving(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            self._receiving = None

    def _end_receiving(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self.transport.close()  # there was no request
        else:
            self._refuse(Problem("the request did not arrive in time", 408, code="slow_request"))

    def _limit_writing(self, left: int | None = None) -> None:
        """End the connection if nothing more of what is left was taken."""
        now = self.transport.get_write_buffer_size()
        if left is not None and now >= left:
            self.transport.abort()
        else:
            self._writing = self.loop.call_later(self.write_seconds, self._limit_writing, now)

    def _refuse(self, problem: Problem) -> None:
        """End the connection, with an error if no reply has begun.

        It is closed when the client has closed it, or soon. To close it with unread data would destroy the error.
        """
        if self._is_refused or self.conn.our_state not in _MAY_ANSWER:
            self.transport.close()
        else:
            self._is_refused = True
            reply = response_of(problem)
            headers: list[Any] = [*reply.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=problem.status, headers=headers),
                h11.Data(data=bytes(reply.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
            self.transport.write_eof()
            self._stop_receiving()
            self._receiving = self.loop.call_later(self.refused_seconds, self.transport.close)
