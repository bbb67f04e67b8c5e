"""Which requests are accepted: keys, hosts, and bodies that are too large, too slow or not JSON.

On loopback without a key, a page of any site in the user's browser could send requests. So bodies must be declared as
JSON, which a browser sends to other sites only with their consent. The host must be a loopback name, and a page
that sends a request must be the server's own.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from moa_dspy.serve.problems import Problem, response_of

__all__ = ["BodyLimits", "Guard", "is_loopback", "read_body"]

_OPEN: Final = ("/health",)


@dataclass(frozen=True)
class BodyLimits:
    """Limits of a request's body.

    Attributes:
        size: in bytes.
        seconds: within which the whole body must arrive.
    """

    size: int = 8_000_000
    seconds: float = 20.0


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """ASGI middleware that refuses requests without the key, or to another host if there is none."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._key = app, None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and (problem := self._problem(Request(scope))) is not None:
            await response_of(problem)(scope, receive, send)
        elif scope["type"] != "websocket":
            await self._app(scope, receive, send)

    def _problem(self, request: Request) -> Problem | None:
        if self._key is None:
            if not is_loopback(_host_in(request)):
                return Problem(
                    "this server has no key, so it answers only at loopback names such as localhost",
                    421,
                    code="wrong_host",
                )
            origin = request.headers.get("origin")
            if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
                return Problem(
                    "this server has no key, so it does not answer pages of other sites", 403, code="wrong_origin"
                )
        elif request.scope["path"] not in _OPEN and not any(
            hmac.compare_digest(key, self._key) for key in _keys_in(request)
        ):
            return Problem(
                "the API key is missing or wrong",
                401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": 'Bearer, Basic realm="moa-dspy"'},
            )
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and media != "application/json":
            return Problem("send the body as JSON, with Content-Type: application/json", 415, code="not_json")
        return None


async def read_body(request: Request, limits: BodyLimits) -> bytes:
    """Return the body of a request.

    Raises:
        Problem: if it is too large, or does not arrive in time.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdecimal() or int(declared[:20]) > limits.size:
        raise _too_large(limits)
    parts, size = list[bytes](), 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.size:
                    raise _too_large(limits)
                parts.append(part)
    except TimeoutError:
        raise Problem(f"the body did not arrive within {limits.seconds:g} s", 408, code="slow_body") from None
    except ClientDisconnect:
        raise Problem("the client disconnected", 408, code="client_left") from None
    return b"".join(parts)


def _too_large(limits: BodyLimits) -> Problem:
    return Problem(f"the body is larger than {limits.size} bytes", 413, code="body_too_large")


def _host_in(request: Request) -> str:
    host = request.headers.get("host", "")
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _keys_in(request: Request) -> Sequence[bytes]:
    """Return the keys that a request gives: as a bearer, or as the password for which browsers ask."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return (value.strip().encode("latin-1"),)  # as headers are decoded
    if kind.lower() == "basic":
        try:
            return (base64.b64decode(value, validate=True).partition(b":")[2],)
        except (binascii.Error, ValueError):
            return ()
    return ()
