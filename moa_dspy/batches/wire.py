"""The batch interfaces of providers, over HTTP: OpenAI's, Anthropic's and Gemini's.

The body of a request in a batch is that of a single request, and so is the body of its reply.
"""

from __future__ import annotations

import datetime
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from moa_dspy._dspy import HttpReply, HttpRequest, Send

__all__ = ["BatchEntry", "BatchJob", "Link", "Refused", "Request", "is_lost", "link_of", "may_succeed_later"]

_MEGABYTE: Final = 1_000_000
_LISTED: Final = 100  # batches among which a lost one is searched
_CLOCK_SKEW: Final = 300.0  # seconds between this machine and the provider
_NOT_SENT_AGAIN: Final = frozenset({"content-length", "content-type", "host", "transfer-encoding"})
_STATUS_OF_ANTHROPIC: Final[Mapping[str, int]] = {
    "invalid_request_error": 400, "authentication_error": 401, "permission_error": 403, "not_found_error": 404,
    "request_too_large": 413, "rate_limit_error": 429, "overloaded_error": 529,
}  # fmt: skip
_STATUS_OF_RPC: Final[Mapping[int, int]] = {3: 400, 5: 404, 7: 403, 8: 429, 9: 400, 14: 503, 16: 401}


@dataclass(frozen=True)
class Request:
    """A request in a batch, with a key of its own there, and the body of the single request."""

    key: str
    body: bytes


@dataclass(frozen=True)
class BatchEntry:
    """The outcome of a request in a batch.

    Attributes:
        status: HTTP status that a single request would have got; None if the request was not processed.
    """

    key: str
    status: int | None
    body: bytes = b""


@dataclass(frozen=True)
class BatchJob:
    """A batch as its provider reports it.

    Attributes:
        id: the provider's id.
        ended: whether it makes no further progress.
        token: our name for it, if the provider keeps one.
        created: time of its creation, in seconds since 1970.
        count: number of requests.
        content: the whole report.
    """

    id: str
    ended: bool
    token: str | None
    created: float | None
    count: int | None
    content: Mapping[str, Any]


class Refused(Exception):  # noqa: N818 (a status, not an error of this package)
    """A server refused a request about batches."""

    def __init__(self, reply: HttpReply, url: str) -> None:
        super().__init__(f"{url} answered {reply.status}: {reply.text()[:200]}")
        self.status = reply.status

    @property
    def is_transient(self) -> bool:
        """Return whether the same request may succeed later."""
        return may_succeed_later(self.status)


def may_succeed_later(status: int) -> bool:
    """Return whether a request that was answered with this HTTP status may succeed later."""
    return status in (408, 409, 425, 429, 498) or (status >= 500 and status != 501)  # 501: not implemented


class Link(ABC):
    """A URL to which requests go, and the batch interface of its server, with the credentials of the last request.

    Args:
        url: the URL of single requests.

    Attributes:
        has_batches: whether the server has batches; None if that is not yet known.
        most: largest number of requests in a batch.
        most_bytes: largest size of a batch.
    """

    most: ClassVar[int] = 50_000
    most_bytes: ClassVar[int]
    _listed_in: ClassVar[str] = "data"
    _limit: ClassVar[str] = "limit"

    def __init__(self, url: str) -> None:
        self.url = url
        self.has_batches: bool | None = None
        self._headers: list[tuple[str, str]] = []
        self._send: Send | None = None

    def renew(self, request: HttpRequest, send: Send) -> None:
        """Take the credentials of a request."""
        self._headers = [(name, value) for name, value in request.headers if name.lower() not in _NOT_SENT_AGAIN]
        self._send = send

    def group(self, body: bytes) -> str:  # noqa: ARG002
        """Return equal names for requests that may be in one batch."""
        return ""

    @abstractmethod
    async def submit(self, token: str, requests: Sequence[Request]) -> str:
        """Create a batch under our name ``token``, and return its id."""

    async def status(self, id: str) -> BatchJob:  # noqa: A002
        """Return the state of a batch."""
        return self._job(await self._json(f"{self._batches}/{id.rpartition('/')[2]}"))  # an id of Gemini is a path

    async def entries(self, job: BatchJob) -> list[BatchEntry]:
        """Return the outcomes of the requests of an ended batch, in any order."""
        return [self._entry(item) for item in await self._items(job)]

    async def jobs(self) -> list[BatchJob]:
        """Return the newest batches."""
        listed = await self._json(f"{self._batches}?{self._limit}={_LISTED}")
        return [self._job(value) for value in listed.get(self._listed_in) or ()]

    @property
    @abstractmethod
    def _batches(self) -> str:
        """Return the URL of the list of batches."""

    @abstractmethod
    def _job(self, value: Mapping[str, Any]) -> BatchJob: ...

    @abstractmethod
    async def _items(self, job: BatchJob) -> list[dict[str, Any]]: ...

    @abstractmethod
    def _entry(self, item: Mapping[str, Any]) -> BatchEntry: ...

    async def _text(self, url: str, body: bytes = b"", kind: str = "application/json") -> str:
        """Return the reply to a request: GET, or POST with a body.

        Raises:
            Refused: if the server refuses it.
        """
        assert self._send is not None
        headers = [*self._headers, *([("Content-Type", kind)] if body else [])]
        reply = await self._send(HttpRequest(method="POST" if body else "GET", url=url, headers=headers, body=body))
        if reply.status >= 400:
            raise Refused(reply, url)
        return reply.text()

    async def _json(self, url: str, payload: Any = None) -> dict[str, Any]:
        """Return the reply to a request as an object.

        Raises:
            Refused: if the server refuses it, or replies with something else.
        """
        text = await self._text(url, b"" if payload is None else json.dumps(payload).encode())
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise Refused(HttpReply(status=502, reason="", headers=[], body=text.encode()), url)
        return value


def link_of(request: HttpRequest) -> Link | None:
    """Return the link for a request; None if it cannot be in a batch."""
    parts = urlsplit(request.url)
    if request.method != "POST" or parts.query or not request.body:
        return None
    return next((kind(request.url) for suffix, kind in _LINKS.items() if parts.path.endswith(suffix)), None)


class OpenAI(Link):
    """Files of lines, of one model each."""

    most_bytes = 200 * _MEGABYTE

    @property
    def _base(self) -> str:
        return self.url.removesuffix("/chat/completions").removesuffix("/responses")

    @property
    def _batches(self) -> str:
        return f"{self._base}/batches"

    def group(self, body: bytes) -> str:
        return str(json.loads(body).get("model"))

    async def submit(self, token: str, requests: Sequence[Request]) -> str:
        endpoint = urlsplit(self.url).path
        lines = (
            b'{"custom_id": "%s", "method": "POST", "url": "%s", "body": %s}\n'
            % (one.key.encode(), endpoint.encode(), one.body.replace(b"\n", b" "))
            for one in requests
        )
        kind, body = _form({"purpose": "batch"}, f"{token}.jsonl", b"".join(lines))
        file = json.loads(await self._text(f"{self._base}/files", body, kind))
        payload = {
            "input_file_id": file["id"],
            "endpoint": endpoint,
            "completion_window": "24h",
            "metadata": {"moa_dspy": token},
        }
        return str((await self._json(self._batches, payload))["id"])

    def _job(self, value: Mapping[str, Any]) -> BatchJob:
        ended = value.get("status") in ("completed", "failed", "expired", "cancelled")
        token = (value.get("metadata") or {}).get("moa_dspy")
        count = (value.get("request_counts") or {}).get("total")
        return BatchJob(str(value["id"]), ended, token, value.get("created_at"), count, value)

    async def _items(self, job: BatchJob) -> list[dict[str, Any]]:
        files = [job.content[name] for name in ("output_file_id", "error_file_id") if job.content.get(name)]
        texts = [await self._text(f"{self._base}/files/{file}/content") for file in files]
        return [item for text in texts for item in _lines(text)]

    def _entry(self, item: Mapping[str, Any]) -> BatchEntry:
        response = item.get("response") or {}
        status = response.get("status_code")
        body = response.get("body") or {"error": item.get("error")}
        return BatchEntry(str(item.get("custom_id")), int(status) if status else None, json.dumps(body).encode())


class Anthropic(Link):
    """Message batches. The provider keeps no name for a batch, so a lost one is found by its time and size."""

    most = 100_000
    most_bytes = 250 * _MEGABYTE

    @property
    def _batches(self) -> str:
        return f"{self.url}/batches"

    async def submit(self, token: str, requests: Sequence[Request]) -> str:  # noqa: ARG002
        items = b", ".join(b'{"custom_id": "%s", "params": %s}' % (one.key.encode(), one.body) for one in requests)
        return str(json.loads(await self._text(self._batches, b'{"requests": [%s]}' % items))["id"])

    def _job(self, value: Mapping[str, Any]) -> BatchJob:
        counts = value.get("request_counts") or {}
        count = sum(number for number in counts.values() if isinstance(number, int)) or None
        created = value.get("created_at")
        when = datetime.datetime.fromisoformat(created).timestamp() if isinstance(created, str) else None
        return BatchJob(str(value["id"]), value.get("processing_status") == "ended", None, when, count, value)

    async def _items(self, job: BatchJob) -> list[dict[str, Any]]:
        url = job.content.get("results_url")
        return list(_lines(await self._text(str(url)))) if url else []

    def _entry(self, item: Mapping[str, Any]) -> BatchEntry:
        key, result = str(item.get("custom_id")), item.get("result") or {}
        if result.get("type") == "succeeded":
            return BatchEntry(key, 200, json.dumps(result.get("message")).encode())
        if result.get("type") != "errored":
            return BatchEntry(key, None)
        error = result.get("error") or {}
        error = error if "error" in error else {"type": "error", "error": error}
        status = _STATUS_OF_ANTHROPIC.get(str(error["error"].get("type")), 500)
        return BatchEntry(key, status, json.dumps(error).encode())


class Gemini(Link):
    """Batches of one model, with the requests in the call."""

    most_bytes = 18 * _MEGABYTE
    _listed_in = "operations"
    _limit = "pageSize"

    @property
    def _batches(self) -> str:
        return f"{self.url[: self.url.rindex('/models/')]}/batches"

    async def submit(self, token: str, requests: Sequence[Request]) -> str:
        items = b", ".join(
            b'{"request": %s, "metadata": {"key": "%s"}}' % (one.body, one.key.encode()) for one in requests
        )
        batch = b'{"batch": {"displayName": "%s", "inputConfig": {"requests": {"requests": [%s]}}}}'
        url = f"{self.url.removesuffix(':generateContent')}:batchGenerateContent"
        return str(json.loads(await self._text(url, batch % (token.encode(), items)))["name"])

    def _job(self, value: Mapping[str, Any]) -> BatchJob:
        about = value.get("metadata") or {}
        state = str(about.get("state") or "").rpartition("_STATE_")[2]
        ended = bool(value.get("done")) or state in ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
        return BatchJob(str(value["name"]), ended, about.get("displayName"), None, None, value)

    async def _items(self, job: BatchJob) -> list[dict[str, Any]]:
        found: Any = (job.content.get("response") or {}).get("inlinedResponses") or []
        return found.get("inlinedResponses") or [] if isinstance(found, dict) else found

    def _entry(self, item: Mapping[str, Any]) -> BatchEntry:
        key, error = str((item.get("metadata") or {}).get("key")), item.get("error")
        if item.get("response"):
            return BatchEntry(key, 200, json.dumps(item["response"]).encode())
        code = (error or {}).get("code")
        if code in (1, 4, None):  # cancelled, deadline exceeded
            return BatchEntry(key, None)
        status = _STATUS_OF_RPC.get(code, 500)
        return BatchEntry(key, status, json.dumps({"error": {**(error or {}), "code": status}}).encode())


_LINKS: Final[Mapping[str, type[Link]]] = {
    "/chat/completions": OpenAI,
    "/responses": OpenAI,
    "/messages": Anthropic,
    ":generateContent": Gemini,
}


def is_lost(job: BatchJob, token: str, began: float, count: int) -> bool:
    """Return whether a batch is the one that was about to be created under ``token``."""
    if job.token is not None:
        return job.token == token
    return job.created is not None and job.created > began - _CLOCK_SKEW and job.count == count


def _lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.strip():
            value = json.loads(line)
            if isinstance(value, dict):
                yield value


def _form(fields: Mapping[str, str], name: str, content: bytes) -> tuple[str, bytes]:
    """Return the type and the body of a form with a file."""
    mark = secrets.token_hex(16)
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    ]
    parts.append(f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n')
    head = "".join([*parts, "Content-Type: application/jsonl\r\n\r\n"]).encode()
    return f"multipart/form-data; boundary={mark}", head + content + f"\r\n--{mark}--\r\n".encode()
